# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's volumes: what its disks hold in LUKS containers, in volume groups of LVM, and in RAID arrays.

They are opened from the outside in, until nothing new shows: LVM on LUKS, LUKS on LVM, LVM on RAID, and so on. Each
becomes a further disk of the attachment. Nothing is written to open them.
"""

# False alarm: contextlib throws into the generator, so that the inner context ends.
# pylint: disable=contextmanager-generator-missing-cleanup
from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from . import luks, lvm, raid
from .attach import AttachedDisk, Attachment
from .device_mapper import MappedDevice, mapped, table_of
from .filesystems import probe_partition
from .luks import Key
from .model import Filesystem, Partition, Volume
from .partitions import read_partitions

RAID, LUKS, LVM = "linux_raid_member", "crypto_LUKS", "LVM2_member"
#: A guest that nests them deeper than this is not one that somebody set up to work with.
_DEPTH = 8
_SECTOR = 512


@dataclasses.dataclass(frozen=True)
class Extent:
    """A run of a volume, and where it lies. Bytes."""

    begin: int
    length: int
    disk: str
    """Name of the disk or volume."""
    start: int


class AttachedVolume(AttachedDisk):
    """A volume, as a further disk."""

    def __init__(
        self, volume: Volume, mapping: MappedDevice, copies: tuple[tuple[Extent, ...], ...], *, writable: bool
    ) -> None:
        super().__init__(volume.name, mapping.device, writable=writable)
        self.volume = volume
        self.mapping = mapping
        self.copies = copies
        """Where its content lies, in as many places as there are copies of it; empty: not in a row."""

    def partition_device(self, partition: Partition) -> pathlib.Path:
        """As :meth:`AttachedDisk.partition_device`; the whole volume is a device already."""
        return self.device if partition.number == 0 else super().partition_device(partition)


@dataclasses.dataclass
class Volumes:
    """What was found in the volumes."""

    filesystems: list[Filesystem]
    """What the disks' partitions hold, and after them what the volumes do."""
    warnings: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def opened_volumes(
    attachment: Attachment, filesystems: t.Sequence[Filesystem], keys: t.Sequence[Key], *, writable: bool
) -> t.Iterator[Volumes]:
    """Open the volumes of a guest for as long as the context lasts; they are disks of ``attachment`` meanwhile.

    Args:
        attachment: the VM's disks.
        filesystems: what their partitions hold.
        keys: for its LUKS containers; one that none of them opens stays closed.
        writable: whether they take writes.

    Raises:
        JobError: a member of a volume is missing (unsupported; by its UUID), a key that is for one container does not
            open it (invalid), this kernel cannot open volumes (environment). At the end, a write may be lost.
    """
    opening = _Opening(attachment, list(filesystems), keys, writable)
    try:
        opening.open_all()
        yield Volumes(opening.filesystems, opening.warnings)
    except BaseException:
        opening.close(check=False)
        raise
    opening.close(check=True)


def holds_volumes(filesystems: t.Iterable[Filesystem], keys: t.Sequence[Key]) -> bool:
    """Whether there is something to open: a container only if there are keys."""
    return any(f.type in (RAID, LVM) or (f.type == LUKS and keys) for f in filesystems)


def luks_name(uuid: str) -> str:
    """Return the name of the volume in a LUKS container."""
    return f"luks-{uuid}"


