# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the boot test changes in the throw-away layer."""

from __future__ import annotations

import configparser
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import instruments, report
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree

ARGUMENTS = instruments.KERNEL_ARGUMENTS

GRUB_CFG = """\
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=5
else
  set timeout=5
fi
terminal_output gfxterm
menuentry 'Debian GNU/Linux' {
\tlinux\t/boot/vmlinuz-6.1 root=/dev/sda1 ro quiet
\tinitrd\t/boot/initrd.img-6.1
}
menuentry 'Old' {
  linux16 /vmlinuz-3.10 root=/dev/sda1 ro rhgb quiet
}
"""


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def _instrument(root: pathlib.Path, files: t.Mapping[str, str], *, emulated: bool = False) -> bool:
    for path, text in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    with GuestTree(root, writable=True) as tree:
        return instruments.instrument(tree, "token", emulated=emulated)


def _text(root: pathlib.Path, path: str) -> str:
    return (root / path.lstrip("/")).read_text()


def test_grub_says_what_it_does_on_the_serial_port_and_does_not_wait(root: pathlib.Path) -> None:
    _instrument(root, {"/boot/grub/grub.cfg": GRUB_CFG})
    lines = _text(root, "/boot/grub/grub.cfg").splitlines()
    assert f"\tlinux\t/boot/vmlinuz-6.1 root=/dev/sda1 ro quiet {ARGUMENTS}" in lines
    assert f"  linux16 /vmlinuz-3.10 root=/dev/sda1 ro rhgb quiet {ARGUMENTS}" in lines
    assert "\tinitrd\t/boot/initrd.img-6.1" in lines
    assert [line for line in lines if "timeout=" in line] == ["  set timeout=0"] * 2
    assert "terminal_output console" in lines


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        (
            "/boot/loader/entries/abc-5.14.conf",
            "title Rocky\noptions root=UUID=1 ro $tuned_params\n",
            f"title Rocky\noptions root=UUID=1 ro $tuned_params {ARGUMENTS}\n",
        ),
        ("/boot/loader/loader.conf", "timeout 5\ndefault x\n", "timeout 0\ndefault x\n"),
        (
            "/boot/grub/menu.lst",
            "timeout\t\t5\ntitle x\nkernel\t/vmlinuz root=/dev/sda1\n",
            f"timeout\t\t0\ntitle x\nkernel\t/vmlinuz root=/dev/sda1 {ARGUMENTS}\n",
        ),
        (
            "/boot/grub/grub.conf",
            "timeout=5\n\tkernel /vmlinuz ro root=LABEL=/\n",
            f"timeout=0\n\tkernel /vmlinuz ro root=LABEL=/ {ARGUMENTS}\n",
        ),
        (
            "/boot/extlinux.conf",
            "TIMEOUT 30\nLABEL x\n  APPEND root=UUID=1 quiet\n",
            f"TIMEOUT 1\nLABEL x\n  APPEND root=UUID=1 quiet {ARGUMENTS}\n",
        ),
    ],
)
def test_other_boot_loaders(root: pathlib.Path, path: str, before: str, after: str) -> None:
    _instrument(root, {path: before})
    assert _text(root, path) == after


def test_a_systemd_guest_gets_the_unit(root: pathlib.Path) -> None:
    (root / "sbin").mkdir()
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    assert _instrument(root, {"/lib/systemd/systemd": "", "/etc/inittab": "x::respawn:/bin/x\n"})
    for path, target in report.links().items():
        link = root / path.lstrip("/")
        assert link.is_symlink() and str(link.readlink()) == target
        assert link.resolve().is_file()
    assert "begin token" in _text(root, report.SCRIPT)
    assert "ttyS0" not in _text(root, "/etc/inittab")
    assert not (root / "etc/systemd/system.conf.d").exists()


def test_where_its_processor_is_emulated_a_systemd_guest_waits_longer_for_its_devices(root: pathlib.Path) -> None:
    (root / "sbin").mkdir()
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    _instrument(root, {"/lib/systemd/systemd": ""}, emulated=True)
    settings = configparser.ConfigParser()
    settings.optionxform = str  # type: ignore[assignment]
    (drop_in,) = (root / "etc/systemd/system.conf.d").iterdir()
    settings.read(drop_in)
    assert set(settings["Manager"]) == {"DefaultTimeoutStartSec", "DefaultDeviceTimeoutSec"}
    assert all(int(seconds) > 90 for seconds in settings["Manager"].values())


@pytest.mark.parametrize(
    ("inittab", "added"),
    [
        ("::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n", "ttyS0::respawn:/sbin/getty"),
        ("id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1", "h2k:2345:respawn:/sbin/getty"),
        ("id:2:initdefault:\n#S0:2345:respawn:/sbin/getty ttyS0\n", "h2k:2345:respawn:/sbin/getty"),
    ],
)
def test_a_guest_with_an_inittab_asks_for_a_login_on_the_serial_port(
    root: pathlib.Path, inittab: str, added: str
) -> None:
    assert not _instrument(root, {"/etc/inittab": inittab, "/sbin/init": "elf"})
    text = _text(root, "/etc/inittab")
    assert text.startswith(inittab) and added in text.splitlines()[-1]


def test_a_getty_that_is_there_is_left_alone(root: pathlib.Path) -> None:
    inittab = "S0:2345:respawn:/sbin/getty -L ttyS0 115200\n"
    _instrument(root, {"/etc/inittab": inittab})
    assert _text(root, "/etc/inittab") == inittab


def test_an_empty_guest_is_left_as_it_is(root: pathlib.Path) -> None:
    assert not _instrument(root, {})
    assert list(root.iterdir()) == []
