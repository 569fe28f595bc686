# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VHDX: headers, region table, metadata and block table.

Facts from Microsoft's [MS-VHDX] (sections 2.2 to 2.6); all numbers are little-endian.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import struct
import typing as t
import uuid

from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange, truncated
from .model import Run
from .tables import table_pieces

#: The format's largest disk.
MAX_SIZE = 64 * 1024**4

_MIB = 1024**2
_SIGNATURE = b"vhdxfile"
_HEADER_SIZE, _HEADERS = 4096, (64 * 1024, 128 * 1024)
_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_REGION_SIZE, _REGION_TABLES = 64 * 1024, (192 * 1024, 256 * 1024)
_REGION = struct.Struct("<16sQII")
_METADATA_SIZE = 64 * 1024
_METADATA = struct.Struct("<16sIIII")
_MAX_ENTRIES = 2047
_MAX_LOCATOR = 64 * 1024
_BAT_REGION = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA_REGION = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_LOGICAL_SECTOR = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_PHYSICAL_SECTOR = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556").bytes_le
_DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le
_PARENT_LOCATOR = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_KNOWN_REGIONS = frozenset({_BAT_REGION, _METADATA_REGION})
_KNOWN_METADATA = frozenset(
    {_FILE_PARAMETERS, _DISK_SIZE, _LOGICAL_SECTOR, _PHYSICAL_SECTOR, _DISK_ID, _PARENT_LOCATOR}
)
_REQUIRED = 1
_HAS_PARENT = 2
_SECTORS_PER_BITMAP = 1 << 23
_NOT_PRESENT, _FULLY_PRESENT, _PARTIALLY_PRESENT, _BITMAP_PRESENT = 0, 6, 7, 6


@dataclasses.dataclass(frozen=True)
class Vhdx:
    """What a VHDX's headers say. Bytes."""

    size: int
    block_size: int
    sector_size: int
    table_offset: int
    entries: int
    """Of the block table, those of bitmaps included."""
    data_write_id: str
    """GUID that a differencing disk knows its parent by: lower case, no braces."""
    differencing: bool = False
    parent_ids: tuple[str, ...] = ()
    parent_names: tuple[str, ...] = ()
    """How a differencing disk names its parent, as Windows spells paths: relative to itself first."""

    @property
    def chunk_ratio(self) -> int:
        """Blocks to each bitmap block; the block table has a bitmap's entry after so many."""
        return _SECTORS_PER_BITMAP * self.sector_size // self.block_size


def read_vhdx(file: FileRange) -> Vhdx:
    """Read and check the headers of ``file``.

    Raises:
        JobError: class ``invalid``, they contradict the format, themselves or the file's size, or the disk was not
            closed; class ``unsupported``, it needs a feature that is not known.
    """
    what = file.path.name
    if file.length < 1:
        raise truncated(file.path)
    if file.read(0, min(8, file.length)) != _SIGNATURE:
        raise _bad(what, "it does not begin as one")
    log_id, data_write_id = _header(file)
    if log_id.strip(b"\0"):
        raise invalid(
            "DirtyVhdx",
            f"{what} was not closed: its log holds changes that are not in their place yet.",
            "Shut the VM down and export it again, or attach and detach the disk once in Windows (Mount-VHD).",
        )
    regions = _regions(file)
    items = _items(file, *regions[_METADATA_REGION])
    return _vhdx(file, items, *regions[_BAT_REGION], str(uuid.UUID(bytes_le=data_write_id)))


def own_runs(file: FileRange, vhdx: Vhdx) -> t.Iterator[Run]:
    """Yield what a differencing disk holds itself, zeros included; all else is its parent's.

    Raises:
        JobError: class ``invalid``, a block lies beyond the end of the file.
    """
    ratio = vhdx.chunk_ratio
    for chunk, group in enumerate(_groups(file, vhdx)):
        for place, entry in enumerate(group[:ratio]):
            begin = (chunk * ratio + place) * vhdx.block_size
            length = min(vhdx.block_size, vhdx.size - begin)
            state, offset = entry & 7, entry >> 20 << 20
            if length <= 0 or state == _NOT_PRESENT:
                continue
            if state == _FULLY_PRESENT:
                yield Run(begin, length, offset)
            elif state == _PARTIALLY_PRESENT:
                yield from _partial_runs(file, vhdx, group[ratio], place, Run(begin, length, offset))
            else:
                yield Run(begin, length, None)


