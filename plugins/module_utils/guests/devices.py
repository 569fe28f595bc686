# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which filesystem a guest means by a device name, though its disks now sit elsewhere.

Names are those of udev (systemd: rules.d/60-persistent-storage.rules) and of the kernel (Documentation/admin-guide/
devices.txt); a disk's letter is taken as its place in the order of the VM's disks.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ..disks.model import Filesystem

_KERNEL_NAME = re.compile(r"^/dev/(?:(?:[shv]|xv)d([a-z]{1,2})(\d*)|nvme(\d+)n1(?:p(\d+))?)$")
_TAG = re.compile(r"^(UUID|LABEL|PARTUUID|PARTLABEL)=(.*)$", re.IGNORECASE)
_LINK = re.compile(r"^/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)$")
_PLACE = re.compile(r"^/dev/disk/by-(?:path|id)/(.+?)(?:-part(\d+))?$")
# crypttab(5): the volume's name, and what it is in.
_CRYPTTAB = re.compile(r"^\s*([^\s#]\S*)\s+(\S+)", re.MULTILINE)
_UDEV_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")
# The place on a bus in a by-path name: SCSI target, ATA port (from 1), NVMe namespace's controller is not told.
_SCSI_TARGET = re.compile(r"-scsi-\d+:\d+:(\d+):\d+$")
_ATA_PORT = re.compile(r"-ata-(\d+)(?:\.\d+)?$")
# The SCSI controller's own target, which disks skip.
_CONTROLLER_TARGET = 7


@dataclasses.dataclass(frozen=True)
class Devices:
    """The VM's partitions, in the order of its disks, and what its volumes hold."""

    filesystems: tuple[Filesystem, ...]

    @property
    def disks(self) -> list[str]:
        """Names of the disks, in order."""
        return list(dict.fromkeys(f.partition.disk for f in self.filesystems if f.volume is None))

    def named(self, crypttab: str) -> Devices:
        """Return the same where the volumes in LUKS containers have the names as well that the guest gives them.

        Args:
            crypttab: text of the guest's own.
        """
        names: dict[str, str] = {}
        for line in _CRYPTTAB.finditer(crypttab):
            container = self.find(line[2])
            if container is not None and container.type == "crypto_LUKS":
                names[container.uuid] = f"/dev/mapper/{line[1]}"
        found = []
        for filesystem in self.filesystems:
            volume = filesystem.volume
            if volume is not None and volume.kind == "luks" and volume.uuid in names:
                known = tuple(dict.fromkeys((*volume.names, names[volume.uuid])))
                filesystem = dataclasses.replace(filesystem, volume=dataclasses.replace(volume, names=known))
            found.append(filesystem)
        return Devices(tuple(found))

    def ordered(self, name: str, filesystem: Filesystem) -> Devices:
        """Return the same with the disk of ``filesystem`` where the guest had it, as far as its ``name`` tells.

        Whoever lists a VM's disks may have done so in another order. The others stay in the order as given.

        Args:
            name: what the guest calls it: ``/dev/sda1``.
            filesystem: what is known to be meant.
        """
        place, disk = _kernel_place(name), filesystem.partition.disk
        if place is None or filesystem.volume is not None or self._at(*place) == filesystem:
            return self
        order = [other for other in self.disks if other != disk]
        if place[1] != filesystem.partition.number or place[0] > len(order):
            return self
        order.insert(place[0], disk)
        volumes = [f for f in self.filesystems if f.volume is not None]
        return Devices(tuple([f for one in order for f in self.filesystems if f.partition.disk == one] + volumes))

    def members(self, filesystem: Filesystem) -> tuple[Filesystem, ...]:
        """Return all of a filesystem's devices, in order: several for a btrfs, of which the first stands for it."""
        if filesystem.members == 1:
            return (filesystem,)
        return tuple(f for f in self.filesystems if (f.type, f.uuid) == (filesystem.type, filesystem.uuid))

    def find(self, name: str, fstype: str = "") -> Filesystem | None:
        """Return what ``name`` means; None where it is no disk, is not there, or could be several.

        Any device of a btrfs that has several means that btrfs, by the first of them.

        Args:
            name: ``/dev/sda1``, ``/dev/disk/by-…/…``, ``UUID=…``, ``LABEL=…``, ``/dev/mapper/…``, ``/dev/md0`` …
            fstype: what must be there, where that is known (``auto`` is not); it settles doubts.
        """
        found = self._find(name, fstype)
        return self.members(found)[0] if found is not None else None

    def _find(self, name: str, fstype: str) -> Filesystem | None:
        inside = [f for f in self.filesystems if f.volume is not None and name in _volume_names(f)]
        if inside:
            return inside[0] if len(inside) == 1 else None
        tag = _TAG.match(name) or _LINK.match(name)
        if tag is not None:
            return self._by_tag(tag[1].lower(), _UDEV_ESCAPE.sub(lambda m: chr(int(m[1], 16)), tag[2]).strip('"'))
        kernel = _kernel_place(name)
        if kernel is not None:
            found = self._at(*kernel)
            return found if found is not None and _fits(found, fstype) else None
        place = _PLACE.match(name)
        return self._by_place(place[1], int(place[2] or 0), fstype) if place is not None else None

    def _by_tag(self, kind: str, value: str) -> Filesystem | None:
        read: dict[str, t.Callable[[Filesystem], str]] = {
            "uuid": lambda f: f.uuid.lower(),
            "label": lambda f: f.label,
            "partuuid": lambda f: f.partition.partuuid.lower(),
            "partlabel": lambda f: f.partition.label,
        }
        wanted = value.lower() if kind in ("uuid", "partuuid") else value
        found = [f for f in self.filesystems if read[kind](f) == wanted] if wanted else []
        return found[0] if len({self.members(f)[0] for f in found}) == 1 else None

    def _by_place(self, place: str, number: int, fstype: str) -> Filesystem | None:
        partitions = [f for f in self.filesystems if f.volume is None and f.partition.number == number]
        candidates = [f for f in partitions if _fits(f, fstype)]
        if len(candidates) == 1:
            return candidates[0]
        target, port = _SCSI_TARGET.search(place), _ATA_PORT.search(place)
        if target is not None and int(target[1]) != _CONTROLLER_TARGET:
            index = int(target[1]) - (int(target[1]) > _CONTROLLER_TARGET)
        elif port is not None:
            index = int(port[1]) - 1
        else:
            return None
        found = self._at(index, number)
        return found if found in candidates else None

    def _at(self, disk: int, number: int) -> Filesystem | None:
        if not 0 <= disk < len(self.disks):
            return None
        name = self.disks[disk]
        found = [f for f in self.filesystems if f.partition.disk == name and f.partition.number == number]
        return found[0] if found else None


