# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which parts of a guest's disks its filesystems use, so that deleted data need not be moved.

partclone writes a map of a filesystem's used blocks without mounting it (its option ``-D`` makes a GNU ddrescue map).
A map is believed only of a filesystem that was unmounted cleanly: of a dirty XFS partclone misses blocks and says
nothing. Everything else of a disk counts as used: what lies between partitions, whatever is no filesystem, and what
partclone does not know or refuses.
"""

from __future__ import annotations

import pathlib
import tempfile
import typing as t

from ..protocol.errors import JobError
from .attach import Attachment
from .blockmap import BLOCK
from .command import run_command
from .copy import Ranges
from .journal import needs_replay
from .model import Filesystem
from .volumes import AttachedVolume

_PROGRAMS = {
    "ext2": "partclone.extfs",
    "ext3": "partclone.extfs",
    "ext4": "partclone.extfs",
    "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs",
}
_TIMEOUT = 600.0
#: Without progress, and above all without waiting for the next time that it would be shown (2 s).
_QUIETLY = ("-q", "-f", "0")
#: The begin of every filesystem is moved as it is: boot loaders lie there, and filesystems do not tell of them. Bytes.
_ALWAYS = 1024**2
# Copies of btrfs' superblock are at 64 MiB and 256 GiB (btrfs on-disk format).
_BTRFS_COPIES = (64 * 1024**2, 256 * 1024**3)


def used_ranges(
    attachment: Attachment,
    sizes: t.Mapping[str, int],
    filesystems: t.Iterable[Filesystem],
    workdir: pathlib.Path,
    warn: t.Callable[[str], None] = lambda _message: None,
) -> dict[str, list[tuple[int, int]]]:
    """Return the used parts of attached disks, by their names, in whole blocks of 64 KiB.

    Args:
        attachment: the disks as they are after the fix, and the volumes on them that are open; nothing is mounted.
        sizes: of the disks in bytes, by name.
        filesystems: what their partitions and volumes hold.
        workdir: an existing folder for the maps.
        warn: is told of filesystems of which no map could be made, so that all of them is copied.
    """
    unused: dict[str, list[tuple[int, int]]] = {name: [] for name in sizes}
    for filesystem in filesystems:
        if filesystem.type in _PROGRAMS:
            for name, begin, end in _unused_of(attachment, filesystem, workdir, warn):
                unused.setdefault(name, []).append((begin, end))
    return {name: _inverted(unused[name], size) for name, size in sizes.items()}


def _inverted(unused: t.Iterable[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    used, position = [], 0
    for begin, end in sorted(unused):
        if begin > position:
            used.append((position, begin))
        position = max(position, end)
    if position < size:
        used.append((position, size))
    return used


def ddrescue_map(ranges: Ranges, size: int) -> bytes:
    """Return the text of a GNU ddrescue map of a disk of ``size`` bytes: ``+`` what was read, ``?`` what was left out.

    Source: the ddrescue manual, "Mapfile structure".
    """
    lines = ["# What was read of the virtual disk; the rest is not used by its filesystems.", f"0x{size:X} + 1"]
    position = 0
    for begin, end in ranges:
        if begin > position:
            lines.append(f"0x{position:X} 0x{begin - position:X} ?")
        lines.append(f"0x{begin:X} 0x{end - begin:X} +")
        position = end
    if position < size:
        lines.append(f"0x{position:X} 0x{size - position:X} ?")
    return "\n".join([*lines, ""]).encode()


def _unused_of(
    attachment: Attachment, filesystem: Filesystem, workdir: pathlib.Path, warn: t.Callable[[str], None]
) -> list[tuple[str, int, int]]:
    """What is free of one filesystem: ranges of disks, whole blocks; nothing where that cannot be told for sure."""
    partition = filesystem.partition
    device = attachment.disks[partition.disk].partition_device(partition)
    if needs_replay(device, filesystem.type) or filesystem.members != 1:
        return []
    if not list(_on_disks(attachment, partition.disk, partition.start, partition.start + partition.size)):
        warn(f"What was deleted on {filesystem.place} is copied as well: it does not lie on its disks in a row.")
        return []
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-map-", dir=workdir) as folder:
        target = pathlib.Path(folder, "map")
        program, log = _PROGRAMS[filesystem.type], pathlib.Path(folder, "log")
        try:
            run_command(
                [program, "-D", *_QUIETLY, "-s", device, "-O", target, "-L", log],
                what=f"Mapping {filesystem.place}",
                timeout=_TIMEOUT,
            )
            free = [(begin, end) for begin, end, used in _parse_map(target) if not used]
        except (JobError, OSError, ValueError) as error:
            why = error.message if isinstance(error, JobError) else str(error)
            warn(f"What was deleted on {filesystem.place} is copied as well: {why}")
            return []
    kept = [(0, _ALWAYS)]
    if filesystem.type == "btrfs":
        kept += [(begin, begin + BLOCK) for begin in _BTRFS_COPIES]
    found = []
    for begin, end in _without(free, kept):
        last = min(end, partition.size)
        for disk, first, beyond in _on_disks(
            attachment, partition.disk, partition.start + begin, partition.start + last
        ):
            whole = -(-first // BLOCK) * BLOCK, beyond // BLOCK * BLOCK
            if whole[0] < whole[1]:
                found.append((disk, *whole))
    return found


def _on_disks(attachment: Attachment, name: str, begin: int, end: int) -> t.Iterator[tuple[str, int, int]]:
    """Yield where a range of a disk or volume lies on disks: of a mirror all copies; of what is striped nothing."""
    disk = attachment.disks[name]
    if not isinstance(disk, AttachedVolume):
        if begin < end:
            yield name, begin, end
        return
    for extent in (extent for copy in disk.copies for extent in copy):
        first, last = max(begin, extent.begin), min(end, extent.begin + extent.length)
        if first < last:
            shift = extent.start - extent.begin
            yield from _on_disks(attachment, extent.disk, first + shift, last + shift)


def read_map(path: pathlib.Path) -> Ranges:
    """Return what :func:`ddrescue_map` was given.

    Raises:
        OSError, ValueError: it is not there, or no such map.
    """
    return [(begin, end) for begin, end, used in _parse_map(path) if used]


def _parse_map(path: pathlib.Path) -> list[tuple[int, int, bool]]:
    """Return the ranges of a ddrescue map, and whether each is used: lines of position, size and ``+`` or ``?``.

    Raises:
        ValueError: it is no such map, or has gaps: then it does not tell of every block.
    """
    found: list[tuple[int, int, bool]] = []
    with path.open(encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
    # The first line is the position where a copy would go on.
    for position, size, status in lines[1:]:
        begin, length = int(position, 16), int(size, 16)
        if found and begin != found[-1][1]:
            raise ValueError("the map has a gap")
        if status not in ("?", "+"):
            raise ValueError(f"{status} is no status of a block")
        found.append((begin, begin + length, status == "+"))
    if not found:
        raise ValueError("the map is empty")
    return found


def _without(ranges: t.Iterable[tuple[int, int]], kept: t.Iterable[tuple[int, int]]) -> t.Iterator[tuple[int, int]]:
    for begin, end in ranges:
        for first, last in kept:
            if begin < last and first < end:
                if begin < first:
                    yield begin, first
                begin = last
        if begin < end:
            yield begin, end