class _Opening:
    def __init__(
        self, attachment: Attachment, filesystems: list[Filesystem], keys: t.Sequence[Key], writable: bool
    ) -> None:
        self._attachment = attachment
        self.filesystems = filesystems
        self.warnings: list[str] = []
        self._keys = keys
        self._writable = writable
        self._volumes: list[AttachedVolume] = []
        self._seen: set[Filesystem] = set()

    def open_all(self) -> None:
        for _level in range(_DEPTH):
            # LVM comes when nothing else is left to open: a group may lie on several kinds of devices.
            if not (self._open_arrays() | self._open_containers()) and not self._open_groups():
                return
        raise unsupported(
            "VolumesTooDeep",
            f"The guest's volumes lie in each other more than {_DEPTH} levels deep.",
            "Take a layer out in the source VM, and export it again.",
        )

    def close(self, *, check: bool) -> None:
        for volume in reversed(self._volumes):
            if check:
                volume.close(check=True)
                volume.mapping.detach()
            else:
                with contextlib.suppress(Exception):
                    volume.close(check=False)
                    volume.mapping.detach()
            del self._attachment.disks[volume.name]
        self._volumes.clear()

    # -- RAID ----------------------------------------------------------------------------------------------------------

    def _open_arrays(self) -> bool:
        arrays: dict[str, list[tuple[Filesystem, raid.Member]]] = {}
        for filesystem in self._new(RAID):
            partition = filesystem.partition
            disk = self._attachment.disks[partition.disk]
            member = raid.read_member(disk.device, partition.start, partition.size)
            if member is None:
                self.warnings.append(f"{filesystem.place} is a member of a RAID of an unknown kind; it stays closed.")
            else:
                arrays.setdefault(member.array, []).append((filesystem, member))
        for identity, found in arrays.items():
            self._open_array(identity, found)
        return bool(arrays)

    def _open_array(self, identity: str, found: list[tuple[Filesystem, raid.Member]]) -> None:
        first = found[0][1]
        if first.level != 1 or first.reshaping:
            kind = "is being changed in shape" if first.reshaping else f"is of level {first.level}"
            self.warnings.append(f"The RAID array {identity} {kind}, and stays closed; only RAID 1 is opened.")
            return
        latest = max(member.events for dummy, member in found)
        current = [(f, m) for f, m in sorted(found, key=lambda one: one[1].role or 0) if m.role is not None]
        current = [(f, m) for f, m in current if m.events == latest]
        if len({member.role for dummy, member in current}) < first.members:
            places = ", ".join(filesystem.place for filesystem, dummy in found)
            raise unsupported(
                "MissingRaidMember",
                f"The RAID array {identity} has {len(current)} of its {first.members} members in a state that can be "
                f"used (found: {places}).",
                "List all disks of the VM in the job; if one has failed in the guest, repair or shrink the array there "
                "(mdadm --detail tells), shut it down and export it again.",
            )
        size = min(member.size for dummy, member in current) // _SECTOR * _SECTOR
        with contextlib.ExitStack() as undo:
            legs = []
            for filesystem, member in current:
                device = self._device(filesystem)
                line = f"0 {size // _SECTOR} linear {device} {member.data // _SECTOR}"
                legs.append(mapped([line], writable=self._writable))
                undo.callback(legs[-1].detach)
            # All that is read comes from the first: after a crash they may differ. What is written goes to all.
            others = " ".join(f"write_mostly {number}" for number in range(1, len(legs)))
            options = f"0 nosync {others}".strip()
            members = " ".join(f"- {leg.device}" for leg in legs)
            table = f"0 {size // _SECTOR} raid raid1 {len(options.split())} {options} {len(legs)} {members}"
            mapping = mapped([table], writable=self._writable)
            undo.pop_all()
        mapping.holds(legs)
        called = (f"/dev/md/{first.name}", f"/dev/md{first.name}") if first.name else ()
        names: tuple[str, ...] = (*called, f"/dev/disk/by-id/md-uuid-{identity}")
        copies = tuple((Extent(0, size, f.partition.disk, f.partition.start + member.data),) for f, member in current)
        members_shown = tuple(filesystem.place for filesystem, dummy in current)
        self._add(Volume(f"md-{identity}", "raid1", identity, size, names, members_shown), mapping, copies)

    # -- LUKS ----------------------------------------------------------------------------------------------------------

    def _open_containers(self) -> bool:
        containers = self._new(LUKS)
        for filesystem in containers:
            device = self._device(filesystem)
            for kind, slots in luks.bound_slots(device).items():
                self.warnings.append(
                    f"{filesystem.place} (LUKS {filesystem.uuid}) is unlocked by {kind} in its key slots "
                    f"{', '.join(map(str, slots))}, which may be bound to the old machine: where it does not work on "
                    "the new one, the guest asks for a passphrase at boot."
                )
            mine = [key for key in self._keys if key.device.lower() == filesystem.uuid.lower()]
            mapping = luks.unlock(
                device, mine or [key for key in self._keys if not key.device], writable=self._writable
            )
            if mapping is None:
                if mine:
                    raise invalid(
                        "WrongKey",
                        f"The key {mine[0].name} does not open the LUKS container {filesystem.uuid} on "
                        f"{filesystem.place}.",
                        "Give the passphrase, or the key file's exact content, of one of its slots.",
                    )
                self.warnings.append(f"{filesystem.place} (LUKS {filesystem.uuid}) stays closed: no key opens it.")
                continue
            name, size = luks_name(filesystem.uuid), _size(mapping.device)
            volume = Volume(name, "luks", filesystem.uuid, size, (f"/dev/mapper/{name}",), (filesystem.place,))
            self._add(volume, mapping, _payload(filesystem, mapping))
        return bool(containers)

    # -- LVM -----------------------------------------------------------------------------------------------------------

    def _open_groups(self) -> bool:
        physical = {self._device(filesystem): filesystem for filesystem in self._new(LVM)}
        if not physical:
            return False
        try:
            volumes = lvm.read_volumes(list(physical))
        except JobError as error:
            closed = [f for f in self.filesystems if f.type == LUKS and not self._is_open(f)]
            if error.reason != "MissingPhysicalVolume" or not closed:
                raise
            error.suggestion = (
                f"They may be in what is encrypted: give a key for {', '.join(f.uuid for f in closed)} (source.keys). "
                f"{error.suggestion}"
            )
            raise
        for found in volumes:
            name = f"{found.group}/{found.name}"
            if found.obstacle:
                self.warnings.append(f"The logical volume {name} stays closed: {found.obstacle}.")
                continue
            mapping = mapped(found.table(), writable=self._writable)
            places = dict.fromkeys(physical[device].place for run in found.runs for device, dummy in run.stripes)
            volume = Volume(name, "lvm", found.uuid, found.size, found.names, tuple(places))
            self._add(volume, mapping, _extents(found, physical))
        return True

    # -- all -----------------------------------------------------------------------------------------------------------

    def _new(self, fstype: str) -> list[Filesystem]:
        """Return what was not looked at before."""
        found = [f for f in self.filesystems if f.type == fstype and f not in self._seen]
        self._seen.update(found)
        return found

    def _device(self, filesystem: Filesystem) -> pathlib.Path:
        return self._attachment.disks[filesystem.partition.disk].partition_device(filesystem.partition)

    def _is_open(self, container: Filesystem) -> bool:
        return luks_name(container.uuid) in self._attachment.disks

    def _add(self, volume: Volume, mapping: MappedDevice, copies: tuple[tuple[Extent, ...], ...]) -> None:
        if volume.name in self._attachment.disks:
            mapping.detach()
            raise unsupported(
                "TwinVolumes",
                f"Two of the VM's volumes are {volume.name}: one is a copy of the other.",
                "List each disk of the VM once, and none that is a clone of another.",
            )
        disk = AttachedVolume(volume, mapping, copies, writable=self._writable)
        self._volumes.append(disk)
        self._attachment.disks[volume.name] = disk
        whole = Partition(disk=volume.name, number=0, start=0, size=volume.size)
        found = probe_partition(disk, whole)
        partitions = [whole] if found.type or volume.kind == "lvm" else read_partitions(disk, volume.name)
        self.filesystems += [dataclasses.replace(probe_partition(disk, one), volume=volume) for one in partitions]