def blocks(file: FileRange, vhdx: Vhdx) -> t.Iterator[Run]:
    """Return the blocks with data of a disk without a parent, in ascending order; see :func:`check_blocks`."""
    return (run for run in own_runs(file, vhdx) if run.stored is not None)


def _partial_runs(file: FileRange, vhdx: Vhdx, bitmap: int, place: int, block: Run) -> t.Iterator[Run]:
    """The sectors of a block that are there, by the bitmap of its chunk."""
    if bitmap & 7 != _BITMAP_PRESENT or block.stored is None:
        raise _bad(file.path.name, "a block that is there in parts has no bitmap")
    sector = vhdx.sector_size
    size = vhdx.block_size // sector // 8
    bits = file.read((bitmap >> 20 << 20) + place * size, size)
    # The lowest bit of a byte is the first sector.
    text = "".join(f"{byte:08b}"[::-1] for byte in bits)[: block.length // sector]
    first = text.find("1")
    while first >= 0:
        end = text.find("0", first)
        end = len(text) if end < 0 else end
        yield Run(block.begin + first * sector, (end - first) * sector, block.stored + first * sector)
        first = text.find("1", end)


def check_blocks(file: FileRange, vhdx: Vhdx) -> None:
    """Go through the block table.

    Raises:
        JobError: class ``invalid``, a block lies beyond the end of the file, or is there in parts where no parent has
            the others.
    """
    for group in _groups(file, vhdx):
        for place, entry in enumerate(group):
            if entry & 7 == _PARTIALLY_PRESENT and not vhdx.differencing and place < vhdx.chunk_ratio:
                raise _bad(file.path.name, "a block is there in parts, and nothing tells the rest")
            size = _MIB if place == vhdx.chunk_ratio else vhdx.block_size
            if entry & 7 in (_FULLY_PRESENT, _PARTIALLY_PRESENT) and (entry >> 20 << 20) + size > file.length:
                raise truncated(file.path)


def _groups(file: FileRange, vhdx: Vhdx) -> t.Iterator[array.array[int]]:
    """The block table chunk by chunk: entries of blocks, then that of their bitmap."""
    return table_pieces(file, vhdx.table_offset, vhdx.entries, code="Q", order="little", piece=vhdx.chunk_ratio + 1)


def _header(file: FileRange) -> tuple[bytes, bytes]:
    """Log's and data's GUID of the current header: the valid one with the higher sequence number."""
    found: list[tuple[int, bytes, bytes]] = []
    for offset in _HEADERS:
        if offset + _HEADER_SIZE > file.length:
            raise truncated(file.path)
        data = file.read(offset, _HEADER_SIZE)
        signature, checksum, sequence, _file_id, data_id, log_id, _log_version, version, _length, _offset = (
            _HEADER.unpack_from(data)
        )
        if signature == b"head" and checksum == _checksum(data) and version == 1:
            found.append((sequence, log_id, data_id))
    if not found:
        raise _bad(file.path.name, "both of its headers are broken")
    return max(found)[1:]


def _regions(file: FileRange) -> dict[bytes, tuple[int, int]]:
    """Offset and length of the regions."""
    what = file.path.name
    for place in _REGION_TABLES:
        if place + _REGION_SIZE > file.length:
            raise truncated(file.path)
        data = file.read(place, _REGION_SIZE)
        signature, checksum, count = struct.unpack_from("<4sII", data)
        if signature != b"regi" or count > _MAX_ENTRIES or checksum != _checksum(data):
            continue
        regions: dict[bytes, tuple[int, int]] = {}
        for index in range(count):
            identifier, offset, length, flags = _REGION.unpack_from(data, 16 + index * _REGION.size)
            if identifier not in _KNOWN_REGIONS:
                if flags & _REQUIRED:
                    raise unsupported(
                        "VhdxFeature",
                        f"{what} uses a feature of VHDX that is not known.",
                        "Convert it with Convert-VHD or qemu-img convert, and give that.",
                    )
                continue
            if offset % _MIB or offset + length > file.length:
                raise truncated(file.path)
            regions[identifier] = (offset, length)
        if len(regions) != len(_KNOWN_REGIONS):
            raise _bad(what, "its region table lacks the block table or the metadata")
        return regions
    raise _bad(what, "both of its region tables are broken")


def _items(file: FileRange, offset: int, length: int) -> dict[bytes, bytes]:
    """The metadata's items."""
    what = file.path.name
    if length < _METADATA_SIZE:
        raise _bad(what, "its metadata are broken")
    data = file.read(offset, _METADATA_SIZE)
    signature, _reserved, count = struct.unpack_from("<8sHH", data)
    if signature != b"metadata" or count > _MAX_ENTRIES:
        raise _bad(what, "its metadata are broken")
    items: dict[bytes, bytes] = {}
    for index in range(count):
        identifier, place, size, flags, _unused = _METADATA.unpack_from(data, 32 + index * _METADATA.size)
        if identifier not in _KNOWN_METADATA:
            # Bit 2: must be understood.
            if flags & 4:
                raise unsupported(
                    "VhdxFeature",
                    f"{what} uses a feature of VHDX that is not known.",
                    "Convert it with Convert-VHD or qemu-img convert, and give that.",
                )
            continue
        if size > _MAX_LOCATOR or place + size > length:
            raise _bad(what, "its metadata are broken")
        items[identifier] = file.read(offset + place, size)
    for needed, size in ((_FILE_PARAMETERS, 8), (_DISK_SIZE, 8), (_LOGICAL_SECTOR, 4)):
        if len(items.get(needed, b"")) != size:
            raise _bad(what, "its metadata are not complete")
    return items


def _vhdx(file: FileRange, items: dict[bytes, bytes], table: int, table_length: int, data_write_id: str) -> Vhdx:
    what = file.path.name
    block_size, flags = struct.unpack("<II", items[_FILE_PARAMETERS])
    (size,) = struct.unpack("<Q", items[_DISK_SIZE])
    (sector,) = struct.unpack("<I", items[_LOGICAL_SECTOR])
    if sector == 4096:
        raise unsupported(
            "LargeSectors",
            f"{what} is a disk with sectors of 4096 bytes, which cannot be moved yet.",
            "Copy its content to a disk with sectors of 512 bytes first.",
        )
    if sector != 512 or not _MIB <= block_size <= 256 * _MIB or block_size & (block_size - 1):
        raise _bad(what, f"sectors of {sector} and blocks of {block_size} bytes are not possible")
    if not 0 < size <= MAX_SIZE or size % sector:
        raise _bad(what, f"a disk of {size} bytes is not possible")
    differencing = bool(flags & _HAS_PARENT)
    found = Vhdx(size, block_size, sector, table, 0, data_write_id, differencing)
    count = -(-size // block_size)
    chunks = -(-count // found.chunk_ratio)
    entries = chunks * (found.chunk_ratio + 1) if differencing else count + (count - 1) // found.chunk_ratio
    if entries * 8 > table_length:
        raise _bad(what, "its block table does not fit its size")
    found = dataclasses.replace(found, entries=entries)
    if not differencing:
        return found
    locator = _locator(items.get(_PARENT_LOCATOR, b""), what)
    ids = (locator.get(key, "") for key in ("parent_linkage", "parent_linkage2"))
    names = (locator.get(key, "") for key in ("relative_path", "volume_path", "absolute_win32_path"))
    return dataclasses.replace(
        found,
        parent_ids=tuple(text.strip("{}").lower() for text in ids if text),
        parent_names=tuple(name for name in names if name),
    )


def _locator(data: bytes, what: str) -> dict[str, str]:
    """Keys and values of the parent locator, UTF-16 little-endian."""
    if len(data) < 20:
        raise _bad(what, "it does not name its parent")
    (count,) = struct.unpack_from("<H", data, 18)
    if 20 + count * 12 > len(data):
        raise _bad(what, "the name of its parent is broken")
    found: dict[str, str] = {}
    for index in range(count):
        key, value, key_length, value_length = struct.unpack_from("<IIHH", data, 20 + index * 12)
        if key + key_length > len(data) or value + value_length > len(data):
            raise _bad(what, "the name of its parent is broken")
        text = data[key : key + key_length].decode("utf-16-le", "replace")
        found[text] = data[value : value + value_length].decode("utf-16-le", "replace")
    return found


def _checksum(data: bytes) -> int:
    """CRC-32C, the checksum's own four bytes (4 to 8) taken as zeros."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data[:4] + bytes(4) + data[8:]:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@functools.lru_cache(maxsize=1)
def _crc_table() -> tuple[int, ...]:
    """Table of the Castagnoli polynomial, reflected."""
    table = []
    for byte in range(256):
        value = byte
        for _bit in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


def _bad(what: str, why: str) -> JobError:
    return invalid("BadVhdx", f"{what} is not a VHDX that can be read: {why}.", "Export or upload it again.")
