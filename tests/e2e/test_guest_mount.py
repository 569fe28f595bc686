# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests mounted from disk images: the right root, by their own fstab, and nothing of this host touched."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import subprocess
import threading
import typing as t
from uuid import uuid4

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.loop import LoopDevice
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests import btrfs, mounting
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.inspection import inspect
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import MountedGuest, mount_guest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError

from tests.e2e.built_disks import MIB, UUID, Builder, header, run

pytestmark = pytest.mark.usefixtures("own_mounts")

ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"


def mounts() -> list[str]:
    """Lines of this process's mount table."""
    return pathlib.Path("/proc/self/mountinfo").read_text().splitlines()


def loops_of(folder: pathlib.Path) -> list[str]:
    """Loop devices over files in a folder."""
    files = []
    for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # another program's, and gone meanwhile
            files.append(backing.read_text().strip())
    return [name for name in files if name.startswith(str(folder))]


@pytest.fixture
def build(tmp_path: pathlib.Path) -> Builder:
    """Makes disks."""
    (tmp_path / "build").mkdir()
    return Builder(tmp_path / "build")


@pytest.fixture
def open_guest(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., contextlib.AbstractContextManager[MountedGuest]]]:
    """Mounts the guest of some disks through overlays; in the end nothing may be left of it."""
    count = 0
    before = mounts()

    @contextlib.contextmanager
    def opened(*disks: pathlib.Path, writable: bool = True, overlays: list[pathlib.Path] | None = None) -> t.Any:
        nonlocal count
        count += 1
        work = tmp_path / f"work{count}"
        work.mkdir()
        layers = {}
        for index, disk in enumerate(disks):
            layers[f"disk{index}"] = work.parent / f"overlay{count}-{index}.qcow2"
            create_overlay(layers[f"disk{index}"], DiskImage(f"disk{index}", disk, "raw", "", disk.stat().st_size))
        if overlays is not None:
            overlays += layers.values()
        # pylint: disable=contextmanager-generator-missing-cleanup
        # False alarm: contextlib throws into the generator, so that the inner context ends.
        with attach(layers, writable=True, workdir=work) as attachment:
            filesystems = probe(attachment)
            with mount_guest(attachment, filesystems, writable=writable, workdir=work) as guest:
                yield guest
        assert list(work.iterdir()) == []

    yield opened
    assert [line for line in mounts() if str(tmp_path) in line] == []
    assert set(mounts()) <= set(before)
    assert loops_of(tmp_path) == []


Open = t.Callable[..., contextlib.AbstractContextManager[MountedGuest]]


def test_a_guest_is_mounted_by_its_fstab(build: Builder, open_guest: Open, tmp_path: pathlib.Path) -> None:
    fstab = "/dev/sda2 / ext4 x 0 1\n/dev/sda1 /boot ext4 x 0 2\n/dev/sda3 none swap sw\n/dev/sdb /srv ext4 x\n"
    boot = build.filesystem("ext4", build.content({"vmlinuz-6.1": "kernel"}))
    root = build.filesystem("ext4", build.system(fstab))
    first = build.disk(boot, root, build.filesystem("swap"))
    second = build.filesystem("ext4", build.content({"data": "x"}))
    digests = [disk.read_bytes() for disk in (first, second)]
    overlays: list[pathlib.Path] = []
    with open_guest(first, second, overlays=overlays) as guest:
        assert [mount.mountpoint for mount in guest.mounts] == ["/", "/boot", "/srv"]
        assert guest.root.partition.number == 2
        assert guest.tree.read_text("/boot/vmlinuz-6.1") == "kernel"
        options = [line.split()[5].split(",") for line in mounts() if str(tmp_path) in line and "fuse" not in line]
        assert len(options) == 3
        assert all({"rw", "nosuid", "nodev", "noexec", "noatime"} <= set(found) for found in options)
        guest.tree.write("/boot/new", b"written")
        guest.tree.write("/srv/new", b"written")
        facts = inspect(guest, [mount.filesystem for mount in guest.mounts])
        assert [kernel.version for kernel in facts.kernels] == ["6.1"]
    assert [disk.read_bytes() for disk in (first, second)] == digests, "a source was written"
    work = tmp_path / "again"
    work.mkdir()
    with attach({f"disk{i}": path for i, path in enumerate(overlays)}, writable=False, workdir=work) as attachment:
        filesystems = probe(attachment)
        with mount_guest(attachment, filesystems, writable=False, workdir=work) as guest:
            assert guest.tree.read_text("/boot/new") == guest.tree.read_text("/srv/new") == "written"
            with pytest.raises(JobError, match="read-only"):
                guest.tree.write("/boot/new", b"")


