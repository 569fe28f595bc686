# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMDK: descriptors and sparse extents.

Facts from VMware's "Virtual Disk Format 5.0" (sections "The Text Descriptor", "Hosted Sparse Extents",
"Stream-Optimized Compressed Sparse Extents"); all numbers are little-endian, all offsets count 512-byte sectors.
"""

from __future__ import annotations

import array
import dataclasses
import re
import struct
import sys
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange, truncated

SECTOR = 512
MAGIC = b"KDMV"
DESCRIPTOR_START = b"# Disk DescriptorFile"
#: VMware's largest disk is 62 TiB.
MAX_CAPACITY = 64 * 1024**4
#: Marker in front of a compressed grain: LBA and size of the data that follow.
GRAIN_MARKER = struct.Struct("<QI")

_HEADER = struct.Struct("<4sIIQQQQIQQQBccccH")
_FLAG_ZEROED_GRAINS = 1 << 2
_FLAG_COMPRESSED = 1 << 16
_GD_AT_END = 0xFFFFFFFFFFFFFFFF
_DEFLATE = 1
_MARKER_FOOTER = 3
_MAX_TABLES = 4 * 1024**2
_MAX_DESCRIPTOR = 1024**2
#: A line holds a file name at most; patterns would take minutes over one of a megabyte.
_MAX_LINE = 8 * 1024
_NO_PARENT = "ffffffff"
_COWD_MAGIC = b"COWD"
_SESPARSE_MAGIC = 0xCAFEBABE
_EXTENT = re.compile(r'^(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z0-9]+)(?:\s+"([^"]*)"(?:\s+(\d+))?)?\s*$')
_SETTING = re.compile(r'^\s*([A-Za-z0-9_.]+)\s*=\s*"?([^"]*?)"?\s*$')


@dataclasses.dataclass(frozen=True)
class Extent:
    """A line of a descriptor's extent section. Bytes."""

    access: str
    """``RW``, ``RDONLY`` or ``NOACCESS``."""
    kind: str
    """``FLAT``, ``SPARSE``, ``VMFS``, ``ZERO`` …"""
    size: int
    name: str
    offset: int


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A text descriptor."""

    create_type: str
    extents: tuple[Extent, ...]
    has_parent: bool
    content_id: str
    """CID: changes with the disk's content. Lower case, no leading zeros."""
    parent_id: str
    """The parent's CID when the snapshot was taken."""
    parent_name: str
    """``parentFileNameHint``; empty: it is not told."""
    plain: bool
    """Whether there is no line that another reader could take for an extent which is not in ``extents``."""


def parse_descriptor(text: bytes, what: str) -> Descriptor:
    """Parse a descriptor file, or the descriptor embedded in a sparse extent.

    Raises:
        JobError: class ``invalid``, it is none.
    """
    plain = text.split(b"\0", 1)[0]
    if not plain.startswith(DESCRIPTOR_START):
        raise _bad(what, "it has no disk descriptor")
    settings: dict[str, str] = {}
    extents = []
    for line in plain.decode("utf-8", "replace").splitlines():
        if len(line) > _MAX_LINE:
            raise _bad(what, f"its disk descriptor has a line of {len(line)} characters")
        found = _EXTENT.match(line.strip())
        if found:
            access, size, kind, name, offset = found.groups()
            if len(size) > 16 or len(offset or "") > 16:
                raise _bad(what, "an extent is larger than any disk")
            extents.append(Extent(access, kind, int(size) * SECTOR, name or "", int(offset or 0) * SECTOR))
        elif not line.lstrip().startswith("#"):
            setting = _SETTING.match(line)
            if setting:
                settings[setting.group(1).lower()] = setting.group(2)
    # Every writer gives these; without them the text was cut short, and a snapshot's parent may be what is missing.
    missing = [name for name in ("CID", "parentCID", "createType") if name.lower() not in settings]
    if missing:
        raise _bad(what, f"its disk descriptor lacks {missing[0]}")
    return Descriptor(
        create_type=settings.get("createtype", ""),
        extents=tuple(extents),
        has_parent=settings["parentcid"].lower() != _NO_PARENT or "parentfilenamehint" in settings,
        # A hexadecimal number, which VMware pads with zeros and QEMU does not.
        content_id=settings["cid"].lower().lstrip("0"),
        parent_id=settings["parentcid"].lower().lstrip("0"),
        parent_name=settings.get("parentfilenamehint", ""),
        plain=_is_plain(plain),
    )


