# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One pass over an image's data: digest, and copy where there is a target.

**The content digest** (``content-v1``) is defined over the virtual disk alone, so that it is the same for every format,
and holes and zeros hash alike. The disk is cut into blocks of 64 KiB (the last one may be shorter) and regions of
4 MiB. A region's digest is the SHA-256 over its blocks that are not all zeros, each preceded by its number on the disk
(8 bytes, big-endian), in ascending order. The disk's digest is the SHA-256 over the ASCII text
``hyper2kvm content-v1``, a NUL byte, the disk's size (8 bytes, big-endian), and, for each region with at least one such
block, the region's number (8 bytes, big-endian) and its digest (32 bytes), in ascending order. Regions can be hashed
side by side, and kept for a copy that goes on later (:mod:`.copylog`).
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import typing as t

from .blockmap import BLOCK, BLOCKS_PER_REGION, Block, BlockMap, Region
from .copylog import RegionRecord
from .file_range import FileRange
from .manifest import compare, new_hash
from .pace import Pace

_ZEROS = bytes(BLOCK)
_DOMAIN = b"hyper2kvm content-v1\0"
#: Blocks this close to each other in the file are read together. Bytes.
_GAP = 128 * 1024
#: What is read at once for a manifest's digest. Bytes.
_PIECE = 4 * 1024**2
_MAX_THREADS = 4


class Sink(t.Protocol):
    """A target's file, while it is written."""

    def write(self, blocks: list[tuple[int, bytes | memoryview]]) -> int:
        """Write blocks of one region (number and data; none is all zeros; ascending). Thread-safe.

        Returns:
            The first block's offset in the target; the others follow it (where the format has a choice).
        """

    def record(self, record: RegionRecord) -> None:
        """Note that a region was read and written. Called by one thread, in the disk's order."""


class ContentDigest:
    """The digest of a disk, from the digests of its regions."""

    def __init__(self, virtual_size: int) -> None:
        """Begin the digest of a disk of ``virtual_size`` bytes."""
        self._digest = hashlib.sha256(_DOMAIN + virtual_size.to_bytes(8, "big"))

    def add(self, number: int, digest: bytes | None) -> None:
        """Add the next region, in ascending order; None: it is all zeros."""
        if digest is not None:
            self._digest.update(number.to_bytes(8, "big") + digest)

    def text(self) -> str:
        """``sha256:…``."""
        return f"sha256:{self._digest.hexdigest()}"


@dataclasses.dataclass(frozen=True)
class ScanResult:
    """What a pass saw. Bytes."""

    digest: str
    """``sha256:…``, the content digest."""
    bytes_read: int
    """Of the file, for its data (compressed as they may be)."""
    bytes_written: int
    """Data that went to the sink."""
    allocated_bytes: int = 0
    """What the image holds, in the ranges that were read and outside of them; 0: not known."""


def ignore(_record: RegionRecord) -> None:
    """For scans whose regions nobody keeps."""


def scan(
    file: FileRange,
    blocks: BlockMap,
    *,
    what: str,
    sink: Sink | None = None,
    on_region: t.Callable[[RegionRecord], None] = ignore,
    recorded: t.Iterable[RegionRecord] = (),
    manifest_digest: str | None = None,
    bandwidth: int | None = None,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
) -> ScanResult:
    """Read all data of an image once: hash them and, with ``sink``, copy them.

    Args:
        file: the image, open.
        blocks: its map.
        what: names the step in errors.
        sink: gets the blocks that are not all zeros, and each region that is done.
        on_region: gets each region that is done, in the disk's order.
        recorded: the regions that an earlier pass has done, from the disk's begin on; they are not read again.
        manifest_digest: of the file's own bytes, compared in the same read (which then is of the whole file).
        bandwidth: upper bound of what is read of the file, in bytes per second.
        progress: gets bytes done and in all, both of the virtual disk's data, not of its holes.
        cancelled: asked for each 4 MiB; True ends the pass.

    Raises:
        JobError: class ``invalid``, the image is damaged or not what its manifest says; class ``transient``, it
            cannot be read, or the pass was cancelled.
    """
    total = blocks.data_bytes()
    digest = ContentDigest(blocks.virtual_size)
    pace = Pace(bandwidth, what, cancelled)
    reader = _HashingReader(file, manifest_digest, pace) if manifest_digest else None
    worker = _Worker(file, blocks, sink)
    done = read = written = 0
    last = -1
    for record in recorded:
        digest.add(record.number, record.digest)
        last = record.number
        done += record.data_bytes
        written += record.data_bytes
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    pending: collections.deque[tuple[Region, concurrent.futures.Future[RegionRecord]]] = collections.deque()

    def finish() -> None:
        nonlocal done, written
        region, future = pending.popleft()
        record = future.result()
        digest.add(record.number, record.digest)
        if sink is not None:
            sink.record(record)
        on_region(record)
        written += record.data_bytes
        done += len(region.blocks) * BLOCK
        progress(min(done, total), total)

    pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="scan")
    try:
        for region in blocks.regions():
            if region.number <= last:
                continue
            spans = _spans(region.blocks)
            if reader is None:
                pace.wait(spans.size)
            read += spans.size
            data = [reader.read(*span) for span in spans.ranges] if reader else None
            pending.append((region, pool.submit(worker.process, region, spans, data)))
            # Two regions more than threads: each thread finds its next one waiting, and memory stays small.
            if len(pending) >= threads + 2:
                finish()
        while pending:
            pace.check()
            finish()
        if reader is not None:
            reader.finish()
        # A total of whole clusters may be a little more than the blocks that the disk has.
        progress(total, total)
    finally:
        pool.shutdown(cancel_futures=True)
    return ScanResult(digest.text(), read, written)


