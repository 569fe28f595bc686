# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A streamOptimized VMDK as VMware's own tools write it: grain tables behind their grains, directory and footer last.

``qemu-img`` puts the tables in front instead; a reader that knows only its files fails on every real export. Source:
VMware's "Virtual Disk Format 5.0" technical note, sections "Hosted Sparse Extents" and "Stream-Optimized".
"""

from __future__ import annotations

import collections
import collections.abc as c
import concurrent.futures
import os
import pathlib
import struct
import typing as t
import uuid
import zlib

from tests.guests.disk import data_blocks

_SECTOR = 512
_GRAIN_SECTORS = 128
_GRAIN = _GRAIN_SECTORS * _SECTOR
_TABLE_ENTRIES = 512
_OVERHEAD_SECTORS = 128
_DESCRIPTOR_SECTORS = 20
_DIRECTORY_AT_END = 0xFFFFFFFFFFFFFFFF
_FLAGS = 0x00030001  # newline test, compressed grains, markers
_MARKER_TABLE, _MARKER_DIRECTORY, _MARKER_FOOTER = 1, 2, 3


def write_stream_optimized(raw: pathlib.Path, vmdk: pathlib.Path) -> int:
    """Write the raw image (a multiple of 64 KiB) as ``vmdk``; returns the bytes of its grains that hold data."""
    capacity = raw.stat().st_size // _SECTOR
    tables = -(-capacity // (_GRAIN_SECTORS * _TABLE_ENTRIES))
    populated = 0
    with raw.open("rb") as source, vmdk.open("xb") as out:
        out.write(_header(capacity, _DIRECTORY_AT_END))
        out.write(_descriptor(capacity).ljust(_DESCRIPTOR_SECTORS * _SECTOR, b"\0"))
        out.seek(_OVERHEAD_SECTORS * _SECTOR)
        directory = [0] * tables
        table = [0] * _TABLE_ENTRIES
        current = -1
        for grain, packed in _compressed(data_blocks(source.fileno(), _GRAIN)):
            if grain // _TABLE_ENTRIES != current:
                if current >= 0:
                    directory[current] = _write_table(out, table)
                    table = [0] * _TABLE_ENTRIES
                current = grain // _TABLE_ENTRIES
            table[grain % _TABLE_ENTRIES] = out.tell() // _SECTOR
            _write_padded(out, struct.pack("<QI", grain * _GRAIN_SECTORS, len(packed)) + packed)
            populated += _GRAIN
        if current >= 0:
            directory[current] = _write_table(out, table)
        packed_directory = struct.pack(f"<{tables}I", *directory)
        _write_marker(out, _MARKER_DIRECTORY, -(-len(packed_directory) // _SECTOR))
        position = out.tell() // _SECTOR
        _write_padded(out, packed_directory)
        _write_marker(out, _MARKER_FOOTER, 1)
        out.write(_header(capacity, position))
        out.write(bytes(_SECTOR))  # the end-of-stream marker
    return populated


def _header(capacity: int, directory: int) -> bytes:
    fields = struct.pack(
        "<4sIIQQQQIQQQ?4sH",
        b"KDMV",
        3,
        _FLAGS,
        capacity,
        _GRAIN_SECTORS,
        1,
        _DESCRIPTOR_SECTORS,
        _TABLE_ENTRIES,
        0,  # no redundant directory in a stream
        directory,
        _OVERHEAD_SECTORS,
        False,
        b"\n \r\n",
        1,  # deflate
    )
    return fields.ljust(_SECTOR, b"\0")


def _descriptor(capacity: int) -> bytes:
    digits = uuid.uuid4().hex
    pairs = [digits[start : start + 2] for start in range(0, 32, 2)]
    cylinders = capacity // (255 * 63)
    return f"""# Disk DescriptorFile
version=1
CID={digits[:8]}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY {capacity} SPARSE "generated-stream.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.comment = ""
ddb.encoding = "UTF-8"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "{digits}"
ddb.thinProvisioned = "1"
ddb.toolsInstallType = "4"
ddb.toolsVersion = "12389"
ddb.uuid = "{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"
ddb.virtualHWVersion = "19"
""".encode()


def _compressed(blocks: c.Iterable[tuple[int, bytes]]) -> c.Iterator[tuple[int, bytes]]:
    """Grain numbers and deflated grains, in order; zlib leaves the interpreter's lock, so two threads do the work."""
    waiting: collections.deque[tuple[int, concurrent.futures.Future[bytes]]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for offset, block in blocks:
            waiting.append((offset // _GRAIN, pool.submit(zlib.compress, block.ljust(_GRAIN, b"\0"), 3)))
            if len(waiting) > 64:
                grain, future = waiting.popleft()
                yield grain, future.result()
        for grain, future in waiting:
            yield grain, future.result()


def _write_padded(out: t.BinaryIO, data: bytes) -> None:
    out.write(data.ljust(-(-len(data) // _SECTOR) * _SECTOR, b"\0"))


def _write_marker(out: t.BinaryIO, kind: int, sectors: int) -> None:
    out.write(struct.pack("<QII", sectors, 0, kind).ljust(_SECTOR, b"\0"))


def _write_table(out: t.BinaryIO, table: list[int]) -> int:
    """Returns the sector of the table."""
    _write_marker(out, _MARKER_TABLE, _TABLE_ENTRIES * 4 // _SECTOR)
    position = out.tell() // _SECTOR
    out.write(struct.pack(f"<{_TABLE_ENTRIES}I", *table))
    return position