def _is_plain(text: bytes) -> bool:
    """Whether QEMU, which looks for extents by ``scanf`` at each line's begin and across lines, sees what is seen here.

    So each line must be a comment, a setting or a whole extent; an extent must not follow an empty line, from which
    QEMU would read it a second time; and nothing but line ends may pass for one.
    """
    # Byte by byte: names in whatever encoding are text to both.
    lines = text.decode("latin-1").replace("\r\n", "\n").split("\n")
    before = ""
    for line in lines:
        stripped = line.strip(" \t")
        if any(ord(c) < 32 and c != "\t" for c in line):
            return False
        if _EXTENT.match(stripped):
            if not before:
                return False
        elif stripped and not stripped.startswith("#") and not _SETTING.match(stripped):
            return False
        before = stripped
    return True


def foreign_extent_size(file: FileRange) -> int:
    """Return the virtual size of an extent of ESXi's snapshots: ``COWD`` (vmfsSparse) or seSparse. Bytes.

    Facts from QEMU's block/vmdk.c; QEMU checks and bounds their tables itself.

    Raises:
        JobError: class ``invalid``, it is neither.
    """
    data = file.read(0, min(SECTOR, file.length)).ljust(SECTOR, b"\0")
    if data.startswith(_COWD_MAGIC):
        sectors = int.from_bytes(data[12:16], "little")
    elif int.from_bytes(data[:8], "little") == _SESPARSE_MAGIC:
        sectors = int.from_bytes(data[16:24], "little")
    else:
        raise _bad(file.path.name, "it does not begin as an extent")
    if not 0 < sectors * SECTOR <= MAX_CAPACITY:
        raise _bad(file.path.name, f"a capacity of {sectors} sectors is not possible")
    return sectors * SECTOR


@dataclasses.dataclass(frozen=True)
class _Header:
    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    gtes_per_gt: int
    gd_offset: int
    overhead: int
    algorithm: int


