# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot test with guests of one sector, and with a real one. Needs QEMU; the real guest needs root."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.loop import LoopDevice
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import (
    accelerator,
    layerserver,
    run,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.run import BootTestRequest, boot_test
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests import guests
from tests.e2e import tiny_guests
from tests.e2e.edited_guests import edited
from tests.tools.machine import alive, children, descendants, sha256, wait_for

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2
#: More than pytest's own limit for a test: whoever waits for it in earnest fails by that. Seconds.
_LIMIT = 7200
LOGIN = "Linux web01\n\nweb01 login: "


class Bench:
    """A work folder, an evidence folder and the boot tests made with them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.workdir = folder / "work"
        self.evidence = folder / "evidence"
        self.workdir.mkdir()
        self.evidence.mkdir()
        self.messages: list[str] = []

    def request(self, *disks: pathlib.Path, **options: t.Any) -> BootTestRequest:
        defaults: dict[str, t.Any] = {
            "disks": [(disk, "qcow2" if disk.suffix == ".qcow2" else "raw") for disk in disks],
            "firmware": "bios",
            "nics": [Nic(mac="52:54:00:00:00:01")],
            "memory_bytes": 512 * MIB,
            "cpus": 1,
            "timeout_seconds": 900,
            "marker": None,
            "workdir": self.workdir,
            "evidence": self.evidence,
            "report": False,
        }
        return BootTestRequest(**{**defaults, **options})

    def boot(self, *disks: pathlib.Path, **options: t.Any) -> models.BootTestResult:
        return boot_test(self.request(*disks, **options), self.messages.append, lambda: False)

    def guest(self, text: str, then: bytes = tiny_guests.STAY) -> pathlib.Path:
        return tiny_guests.write_guest(self.folder / "guest.raw", text, then)

    def boot_past_limit(
        self, monkeypatch: pytest.MonkeyPatch, said: str, *disks: pathlib.Path, **options: t.Any
    ) -> models.BootTestResult:
        """Boot with a clock that leaps over the time limit once the guest was seen to have said ``said``.

        However slow the machine is, the limit then comes after that, and nobody waits for it.
        """

        class Clock:
            @staticmethod
            def monotonic() -> float:
                leap = _LIMIT if any(said in message for message in self.messages) else 0
                return time.monotonic() + leap

        monkeypatch.setattr(run, "time", Clock)
        return self.boot(*disks, timeout_seconds=_LIMIT, **options)

    def console(self) -> str:
        return (self.evidence / "console.log").read_text()


@pytest.fixture
def bench(tmp_path: pathlib.Path) -> t.Iterator[Bench]:
    found = Bench(tmp_path)
    before = children(os.getpid())
    yield found
    assert list(found.workdir.iterdir()) == []
    assert children(os.getpid()) == before


def _status(pid: int) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, value in (line.split(":", 1) for line in lines)}


# -- guests of one sector ----------------------------------------------------------------------------------------------


def test_a_login_prompt_is_a_boot(bench: Bench) -> None:
    looks: list[float] = []

    def look() -> bool:
        if bench.evidence.joinpath("console.log").exists() and LOGIN.strip() in bench.console():
            looks.append(time.monotonic())
        return False

    began = time.monotonic()
    result = boot_test(bench.request(bench.guest(LOGIN), timeout_seconds=_LIMIT), bench.messages.append, look)
    assert (result.verdict, result.marker) == ("booted", "login prompt 'web01 login:'")
    # The prompt ends the test, at the next or next but one look at the console.
    assert len(looks) <= 3
    assert 0 < result.seconds <= time.monotonic() - began
    assert result.accelerator == accelerator.probe_accelerator().name
    assert result.console_tail[-1] == "web01 login:"
    assert "web01 login:" in bench.console()
    assert (bench.evidence / "screenshot.png").read_bytes().startswith(b"\x89PNG")
    assert result.warnings == []


def test_the_marker_of_the_job_decides(bench: Bench) -> None:
    assert bench.boot(bench.guest("x application ready\n"), marker="application ready").verdict == "booted"


def test_a_login_prompt_is_not_the_marker_of_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench.boot_past_limit(monkeypatch, "web01 login:", bench.guest(LOGIN), marker="application ready")
    assert (result.verdict, result.reason) == ("failed", "MarkerNotSeen")
    assert result.seconds >= _LIMIT


@pytest.mark.parametrize(
    ("text", "then", "reason"),
    [
        ("[    1.0] Kernel panic - not syncing: Attempted to kill init!\n", tiny_guests.STAY, "KernelPanic"),
        ("starting\n", tiny_guests.POWER_OFF, "PoweredOff"),
        ("starting\n", tiny_guests.RESTART, "RebootLoop"),
        ("writing\n", tiny_guests.FILL_DISK, "LayerFull"),
    ],
)
def test_failures_end_the_test_at_once(
    bench: Bench, text: str, then: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerserver, "LAYER_LIMIT", 8 * MIB)
    guest = bench.guest(text, then)
    before = sha256(guest)
    result = bench.boot(guest, timeout_seconds=_LIMIT)
    assert (result.verdict, result.reason) == ("failed", reason)
    assert result.message and result.suggestion
    assert (bench.evidence / "screenshot.png").stat().st_size > 0
    assert sha256(guest) == before


def test_a_blank_disk_has_no_boot_loader(bench: Bench) -> None:
    disk = bench.folder / "blank.raw"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    assert bench.boot(disk).reason == "NoBootloader"


def test_a_blank_disk_leaves_uefi_in_its_shell(bench: Bench) -> None:
    disk = bench.folder / "blank.raw"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    assert bench.boot(disk, firmware="uefi").reason == "FirmwareShell"
    assert "Shell>" in bench.console()


def test_secure_boot_is_enforced(bench: Bench) -> None:
    """OVMF's own shell is not signed: with Secure Boot it does not start."""
    disk = bench.folder / "blank.raw"
    disk.touch()
    os.truncate(disk, 64 * MIB)
    assert bench.boot(disk, firmware="uefi", secure_boot=True).reason == "FirmwareShell"
    assert "Security Violation" in bench.console()


def test_a_guest_that_stays_where_it_is_times_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench.boot_past_limit(monkeypatch, "PCI: probing", bench.guest("[    0.1] PCI: probing\n"))
    assert (result.verdict, result.reason) == ("failed", "Timeout")
    assert "PCI: probing" in (result.message or "")
    assert result.seconds >= _LIMIT


def test_the_first_disk_boots(bench: Bench) -> None:
    other = tiny_guests.write_guest(bench.folder / "other.raw", "wrong login: ")
    assert "web01" in bench.boot(bench.guest(LOGIN), other).marker


def test_a_guest_on_vmwares_controller(bench: Bench) -> None:
    assert bench.boot(bench.guest(LOGIN), bus="pvscsi").verdict == "booted"


def test_each_disk_has_its_own_sectors(bench: Bench) -> None:
    """UEFI finds a FAT on a disk of 4 KiB sectors, beside one of 512 bytes, and its shell obeys a script there."""
    disk, small, fat = (bench.folder / name for name in ("disk.raw", "small.raw", "fat"))
    for path, size in ((disk, 64 * MIB), (small, MIB), (fat, 60 * MIB)):
        path.touch()
        os.truncate(path, size)
    subprocess.run(["mkfs.vfat", "-S", "4096", fat], check=True, stdout=subprocess.DEVNULL)
    script = b"echo -off\r\necho sectors of 4 KiB\r\n"
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(["mcopy", "-i", fat, "-", "::/startup.nsh"], input=script, check=True, env=environment)
    loop = LoopDevice(disk, 0, 64 * MIB, writable=True, block_size=4096)
    try:
        table = f"label: gpt\nstart=256, size={60 * MIB // 4096}, type=U\n".encode()
        subprocess.run(["sfdisk", "-q", loop.device], input=table, check=True)
        loop.sync()
    finally:
        loop.detach()
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(fat.read_bytes())
    options: dict[str, t.Any] = {"firmware": "uefi", "marker": "sectors of 4 KiB", "timeout_seconds": 300}
    assert bench.boot(disk, small, logical_block_sizes=[4096, 512], **options).verdict == "booted"
    assert bench.boot(disk, small, logical_block_sizes=[512, 512], **options).reason == "FirmwareShell"


def test_a_guest_that_cannot_be_mounted_is_judged_by_its_console(bench: Bench) -> None:
    result = bench.boot(bench.guest(LOGIN), report=True)
    assert result.verdict == "booted"
    assert "console" in result.warnings[0]


def test_memory_is_reduced_to_what_the_host_has(bench: Bench) -> None:
    result = bench.boot(bench.guest(LOGIN), memory_bytes=1 << 50)
    assert result.verdict == "booted"
    assert result.facts["memoryBytes"] < 1 << 50 == result.facts["memoryBytesOfTheGuest"]


def test_cancel_ends_it(bench: Bench) -> None:
    request = bench.request(bench.guest("starting\n"))
    result = boot_test(request, bench.messages.append, lambda: any("starting" in m for m in bench.messages))
    assert (result.verdict, result.reason) == ("not-verified", "Cancelled")


def test_qemu_is_nobody_and_can_do_nothing(bench: Bench) -> None:
    seen: list[dict[str, str]] = []
    arguments: list[str] = []

    def look() -> bool:
        for pid in children(os.getpid()):
            if "qemu-system" in os.readlink(f"/proc/{pid}/exe"):
                seen.append(_status(pid))
                arguments.extend(pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
        return bool(seen)

    boot_test(bench.request(bench.guest("starting\n")), bench.messages.append, look)
    status = seen[0]
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {"65534"}
        assert "0" not in status["Gid"].split()
    assert status["CapEff"] == status["CapBnd"] == "0" * 16
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    netdevs = [arguments[i + 1] for i, argument in enumerate(arguments) if argument == "-netdev"]
    assert netdevs and all(netdev.endswith(",restrict=on") for netdev in netdevs)
    assert not any(str(bench.folder) in argument for argument in arguments)


def test_a_killed_boot_test_takes_qemu_along(bench: Bench) -> None:
    guest = bench.guest("starting\n")
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(guest), str(bench.folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    try:
        while b"starting" not in child.stdout.readline():
            assert child.poll() is None
        running = descendants(child.pid)
        assert len(running) >= 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    wait_for(lambda: not any(alive(pid) for pid in running))
    for folder in bench.workdir.iterdir():  # a killed process cannot clear its own folder; a worker's start does
        subprocess.run(["rm", "-r", folder], check=True)


_KILLED = """
import pathlib, sys
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.run import BootTestRequest, boot_test
folder = pathlib.Path(sys.argv[2])
request = BootTestRequest([(pathlib.Path(sys.argv[1]), "raw")], "bios", [], 2**29, 1, 600, None, folder / "work",
                          folder / "evidence", report=False)
boot_test(request, lambda message: print(message, flush=True), lambda: False)
"""


def test_kvm_that_fails_under_the_guest_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator that QEMU takes back, as some hosts' KVM does with a real kernel."""
    broken = accelerator.Accelerator("kvm", "no-such-cpu", "as if probed")
    monkeypatch.setattr(
        "ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.run.probe_accelerator", lambda: broken
    )
    result = bench.boot(bench.guest(LOGIN))
    assert (result.verdict, result.accelerator) == ("booted", "tcg")
    assert "KVM" in result.warnings[0]


def test_a_host_that_was_too_busy_tries_again(bench: Bench) -> None:
    """The kernel's panic where its timer does not tick, which is seen on busy hosts without KVM."""
    panic = "[    0.0] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug\n"
    result = bench.boot(bench.guest(panic, tiny_guests.STAY))
    assert (result.verdict, result.reason) == ("failed", "HostTooBusy")
    assert [("booting it again" in message) for message in bench.messages].count(True) == 2


def test_an_image_that_is_none_is_an_error(bench: Bench) -> None:
    disk = bench.folder / "broken.qcow2"
    disk.write_bytes(b"no image" * 100)
    with pytest.raises(JobError):
        bench.boot(disk)


# -- a real guest, as it comes out of VMware ---------------------------------------------------------------------------


@pytest.mark.long
def test_a_filesystem_that_is_missing_is_emergency_mode(bench: Bench) -> None:
    debian = guests.build("debian12") / "disk.raw"
    kept = debian.stat()
    overlay = bench.folder / "emergency.qcow2"
    with edited(debian, overlay) as tree:
        tree.append("/etc/fstab", b"/dev/sdz1 /data ext4 x-systemd.device-timeout=5 0 2\n")
    before = sha256(overlay)
    result = bench.boot(overlay, bus="pvscsi", memory_bytes=1024 * MIB, report=True)
    assert (result.verdict, result.reason) == ("failed", "EmergencyMode")
    assert result.facts["target"] == "emergency"
    assert "/dev/sdz1" in result.message
    assert (result.facts["hostname"], result.facts["root"]) == ("web01", "/dev/sda1")
    assert sha256(overlay) == before
    assert (debian.stat().st_mtime_ns, debian.stat().st_size) == (kept.st_mtime_ns, kept.st_size)