def test_disks_that_are_listed_in_another_order_are_known_by_the_root(build: Builder, open_guest: Open) -> None:
    """Behind a blank disk the guest's sda is still its own."""
    boot = build.filesystem("ext4", build.content({"vmlinuz-6.1": "kernel"}))
    root = build.filesystem("ext4", build.system("/dev/sda2 / ext4 x 0 1\n/dev/sda1 /boot ext4 x 0 2\n"))
    with open_guest(build.filesystem(""), build.disk(boot, root)) as guest:
        assert [mount.mountpoint for mount in guest.mounts] == ["/", "/boot"]
        assert guest.tree.read_text("/boot/vmlinuz-6.1") == "kernel"


@pytest.mark.parametrize("how", ["absolute", "relative", "in fstab"])
def test_a_mount_point_cannot_lead_out(build: Builder, open_guest: Open, tmp_path: pathlib.Path, how: str) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("host")
    target = {"absolute": str(canary), "relative": "../../../../../../../.." + str(canary)}.get(how)
    point = f"/etc/../../../../../..{canary}" if target is None else "/boot"
    links = {"boot": target} if target else {}
    root = build.system(f"/dev/sda1 / ext4 x\n/dev/sda2 {point} ext4 x\n", links)
    (root / str(canary).lstrip("/")).mkdir(parents=True)
    disk = build.disk(build.filesystem("ext4", root), build.filesystem("ext4", build.content({"evil": "x"})))
    with open_guest(disk) as guest:
        assert sorted(os.listdir(canary)) == ["secret"]
        assert not [line for line in mounts() if line.split()[4] == str(canary)]
        assert [mount.mountpoint for mount in guest.mounts] == ["/", str(canary)]
        assert guest.tree.read_text(f"{canary}/evil") == "x"
        guest.tree.write(f"{canary}/secret", b"guest")
    assert (canary / "secret").read_text() == "host"


def test_clones_of_an_xfs_template_at_once(build: Builder, open_guest: Open) -> None:
    twins = [build.disk(build.filesystem("xfs", build.system(**{"etc/name": name}))) for name in ("a", "b")]
    with open_guest(twins[0]) as first, open_guest(twins[1]) as second:
        assert first.root.uuid == second.root.uuid == UUID
        assert (first.tree.read_text("/etc/name"), second.tree.read_text("/etc/name")) == ("a", "b")
        second.tree.write("/etc/name", b"changed")
        assert first.tree.read_text("/etc/name") == "a"


def test_clones_of_a_btrfs_template_at_once(build: Builder, open_guest: Open) -> None:
    twins = [build.disk(build.filesystem("btrfs", build.system(**{"etc/name": n}), uuid=UUID)) for n in ("a", "b")]
    with open_guest(twins[0]) as first:
        assert first.tree.read_text("/etc/name") == "a"
        try:
            with open_guest(twins[1]) as second:
                assert second.tree.read_text("/etc/name") == "b", "the twin's files are shown"
        except JobError as error:
            # Kernels before 6.7 know a btrfs by its UUID alone.
            assert error.reason == "TwinMounted" and error.retryable


