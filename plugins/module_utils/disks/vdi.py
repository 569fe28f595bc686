# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VDI, VirtualBox's format: its header and block table.

Facts from VirtualBox's VDICore.h (header version 1.1), which QEMU's block/vdi.c repeats; all numbers are little-endian.
"""

from __future__ import annotations

import dataclasses
import struct
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange, truncated
from .model import Run
from .tables import table_pieces

#: Beyond reason: QEMU keeps the table in memory, 4 bytes a MiB.
MAX_SIZE = 64 * 1024**4
SECTOR = 512

_HEADER = struct.Struct("<64sIIIII256sIIIIIIIQIIII16s16s16s16s")
_SIGNATURE, _VERSION = 0xBEDA107F, 0x00010001
_DYNAMIC, _STATIC, _DIFFERENCING = 1, 2, 4
_BLOCK = 1024**2
_NO_DATA = 0xFFFFFFFE


@dataclasses.dataclass(frozen=True)
class Vdi:
    """What a VDI's header says. Bytes."""

    kind: str
    """``dynamic`` or ``static``."""
    size: int
    map_offset: int
    data_offset: int


def read_vdi(file: FileRange) -> Vdi:
    """Read and check the header and the table of ``file``, which needs nothing but itself.

    Raises:
        JobError: class ``invalid``, they contradict the format, themselves or the file's size; class ``unsupported``,
            it is a snapshot's differencing disk, or of a version that is not known.
    """
    what = file.path.name
    if file.length < SECTOR:
        raise truncated(file.path)
    data = file.read(0, SECTOR)
    fields = _HEADER.unpack_from(data)
    signature, version, _header_size, kind, _flags, _text, map_offset, data_offset = fields[1:9]
    size, block_size, extra, count, allocated = fields[14:19]
    link, parent = fields[21], fields[22]
    if signature != _SIGNATURE:
        raise _bad(what, "it does not begin as one")
    if version != _VERSION:
        raise unsupported(
            "VdiVersion",
            f"{what} is a VDI of version {version:#x}; 1.1 is known.",
            "Copy it with VBoxManage clonemedium, or convert it with qemu-img convert, and give that.",
        )
    if kind == _DIFFERENCING or link.strip(b"\0") or parent.strip(b"\0"):
        raise unsupported(
            "SnapshotDisk",
            f"{what} is a snapshot: it holds only what differs from its parent.",
            "Delete the VM's snapshots in VirtualBox (which merges them), or clone the disk: VBoxManage clonemedium.",
        )
    if kind not in (_DYNAMIC, _STATIC) or block_size != _BLOCK or extra:
        raise _bad(what, f"type {kind} with blocks of {block_size} bytes is not possible")
    if (
        not 0 < size <= MAX_SIZE
        or not -(-size // _BLOCK) <= count <= MAX_SIZE // _BLOCK
        or allocated > count
        or map_offset % SECTOR
    ):
        raise _bad(what, "its sizes are not possible")
    if map_offset + count * 4 > file.length:
        raise truncated(file.path)
    for table in table_pieces(file, map_offset, count, code="I", order="little"):
        highest = max((entry for entry in table if entry < _NO_DATA), default=-1)
        if highest >= 0 and data_offset + (highest + 1) * _BLOCK > file.length:
            raise truncated(file.path)
    return Vdi("dynamic" if kind == _DYNAMIC else "static", -(-size // SECTOR) * SECTOR, map_offset, data_offset)


def blocks(file: FileRange, vdi: Vdi) -> t.Iterator[Run]:
    """Yield the blocks with data, in ascending order.

    Raises:
        JobError: class ``invalid``, the table is not within the file.
    """
    begin = 0
    for table in table_pieces(file, vdi.map_offset, -(-vdi.size // _BLOCK), code="I", order="little"):
        for entry in table:
            if entry < _NO_DATA:
                yield Run(begin, min(_BLOCK, vdi.size - begin), vdi.data_offset + entry * _BLOCK)
            begin += _BLOCK


def _bad(what: str, why: str) -> JobError:
    return invalid("BadVdi", f"{what} is not a VDI that can be read: {why}.", "Export or upload it again.")
