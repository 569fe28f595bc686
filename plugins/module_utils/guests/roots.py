# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Finding a guest's operating system among its filesystems, and mounting it as its own fstab says."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import tempfile
import typing as t

from ..disks.attach import Attachment
from ..disks.model import Filesystem, Partition
from ..protocol.errors import ErrorClass, JobError, invalid, transient, unsupported
from . import btrfs, mounting, paths, windows
from .devices import Devices
from .esp import EspFiles
from .fstab import FstabLine, parse
from .netconfig import shell_values
from .tree import GuestTree

#: GPT type of an EFI system partition, and its MBR type (UEFI specification, 5.2 and 5.3).
ESP_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef")

_ROOT_TYPES = ("ext4", "xfs", "btrfs", "ext3", "ext2", "f2fs", "jfs", "reiserfs", "squashfs", "erofs")
_MOUNTABLE = (*_ROOT_TYPES, "vfat")
# What a container holds cannot be seen without opening it.
_CONTAINERS = {
    "crypto_LUKS": (
        "Encrypted",
        "is encrypted with LUKS, and no key opens it",
        "Give one by reference in source.keys.",
    ),
    "LVM2_member": (
        "LogicalVolumes",
        "is a physical volume of LVM, and none of its volumes holds an operating system that can be seen",
        "What is said of each volume here tells why it stays closed.",
    ),
    "linux_raid_member": (
        "SoftwareRaid",
        "is a member of a software RAID that holds no operating system that can be seen",
        "What is said of each array here tells why it stays closed.",
    ),
    "zfs_member": ("Zfs", "is a member of a ZFS pool", "ZFS guests cannot be converted offline."),
}
_AS_IT_IS = (
    "With spec.guest.enabled false it is moved as it is and only booted; it must have virtio drivers of its own then."
)
#: Reasons for which a guest cannot be looked into here, though its disks may be sound and boot.
OPAQUE = frozenset(
    {reason for reason, dummy, dummy in _CONTAINERS.values()}
    | {
        "Windows",
        "BitLocker",
        "BlankDisk",
        "NoOperatingSystem",
        "MultipleOperatingSystems",
        "NoFilesystemDriver",
        "UnknownPartitionTable",
    }
    | {"NoDeviceMapper", "NoMicroVmKernel"}
)
_MOUNT_LIMIT = 200
_SUBVOLUME_LIMIT = 64
# A name that is put into mount options: a comma would add options of the guest's choice.
_SAFE_OPTION = re.compile(r"^[\w@./+ -]+$", re.ASCII)


@dataclasses.dataclass(frozen=True)
class MountedFilesystem:
    """A filesystem that is part of the mounted guest."""

    mountpoint: str
    """Canonical path in the guest."""
    filesystem: Filesystem


