# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Members of Linux' software RAID, by their superblocks.

Source of the formats: Linux, include/uapi/linux/raid/md_p.h; the places of the superblocks: Linux, drivers/md/md.c.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct
import uuid

_MAGIC = 0xA92B4EFC
_SECTOR = 512
_FAULTY_ROLES = 0xFFFD
#: struct mdp_superblock_1 up to dev_roles. Bytes.
_V1_SIZE = 256
#: Bits of its feature_map: the member is not whole yet, or the array is being changed in shape.
_RECOVERING, _RESHAPING = 0x2, 0x4


@dataclasses.dataclass(frozen=True)
class Member:
    """One member of an array. Bytes."""

    array: str
    """The array's UUID, as mdadm writes it: four groups of eight hexadecimal digits."""
    name: str
    """The array's name, without the host that made it; empty: it has none."""
    level: int
    members: int
    """How many the array is to have."""
    role: int | None
    """Its place among them; None: a spare, or a faulty one."""
    events: int
    """Counts the array's changes: a member with fewer was left out of some."""
    data: int
    """Where the array's data begin on it."""
    size: int
    """How much of it the array uses."""
    reshaping: bool = False


def read_member(device: pathlib.Path, start: int, length: int) -> Member | None:
    """Return what the superblock in a range of a device says; None: there is none of a known make.

    Raises:
        OSError: the device cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Version 1.2, 1.1, 1.0 (8 KiB from the end, in whole 4 KiB), 0.90 (in the last whole 64 KiB but one).
        for place in (4096, 0, (length // _SECTOR - 16) // 8 * 8 * _SECTOR):
            if 0 <= place <= length - _V1_SIZE:
                found = _parse_v1(os.pread(descriptor, _V1_SIZE + 2 * 512, start + place), place)
                if found is not None:
                    return found
        place = (length & ~0xFFFF) - 0x10000
        return _parse_v0(os.pread(descriptor, 4096, start + place)) if place >= 0 else None
    finally:
        os.close(descriptor)


def _parse_v1(data: bytes, place: int) -> Member | None:
    if len(data) < _V1_SIZE:
        return None
    magic, major, features = struct.unpack_from("<III", data)
    if (magic, major) != (_MAGIC, 1):
        return None
    (level,) = struct.unpack_from("<i", data, 72)
    size, dummy, disks = struct.unpack_from("<QII", data, 80)
    offset, data_size, own = struct.unpack_from("<QQQ", data, 128)
    (number,) = struct.unpack_from("<I", data, 160)
    (events,) = struct.unpack_from("<Q", data, 200)
    if own * _SECTOR != place:
        return None
    (count,) = struct.unpack_from("<I", data, 220)
    role = 0xFFFF
    if number < count and _V1_SIZE + 2 * number + 2 <= len(data):
        (role,) = struct.unpack_from("<H", data, _V1_SIZE + 2 * number)
    name = data[32:64].split(b"\0")[0].decode("utf-8", "replace").rpartition(":")[2]
    return Member(
        array=_shown(data[16:32]),
        name=name,
        level=level,
        members=disks,
        role=role if role < _FAULTY_ROLES and not features & _RECOVERING else None,
        events=events,
        data=offset * _SECTOR,
        size=min(size, data_size) * _SECTOR,
        reshaping=bool(features & _RESHAPING),
    )


def _parse_v0(data: bytes) -> Member | None:
    """The words of mdp_super_t, in the order of x86; others cannot have been on VMware."""
    if len(data) < 4096 or struct.unpack_from("<I", data)[0] != _MAGIC:
        return None
    word = struct.unpack("<1024I", data)
    if word[1] != 0:
        return None
    # The descriptor of this member: number, major, minor, its role, and its state.
    dummy, dummy, dummy, role, state = word[992:997]
    return Member(
        array=":".join(f"{part:08x}" for part in (word[5], *word[13:16])),
        name=str(word[11]),
        level=struct.unpack("<i", struct.pack("<I", word[7]))[0],
        members=word[10],
        # MD_DISK_ACTIVE and MD_DISK_SYNC.
        role=role if state & 0b110 == 0b110 else None,
        events=word[39] | word[40] << 32,
        data=0,
        size=word[8] * 1024,
    )


def _shown(raw: bytes) -> str:
    digits = uuid.UUID(bytes=raw).hex
    return ":".join(digits[i : i + 8] for i in range(0, 32, 8))
