# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests' volumes in a micro-VM with Debian's kernel: what a host without a device-mapper cannot open by itself."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.luks import Key
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_throwaway
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.layerserver import Layer
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import FixRequest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm import messages
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.image import (
    MachineFiles,
    Settings,
    machine_files,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.machine import MicroVm
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.session import GuestInMicroVm
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.session import Opened, Planned, Probed
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.e2e.built_disks import Builder
from tests.e2e.kernels import debian_kernel
from tests.e2e.migration import ConversionHost, completed, job, same_content
from tests.guests.specs import MIB, SPECS, ServerSpec
from tests.guests.volumes import PASSPHRASE, lay_out
from tests.tools.machine import alive, descendants, wait_for

FILES = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Volumes"\n',
    "/etc/hostname": "old\n",
    "/etc/fstab": "ROOT / ext4 defaults 0 1\nSWAP none swap sw 0 0\n",
    "/usr/bin/true": "",
    "/bin/true": "",
    "/sbin/true": "",
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> MachineFiles:
    """The machine, of Debian's kernel."""
    return machine_files(Settings(debian_kernel().tree, tmp_path_factory.mktemp("microvm")))


@dataclasses.dataclass(frozen=True)
class Guest:
    """Overlays over a guest's disks."""

    disks: list[pathlib.Path]
    overlays: dict[str, pathlib.Path]
    folder: pathlib.Path

    def unchanged(self) -> None:
        """See that nothing was written."""
        for disk, overlay in zip(self.disks, self.overlays.values(), strict=True):
            same_content(overlay, "qcow2", disk)


@pytest.fixture
def guest(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Guest:
    spec = SPECS[request.param]
    assert isinstance(spec, ServerSpec)
    extra = {"/etc/crypttab": "cryptlvm UUID=LUKS none luks\n"} if spec.storage == "luks-lvm" else {}
    disks = lay_out(spec, FILES | extra, tmp_path)
    overlays = {}
    for index, disk in enumerate(disks):
        overlays[f"disk{index}"] = tmp_path / f"disk{index}.qcow2"
        create_throwaway(overlays[f"disk{index}"], disk, "raw")
    return Guest(disks, overlays, tmp_path)


@contextlib.contextmanager
def machine(files: MachineFiles, guest: Guest) -> c.Iterator[MicroVm]:
    layers = [Layer(name, path, "qcow2", kept=True) for name, path in guest.overlays.items()]
    with MicroVm(files, layers, guest.folder, lambda: False) as started:
        yield started


def refusal(vm: MicroVm, disks: tuple[str, ...], *keys: Key) -> JobError:
    """The error of mounting a guest from these disks alone."""
    vm.ask(messages.Probe(disks, True, tuple(messages.SentKey.of(key) for key in keys)), Probed)
    with pytest.raises(JobError) as caught:
        vm.ask(messages.Mount(), Opened)
    return caught.value


def physical_volume(disk: pathlib.Path, start: int) -> str:
    """The UUID of the physical volume at ``start``, as LVM's own label has it: 32 characters in groups."""
    with disk.open("rb") as file:
        file.seek(start + 512)
        label = file.read(512)
    assert label[:8] == b"LABELONE"
    raw = label[32:64].decode()
    cuts = (6, 10, 14, 18, 22, 26, 32)
    return "-".join(raw[begin:end] for begin, end in zip((0, *cuts), cuts, strict=False))


@pytest.mark.long
@pytest.mark.parametrize("guest", ["debian12-lvm"], indirect=True)
def test_volumes_of_lvm_over_two_disks(files: MachineFiles, guest: Guest) -> None:
    """Named with hyphens, linear over both disks and striped; given in any order; a missing one is told by its UUID."""
    with machine(files, guest) as vm:
        error = refusal(vm, ("disk0",))
        assert error.reason == "MissingPhysicalVolume"
        assert physical_volume(guest.disks[1], 0) in error.message
        error = refusal(vm, ("disk1",))
        assert error.reason == "MissingPhysicalVolume"
        assert physical_volume(guest.disks[0], 129 * MIB) in error.message
    guest.unchanged()
    reversed_order = dict(reversed(guest.overlays.items()))
    session = GuestInMicroVm(files, reversed_order, writable=True, workdir=guest.folder, cancelled=lambda: False)
    assert [f.type for f in session.probe().filesystems] == ["LVM2_member", "ext4", "LVM2_member"]
    facts = session.mount().facts
    assert (facts.pretty_name, facts.hostname) == ("Volumes", "old")
    assert facts.root is not None and facts.root.volume is not None
    assert facts.root.volume.name == "vg-sys/root-fs"
    assert set(facts.root.volume.members) == {"disk0 partition 2", "disk1"}
    assert [mount.filesystem and mount.filesystem.type for mount in facts.mounts] == ["ext4", "swap"]
    volumes = {f.volume.name: f.volume for f in facts.filesystems if f.volume is not None}
    assert set(volumes) == {"vg-sys/root-fs", "vg-sys/swap", "vg-sys/data-1"}
    assert volumes["vg-sys/data-1"].size == 128 * MIB
    planned = session.plan(FixRequest(models.GuestSpec(hostname="new")))
    assert [change.path for change in planned.changes if change.fixer == "hostname"] == ["/etc/hostname"]
    session.apply()
    session.close()
    again = GuestInMicroVm(files, guest.overlays, writable=False, workdir=guest.folder, cancelled=lambda: False)
    try:
        again.probe()
        sizes = {f"disk{index}": disk.stat().st_size for index, disk in enumerate(guest.disks)}
        used = again.used(sizes)
        examined = again.examine()
        assert again.mount().facts.hostname == "new"
    finally:
        again.close()
    # Of the root's 1280 MiB nearly nothing is used; all else is moved as it is.
    moved = sum(end - begin for ranges in used.ranges.values() for begin, end in ranges)
    assert moved < sum(sizes.values()) - 1000 * MIB
    assert not used.warnings
    assert {(one.type, one.verdict) for one in examined.filesystems} == {("ext4", "sound")}
    assert "vg-sys/root-fs" in {one.place for one in examined.filesystems}


@pytest.mark.parametrize("guest", ["debian12-luks"], indirect=True)
def test_lvm_in_luks(files: MachineFiles, guest: Guest) -> None:
    """A key opens it that comes over the machine's serial port, and shows nowhere; without one the guest is refused."""
    with machine(files, guest) as vm:
        error = refusal(vm, ("disk0",))
        assert error.reason == "Encrypted" and "source.keys" in error.suggestion
        found = vm.ask(messages.Probe(("disk0",), True), Probed)
        (container,) = [f.uuid for f in found.filesystems if f.type == "crypto_LUKS"]
        error = refusal(vm, ("disk0",), Key(b"wrong", container, "team/disk"))
        assert error.reason == "WrongKey" and "team/disk" in error.message and container in error.message
    guest.unchanged()
    # Written with a newline at its end, as editors do.
    key = Key(f"{PASSPHRASE}\n".encode())
    session = GuestInMicroVm(
        files, guest.overlays, writable=True, workdir=guest.folder, keys=[key], cancelled=lambda: False
    )
    try:
        session.probe()
        opened = session.mount()
        shown = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        assert "qemu-system" in shown and PASSPHRASE not in shown
        assert PASSPHRASE not in repr(opened) + repr(key)
        root = opened.facts.root
        assert root is not None and root.volume is not None and root.volume.name == "vg-sys/root-fs"
        assert root.volume.members == (f"luks-{container}",)
        (inner,) = [f for f in opened.facts.filesystems if f.type == "LVM2_member"]
        assert inner.volume is not None and "/dev/mapper/cryptlvm" in inner.volume.names
        session.plan(FixRequest(models.GuestSpec(hostname="new")))
        session.apply()
    except BaseException as error:
        session.abandon(error)
        raise
    session.close()
    again = GuestInMicroVm(
        files, guest.overlays, writable=False, workdir=guest.folder, keys=[key], cancelled=lambda: False
    )
    try:
        again.probe()
        used = again.used({"disk0": guest.disks[0].stat().st_size})
        assert again.mount().facts.hostname == "new"
    finally:
        again.close()
    assert sum(end - begin for begin, end in used.ranges["disk0"]) < guest.disks[0].stat().st_size - 1000 * MIB


@pytest.mark.parametrize("guest", ["debian12-raid"], indirect=True)
def test_a_raid_1_of_two_disks(files: MachineFiles, guest: Guest) -> None:
    """What is written goes to both members; one that is missing is told, with the array's UUID."""
    with machine(files, guest) as vm:
        error = refusal(vm, ("disk1",))
        with guest.disks[0].open("rb") as file:
            file.seek(129 * MIB + 4096 + 16)
            array = file.read(16).hex()
        assert error.reason == "MissingRaidMember"
        assert ":".join(array[i : i + 8] for i in range(0, 32, 8)) in error.message
    guest.unchanged()
    with machine(files, guest) as vm:
        vm.ask(messages.Probe(("disk0", "disk1"), True), Probed)
        facts = vm.ask(messages.Mount(), Opened).facts
        assert facts.root is not None and facts.root.volume is not None
        assert facts.root.volume.kind == "raid1" and "/dev/md0" in facts.root.volume.names
        assert facts.mounts[0].filesystem is not None
        vm.ask(messages.PlanFixes.of(FixRequest(models.GuestSpec(hostname="new"))), Planned)
        vm.ask(messages.Apply(), messages.Done)
        vm.ask(messages.Close(), messages.Done)
        vm.finish()
    halves = []
    for name, overlay in guest.overlays.items():
        flat = guest.folder / f"{name}.flat"
        subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, flat], check=True)
        with flat.open("rb") as file:
            file.seek(130 * MIB)
            halves.append(file.read(1280 * MIB))
    assert halves[0] == halves[1]
    assert b"\nnew\n" in halves[0] or b"new\n" in halves[0]


