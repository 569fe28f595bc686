# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qcow2: header and tables, for reading.

Facts from QEMU's docs/interop/qcow2.txt; all numbers are big-endian.
"""

from __future__ import annotations

import array
import dataclasses
import struct
import sys
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange, truncated

MAGIC = b"QFI\xfb"
OFFSET_MASK = 0x00FFFFFFFFFFFE00
FLAG_COPIED = 1 << 63
FLAG_COMPRESSED = 1 << 62
FLAG_ZERO = 1
#: Beyond reason, as for VMDK; the tables of a larger one would take minutes to go through.
MAX_SIZE = 64 * 1024**4

_HEADER_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION_TYPE, _EXTENDED_L2 = 1, 2, 4, 8, 16
_MAX_TABLE_ENTRIES = 4 * 1024**2
_MAX_BACKING_NAME = 1023
_BACKING_FORMAT = 0xE2792ACA
_V3_FEATURES_OFFSET = 72
_COMPRESSION_OFFSET = 104


@dataclasses.dataclass(frozen=True)
class Header:
    """What a qcow2 file's header says. Bytes."""

    version: int
    backing: str | None
    """Name of the backing file, as it stands there; None: there is none."""
    backing_format: str
    """Its format, as QEMU names formats; empty: it is not told."""
    cluster_bits: int
    size: int
    encrypted: bool
    l1_entries: int
    l1_offset: int
    snapshots: int
    features: int
    """Incompatible features, as the specification numbers them."""
    zstd: bool

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries carry a bitmap of subclusters."""
        return bool(self.features & _EXTENDED_L2)


def read_header(file: FileRange) -> Header:
    """Read and check the header of ``file``, whose data are within itself; there may be a backing file.

    Raises:
        JobError: class ``invalid``, it is no qcow2, is marked corrupt, or its tables are not within the file; class
            ``unsupported``, it is encrypted, or has an external data file.
    """
    what = file.path.name
    data = file.read(0, min(file.length, 512)).ljust(512, b"\0")
    fields = _HEADER_V2.unpack_from(data)
    if fields[0] != MAGIC:
        raise _bad(what, "it does not begin as a qcow2 image")
    if fields[1] not in (2, 3):
        raise unsupported(
            "Qcow2Version",
            f"{what} is a qcow2 image of version {fields[1]}; 2 and 3 are known.",
            "Convert it with qemu-img convert to qcow2 or raw, and give that.",
        )
    features = zstd = 0
    header_length = _V3_FEATURES_OFFSET
    if fields[1] == 3:
        features, _compatible, _autoclear, _order, header_length = _HEADER_V3.unpack_from(data, _V3_FEATURES_OFFSET)
        if features & _COMPRESSION_TYPE and header_length > _COMPRESSION_OFFSET:
            zstd = data[_COMPRESSION_OFFSET]
    header = Header(
        version=fields[1],
        backing=_backing_name(file, fields[2], fields[3]),
        backing_format=_backing_format(file, header_length, fields[2]),
        cluster_bits=fields[4],
        size=fields[5],
        encrypted=fields[6] != 0,
        l1_entries=fields[7],
        l1_offset=fields[8],
        snapshots=fields[11],
        features=features,
        zstd=zstd != 0,
    )
    _check(header, file)
    return header


def _backing_name(file: FileRange, offset: int, size: int) -> str | None:
    if not offset:
        return None
    if not 0 < size <= _MAX_BACKING_NAME:
        raise _bad(file.path.name, "the name of its backing file is longer than any path")
    return file.read(offset, size).decode("utf-8", "surrogateescape")


def _backing_format(file: FileRange, begin: int, backing_offset: int) -> str:
    """The header extension with the backing file's format; extensions end before the backing file's name."""
    end = min(backing_offset or 512, file.length)
    while begin + 8 <= end:
        kind, length = struct.unpack(">II", file.read(begin, 8))
        if kind == 0 or begin + 8 + length > end:
            return ""
        if kind == _BACKING_FORMAT:
            return file.read(begin + 8, length).decode("ascii", "replace")
        begin += 8 + -(-length // 8) * 8
    return ""


def _check(header: Header, file: FileRange) -> None:
    what = file.path.name
    if header.features & _CORRUPT:
        raise _bad(what, "it is marked as corrupt")
    if header.features & ~(_DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION_TYPE | _EXTENDED_L2):
        raise unsupported(
            "Qcow2Feature",
            f"{what} uses a feature of qcow2 that is not known.",
            "Convert it with qemu-img convert to qcow2 or raw, and give that.",
        )
    if header.encrypted:
        raise unsupported("EncryptedImage", f"{what} is an encrypted qcow2 image.", "Decrypt it with qemu-img convert.")
    if header.features & _DATA_FILE:
        raise unsupported(
            "NeedsOtherFile",
            f"{what} is not whole: it names an external data file.",
            "Flatten it first: qemu-img convert -O qcow2 SOURCE WHOLE.",
        )
    if not 9 <= header.cluster_bits <= 21 or not 0 < header.size <= MAX_SIZE:
        raise _bad(what, "its sizes are not possible")
    entry_size = 16 if header.extended_l2 else 8
    covered = (1 << header.cluster_bits) // entry_size << header.cluster_bits
    if header.l1_entries < -(-header.size // covered) or header.l1_entries > _MAX_TABLE_ENTRIES:
        raise _bad(what, "its table does not fit its size")
    if header.l1_offset + header.l1_entries * 8 > file.length:
        raise truncated(file.path)


class Tables:
    """The L1 and L2 tables of a qcow2 image without extended L2 entries."""

    def __init__(self, file: FileRange, header: Header) -> None:
        """Read the L1 table.

        Raises:
            JobError: class ``invalid``, it is not within the file.
        """
        self._file = file
        self._header = header
        self._l1 = self._table(header.l1_offset, header.l1_entries)

    def l2_tables(self) -> t.Iterator[tuple[int, array.array[int]]]:
        """Yield the L2 tables that exist: number of the first cluster, and the entries.

        Raises:
            JobError: class ``invalid``, a table or a cluster lies beyond the end of the file.
        """
        bits = self._header.cluster_bits
        entries = (1 << bits) // 8
        clusters = -(-self._header.size // (1 << bits))
        for index, entry in enumerate(self._l1):
            offset, first = entry & OFFSET_MASK, index * entries
            if not offset or first >= clusters:
                continue
            table = self._table(offset, min(entries, clusters - first))
            highest = max(table)
            # Clusters in use once have the top bit set, so the largest entry has the largest offset of them.
            if highest & FLAG_COPIED and highest & OFFSET_MASK and (highest & OFFSET_MASK) >= self._file.length:
                raise truncated(self._file.path)
            yield first, table

    def check(self) -> None:
        """Go through all tables.

        Raises:
            JobError: as for :meth:`l2_tables`.
        """
        for _table in self.l2_tables():
            pass

    def _table(self, offset: int, entries: int) -> array.array[int]:
        table = array.array("Q", self._file.read(offset, entries * 8))
        if sys.byteorder == "little":
            table.byteswap()
        return table


def _bad(what: str, why: str) -> JobError:
    return invalid("BadQcow2", f"{what} is not a qcow2 image that can be read: {why}.", "Export or upload it again.")