@dataclasses.dataclass(frozen=True)
class _Spans:
    """What is read of the file for a region."""

    ranges: list[tuple[int, int]]
    """Begins and ends, ascending."""
    places: list[int]
    """For each of the region's blocks, the range that holds it."""
    size: int
    """Bytes in all."""


def _spans(blocks: list[Block]) -> _Spans:
    """Join what lies close together; in a file that was written from front to back that is nearly everything."""
    ranges: list[tuple[int, int]] = []
    places = [0] * len(blocks)
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i].offset):
        begin, end = blocks[i].offset, blocks[i].offset + blocks[i].stored
        if ranges and begin <= ranges[-1][1] + _GAP:
            ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
        else:
            ranges.append((begin, end))
        places[i] = len(ranges) - 1
    return _Spans(ranges, places, sum(end - begin for begin, end in ranges))


class _Worker:
    """What is done for a region in one of the pool's threads."""

    def __init__(self, file: FileRange, blocks: BlockMap, sink: Sink | None) -> None:
        self._file = file
        self._blocks = blocks
        self._sink = sink

    def process(self, region: Region, spans: _Spans, data: list[bytes] | None) -> RegionRecord:
        if data is None:
            data = [self._file.read(begin, end - begin) for begin, end in spans.ranges]
        views = [memoryview(piece) for piece in data]
        digest = hashlib.sha256()
        used: list[tuple[int, bytes | memoryview]] = []
        bitmap = 0
        for block, place in zip(region.blocks, spans.places, strict=True):
            begin = block.offset - spans.ranges[place][0]
            # Looking within the bytes object is much faster than comparing a view of it.
            if not block.compressed and data[place].startswith(_ZEROS[: block.stored], begin):
                continue
            plain = self._blocks.decode(block, views[place][begin : begin + block.stored])
            # A file may end within its last block, whose rest reads as zeros.
            size = min(BLOCK, self._blocks.virtual_size - block.number * BLOCK)
            if len(plain) < size:
                plain = bytes(plain).ljust(size, b"\0")
            if isinstance(plain, bytes) and plain == _ZEROS[:size]:
                continue
            digest.update(block.number.to_bytes(8, "big"))
            digest.update(plain)
            used.append((block.number, plain))
            bitmap |= 1 << (block.number % BLOCKS_PER_REGION)
        if not used:
            return RegionRecord(region.number, None)
        offset = self._sink.write(used) if self._sink is not None else 0
        return RegionRecord(region.number, digest.digest(), offset, bitmap)


class _HashingReader:
    """Reads a file for its copy, and hashes it from front to back on the way."""

    def __init__(self, file: FileRange, expected: str, pace: Pace) -> None:
        self._file = file
        self._expected = expected
        self._pace = pace
        self._computed = new_hash(expected)
        self._position = 0

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes from ``begin`` to ``end``; hash what was not yet, up to ``end``."""
        self._advance(begin)
        self._pace.wait(end - begin)
        data = self._file.read(begin, end - begin)
        if end > self._position:
            self._computed.update(memoryview(data)[self._position - begin :])
            self._position = end
        return data

    def finish(self) -> None:
        """Hash the rest and compare."""
        self._advance(self._file.length)
        compare(self._file.path.name, self._expected, self._computed)

    def _advance(self, position: int) -> None:
        while self._position < position:
            size = min(_PIECE, position - self._position)
            self._pace.wait(size)
            piece = self._file.read(self._position, size)
            self._computed.update(piece)
            self._position += len(piece)
