# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where an image's data lie: block by block, without reading them.

A virtual disk is cut into blocks of 64 KiB (the grain of a VMDK, the usual cluster of a qcow2) and regions of 4 MiB.
A map tells, region by region, which blocks hold data and where those are in the file; blocks that it leaves out are
zeros. Images that these maps do not cover are read through a flat export (:func:`.attach.export_flat`).
"""

from __future__ import annotations

import dataclasses
import typing as t

from ..protocol.errors import JobError, invalid
from . import qcow2, vdi, vhd, vhdx, vmdk
from .file_range import FileRange, truncated
from .inflate import inflate_raw, inflate_zlib
from .model import Run

BLOCK = 64 * 1024
REGION = 4 * 1024**2
BLOCKS_PER_REGION = REGION // BLOCK


class Block(t.NamedTuple):
    """One block with data."""

    number: int
    """It begins at ``number * BLOCK`` of the virtual disk."""
    offset: int
    """Where its data are stored in the file. Bytes."""
    stored: int
    """How many bytes of the file it takes to get its data; of compressed data an upper bound."""
    compressed: bool


@dataclasses.dataclass(frozen=True)
class Region:
    """The blocks with data of one region, in ascending order; at least one."""

    number: int
    blocks: list[Block]


class BlockMap(t.Protocol):
    """A map of an open image."""

    virtual_size: int
    """Bytes."""

    def regions(self) -> t.Iterator[Region]:
        """Yield the regions that hold data, in ascending order.

        Raises:
            JobError: class ``invalid``, the image contradicts itself.
        """

    def data_bytes(self) -> int:
        """Roughly how many bytes of the virtual disk the regions hold."""

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """Return the block's data (``BLOCK`` bytes, less where disk or file end) from its stored bytes. Thread-safe.

        Raises:
            JobError: class ``invalid``, the stored bytes are broken.
        """


class RawMap:
    """A flat file: what is no hole is data."""

    def __init__(self, file: FileRange, virtual_size: int) -> None:
        self._file = file
        self.virtual_size = virtual_size

    def regions(self) -> t.Iterator[Region]:
        """See :class:`BlockMap`."""
        return _by_region(self._blocks())

    def data_bytes(self) -> int:
        """See :class:`BlockMap`."""
        return sum(end - begin for begin, end in self._runs())

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """See :class:`BlockMap`."""
        return stored

    def _blocks(self) -> t.Iterator[Block]:
        following = 0
        for begin, end in self._runs():
            for number in range(max(following, begin // BLOCK), -(-end // BLOCK)):
                offset = number * BLOCK
                yield Block(number, offset, min(BLOCK, self._file.length - offset), False)
                following = number + 1

    def _runs(self) -> t.Iterator[tuple[int, int]]:
        found = self._file.next_data(0)
        while found is not None:
            yield found
            found = self._file.next_data(found[1])


class SparseVmdkMap:
    """A sparse VMDK extent with grains of one block."""

    def __init__(self, file: FileRange, extent: vmdk.SparseExtent) -> None:
        self._file = file
        self._extent = extent
        self.virtual_size = extent.virtual_size
        self._bound = min(vmdk.GRAIN_MARKER.size + 2 * BLOCK if extent.compressed else BLOCK, file.length)

    def regions(self) -> t.Iterator[Region]:
        """See :class:`BlockMap`."""
        return _by_region(self._blocks())

    def data_bytes(self) -> int:
        """See :class:`BlockMap`."""
        return self._extent.check() * BLOCK

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """See :class:`BlockMap`."""
        size = min(BLOCK, self.virtual_size - block.number * BLOCK)
        if not block.compressed:
            if len(stored) < size:
                raise truncated(self._file.path)
            return stored[:size]
        if len(stored) < vmdk.GRAIN_MARKER.size:
            raise truncated(self._file.path)
        lba, length = vmdk.GRAIN_MARKER.unpack_from(stored)
        if lba * vmdk.SECTOR != block.number * BLOCK or length > 2 * BLOCK:
            raise self._broken(block, "its marker does not fit its place in the grain table")
        begin = vmdk.GRAIN_MARKER.size
        if begin + length > len(stored):
            raise truncated(self._file.path)
        data = inflate_zlib(stored[begin : begin + length], BLOCK)
        # Some writers pad the disk's last grain to a whole one.
        if data is None or len(data) not in (size, BLOCK):
            raise self._broken(block, "it does not inflate to a grain")
        return data if len(data) == size else data[:size]

    def _blocks(self) -> t.Iterator[Block]:
        length, bound, compressed = self._file.length, self._bound, self._extent.compressed
        for first, table in self._extent.tables():
            grains = [(first + i, sector * vmdk.SECTOR) for i, sector in enumerate(table) if sector]
            followers = [*(offset for _number, offset in grains[1:]), 0]
            for (number, offset), following in zip(grains, followers, strict=False):
                # A compressed grain ends before the one that follows it in the file, as writers have it.
                end = following if following > offset else length
                yield Block(number, offset, min(bound, end - offset), compressed)

    def _broken(self, block: Block, why: str) -> JobError:
        return invalid(
            "BadVmdk",
            f"{self._file.path.name}: the grain at byte {block.number * BLOCK} of the disk is damaged: {why}.",
            "Export or upload it again.",
        )


class RunsMap:
    """A dynamic VHD, VHDX or VDI: whole blocks of 64 KiB or more, each as it is."""

    def __init__(self, virtual_size: int, runs: t.Callable[[], t.Iterator[Run]]) -> None:
        """Take ``runs``, which yields what is stored: ascending, each beginning at a multiple of 64 KiB."""
        self._runs = runs
        self.virtual_size = virtual_size

    def regions(self) -> t.Iterator[Region]:
        """See :class:`BlockMap`."""
        return _by_region(self._blocks())

    def data_bytes(self) -> int:
        """See :class:`BlockMap`."""
        return sum(run.length for run in self._runs())

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """See :class:`BlockMap`."""
        return stored

    def _blocks(self) -> t.Iterator[Block]:
        for begin, length, stored in self._runs():
            if stored is not None:
                for place in range(0, length, BLOCK):
                    yield Block((begin + place) // BLOCK, stored + place, min(BLOCK, length - place), False)


def _vhd_runs(file: FileRange, header: vhd.Vhd) -> t.Iterator[Run]:
    """Like QEMU this takes no notice of the bitmaps: sectors that a dynamic disk has not written are zeros."""
    bitmap = vhd.bitmap_size(header)
    for number, offset in vhd.blocks(file, header):
        begin = number * header.block_size
        yield Run(begin, min(header.block_size, header.size - begin), offset + bitmap)


class Qcow2Map:
    """A qcow2 image with clusters of one block or more, uncompressed or (clusters of one block) by deflate."""

    def __init__(self, file: FileRange, header: qcow2.Header) -> None:
        self._file = file
        self._header = header
        self._tables = qcow2.Tables(file, header)
        self.virtual_size = header.size

    def regions(self) -> t.Iterator[Region]:
        """See :class:`BlockMap`."""
        return _by_region(self._blocks())

    def data_bytes(self) -> int:
        """See :class:`BlockMap`."""
        return sum(len(table) - table.count(0) for _first, table in self._tables.l2_tables()) << (
            self._header.cluster_bits
        )

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """See :class:`BlockMap`."""
        size = min(BLOCK, self.virtual_size - block.number * BLOCK)
        if not block.compressed:
            return stored[:size]
        data = inflate_raw(stored, BLOCK)
        if data is None:
            raise invalid(
                "BadQcow2",
                f"{self._file.path.name}: the cluster at byte {block.number * BLOCK} of the disk is damaged.",
                "Export or upload it again.",
            )
        return data[:size]

    def _blocks(self) -> t.Iterator[Block]:
        bits, length = self._header.cluster_bits, self._file.length
        per_cluster = (1 << bits) // BLOCK
        blocks = -(-self.virtual_size // BLOCK)
        # Of a compressed cluster's entry the low bits are its offset, those above count further 512-byte sectors.
        sectors_shift = 62 - (bits - 8)
        offset_mask, sectors_mask = (1 << sectors_shift) - 1, (1 << (bits - 8)) - 1
        for first, table in self._tables.l2_tables():
            for i, entry in enumerate(table):
                if not entry:
                    continue
                if entry & qcow2.FLAG_COMPRESSED:
                    offset = entry & offset_mask
                    stored = (((entry >> sectors_shift) & sectors_mask) + 1) * 512 - offset % 512
                    # The last sector may be counted though the file ends within it.
                    stored = min(stored, length - offset)
                    if stored <= 0:
                        raise truncated(self._file.path)
                    yield Block(first + i, offset, stored, True)
                elif entry & qcow2.OFFSET_MASK and not entry & qcow2.FLAG_ZERO:
                    offset = entry & qcow2.OFFSET_MASK
                    if offset >= length:
                        raise truncated(self._file.path)
                    for k in range(per_cluster):
                        number, begin = (first + i) * per_cluster + k, offset + k * BLOCK
                        if number < blocks and begin < length:
                            yield Block(number, begin, min(BLOCK, length - begin), False)


class RestrictedMap:
    """Of another map only the blocks that touch given ranges of the disk; the others count as zeros."""

    def __init__(self, blocks: BlockMap, ranges: t.Sequence[tuple[int, int]]) -> None:
        """Restrict ``blocks`` to ``ranges``: begins and ends in bytes, ascending, not overlapping."""
        self._blocks = blocks
        self._ranges = ranges
        self.virtual_size = blocks.virtual_size

    def regions(self) -> t.Iterator[Region]:
        """See :class:`BlockMap`."""
        index = 0
        for region in self._blocks.regions():
            kept = []
            for block in region.blocks:
                begin = block.number * BLOCK
                while index < len(self._ranges) and self._ranges[index][1] <= begin:
                    index += 1
                if index == len(self._ranges):
                    break
                if self._ranges[index][0] < begin + BLOCK:
                    kept.append(block)
            if kept:
                yield Region(region.number, kept)
            if index == len(self._ranges):
                return

    def data_bytes(self) -> int:
        """See :class:`BlockMap`."""
        return min(self._blocks.data_bytes(), sum(end - begin for begin, end in self._ranges))

    def decode(self, block: Block, stored: memoryview) -> bytes | memoryview:
        """See :class:`BlockMap`."""
        return self._blocks.decode(block, stored)


def native_map(file: FileRange, fmt: str, virtual_size: int) -> BlockMap | None:
    """Return a map of an image, or None where only QEMU can read it (snapshots, other grain sizes, zstd …).

    Args:
        file: the image, open.
        fmt: its format; a VHD is a dynamic one.
        virtual_size: bytes; used for raw.

    Raises:
        JobError: class ``invalid``, its tables are broken; class ``unsupported``, see :func:`.qcow2.read_header`.
    """
    if fmt == "raw":
        return RawMap(file, virtual_size)
    if fmt == "vhd":
        dynamic = vhd.read_vhd(file)
        return RunsMap(dynamic.size, lambda: _vhd_runs(file, dynamic))
    if fmt == "vhdx":
        hyperv = vhdx.read_vhdx(file)
        return None if hyperv.differencing else RunsMap(hyperv.size, lambda: vhdx.blocks(file, hyperv))
    if fmt == "vdi":
        box = vdi.read_vdi(file)
        return RunsMap(box.size, lambda: vdi.blocks(file, box))
    if fmt == "vmdk":
        if file.read(0, len(vmdk.MAGIC)) != vmdk.MAGIC:
            return None
        extent = vmdk.SparseExtent(file)
        whole = extent.descriptor is not None and not extent.descriptor.has_parent
        return SparseVmdkMap(file, extent) if whole and extent.grain_size == BLOCK else None
    if fmt != "qcow2":
        return None
    header = qcow2.read_header(file)
    if header.backing is not None or header.extended_l2 or header.zstd or (1 << header.cluster_bits) < BLOCK:
        return None
    if (1 << header.cluster_bits) > BLOCK and _has_compressed(qcow2.Tables(file, header)):
        return None
    return Qcow2Map(file, header)


def _by_region(blocks: t.Iterator[Block]) -> t.Iterator[Region]:
    number, found = -1, list[Block]()
    for block in blocks:
        region = block.number // BLOCKS_PER_REGION
        if region != number and found:
            yield Region(number, found)
            found = []
        number = region
        found.append(block)
    if found:
        yield Region(number, found)


def _has_compressed(tables: qcow2.Tables) -> bool:
    return any(entry & qcow2.FLAG_COMPRESSED for _first, table in tables.l2_tables() for entry in table)
