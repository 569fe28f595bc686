# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Target files of a copy: sparse raw, and qcow2 written straight through.

The qcow2 file (facts from QEMU's docs/interop/qcow2.txt) is of version 3 with clusters of 64 KiB. Clusters are handed
out one after the other and each is used once, so all reference counts are 1 and are written at the end, behind the
data; an L2 table is written as soon as the copy has left its 512 MiB, so memory does not grow with the disk.
"""

from __future__ import annotations

import array
import os
import pathlib
import struct
import sys
import threading
import types
import typing as t

from .blockmap import BLOCK
from .file_range import sync_file
from .qcow2 import FLAG_COPIED, MAGIC
from .scan import Written

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_L2_ENTRIES = _CLUSTER // 8
_REFCOUNTS_PER_BLOCK = _CLUSTER // 2
#: The kernel takes no more pieces in one write (IOV_MAX).
_MAX_PIECES = 1024
# Version 3's header without any extension: 104 bytes, the compression type (0: deflate), padding to 112.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII8x")


class _File:
    """A new file that is synced to the disk while it grows, so that little is left to wait for at its end."""

    #: How much may be written before a sync begins. Bytes.
    _SYNC_EACH = 128 * 1024**2

    def __init__(self, path: pathlib.Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._folder = path.parent
        self._changed = threading.Condition()
        self._unsynced = 0
        self._ending = False
        self._sync_error: OSError | None = None
        self._syncer = threading.Thread(target=self._sync_along, name="sync", daemon=True)
        self._syncer.start()

    def write(self, pieces: t.Sequence[bytes | memoryview], offset: int) -> None:
        """Write ``pieces`` one after the other from ``offset`` on. Thread-safe."""
        size = 0
        for i in range(0, len(pieces), _MAX_PIECES):
            some = pieces[i : i + _MAX_PIECES]
            wanted = sum(len(piece) for piece in some)
            done = os.pwritev(self._descriptor, some, offset + size)
            if done < wanted:
                # A full disk shows as a short write first, and as an error when the rest is written.
                rest = memoryview(b"".join(some))
                while done < wanted:
                    done += os.pwrite(self._descriptor, rest[done:], offset + size + done)
            size += wanted
        with self._changed:
            self._unsynced += size
            if self._unsynced >= self._SYNC_EACH:
                self._changed.notify()

    def resize(self, size: int) -> None:
        """Make the file ``size`` bytes long, the new part a hole."""
        os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        """Reserve ``size`` bytes on the disk."""
        os.posix_fallocate(self._descriptor, 0, size)

    def sync(self) -> None:
        """Return when everything is on the disk."""
        self._end()
        # The kernel reports a failed write once for each descriptor: the thread may have had it.
        if self._sync_error is not None:
            raise self._sync_error
        os.fsync(self._descriptor)
        sync_file(self._folder)

    def close(self) -> None:
        """Close the file, as far as it is."""
        self._end()
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
                self._unsynced = 0
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._sync_error = error
                return


class _Target:
    """What the two formats share: a context manager around the file."""

    def __init__(self, path: pathlib.Path) -> None:
        self._file = _File(path)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self._file.close()


_Self = t.TypeVar("_Self", bound=_Target)


class RawTarget(_Target):
    """A new flat file; what is not written is a hole, or (preallocated) reserved and reads as zeros."""

    def __init__(self, path: pathlib.Path, virtual_size: int, *, preallocate: bool) -> None:
        """Create the file.

        Raises:
            OSError: it exists, or there is no room for it.
        """
        super().__init__(path)
        try:
            self._file.resize(virtual_size)
            if preallocate:
                self._file.allocate(virtual_size)
        except BaseException:
            self._file.close()
            raise

    def write(self, blocks: list[tuple[int, bytes | memoryview]]) -> Written:
        """See :class:`.scan.Sink`."""
        begin = 0
        for i in range(1, len(blocks) + 1):
            if i == len(blocks) or blocks[i][0] != blocks[i - 1][0] + 1:
                self._file.write([data for _number, data in blocks[begin:i]], blocks[begin][0] * BLOCK)
                begin = i
        return [(number, number * BLOCK) for number, _data in blocks]

    def record(self, written: Written) -> None:
        """See :class:`.scan.Sink`."""

    def finish(self) -> None:
        """Return when the image is whole and on the disk.

        Raises:
            OSError: it could not be written.
        """
        self._file.sync()


class Qcow2Target(_Target):
    """A new qcow2 file."""

    def __init__(self, path: pathlib.Path, virtual_size: int) -> None:
        """Create the file.

        Raises:
            OSError: it exists, or cannot be written.
        """
        super().__init__(path)
        self._virtual_size = virtual_size
        self._l1 = array.array("Q", bytes(8 * -(-virtual_size // (_L2_ENTRIES * _CLUSTER))))
        self._l1_offset = _CLUSTER
        self._next = _CLUSTER + _whole_clusters(len(self._l1) * 8)
        self._allocation = threading.Lock()
        self._l2 = array.array("Q", bytes(_CLUSTER))
        self._l2_index = -1

    def write(self, blocks: list[tuple[int, bytes | memoryview]]) -> Written:
        """See :class:`.scan.Sink`."""
        offset = self._allocate(len(blocks))
        pieces = [data for _number, data in blocks]
        if len(pieces[-1]) < _CLUSTER:
            pieces[-1] = bytes(pieces[-1]).ljust(_CLUSTER, b"\0")
        self._file.write(pieces, offset)
        return [(number, offset + i * _CLUSTER) for i, (number, _data) in enumerate(blocks)]

    def record(self, written: Written) -> None:
        """See :class:`.scan.Sink`."""
        for number, offset in written:
            index, entry = divmod(number, _L2_ENTRIES)
            if index != self._l2_index:
                self._write_l2()
                self._l2_index = index
            self._l2[entry] = offset | FLAG_COPIED

    def finish(self) -> None:
        """Write the tables, the header last, and return when the image is whole and on the disk.

        Raises:
            OSError: it could not be written.
        """
        self._write_l2()
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

    def _write_l2(self) -> None:
        if self._l2_index < 0:
            return
        offset = self._allocate(1)
        self._file.write([_big_endian(self._l2)], offset)
        self._l1[self._l2_index] = offset | FLAG_COPIED
        self._l2 = array.array("Q", bytes(_CLUSTER))

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
        table = array.array("Q", (first + i * _CLUSTER for i in range(blocks)))
        offset = first + blocks * _CLUSTER
        self._file.write([_big_endian(table).ljust(tables * _CLUSTER, b"\0")], offset)
        return offset, tables

    def _allocate(self, clusters: int) -> int:
        with self._allocation:
            offset = self._next
            self._next += clusters * _CLUSTER
        return offset


def _big_endian(table: array.array[int]) -> bytes:
    copy = table[:]
    if sys.byteorder == "little":
        copy.byteswap()
    return copy.tobytes()


def _whole_clusters(size: int) -> int:
    return -(-size // _CLUSTER) * _CLUSTER