def _extents(
    volume: lvm.LogicalVolume, physical: t.Mapping[pathlib.Path, Filesystem]
) -> tuple[tuple[Extent, ...], ...]:
    """Where a volume's content lies; nothing where it is striped."""
    if any(len(run.stripes) != 1 for run in volume.runs):
        return ()
    found = []
    for run in volume.runs:
        ((device, start),) = run.stripes
        partition = physical[device].partition
        found.append(Extent(run.begin, run.length, partition.disk, partition.start + start))
    return (tuple(found),)


def _size(device: pathlib.Path) -> int:
    with device.open("rb") as file:
        return file.seek(0, 2)


def _payload(container: Filesystem, mapping: MappedDevice) -> tuple[tuple[Extent, ...], ...]:
    """Where the content of a LUKS container lies; nothing where it is not in one row."""
    lines = [line.split() for line in table_of(mapping).splitlines()]
    # start length crypt cipher key iv_offset device offset … (Linux: admin-guide/device-mapper/dm-crypt).
    if len(lines) != 1 or lines[0][2] != "crypt" or len(lines[0]) < 8:
        return ()
    length, offset = int(lines[0][1]) * _SECTOR, int(lines[0][7]) * _SECTOR
    return ((Extent(0, length, container.partition.disk, container.partition.start + offset),),)
