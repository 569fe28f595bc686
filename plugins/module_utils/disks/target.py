# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Targets of a copy: sparse raw files, block devices, and qcow2 files written straight through.

The qcow2 file (facts from QEMU's docs/interop/qcow2.txt) is of version 3 with clusters of 64 KiB. Clusters are handed
out one after the other and each is used once, so all reference counts are 1. Data come first; L2 tables, made from the
copy's log, and the counts are written behind them at the end, so memory does not grow with the disk, and a copy that
goes on later leaves no cluster unused.
"""

from __future__ import annotations

import array
import contextlib
import heapq
import os
import pathlib
import struct
import sys
import threading
import typing as t

from .block_device import BlockDevice
from .blockmap import BLOCK, BLOCKS_PER_REGION
from .closing import Closing
from .copylog import CopyLog, RegionRecord, file_identity
from .file_range import sync_file
from .qcow2 import FLAG_COPIED, MAGIC

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_L2_ENTRIES = _CLUSTER // 8
_REFCOUNTS_PER_BLOCK = _CLUSTER // 2
#: More regions than can be under way at once.
_OUT_OF_ORDER = 64
#: The kernel takes no more pieces in one write (IOV_MAX).
_MAX_PIECES = 1024
# Version 3's header without any extension: 104 bytes, the compression type (0: deflate), padding to 112.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII8x")


class _File:
    """The target's file or device. A thread syncs it while it is written, and then logs what is safe."""

    #: How much may be written before a sync begins. Bytes.
    _SYNC_EACH = 128 * 1024**2

    def __init__(self, descriptor: int, log: CopyLog) -> None:
        """Take over an open file or device, of which ``log`` speaks."""
        self._descriptor = descriptor
        self._log = log
        self._changed = threading.Condition()
        self._records: list[RegionRecord] = []
        self._unsynced = 0
        self._ending = False
        self._sync_error: BaseException | None = None
        self._syncer = threading.Thread(target=self._sync_along, name="sync", daemon=True)
        self._syncer.start()

    def write(self, pieces: t.Sequence[bytes | memoryview], offset: int) -> None:
        """Write ``pieces`` one after the other from ``offset`` on. Thread-safe."""
        for i in range(0, len(pieces), _MAX_PIECES):
            some = pieces[i : i + _MAX_PIECES]
            wanted = sum(len(piece) for piece in some)
            done = os.pwritev(self._descriptor, some, offset)
            if done < wanted:
                # A full disk shows as a short write first, and as an error when the rest is written.
                rest = memoryview(b"".join(some))
                while done < wanted:
                    done += os.pwrite(self._descriptor, rest[done:], offset + done)
            offset += wanted

    def record(self, record: RegionRecord) -> None:
        """Have the log tell of a region, once what was written of it is synced."""
        with self._changed:
            self._records.append(record)
            self._unsynced += record.data_bytes
            if self._unsynced >= self._SYNC_EACH:
                self._changed.notify()

    def resize(self, size: int) -> None:
        """Make the file ``size`` bytes long, a new part a hole."""
        os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        """Reserve ``size`` bytes on the disk."""
        os.posix_fallocate(self._descriptor, 0, size)

    def settle(self) -> t.Iterator[RegionRecord]:
        """Sync and log what is left; return everything that the log holds then."""
        self._end()
        # The kernel reports a failed write once for each descriptor: the thread may have had it.
        if self._sync_error is not None:
            raise self._sync_error
        self._checkpoint()
        return self._log.records()

    def sync(self) -> None:
        """Return when everything is on the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, as far as it is; a copy that was stopped can go on from here."""
        self._end()
        # It only saves time: a full disk, say, is somebody else's to tell.
        with contextlib.suppress(OSError):
            if self._sync_error is None:
                self._checkpoint()
        os.close(self._descriptor)

    def _end(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._syncer.join()

    def _sync_along(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or self._unsynced >= self._SYNC_EACH)
                if self._ending:
                    return
            try:
                self._checkpoint()
            except BaseException as error:
                # What was to be logged is lost with it, and the copy with that.
                self._sync_error = error
                return

    def _checkpoint(self) -> None:
        with self._changed:
            records, self._records = self._records, []
            self._unsynced = 0
        os.fdatasync(self._descriptor)
        self._log.append(records)


def _open(path: pathlib.Path, log: CopyLog) -> _File:
    """Create the file, its name on the disk, or open the one that ``log`` speaks of."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    if log.target is not None:
        return _File(os.open(path, flags), log)
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        sync_file(path.parent)
        log.begin(file_identity(os.fstat(descriptor)), resumable=True)
    except BaseException:
        os.close(descriptor)
        raise
    return _File(descriptor, log)


class _Target(Closing):
    """What all targets share."""

    def __init__(self, file: _File) -> None:
        self._file = file

    def record(self, record: RegionRecord) -> None:
        """See :class:`.scan.Sink`."""
        self._file.record(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _FlatTarget(_Target):
    """The bytes of the disk, each block at its place."""

    def write(self, blocks: list[tuple[int, bytes | memoryview]]) -> int:
        """See :class:`.scan.Sink`."""
        begin = 0
        for i in range(1, len(blocks) + 1):
            if i == len(blocks) or blocks[i][0] != blocks[i - 1][0] + 1:
                self._file.write([data for _number, data in blocks[begin:i]], blocks[begin][0] * BLOCK)
                begin = i
        return blocks[0][0] * BLOCK

    def finish(self) -> None:
        """Return when all that was written is on the disk.

        Raises:
            OSError: it could not be written.
        """
        self._file.settle()
        self._file.sync()


class DeviceTarget(_FlatTarget):
    """A block device, held by the caller; what is not written stays as it is (:meth:`.BlockDevice.zero_gaps`)."""

    def __init__(self, device: BlockDevice, log: CopyLog) -> None:
        """Begin, or go on with what ``log`` tells of this very device."""
        if log.target != device.identity:
            log.begin(device.identity, resumable=True)
        super().__init__(_File(os.dup(device.descriptor), log))


class RawTarget(_FlatTarget):
    """A flat file; what is not written is a hole, or (preallocated) reserved and reads as zeros."""

    def __init__(self, path: pathlib.Path, virtual_size: int, log: CopyLog, *, preallocate: bool) -> None:
        """Create the file, or go on with the one that ``log`` speaks of.

        Raises:
            OSError: it exists already, or there is no room for it.
        """
        super().__init__(_open(path, log))
        try:
            self._file.resize(virtual_size)
            if preallocate:
                self._file.allocate(virtual_size)
        except BaseException:
            self._file.close()
            raise


class Qcow2Target(_Target):
    """A qcow2 file."""

    def __init__(self, path: pathlib.Path, virtual_size: int, log: CopyLog) -> None:
        """Create the file, or go on with the one that ``log`` speaks of.

        Raises:
            OSError: it exists already, or cannot be written.
        """
        super().__init__(_open(path, log))
        self._virtual_size = virtual_size
        self._l1 = array.array("Q", bytes(8 * -(-virtual_size // (_L2_ENTRIES * _CLUSTER))))
        self._l1_offset = _CLUSTER
        first = _CLUSTER + _whole_clusters(len(self._l1) * 8)
        self._next, self._unused = _occupied(log.records(), first)
        self._allocation = threading.Lock()

    def write(self, blocks: list[tuple[int, bytes | memoryview]]) -> int:
        """See :class:`.scan.Sink`."""
        offset = self._allocate(len(blocks))
        pieces = [data for _number, data in blocks]
        if len(pieces[-1]) < _CLUSTER:
            pieces[-1] = bytes(pieces[-1]).ljust(_CLUSTER, b"\0")
        self._file.write(pieces, offset)
        return offset

    def finish(self) -> None:
        """Write the tables, the header last, and return when the image is whole and on the disk.

        Raises:
            OSError: it could not be written.
        """
        self._write_l2_tables(self._file.settle())
        table_offset, table_clusters = self._write_refcounts()
        self._file.write([_big_endian(self._l1)], self._l1_offset)
        self._file.resize(self._next)
        self._file.sync()
        header = _HEADER.pack(
            MAGIC,
            3,
            0,  # no backing file
            0,
            _CLUSTER_BITS,
            self._virtual_size,
            0,  # not encrypted
            len(self._l1),
            self._l1_offset,
            table_offset,
            table_clusters,
            0,  # no snapshots
            0,
            0,  # no incompatible, compatible or autoclear features
            0,
            0,
            4,  # reference counts of 1 << 4 bits
            _HEADER.size,
        )
        self._file.write([header.ljust(_CLUSTER, b"\0")], 0)
        self._file.sync()

    def _write_l2_tables(self, records: t.Iterator[RegionRecord]) -> None:
        index, table = -1, array.array("Q")
        for record in records:
            following, entry = divmod(record.number * BLOCKS_PER_REGION, _L2_ENTRIES)
            if following != index and record.blocks:
                self._write_l2(index, table)
                index, table = following, array.array("Q", bytes(_CLUSTER))
            offset, blocks = record.offset, record.blocks
            while blocks:
                if blocks & 1:
                    table[entry] = offset | FLAG_COPIED
                    offset += _CLUSTER
                blocks >>= 1
                entry += 1
        self._write_l2(index, table)

    def _write_l2(self, index: int, table: array.array[int]) -> None:
        if index < 0:
            return
        offset = self._allocate(1)
        self._file.write([_big_endian(table)], offset)
        self._l1[index] = offset | FLAG_COPIED

    def _write_refcounts(self) -> tuple[int, int]:
        """Write count 1 for every cluster of the file, the counts' own clusters included."""
        used = self._next // _CLUSTER
        blocks = tables = 0
        while True:
            total = used + blocks + tables
            wanted_blocks = -(-total // _REFCOUNTS_PER_BLOCK)
            wanted_tables = -(-wanted_blocks // _L2_ENTRIES)
            if (wanted_blocks, wanted_tables) == (blocks, tables):
                break
            blocks, tables = wanted_blocks, wanted_tables
        first = self._allocate(blocks + tables)
        full = b"\0\1" * _REFCOUNTS_PER_BLOCK
        for i in range(blocks):
            left = total - i * _REFCOUNTS_PER_BLOCK
            counts = full if left >= _REFCOUNTS_PER_BLOCK else (b"\0\1" * left).ljust(_CLUSTER, b"\0")
            self._file.write([counts], first + i * _CLUSTER)
        for begin, end in self._unused:
            self._file.write([bytes((end - begin) // _CLUSTER * 2)], first + begin // _CLUSTER * 2)
        table = array.array("Q", (first + i * _CLUSTER for i in range(blocks)))
        offset = first + blocks * _CLUSTER
        self._file.write([_big_endian(table).ljust(tables * _CLUSTER, b"\0")], offset)
        return offset, tables

    def _allocate(self, clusters: int) -> int:
        with self._allocation:
            offset = self._next
            self._next += clusters * _CLUSTER
        return offset


def _occupied(records: t.Iterator[RegionRecord], first: int) -> tuple[int, list[tuple[int, int]]]:
    """Return where the recorded regions end in the file, and the parts before that which none of them occupies.

    Regions get their places by several threads, nearly in the disk's order. So an attempt that was cut off may leave
    places that were handed out for regions which never got recorded.
    """
    waiting: list[tuple[int, int]] = []
    unused: list[tuple[int, int]] = []
    position = first

    def settle(limit: int) -> None:
        nonlocal position
        while waiting and (waiting[0][0] == position or len(waiting) > limit):
            begin, end = heapq.heappop(waiting)
            if begin > position:
                unused.append((position, begin))
            position = end

    for record in records:
        if record.blocks:
            heapq.heappush(waiting, (record.offset, record.offset + record.data_bytes))
            settle(_OUT_OF_ORDER)
    settle(0)
    return position, unused


def _big_endian(table: array.array[int]) -> bytes:
    copy = table[:]
    if sys.byteorder == "little":
        copy.byteswap()
    return copy.tobytes()


def _whole_clusters(size: int) -> int:
    return -(-size // _CLUSTER) * _CLUSTER