class SparseExtent:
    """A hosted sparse extent (``monolithicSparse``, ``streamOptimized``): its directory and tables of grains."""

    def __init__(self, file: FileRange, *, described: bool = False) -> None:
        """Read header, footer, descriptor and grain directory.

        Args:
            file: the extent.
            described: a descriptor in another file names it, so it has none of its own.

        Raises:
            JobError: class ``invalid``, they contradict the format, themselves or the file's size; class
                ``unsupported``, a version or algorithm that does not exist in exports.
        """
        self._file = file
        what = file.path.name
        head = _read_header(file.read(0, SECTOR), what)
        self.descriptor = None if described else _read_descriptor(file, head, what)
        if head.capacity == 0:
            # QEMU then takes the descriptor's extents, which are other files.
            raise _bad(what, "its header names no capacity")
        if head.gd_offset == _GD_AT_END:
            head = self._read_footer()
        self.virtual_size = head.capacity * SECTOR
        self.grain_size = head.grain_size * SECTOR
        self.compressed = bool(head.flags & _FLAG_COMPRESSED)
        self._zeroed_grains = bool(head.flags & _FLAG_ZEROED_GRAINS)
        _check_header(head, what)
        if head.overhead * SECTOR > file.length:
            raise truncated(file.path)
        self._grains = -(-head.capacity // head.grain_size)
        self._gtes_per_gt = head.gtes_per_gt
        tables = -(-self._grains // head.gtes_per_gt)
        if tables > _MAX_TABLES:
            raise _bad(what, f"a grain directory of {tables} entries is not possible")
        self._directory = self._table(head.gd_offset, tables)

    def tables(self) -> t.Iterator[tuple[int, array.array[int]]]:
        """Yield the grain tables that exist: number of their first grain, and the grains' sectors (0: no data).

        Raises:
            JobError: class ``invalid``, a table or a grain lies beyond the end of the file.
        """
        sectors = -(-self._file.length // SECTOR)
        for index, sector in enumerate(self._directory):
            # 1 marks, as in grain tables, what reads as zeros.
            if sector == 0 or (sector == 1 and self._zeroed_grains):
                continue
            first = index * self._gtes_per_gt
            table = self._table(sector, min(self._gtes_per_gt, self._grains - first))
            if self._zeroed_grains:
                for i, entry in enumerate(table):
                    if entry == 1:
                        table[i] = 0
            if max(table) >= sectors:
                raise truncated(self._file.path)
            yield first, table

    def check(self) -> int:
        """Go through all tables, and return how many grains hold data.

        Raises:
            JobError: as for :meth:`tables`.
        """
        return sum(len(table) - table.count(0) for _first, table in self.tables())

    def _table(self, sector: int, entries: int) -> array.array[int]:
        table = array.array("I", self._file.read(sector * SECTOR, entries * 4))
        if sys.byteorder == "big":
            table.byteswap()
        return table

    def _read_footer(self) -> _Header:
        """The footer: marker, copy of the header with the real directory, end-of-stream marker; the last 3 sectors."""
        what = self._file.path.name
        end = -(-self._file.length // SECTOR) * SECTOR
        begin = end - 3 * SECTOR
        if begin < SECTOR:
            raise truncated(self._file.path)
        data = self._file.read(begin, self._file.length - begin).ljust(3 * SECTOR, b"\0")
        # The marker's first field, the footer's size in sectors, is not looked at: writers disagree about it.
        marker = struct.unpack_from("<QII", data)[1:]
        end_of_stream = struct.unpack_from("<QII", data, 2 * SECTOR)
        if marker != (0, _MARKER_FOOTER) or data[SECTOR : SECTOR + 4] != MAGIC or end_of_stream != (0, 0, 0):
            raise invalid(
                "Truncated",
                f"{what} has no footer: it is truncated, or has something after its end.",
                "Export or upload it again.",
            )
        head = _read_header(data[SECTOR : 2 * SECTOR], what)
        if head.gd_offset == _GD_AT_END:
            raise _bad(what, "its footer does not tell where the grain directory is")
        return head


def _read_header(data: bytes, what: str) -> _Header:
    fields = _HEADER.unpack_from(data)
    if fields[0] != MAGIC:
        raise _bad(what, "it does not begin as a VMDK")
    chosen = (*fields[1:8], *fields[9:11], fields[16])
    return _Header(*chosen)


def _check_header(head: _Header, what: str) -> None:
    if head.version not in (1, 2, 3):
        raise unsupported(
            "VmdkVersion",
            f"{what} is a VMDK of version {head.version}; 1 to 3 are known.",
            "Export the VM again, or convert the disk with vmkfstools or qemu-img convert.",
        )
    if head.flags & _FLAG_COMPRESSED and head.algorithm != _DEFLATE:
        raise unsupported(
            "VmdkCompression",
            f"{what} uses compression {head.algorithm}; only deflate (1) is known.",
            "Export the VM again, or convert the disk with vmkfstools or qemu-img convert.",
        )
    if not 0 < head.capacity * SECTOR <= MAX_CAPACITY:
        raise _bad(what, f"a capacity of {head.capacity} sectors is not possible")
    # The specification asks for a power of two above 8 sectors; nothing writes more than 1 MiB.
    if not 8 <= head.grain_size <= 2048 or head.grain_size & (head.grain_size - 1):
        raise _bad(what, f"a grain of {head.grain_size} sectors is not possible")
    if not 1 <= head.gtes_per_gt <= 512:
        raise _bad(what, f"a grain table of {head.gtes_per_gt} entries is not possible")


def _read_descriptor(file: FileRange, head: _Header, what: str) -> Descriptor:
    size = head.descriptor_size * SECTOR
    if head.descriptor_offset == 0 or not 0 < size <= _MAX_DESCRIPTOR:
        raise _bad(what, "it has no disk descriptor")
    return parse_descriptor(file.read(head.descriptor_offset * SECTOR, size), what)


def _bad(what: str, why: str) -> JobError:
    return invalid("BadVmdk", f"{what} is not a VMDK that can be read: {why}.", "Export or upload it again.")
