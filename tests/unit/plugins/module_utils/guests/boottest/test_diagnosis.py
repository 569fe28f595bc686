# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What recorded and quoted consoles mean."""

from __future__ import annotations

import json
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import diagnosis
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.console import Cleaner, Console

CONSOLES = pathlib.Path(__file__).parent / "consoles"


def _recorded(name: str) -> str:
    return Cleaner().feed((CONSOLES / f"{name}.bin").read_bytes())


@pytest.mark.parametrize(
    ("name", "reason", "told"),
    [
        ("nobootdisk", "NoBootloader", "no boot loader"),
        ("uefishell", "FirmwareShell", "nothing to boot"),
        ("grubrescue", "GrubRescue", "did not find its own files"),
        ("grubshell", "GrubShell", "no configuration"),
        ("nokernel", "NoKernel", "/boot/vmlinuz-6.1.0-56-amd64"),
        ("noinitrd", "NoRootDevice", "unknown-block(0,0)"),
        ("initramfs-tools", "NoRootDevice", "/dev/sda1"),
        ("emergency", "EmergencyMode", "dev-sdz1.device"),
    ],
)
def test_recorded_consoles(name: str, reason: str, told: str) -> None:
    """Recorded from SeaBIOS, OVMF, GRUB and a Debian 12 guest, each broken in its own way."""
    failure = diagnosis.find_failure(_recorded(name))
    assert failure is not None
    assert failure.reason == reason
    assert told in failure.message
    assert failure.suggestion


def test_the_quickstart_shows_what_is_really_told() -> None:
    page = (pathlib.Path(__file__).parents[6] / "docs/worker/QUICKSTART.md").read_text(encoding="utf-8")
    (shown,) = (json.loads(line) for line in page.splitlines() if '"NoRootDevice"' in line)
    failure = diagnosis.find_failure(_recorded("initramfs-tools"))
    assert failure is not None
    assert (shown["message"], shown["suggestion"]) == (failure.message, failure.suggestion)


DRACUT = """\
[   12.345678] dracut-initqueue[345]: Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:
[  134.5] dracut-initqueue[345]: Warning: dracut-initqueue timeout - starting timeout scripts
[  190.2] dracut-initqueue[345]: Warning: Could not boot.
"""


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (DRACUT, "NoRootDevice"),
        ("Warning: /dev/disk/by-uuid/0b02fa4d-e108 does not exist\n\nGenerating rdsosreport", "NoRootDevice"),
        (
            'Generating "/run/initramfs/rdsosreport.txt"\n\n\nEntering emergency mode. Exit the shell',
            "DroppedToInitramfs",
        ),
        ("dracut:/# ", "DroppedToInitramfs"),
        ("\n(initramfs) ", "DroppedToInitramfs"),
        ("ERROR: device 'UUID=12-34' not found. Skipping fsck.\n", "NoRootDevice"),
        ("You are now being dropped into an emergency shell.\nsh: can't access tty; job", "DroppedToInitramfs"),
        ("Mounting root: failed.\ninitramfs emergency recovery shell launched", "NoRootDevice"),
        ("initramfs emergency recovery shell launched. Type 'exit' to continue boot", "DroppedToInitramfs"),
        ("Target filesystem doesn't have requested /sbin/init.\nNo init found. Try passing init=", "NoInit"),
        ("[    9.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "KernelPanic"),
        ("[    2.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(8,1)", "NoRootDevice"),
        ("/dev/sda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n(initramfs) ", "FilesystemDamaged"),
        ("Please enter passphrase for disk cryptroot (luks-1):", "WaitsForPassphrase"),
        ("Please unlock disk sda3_crypt: ", "WaitsForPassphrase"),
        ("systemd[1]: Freezing execution.", "InitFailed"),
        ("Cannot open access to console, the root account is locked.", "EmergencyMode"),
        ("error: no such partition.\nEntering rescue mode...\ngrub rescue> ", "GrubRescue"),
        ('BdsDxe: failed to load Boot0001 "debian" from HD(1): Access Denied', "SecureBootRefused"),
        ("BdsDxe: No bootable option or device was found.", "FirmwareShell"),
        ("Missing operating system", "NoBootloader"),
        ("GRUB Hard Disk Error", "BootloaderBroken"),
    ],
)
def test_quoted_consoles(console: str, reason: str) -> None:
    failure = diagnosis.find_failure("GRUB loading.\n" + console)
    assert failure is not None
    assert failure.reason == reason


