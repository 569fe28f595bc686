# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a copy has durably done, region by region: where it goes on after a crash, and what the proof compares with.

The log is an append-only file beside the job's overlays. Its first line is JSON: which copy of what, and which file or
device it was made to. Records of 60 bytes follow, in the disk's order. A record is written after the region's data were
synced, so whatever is in the log is in the target; a torn record ends the log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import struct
import typing as t
import zlib

from .blockmap import BLOCK
from .closing import Closing

#: Little-endian: number of the region, offset in the target of its first block, bitmap of its blocks with data (bit 0
#: is the first), content digest; then the CRC-32 of these.
_RECORD = struct.Struct("<QQQ32s")
_CRC = struct.Struct("<I")
_SIZE = _RECORD.size + _CRC.size
_READ_RECORDS = 4096
_MAX_HEADER = 64 * 1024


@dataclasses.dataclass(frozen=True)
class RegionRecord:
    """One region of the disk, as it was read."""

    number: int
    digest: bytes | None
    """SHA-256 as :mod:`.scan` defines it; None: the region is all zeros."""
    offset: int = 0
    """Of its first block in the target; its blocks follow each other there. Bytes; of no meaning for raw targets."""
    blocks: int = 0
    """Bitmap of its blocks that are not all zeros."""

    @property
    def data_bytes(self) -> int:
        """How much data its blocks hold, the disk's last block counted as a whole one."""
        return self.blocks.bit_count() * BLOCK


class CopyLog(Closing):
    """The log of one disk's copy. A context manager; only one thread appends."""

    def __init__(self, path: pathlib.Path, key: t.Mapping[str, t.Any]) -> None:
        """Open the log, or begin one. What it holds of a copy with another ``key`` is forgotten.

        Args:
            path: a file of the job's own; its folder exists.
            key: JSON-able facts that decide whether what was copied is still good (source, format …).

        Raises:
            OSError: it cannot be read or written.
        """
        self._key = dict(key)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.target: str | None = None
        """Identity of the file or device that the records speak of; None: nothing was begun."""
        self.resumable = False
        """Whether a copy can go on behind the last record; else the records only tell what was read."""
        self.last = -1
        """Number of the last region that is recorded; -1: none."""
        self._begin = 0
        self._end = 0
        try:
            self._restore()
        except BaseException:
            self.close()
            raise

    def begin(self, target: str, *, resumable: bool) -> None:
        """Begin anew, for a file that was just made, or a device: its identity (see :func:`file_identity`)."""
        told = {"key": self._key, "target": target, "resumable": resumable}
        header = json.dumps(told, sort_keys=True).encode() + b"\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, header, 0)
        os.fsync(self._descriptor)
        self.target, self.resumable, self.last = target, resumable, -1
        self._begin = self._end = len(header)

    def forget(self) -> None:
        """Forget everything: the copy has to be made again."""
        os.ftruncate(self._descriptor, 0)
        os.fsync(self._descriptor)
        self.target, self.resumable, self.last = None, False, -1
        self._begin = self._end = 0

    def append(self, records: t.Sequence[RegionRecord]) -> None:
        """Record regions, in the disk's order, whose data are synced. They are on the disk when this returns.

        Raises:
            OSError: they could not be written.
        """
        if not records:
            return
        data = bytearray()
        for record in records:
            packed = _RECORD.pack(record.number, record.offset, record.blocks, record.digest or bytes(32))
            data += packed + _CRC.pack(zlib.crc32(packed))
        done = 0
        while done < len(data):
            done += os.pwrite(self._descriptor, memoryview(data)[done:], self._end + done)
        os.fdatasync(self._descriptor)
        self._end += len(data)
        self.last = records[-1].number

    def records(self) -> t.Iterator[RegionRecord]:
        """Yield what is recorded, in the disk's order; little of it is in memory at a time."""
        position, end = self._begin, self._end
        while position < end:
            data = os.pread(self._descriptor, min(_READ_RECORDS * _SIZE, end - position), position)
            for start in range(0, len(data), _SIZE):
                yield _unpack(data, start)
            position += len(data)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._descriptor)

    def _restore(self) -> None:
        header, newline, _rest = os.pread(self._descriptor, _MAX_HEADER, 0).partition(b"\n")
        told: t.Any = None
        with contextlib.suppress(ValueError):
            told = json.loads(header)
        if not newline or not isinstance(told, dict) or told.get("key") != self._key:
            self.forget()
            return
        self.target, self.resumable = str(told["target"]), bool(told["resumable"])
        self._begin = self._end = len(header) + 1
        size = os.fstat(self._descriptor).st_size
        while self._end + _SIZE <= size:
            count = min(_READ_RECORDS, (size - self._end) // _SIZE)
            data = os.pread(self._descriptor, count * _SIZE, self._end)
            good = _good_records(data, self.last)
            if good:
                self.last = _unpack(data, (good - 1) * _SIZE).number
                self._end += good * _SIZE
            if good < count:
                break
        os.ftruncate(self._descriptor, self._end)


def file_identity(status: os.stat_result) -> str:
    """Return what tells a target's file from every other one, whatever its name is."""
    return f"inode {status.st_ino}"


def _good_records(data: bytes, last: int) -> int:
    """How many records from the front on are whole and in order."""
    good = 0
    for start in range(0, len(data) - _SIZE + 1, _SIZE):
        (crc,) = _CRC.unpack_from(data, start + _RECORD.size)
        number = _RECORD.unpack_from(data, start)[0]
        if zlib.crc32(data[start : start + _RECORD.size]) != crc or number <= last:
            break
        last = number
        good += 1
    return good


def _unpack(data: bytes, start: int) -> RegionRecord:
    number, offset, blocks, digest = _RECORD.unpack_from(data, start)
    return RegionRecord(number, digest if blocks else None, offset, blocks)