def test_an_xfs_that_this_hosts_kernel_may_not_have(
    host: ConversionHost, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One without checksums, which kernels are built without by now; Debian's has it."""
    monkeypatch.setenv("HYPER2KVM_MICROVM_KERNEL", str(debian_kernel().tree))
    build = Builder(tmp_path)
    root = build.system("/dev/sda1 / xfs defaults 0 0\n", **{"etc/hostname": "el7\n"})
    build.disk(build.filesystem("xfs4", root)).rename(host.input / "old.raw")
    (done,) = host.run(job("old", "old.raw", "inspect"))
    completed(done)
    guest = host.result("old/inspect.json")["guest"]
    assert (guest["hostname"], guest["root"]["type"]) == ("el7", "xfs")


def test_the_machine_is_confined(files: MachineFiles, tmp_path: pathlib.Path) -> None:
    """It runs as nobody, behind QEMU's filter, and is on no network."""
    with MicroVm(files, [], tmp_path, lambda: False) as vm:
        folder = pathlib.Path("/proc", str(vm._process.pid))
        lines = (folder / "status").read_text(encoding="ascii").splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        arguments = (folder / "cmdline").read_text(encoding="utf-8").split("\0")
        assert (folder / "ns/net").readlink() != pathlib.Path("/proc/self/ns/net").readlink()
    assert set(status["Uid"].split()) == {"65534"}
    assert status["CapEff"] == status["CapBnd"] == "0" * 16
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "-netdev" not in arguments and not any("9p" in one or "virtiofs" in one for one in arguments)


_KILLED = """
import pathlib, sys, time
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.image import MachineFiles
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm.machine import MicroVm
files = MachineFiles(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "")
with MicroVm(files, [], pathlib.Path(sys.argv[3]), lambda: False):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_a_killed_worker_takes_the_machine_along(files: MachineFiles, tmp_path: pathlib.Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _KILLED, files.kernel, files.initramfs, tmp_path],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        running = descendants(child.pid)
        assert len(running) >= 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    wait_for(lambda: not any(alive(pid) for pid in running))


def test_what_is_asked_ends_with_the_machine(files: MachineFiles, tmp_path: pathlib.Path) -> None:
    """A job that is cancelled, or whose machine dies, gets an error at once, and nothing is left."""
    asked = False
    with pytest.raises(JobError, match="cancelled"):
        MicroVm(files, [], tmp_path, lambda: True)
    with MicroVm(files, [], tmp_path, lambda: asked) as vm:
        vm._process.kill()
        with pytest.raises(JobError, match="ended"):
            vm.ask(messages.Mount(), Opened)
    assert os.listdir(tmp_path) == []
