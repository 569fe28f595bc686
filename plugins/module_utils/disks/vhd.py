# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VHD: footer, dynamic header and block table.

Facts from Microsoft's "Virtual Hard Disk Image Format Specification" 1.0; all numbers are big-endian. A fixed disk is
its bytes and a footer of 512 bytes; dynamic and differencing disks hold blocks, each behind a bitmap of its sectors.
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
import typing as t

from ..protocol.errors import JobError, invalid
from .file_range import FileRange, truncated
from .model import Run
from .tables import table_pieces

SECTOR = 512
#: The format's largest dynamic disk; a fixed one has no table, and is as large as its file.
MAX_SIZE = 2040 * 1024**3

_COOKIE, _DYNAMIC_COOKIE = b"conectix", b"cxsparse"
_FOOTER = struct.Struct(">8sIIQI4sI4sQQ4sII16s")
_DYNAMIC = struct.Struct(">8sQQIIII16sII512s")
_LOCATOR = struct.Struct(">4sIIIQ")
_FIXED, _DYNAMIC_TYPE, _DIFFERENCING = 2, 3, 4
_KINDS = {_FIXED: "fixed", _DYNAMIC_TYPE: "dynamic", _DIFFERENCING: "differencing"}
_FOOTER_CHECKSUM, _DYNAMIC_CHECKSUM = 64, 36
_LOCATORS_OFFSET, _LOCATORS = 576, 8
_UNUSED = 0xFFFFFFFF
_MAX_LOCATOR = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Vhd:
    """What a VHD's headers say. Bytes."""

    kind: str
    """``fixed``, ``dynamic`` or ``differencing``."""
    size: int
    unique_id: bytes
    block_size: int = 0
    entries: int = 0
    table_offset: int = 0
    parent_id: bytes = b""
    parent_names: tuple[str, ...] = ()
    """How a differencing disk names its parent, as Windows spells paths: relative to itself first."""


def read_vhd(file: FileRange) -> Vhd:
    """Read and check the headers of ``file``.

    Raises:
        JobError: class ``invalid``, they contradict the format, themselves or the file's size.
    """
    what = file.path.name
    if file.length < SECTOR:
        raise truncated(file.path)
    footer = _footer(file.read(file.length - SECTOR, SECTOR))
    if footer is None:
        # Dynamic disks begin with a copy, which tells a file that was cut short from one that never was a VHD.
        if _footer(file.read(0, SECTOR)) is not None:
            raise truncated(file.path)
        raise _bad(what, "it does not end as one")
    kind, size, offset, unique_id = footer
    if kind not in _KINDS or size == 0 or size % SECTOR or (kind != _FIXED and size > MAX_SIZE):
        raise _bad(what, f"a disk of type {kind} and {size} bytes is not possible")
    if kind == _FIXED:
        if size + SECTOR > file.length:
            raise truncated(file.path)
        return Vhd("fixed", size, unique_id)
    return _read_dynamic(file, _KINDS[kind], size, offset, unique_id)


def blocks(file: FileRange, vhd: Vhd) -> t.Iterator[tuple[int, int]]:
    """Yield the blocks that a dynamic or differencing disk holds: number, and offset of their bitmap in the file.

    Raises:
        JobError: class ``invalid``, a block lies beyond the end of the file.
    """
    pieces = table_pieces(file, vhd.table_offset, vhd.entries, code="I", order="big")
    for number, sector in enumerate(itertools.chain.from_iterable(pieces)):
        if sector != _UNUSED:
            offset = sector * SECTOR
            if offset + bitmap_size(vhd) + _length(vhd, number) > file.length:
                raise truncated(file.path)
            yield number, offset


def bitmap_size(vhd: Vhd) -> int:
    """Bytes of the bitmap in front of each block: whole sectors."""
    return -(-vhd.block_size // SECTOR // 8 // SECTOR) * SECTOR


def own_runs(file: FileRange, vhd: Vhd) -> t.Iterator[Run]:
    """Yield what a differencing disk holds itself: the sectors whose bit is set; all others are its parent's.

    Raises:
        JobError: as for :func:`blocks`.
    """
    size = bitmap_size(vhd)
    for number, offset in blocks(file, vhd):
        length = _length(vhd, number)
        bits = int.from_bytes(file.read(offset, size), "big")
        text = f"{bits:0{size * 8}b}"[: -(-length // SECTOR)]
        begin = text.find("1")
        while begin >= 0:
            end = text.find("0", begin)
            end = len(text) if end < 0 else end
            yield Run(number * vhd.block_size + begin * SECTOR, (end - begin) * SECTOR, offset + size + begin * SECTOR)
            begin = text.find("1", end)


def _length(vhd: Vhd, number: int) -> int:
    """The last block may reach beyond the disk."""
    return min(vhd.block_size, vhd.size - number * vhd.block_size)


def _footer(data: bytes) -> tuple[int, int, int, bytes] | None:
    """Type, size, offset of the dynamic header and unique ID; None: it is no footer."""
    fields = _FOOTER.unpack_from(data)
    if fields[0] != _COOKIE or fields[12] != _checksum(data, _FOOTER_CHECKSUM):
        return None
    return fields[11], fields[9], fields[3], fields[13]


def _read_dynamic(file: FileRange, kind: str, size: int, offset: int, unique_id: bytes) -> Vhd:
    what = file.path.name
    data = file.read(offset, 1024)
    cookie, _next, table_offset, _version, entries, block_size, checksum, parent_id, _time, _zero, name = (
        _DYNAMIC.unpack_from(data)
    )
    if cookie != _DYNAMIC_COOKIE or checksum != _checksum(data, _DYNAMIC_CHECKSUM):
        raise _bad(what, "its dynamic disk header is broken")
    if not 64 * 1024 <= block_size <= 256 * 1024**2 or block_size & (block_size - 1):
        raise _bad(what, f"blocks of {block_size} bytes are not possible")
    wanted = -(-size // block_size)
    if entries < wanted:
        raise _bad(what, "its block table does not fit its size")
    if table_offset + wanted * 4 > file.length:
        raise truncated(file.path)
    names: tuple[str, ...] = ()
    if kind == "differencing":
        names = (*_locators(file, data), name.decode("utf-16-be", "replace").split("\0", 1)[0])
    return Vhd(kind, size, unique_id, block_size, wanted, table_offset, parent_id, tuple(n for n in names if n))


def _locators(file: FileRange, header: bytes) -> list[str]:
    """Windows' locators of the parent: relative (``W2ru``) before absolute (``W2ku``), both UTF-16 little-endian."""
    found: dict[bytes, str] = {}
    for index in range(_LOCATORS):
        code, _space, length, _reserved, offset = _LOCATOR.unpack_from(header, _LOCATORS_OFFSET + index * _LOCATOR.size)
        if code in (b"W2ru", b"W2ku"):
            if length > _MAX_LOCATOR:
                raise _bad(file.path.name, "the name of its parent is longer than any path")
            found[code] = file.read(offset, length).decode("utf-16-le", "replace").split("\0", 1)[0]
    return [found[code] for code in (b"W2ru", b"W2ku") if code in found]


def _checksum(data: bytes, place: int) -> int:
    """One's complement of the sum of all bytes, the checksum's own four left out."""
    size = SECTOR if place == _FOOTER_CHECKSUM else 1024
    return ~(sum(data[:size]) - sum(data[place : place + 4])) & 0xFFFFFFFF


def _bad(what: str, why: str) -> JobError:
    return invalid("BadVhd", f"{what} is not a VHD that can be read: {why}.", "Export or upload it again.")