@pytest.mark.parametrize(
    "console",
    [
        "",
        "Gave up waiting for suspend/resume device\n[  OK  ] Reached target local-fs.target",
        "GNU GRUB  version 2.06\n\n  Booting `Debian GNU/Linux'\n\nLoading Linux 6.1.0 ...",
        "grub> linux /vmlinuz\n[    0.000000] Linux version 6.1.0",
        "UEFI Interactive Shell v2.2\nPress ESC in 5 seconds to skip startup.nsh",
        DRACUT + "[  201.0] systemd[1]: Switching root.\n",
        "Please enter passphrase for disk x:\n[  OK  ] Reached target local-fs.target - Local File Systems.",
        "[    3.1] panic_on_oops is set\nweb01 login: ",
    ],
)
def test_a_guest_that_may_still_boot_has_not_failed(console: str) -> None:
    assert diagnosis.find_failure(console) is None


@pytest.mark.parametrize(
    ("console", "prompt"),
    [
        ("Debian GNU/Linux 12 web01 ttyS0\n\nweb01 login: ", "web01 login:"),
        ("CentOS release 6.10\nKernel 2.6.32\n\nlocalhost.localdomain login: ", "localhost.localdomain login:"),
        ("login: ", "login:"),
        ("web01 login: [   33.3] cloud-init", ""),
        ("Last login: Tue Nov 24\n", ""),
    ],
)
def test_login_prompts(console: str, prompt: str) -> None:
    assert diagnosis.asks_for_login(console) == prompt


def test_a_timeout_says_what_was_last_seen() -> None:
    waiting = "[*** ] A start job is running for dev-sdb1.device (9s / 1min 30s)"
    console = f"Welcome to Debian\n[  OK  ] Reached target x\n{waiting}"
    failure = diagnosis.timed_out(console, 600, None)
    assert failure.reason == "Timeout"
    assert "dev-sdb1.device" in failure.message
    assert diagnosis.timed_out("", 600, None).reason == "SilentConsole"
    kernel = diagnosis.timed_out("[    1.0] ACPI: x\n[    1.2] PCI: y", 60, None)
    assert "kernel was starting" in kernel.message and "PCI: y" in kernel.message


def test_a_marker_that_does_not_come_is_told_apart() -> None:
    failure = diagnosis.timed_out("web01 login: ", 60, "application ready")
    assert failure.reason == "MarkerNotSeen"
    assert "application ready" in failure.message


# -- the console as text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [path.stem for path in sorted(CONSOLES.glob("*.bin"))])
def test_pieces_make_no_difference(name: str) -> None:
    data = (CONSOLES / f"{name}.bin").read_bytes()
    cleaner = Cleaner()
    assert "".join(cleaner.feed(data[i : i + 1]) for i in range(len(data))) == Cleaner().feed(data)


def test_escapes_do_not_reach_the_reader() -> None:
    text = Cleaner().feed(b"\x1b]0;title\x07\x1b[31mred\x1b[0m\x1b(B \x1bPq#0\x1b\\\x9b1m\x00\x07ok\xff\r\n\x1b[2Jend")
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in text)
    assert text.startswith("red ") and text.endswith("\nend")


def test_text_placed_on_one_row_is_one_line() -> None:
    """SeaBIOS places the cursor in the middle of a line, and after a carriage return."""
    assert Cleaner().feed(b"g\r\x1b[01;02Hrub rescue> ") == "grub rescue> "
    assert Cleaner().feed(b"a\x1b[05;01Hb") == "a\nb"
    assert Cleaner().feed(b"12%\r34%\r56%") == "12%\n34%\n56%"


def test_the_console_keeps_its_file_and_memory_small(tmp_path: pathlib.Path) -> None:
    with Console(tmp_path / "console.log") as console:
        for dummy in range(80):
            console.feed(b"x" * 65535 + b"\n")
        console.feed(b"the end\n")
        assert console.tail(1) == ["the end"]
        console.feed("\N{RIGHT-TO-LEFT OVERRIDE}evil\n".encode())
        assert console.tail(1)[0].isprintable()
        assert len(console.text) < 256 * 1024
    assert (tmp_path / "console.log").stat().st_size < 3 * 1024**2
    assert "not kept" in (tmp_path / "console.log").read_text()