def test_clones_of_a_btrfs_take_turns_where_the_kernel_knows_them_by_uuid_alone(
    build: Builder, open_guest: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = str(uuid4())
    monkeypatch.setattr(btrfs, "one_at_a_time", lambda members: True)
    twins = [build.disk(build.filesystem("btrfs", build.system(**{"etc/name": n}), uuid=uuid)) for n in ("a", "b")]
    log: list[str] = []
    waiting = threading.Event()
    take = btrfs.Turn._take
    monkeypatch.setattr(btrfs.Turn, "_take", lambda turn, uuid: take(turn, uuid) or waiting.set())

    def second() -> None:
        with open_guest(twins[1]) as guest:
            log.append(guest.tree.read_text("/etc/name"))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        with open_guest(twins[0]) as guest:
            other = pool.submit(second)
            assert waiting.wait(120)
            log.append(guest.tree.read_text("/etc/name"))
        other.result()
    assert log == ["a", "b"]


def test_a_clone_that_is_not_done_is_an_error_that_a_retry_can_help(
    build: Builder, open_guest: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid = str(uuid4())
    monkeypatch.setattr(btrfs, "one_at_a_time", lambda members: True)
    monkeypatch.setattr(btrfs, "PATIENCE", 0.5)
    twins = [build.disk(build.filesystem("btrfs", build.system(**{"etc/name": n}), uuid=uuid)) for n in ("a", "b")]
    with open_guest(twins[0]), pytest.raises(JobError) as caught, open_guest(twins[1]):
        pytest.fail("it was mounted")
    assert caught.value.reason == "TwinMounted" and caught.value.retryable


def two_devices(build: Builder, profile: str, name: str = "a") -> list[pathlib.Path]:
    """The filesystem images of a btrfs on two devices, which holds a system."""
    uuid = str(uuid4())  # the kernel remembers those that it has seen
    images = [build.filesystem("") for dummy in range(2)]
    for image in images:
        os.truncate(image, 140 * MIB)
    content = build.system(f"UUID={uuid} / btrfs x\n", **{"etc/name": name, "big": name * 3 * MIB})
    options = ["-U", uuid, "-m", "raid1", "-d", profile]
    run("mkfs.btrfs", "-q", *options, *images)
    place = build.folder / "place"
    place.mkdir(exist_ok=True)
    loops = [LoopDevice(image, 0, image.stat().st_size, writable=True) for image in images]
    try:
        run("mount", "-o", f"device={loops[1].device}", loops[0].device, place)
        run("cp", "-a", f"{content}/.", place)
        run("umount", place)
    finally:
        btrfs.forget(loop.device for loop in loops)
        for loop in loops:
            loop.detach()
    return images


@pytest.mark.parametrize("profile", ["raid0", "raid1"])
def test_a_btrfs_on_two_disks(build: Builder, open_guest: Open, profile: str) -> None:
    disks = [build.disk(image) for image in two_devices(build, profile)]
    for disks_in_order in (disks, disks[::-1]):
        with open_guest(*disks_in_order) as guest:
            assert [mount.mountpoint for mount in guest.mounts] == ["/"]
            assert guest.root.partition.disk == "disk0"
            assert guest.tree.read_text("/big") == "a" * 3 * MIB
            guest.tree.write("/etc/name", b"changed")


@pytest.mark.parametrize("killed", [False, True])
def test_clones_of_a_btrfs_on_two_disks_one_after_the_other(
    build: Builder, open_guest: Open, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """Also where a killed process left the first one's devices, which are newer, in the kernel's memory."""
    disks = [build.disk(image) for image in two_devices(build, "raid0")]
    overlays: list[pathlib.Path] = []
    with open_guest(*disks, overlays=overlays) as guest:
        guest.tree.write("/etc/name", b"changed")
    newer = [overlay.with_suffix(".raw") for overlay in overlays]
    for overlay, raw in zip(overlays, newer, strict=True):
        run("qemu-img", "convert", "-O", "raw", overlay, raw)
    with contextlib.ExitStack() as stack:
        if killed:
            patch = stack.enter_context(monkeypatch.context())
            patch.setattr(btrfs, "forget", lambda devices: None)
        with open_guest(*newer) as guest:
            assert guest.tree.read_text("/etc/name") == "changed"
    refused: list[str] = []
    mount = mounting.mount

    def watched(*args: t.Any, **options: t.Any) -> None:
        try:
            mount(*args, **options)
        except JobError as error:
            refused.append(error.reason)
            raise

    monkeypatch.setattr(mounting, "mount", watched)
    # The clone gets other devices.
    spare = [LoopDevice(newer[0], 0, MIB, writable=False) for dummy in range(2)]
    try:
        with open_guest(*disks) as guest:
            assert guest.tree.read_text("/etc/name") == "a"
    finally:
        for loop in spare:
            loop.detach()
    assert refused == (["TwinMounted"] if killed else [])


def test_a_btrfs_with_a_disk_missing_has_its_own_reason(build: Builder, open_guest: Open) -> None:
    first, second = (build.disk(image) for image in two_devices(build, "raid1"))
    for given in ([first], [second], [first, first]):
        with pytest.raises(JobError) as caught, open_guest(*given):
            pytest.fail("it was mounted")
        assert caught.value.reason == "BtrfsIncomplete"
        assert "2 devices" in caught.value.message and "all disks" in caught.value.suggestion


def test_a_disk_with_4k_sectors(build: Builder, open_guest: Open) -> None:
    image = build.filesystem("")
    run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", build.system("/dev/sda1 / ext4 x\n"), image)
    disk = build.disk(image, sector=4096)
    with open_guest(disk) as guest:
        device = next(line.split()[-2] for line in mounts() if str(guest.tree.root) in line)
        size = pathlib.Path("/sys/block", pathlib.Path(device).name, "queue/logical_block_size").read_text()
        assert (guest.root.type, guest.root.partition.start, size.strip()) == ("ext4", MIB, "4096")
        guest.tree.write("/etc/name", b"written")


@contextlib.contextmanager
def mounted(image: pathlib.Path, mount_point: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """A filesystem's files, for writing."""
    mount_point.mkdir()
    run("mount", "-o", "loop", image, mount_point)
    try:
        yield mount_point
    finally:
        run("umount", mount_point)


def add_subvolume(place: pathlib.Path, **files: str) -> None:
    """Make a subvolume that has these files."""
    run("btrfs", "subvolume", "create", place)
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def test_a_btrfs_root_in_a_subvolume(build: Builder, open_guest: Open, tmp_path: pathlib.Path) -> None:
    top = build.content({"@,ro/etc/fstab": "x", "plain/readme": "x"})
    image = build.filesystem("btrfs", top)
    fstab = f"UUID={UUID} / btrfs subvol=@ 0 0\nUUID={UUID} /home btrfs subvol=/@home 0 0\n"
    run("btrfstune", "-f", "-U", UUID, image)
    with mounted(image, tmp_path / "top") as folder:
        add_subvolume(folder / "@", **{"etc/fstab": fstab, "usr/bin/env": ""})
        add_subvolume(folder / "@home", **{"user/file": "mine"})
        add_subvolume(folder / "@old", **{"etc/fstab": fstab, "usr/bin/env": ""})
        (folder / "@/home").mkdir()
    with open_guest(build.disk(image)) as guest:
        assert [mount.mountpoint for mount in guest.mounts] == ["/", "/home"]
        assert guest.tree.read_text("/home/user/file") == "mine"
        assert not guest.tree.exists("/@")


def test_of_snappers_snapshots_the_default_one_is_the_root(
    build: Builder, open_guest: Open, tmp_path: pathlib.Path
) -> None:
    """As SUSE lays it out, after a rollback: the newest snapshot is not the one that boots."""
    image = build.filesystem("btrfs")
    run("btrfstune", "-f", "-U", UUID, image)
    fstab = "".join(
        f"UUID={UUID} {place} btrfs {options} 0 0\n"
        for place, options in (("/", "defaults"), ("/.snapshots", "subvol=/@/.snapshots"), ("/home", "subvol=/@/home"))
    )
    with mounted(image, tmp_path / "top") as folder:
        add_subvolume(folder / "@")
        add_subvolume(folder / "@/.snapshots")
        add_subvolume(folder / "@/home", **{"user/file": "mine"})
        for number, name in ((1, "first"), (2, "live"), (3, "left")):
            snapshot = folder / f"@/.snapshots/{number}/snapshot"
            snapshot.parent.mkdir()
            add_subvolume(snapshot, **{"etc/fstab": fstab, "etc/os-release": "ID=sles\n", "usr/bin/env": ""})
            (snapshot / "etc/name").write_text(name)
            for place in ("home", ".snapshots"):
                (snapshot / place).mkdir()
        run("btrfs", "subvolume", "set-default", folder / "@/.snapshots/2/snapshot")
    with open_guest(build.disk(image)) as guest:
        assert guest.tree.read_text("/etc/name") == "live"
        assert {mount.mountpoint for mount in guest.mounts} == {"/", "/.snapshots", "/home"}
        assert guest.tree.read_text("/home/user/file") == "mine"
        assert guest.tree.read_text("/.snapshots/3/snapshot/etc/name") == "left"
        assert not guest.warnings


def test_an_xfs_without_checksums_needs_a_kernel_that_has_it(build: Builder, open_guest: Open) -> None:
    """And is not taken for a damaged one where it does not."""
    disk = build.disk(build.filesystem("xfs4", build.system("/dev/sda1 / xfs x 0 0\n", **{"etc/name": "old"})))
    try:
        with open_guest(disk) as guest:
            assert guest.tree.read_text("/etc/name") == "old"
    except JobError as error:
        assert (error.reason, error.error_class) == ("NoFilesystemDriver", ErrorClass.ENVIRONMENT)
        assert "xfs of version 4" in error.message


@pytest.mark.parametrize("in_fstab", [True, False])
def test_the_efi_partition_is_shown(build: Builder, open_guest: Open, in_fstab: bool) -> None:
    esp = build.filesystem("vfat")
    subprocess.run(["mmd", "-i", esp, "::/EFI", "::/EFI/debian"], check=True)
    subprocess.run(["mcopy", "-i", esp, "-", "::/EFI/debian/grubx64.efi"], input=b"grub", check=True)
    root = build.system("/dev/sda1 /boot/efi vfat umask=0077 0 1\n" if in_fstab else "")
    (root / "boot/efi").mkdir()
    disk = build.disk(esp, build.filesystem("ext4", root), types=[ESP])
    overlays: list[pathlib.Path] = []
    with open_guest(disk, overlays=overlays) as guest:
        assert guest.esp == "/boot/efi"
        assert guest.tree.read_bytes("/boot/efi/EFI/debian/grubx64.efi") == b"grub"
        guest.tree.write("/boot/efi/EFI/BOOT/BOOTX64.EFI", b"x" * 100_000)
    flat = overlays[0].with_suffix(".raw")
    run("qemu-img", "convert", "-O", "raw", overlays[0], flat)
    found = subprocess.run(
        ["mtype", "-i", f"{flat}@@{MIB}", "::/EFI/BOOT/BOOTX64.EFI"], capture_output=True, check=True
    ).stdout
    assert found == b"x" * 100_000


@pytest.mark.parametrize(
    ("kind", "reason", "text"),
    [
        ("blank", "BlankDisk", "blank disk"),
        ("empty", "NoOperatingSystem", "disk0 partition 1: ext4"),
        ("luks", "Encrypted", "LUKS"),
        ("luks beside a boot", "Encrypted", "disk0 partition 2 is encrypted"),
        ("lvm", "LogicalVolumes", "LVM"),
        ("several", "MultipleOperatingSystems", "Debian 12 on disk0 partition 1, Fedora 40 on disk0 partition 2"),
        ("damaged", "FilesystemDamaged", "fsck"),
    ],
)
def test_what_is_no_guest_is_refused(build: Builder, open_guest: Open, kind: str, reason: str, text: str) -> None:
    if kind == "blank":
        disk = build.filesystem("")
    elif kind == "empty":
        disk = build.disk(build.filesystem("ext4", build.content({"file": "x"})), build.filesystem("swap"))
    elif kind == "several":
        names = ("Debian 12", "Fedora 40")
        roots = [build.system(**{"etc/os-release": f'PRETTY_NAME="{name}"\n'}) for name in names]
        disk = build.disk(*(build.filesystem("ext4", root) for root in roots))
    elif kind == "luks beside a boot":
        boot = build.filesystem("ext4", build.content({"vmlinuz-6.1": "kernel"}))
        disk = build.disk(boot, header("luks", build))
    elif kind == "damaged":
        image = build.filesystem("ext4", build.system())
        with image.open("r+b") as file:
            # The group descriptors, behind a sound superblock of 1 KiB blocks.
            file.seek(2048)
            file.write(b"\xff" * 1024)
        disk = build.disk(image)
    else:
        disk = build.disk(header(kind, build))
    with pytest.raises(JobError) as caught, open_guest(disk):
        pytest.fail("it was mounted")
    assert caught.value.reason == reason
    assert text in f"{caught.value.message} {caught.value.suggestion}"
    assert not caught.value.retryable


def test_an_encrypted_disk_of_data_does_not_hide_a_guest(build: Builder, open_guest: Open) -> None:
    root = build.filesystem("ext4", build.system("/dev/sda1 / ext4 x\n"))
    with open_guest(build.disk(root), build.disk(header("luks", build))) as guest:
        assert [mount.mountpoint for mount in guest.mounts] == ["/"]


def test_of_two_roots_the_one_that_names_itself_is_taken(build: Builder, open_guest: Open) -> None:
    backup = build.filesystem("ext4", build.system("/dev/sda2 / ext4 x\n"))
    root = build.filesystem("ext4", build.system("/dev/sda2 / ext4 x\n", **{"etc/name": "live"}))
    with open_guest(build.disk(backup, root)) as guest:
        assert guest.tree.read_text("/etc/name") == "live"


def test_damaged_data_does_not_stop_a_guest_but_a_damaged_boot_does(build: Builder, open_guest: Open) -> None:
    data = build.filesystem("ext4")
    with data.open("r+b") as file:
        file.seek(2048)
        file.write(b"\xff" * 1024)
    root = build.system("/dev/sda1 / ext4 x\n/dev/sda2 /srv ext4 x\n")
    with open_guest(build.disk(build.filesystem("ext4", root), data)) as guest:
        assert [mount.mountpoint for mount in guest.mounts] == ["/"]
        assert "/srv" in guest.warnings[0]
    (root / "etc/fstab").write_text("/dev/sda1 / ext4 x\n/dev/sda2 /boot ext4 x\n")
    with (
        pytest.raises(JobError, match="partition 2"),
        open_guest(build.disk(build.filesystem("ext4", root), data)),
    ):
        pytest.fail("it was mounted")


def test_a_failure_inside_leaves_nothing(build: Builder, open_guest: Open) -> None:
    disk = build.disk(build.filesystem("ext4", build.system()))
    with pytest.raises(ZeroDivisionError), open_guest(disk):
        dummy = 1 / 0


def test_what_holds_the_guest_open_is_said(build: Builder, open_guest: Open) -> None:
    disk = build.disk(build.filesystem("ext4", build.system()))
    with pytest.raises(JobError) as caught, open_guest(disk) as guest:
        file = guest.tree.open_fd("/etc/os-release")
    os.close(file)
    assert caught.value.reason == "StillMounted"
    assert caught.value.error_class is ErrorClass.TRANSIENT