@dataclasses.dataclass(frozen=True)
class MountedGuest:
    """A guest whose files can be read and, perhaps, written."""

    tree: GuestTree
    root: Filesystem
    mounts: tuple[MountedFilesystem, ...] = ()
    """All that is mounted, ``/`` first."""
    esp: str = ""
    """Where the EFI system partition is shown; empty: there is none, or no place for it."""
    warnings: tuple[str, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    """All that was found on its disks, by all the names that the guest has for them."""


@contextlib.contextmanager
def mount_guest(
    attachment: Attachment, filesystems: t.Sequence[Filesystem], *, writable: bool, workdir: pathlib.Path
) -> t.Iterator[MountedGuest]:
    """Mount the guest for as long as the context lasts.

    Left normally, every filesystem is synced (with the result checked) and unmounted; left by an exception, they are
    detached.

    Args:
        attachment: the VM's disks.
        filesystems: all that was found on them, in the order of disks and partitions.
        writable: whether its files may be changed. Journals are replayed wherever the attachment takes writes.
        workdir: an existing folder for mount points, which are gone afterwards.

    Raises:
        JobError: ``BlankDisk``, ``NoOperatingSystem``, ``MultipleOperatingSystems``, ``Encrypted`` …; a filesystem
            that the operating system needs cannot be mounted; at the end, ``LostWrites`` or ``StillMounted``.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="guest-", dir=workdir))
    assembly = _Assembly(attachment, Devices(tuple(filesystems)), folder, writable)
    try:
        try:
            yield assembly.assemble()
            assembly.close()
        except BaseException:
            assembly.abandon()
            raise
    finally:
        with contextlib.suppress(OSError):
            (folder / "root").rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()


def looks_like_root(tree: GuestTree) -> bool:
    """Whether ``tree`` holds an operating system's ``/``: its identity, and programs or a link to them."""
    identity = any(tree.exists(p) for p in ("/etc/os-release", "/usr/lib/os-release", "/etc/fstab", "/etc/passwd"))
    programs = all(tree.is_symlink(p) or tree.is_dir(p) for p in ("/bin", "/sbin")) or tree.is_dir("/usr/bin")
    return identity and programs and tree.is_dir("/etc")


@dataclasses.dataclass(frozen=True)
class _Root:
    filesystem: Filesystem
    subvolume: str
    name: str
    """As a person knows the system: PRETTY_NAME of its os-release."""
    fstab: tuple[FstabLine, ...]
    crypttab: str


class _Assembly:
    """The mounts of one guest, in the order in which they were made."""

    def __init__(self, attachment: Attachment, devices: Devices, folder: pathlib.Path, writable: bool) -> None:
        self._attachment = attachment
        self._devices = devices
        self._writable = writable
        self._workdir = folder
        self._root = folder / "root"
        self._root.mkdir()
        self._mounted: list[pathlib.Path] = []
        self._tree: GuestTree | None = None
        self._esp: EspFiles | None = None
        self._warnings: list[str] = []
        self._turns: dict[str, btrfs.Turn] = {}
        self._btrfs_devices: set[pathlib.Path] = set()

    def assemble(self) -> MountedGuest:
        root = self._choose(self._candidates())
        named = next((line.spec for line in root.fstab if line.mountpoint == "/"), "")
        self._devices = self._devices.ordered(named, root.filesystem).named(root.crypttab)
        (own,) = [f for f in self._devices.filesystems if f.partition == root.filesystem.partition]
        root = dataclasses.replace(root, filesystem=own)
        self._mount(root.filesystem, self._root, self._writable, root.subvolume)
        self._mounted.append(self._root)
        tree = self._tree = GuestTree(self._root, writable=self._writable)
        mounts = [MountedFilesystem("/", root.filesystem)]
        for line in sorted(root.fstab, key=lambda line: line.mountpoint.count("/")):
            found = self._wanted(line, root)
            if found is not None and (mounted := self._mount_below(tree, line, found)):
                mounts.append(mounted)
            if len(mounts) > _MOUNT_LIMIT:
                raise unsupported(
                    "TooManyMounts",
                    f"The guest's fstab mounts more than {_MOUNT_LIMIT} filesystems.",
                    "Take out of the guest's fstab what is not its own.",
                )
        esp = self._add_esp(tree, mounts)
        return MountedGuest(tree, root.filesystem, tuple(mounts), esp, tuple(self._warnings), self._devices.filesystems)

    def close(self) -> None:
        """Sync and unmount everything."""
        self._let_go()
        if self._esp is not None and self._writable:
            try:
                self._esp.sync()
            except OSError as e:
                raise transient(
                    "LostWrites", f"Writing the EFI system partition out failed: {e.strerror}.", "Try again."
                ) from e
        while self._mounted:
            mounting.unmount(self._mounted[-1], written=self._writable)
            self._mounted.pop()
        self._end_turns()

    def abandon(self) -> None:
        """Detach everything, as far as that goes."""
        self._let_go()
        while self._mounted:
            mounting.detach(self._mounted.pop())
        self._end_turns()

    def _end_turns(self) -> None:
        btrfs.forget(self._btrfs_devices)
        for turn in self._turns.values():
            turn.end()
        self._turns.clear()

    def _let_go(self) -> None:
        if self._tree is not None:
            self._tree.close()

    # -- the root ------------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[_Root]:
        found: list[_Root] = []
        problem: JobError | None = None
        for filesystem in self._devices.filesystems:
            if filesystem.type not in _ROOT_TYPES or filesystem != self._devices.members(filesystem)[0]:
                continue
            try:
                found += self._look(filesystem)
            except JobError as e:
                if e.error_class in (ErrorClass.ENVIRONMENT, ErrorClass.TRANSIENT):
                    raise
                problem = problem or e
        if not found and problem is not None:
            raise problem
        return found

    def _look(self, filesystem: Filesystem) -> list[_Root]:
        """Return the roots in one filesystem: its own, or those of btrfs subvolumes where that is none."""
        with self._looking(filesystem) as tree:
            if looks_like_root(tree):
                return [_root(filesystem, "", tree)]
            names = _subvolumes(tree) if filesystem.type == "btrfs" else []
        roots = []
        for name in names:
            with self._looking(filesystem, name) as tree:
                if looks_like_root(tree):
                    roots.append(_root(filesystem, name, tree))
        own = [root for root in roots if self._names_itself(root)]
        return own or roots

    @contextlib.contextmanager
    def _looking(self, filesystem: Filesystem, subvolume: str = "") -> t.Iterator[GuestTree]:
        self._mount(filesystem, self._root, False, subvolume)
        try:
            with GuestTree(self._root) as tree:
                yield tree
        except BaseException:
            mounting.detach(self._root)
            raise
        mounting.unmount(self._root, written=False)

    def _choose(self, candidates: list[_Root]) -> _Root:
        if not candidates:
            raise self._nothing_found()
        own = [root for root in candidates if self._names_itself(root)]
        chosen = own if len(own) == 1 else candidates
        if len(chosen) > 1:
            places = ", ".join(
                f"{r.name} on {r.filesystem.place} {paths.printable(r.subvolume)}".strip() for r in chosen
            )
            raise unsupported(
                "MultipleOperatingSystems",
                f"Several operating systems were found: {places}.",
                "A VM with one operating system can be converted: give the others' disks, if they have such, a job of "
                f"their own, or remove them in the guest. {_AS_IT_IS}",
            )
        return chosen[0]

    def _names_itself(self, root: _Root) -> bool:
        for line in root.fstab:
            if line.mountpoint == "/":
                subvolume = (line.option("subvol") or "").strip("/")
                found = self._devices.named(root.crypttab).find(line.spec, line.type)
                same = found is not None and found.partition == root.filesystem.partition
                return same and subvolume in ("", root.subvolume)
        return False

    def _nothing_found(self) -> JobError:
        filesystems = [f for f in self._devices.filesystems if f.type]
        if not filesystems:
            disks = ", ".join(self._devices.disks) or "no disk"
            return invalid(
                "BlankDisk",
                f"There is nothing on the VM's disks ({disks}): a blank disk, without any known filesystem.",
                "Check that these are the right files, and that the boot disk is among them.",
            )
        systems = [found for f in filesystems if f.type == "ntfs" and (found := windows.recognise(self._device(f), f))]
        for filesystem in filesystems:
            if filesystem.type in _CONTAINERS and not systems:
                reason, what, todo = _CONTAINERS[filesystem.type]
                return unsupported(reason, f"{filesystem.place} {what}.", f"{todo} {_AS_IT_IS}")
        if any(f.type in ("ntfs", "BitLocker") for f in filesystems):
            return _windows(filesystems, systems)
        listing = ", ".join(f"{f.place}: {paths.printable(f.type)}" for f in filesystems)
        return unsupported(
            "NoOperatingSystem",
            f"No operating system was found. Looked for /etc and programs on each filesystem; there are {listing}.",
            f"Check that the VM's boot disk is among the job's disks. {_AS_IT_IS}",
        )

    # -- the rest ------------------------------------------------------------------------------------------------------

    def _wanted(self, line: FstabLine, root: _Root) -> Filesystem | None:
        """Return what an fstab line mounts, where that is part of the guest at rest."""
        boot = line.mountpoint in ("/boot", "/boot/efi", "/efi")
        if not line.mountpoint.startswith("/") or line.mountpoint == "/" or ("noauto" in line.option_list and not boot):
            return None
        found = self._devices.find(line.spec, line.type)
        if found is None or found.type not in _MOUNTABLE:
            return None
        return None if found == root.filesystem and found.type != "btrfs" else found

    def _mount_below(self, tree: GuestTree, line: FstabLine, filesystem: Filesystem) -> MountedFilesystem | None:
        subvolume = (line.option("subvol") or "").strip("/")
        if filesystem.type == "btrfs" and not subvolume and line.option("subvolid"):
            subvolume = f"subvolid={line.option('subvolid')}"
        try:
            target = tree.resolve(line.mountpoint)
            if target == "/" or not tree.is_dir(target):
                return None
            try:
                with tree.folder(target) as place:
                    self._mount(filesystem, f"/proc/self/fd/{place}", self._writable, subvolume)
            except JobError as e:
                if filesystem.type != "vfat" or e.reason != "NoFilesystemDriver":
                    raise
                self._graft(tree, target, filesystem)
            else:
                # A canonical path below our own folder: what it leads to cannot change any more.
                self._mounted.append(self._root / target.lstrip("/"))
        except FileNotFoundError:
            # fstab can escape a NUL, which no name has.
            return None
        except JobError as e:
            # Data that the operating system can do without for now is not worth a failed job.
            if target_is_needed(line.mountpoint) or e.error_class is not ErrorClass.UNSUPPORTED:
                raise
            self._warnings.append(f"{paths.printable(line.mountpoint)} is left as it is: {e.message}")
            return None
        return MountedFilesystem(target, filesystem)

    def _add_esp(self, tree: GuestTree, mounts: list[MountedFilesystem]) -> str:
        """Return where the EFI system partition is; show it at its usual place where the fstab has none for it."""
        for mount in mounts:
            if is_esp(mount.filesystem.partition) and mount.filesystem.type == "vfat":
                return mount.mountpoint
        found = [f for f in self._devices.filesystems if is_esp(f.partition) and f.type == "vfat"]
        places = [p for p in ("/boot/efi", "/efi", "/boot") if tree.is_dir(p) and not tree.listdir(p)]
        if len(found) != 1 or not places:
            return ""
        line = FstabLine(0, "", places[0], "vfat", "")
        mounted = self._mount_below(tree, line, found[0])
        if mounted is None:
            return ""
        mounts.append(mounted)
        return mounted.mountpoint

    def _graft(self, tree: GuestTree, target: str, filesystem: Filesystem) -> None:
        device = self._device(filesystem)
        self._esp = EspFiles(device, self._workdir)
        tree.add_graft(target, self._esp)

    def _mount(self, filesystem: Filesystem, target: str | pathlib.Path, writable: bool, subvolume: str) -> None:
        options: tuple[str, ...] = ()
        if subvolume and filesystem.type == "btrfs":
            if not _SAFE_OPTION.match(subvolume.removeprefix("subvolid=")):
                raise unsupported(
                    "OddSubvolume",
                    f"The btrfs subvolume {paths.printable(subvolume)!r} has a name that is not usable.",
                    "Rename the subvolume in the source VM, or name it by subvolid= in its fstab.",
                )
            options = (subvolume if subvolume.startswith("subvolid=") else f"subvol={subvolume}",)
        device = self._device(filesystem)
        if filesystem.type == "btrfs":
            options += self._prepare_btrfs(filesystem, device)

        def attempt() -> None:
            mounting.mount(
                device, str(target), filesystem.type, writable=writable, what=filesystem.place, options=options
            )

        try:
            attempt()
        except JobError as e:
            if e.reason != "TwinMounted" or filesystem.members == 1:
                raise
            # It is this one's turn, so the twin is a memory that a killed process left in the kernel.
            btrfs.forget(pathlib.Path("/dev").glob("loop[0-9]*"))
            attempt()

    def _prepare_btrfs(self, filesystem: Filesystem, device: pathlib.Path) -> tuple[str, ...]:
        """Wait for the right to mount it, and return the mount options that name its other devices."""
        members = self._devices.members(filesystem)
        if sorted(f.member for f in members) != sorted({f.member for f in members}) or (
            len(members) != filesystem.members
        ):
            raise unsupported(
                "BtrfsIncomplete",
                f"The btrfs on {filesystem.place} lies on {filesystem.members} devices; on the job's disks there are "
                f"{len(members)} of them: {', '.join(f.place for f in members)}.",
                "List all disks of the VM in the job, each once.",
            )
        uuid = filesystem.uuid
        if uuid not in self._turns and btrfs.one_at_a_time(filesystem.members):
            self._turns[uuid] = btrfs.Turn(uuid, filesystem.place)
        others = [self._device(f) for f in members if f != filesystem]
        self._btrfs_devices |= {device, *others}
        return tuple(f"device={other}" for other in others)

    def _device(self, filesystem: Filesystem) -> pathlib.Path:
        return self._attachment.disks[filesystem.partition.disk].partition_device(filesystem.partition)


def _windows(filesystems: t.Sequence[Filesystem], systems: t.Sequence[windows.WindowsFacts]) -> JobError:
    """Say which Windows it is, and what keeps it from being converted."""
    locked = [f.place for f in filesystems if f.type == "BitLocker"]
    what = [
        f"{paths.printable(found.sentence)} is on {found.filesystem.place}"
        + (", hibernated (by its user, or by Fast Startup at shutdown)" if found.hibernated else "")
        for found in systems
    ]
    what += [f"{place} is encrypted with BitLocker" for place in locked]
    what = what or [f"{f.place} is NTFS, and no operating system was found" for f in filesystems if f.type == "ntfs"]
    todo = ["Windows guests cannot be converted yet: they would need virtio drivers bound in their registry."]
    if locked:
        todo.append("Suspend and decrypt BitLocker in the guest first.")
    if any(found.hibernated for found in systems):
        todo.append("Switch Fast Startup off in the guest (powercfg /h off) and shut it down.")
    reason = "BitLocker" if locked and not systems else "Windows"
    return unsupported(reason, f"{'; '.join(what)}.", f"{' '.join(todo)} {_AS_IT_IS}")


def is_esp(partition: Partition) -> bool:
    """Whether a partition is typed as an EFI system partition."""
    return partition.type_id in ESP_TYPES


def target_is_needed(mountpoint: str) -> bool:
    """Whether the operating system, or what is changed in it, lives at ``mountpoint``."""
    return mountpoint in ("/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc")


def _root(filesystem: Filesystem, subvolume: str, tree: GuestTree) -> _Root:
    fstab, crypttab = tuple(parse(tree.text("/etc/fstab"))), tree.text("/etc/crypttab")
    return _Root(filesystem, subvolume, _name_of(tree), fstab, crypttab)


def _name_of(tree: GuestTree) -> str:
    release = shell_values(tree.text("/etc/os-release") or tree.text("/usr/lib/os-release"))
    return paths.printable(release.get("PRETTY_NAME") or release.get("NAME") or "an unnamed system")


def _subvolumes(tree: GuestTree) -> list[str]:
    """Names of folders at the top that may be subvolumes holding a root."""
    names = [
        name
        for name in tree.listdir("/")
        if _SAFE_OPTION.match(name) and not tree.is_symlink(f"/{name}") and tree.is_dir(f"/{name}/etc")
    ]
    return names[:_SUBVOLUME_LIMIT]