def is_unstable(name: str) -> bool:
    """Whether ``name`` is one that a disk loses when it is put on another controller."""
    return _KERNEL_NAME.match(name) is not None or (
        _PLACE.match(name) is not None and not name.startswith(("/dev/disk/by-id/dm-", "/dev/disk/by-id/md-"))
    )


def stable_name(filesystem: Filesystem) -> str | None:
    """Return a name that stays: ``UUID=…``, else ``PARTUUID=…``; None where there is neither."""
    if filesystem.uuid:
        return f"UUID={filesystem.uuid}"
    return f"PARTUUID={filesystem.partition.partuuid}" if filesystem.partition.partuuid else None


def _volume_names(filesystem: Filesystem) -> set[str]:
    """What a filesystem in a volume may be called; a partition in a RAID array has ``p`` and its number behind."""
    if filesystem.volume is None:
        return set()
    number = filesystem.partition.number
    return {f"{name}p{number}" if number else name for name in filesystem.volume.names}


def _kernel_place(name: str) -> tuple[int, int] | None:
    """Return the places of disk and partition in the kernel's ``name``; None: it is none of the kernel's."""
    found = _KERNEL_NAME.match(name)
    if found is None:
        return None
    if found[3] is not None:
        return int(found[3]), int(found[4] or 0)
    return _letters(found[1]), int(found[2] or 0)


def _letters(text: str) -> int:
    index = 0
    for letter in text:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def _fits(filesystem: Filesystem, fstype: str) -> bool:
    if fstype in ("", "auto", "none"):
        return True
    family = {"ext2": "ext", "ext3": "ext", "ext4": "ext", "msdos": "vfat", "swsuspend": "swap", "ntfs-3g": "ntfs"}
    return family.get(filesystem.type, filesystem.type) == family.get(fstype, fstype)
