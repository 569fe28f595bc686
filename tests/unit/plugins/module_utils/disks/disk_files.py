# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images for tests: content that shows mistakes, and VMDK files laid out byte by byte."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import struct
import subprocess
import zlib

SECTOR = 512
GRAIN = 64 * 1024
FLAGS_STREAM = 0x00030001
AT_END = 0xFFFFFFFFFFFFFFFF


def qemu_img(*arguments: str | pathlib.Path) -> str:
    """Run qemu-img, the oracle of these tests."""
    done = subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def identical(left: pathlib.Path, left_format: str, right: pathlib.Path, right_format: str) -> bool:
    """Whether QEMU reads the same from both."""
    command = ["qemu-img", "compare", "-q", "-f", left_format, "-F", right_format, str(left), str(right)]
    return subprocess.run(command, check=False).returncode == 0


def readable(path: pathlib.Path, fmt: str) -> bool:
    """Whether QEMU opens it."""
    command = ["qemu-img", "info", "-f", fmt, str(path)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def make_raw(path: pathlib.Path, size: int, seed: int = 1) -> pathlib.Path:
    """A sparse raw disk with text-like, random and zero blocks, holes, and data at both ends and in the middle."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(size)
        blocks = size // GRAIN
        for number in sorted({0, 1, 2, 64, blocks - 1, *(chance.randrange(blocks) for dummy in range(40))}):
            if not 0 <= number < blocks:
                continue
            kind = chance.randrange(4)
            file.seek(number * GRAIN)
            if kind == 0:
                file.write(chance.randbytes(GRAIN))
            elif kind == 1:
                file.write(f"block {number} ".encode() * (GRAIN // 20))
            elif kind == 2:
                file.write(bytes(GRAIN))
            else:
                file.seek(number * GRAIN + chance.randrange(GRAIN - 10))
                file.write(b"needle")
        file.seek(size - 3)
        file.write(b"end")
    return path


@dataclasses.dataclass
class StreamVmdk:
    """A streamOptimized VMDK as VMware writes it. Change a field, and :meth:`build` gives a broken one."""

    grains: dict[int, bytes]
    """Uncompressed data by number of the grain."""
    capacity: int = 64 * 1024**2
    version: int = 3
    flags: int = FLAGS_STREAM
    grain_sectors: int = 128
    entries: int = 512
    header_capacity: int | None = None
    gd_in_header: int = AT_END
    gd_in_footer: int | None = None
    packed: dict[int, bytes] = dataclasses.field(default_factory=dict)
    """What stands in the file for a grain, instead of its deflated data."""
    lbas: dict[int, int] = dataclasses.field(default_factory=dict)
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)
    cleared: set[int] = dataclasses.field(default_factory=set)
    """Grains that are in the stream and not in their table."""
    descriptor_tail: str = ""
    descriptor_cut: str = ""
    """A NUL stands where this word begins, as in a descriptor that was cut short."""
    overhead: int = 128
    """Sectors in front of the first grain, as both headers tell it."""
    parent: str = "ffffffff"
    footer_marker: int = 3
    end_of_stream: bytes = bytes(SECTOR)
    tail: bytes = b""
    reverse: bool = False
    """Write the grains from the last to the first."""

    def build(self, path: pathlib.Path) -> pathlib.Path:
        """Write the file."""
        out = bytearray(self._header(self.gd_in_header, self.header_capacity))
        descriptor = (
            f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID={self.parent}\ncreateType="streamOptimized"\n'
            f'RDONLY {self.capacity // SECTOR} SPARSE "x.vmdk"\n{self.descriptor_tail}'
        )
        if self.descriptor_cut:
            descriptor = descriptor.replace(f"\n{self.descriptor_cut}=", f"\n\0{self.descriptor_cut}=")
        out += descriptor.encode().ljust(20 * SECTOR, b"\0")
        out = out.ljust(128 * SECTOR, b"\0")
        per_table = self.entries * self.grain_sectors * SECTOR
        tables: dict[int, list[int]] = {}
        for number in sorted(self.grains, reverse=self.reverse):
            packed = self.packed.get(number, zlib.compress(self.grains[number]))
            table = tables.setdefault(number // self.entries, [0] * self.entries)
            if number not in self.cleared:
                table[number % self.entries] = len(out) // SECTOR
            lba = self.lbas.get(number, number * self.grain_sectors)
            out += _padded(struct.pack("<QI", lba, self.sizes.get(number, len(packed))) + packed)
        directory = [0] * -(-self.capacity // per_table)
        for index, table in tables.items():
            out += _marker(1, 4)
            directory[index] = len(out) // SECTOR
            out += _padded(struct.pack(f"<{self.entries}I", *table))
        out += _marker(2, 1)
        position = len(out) // SECTOR if self.gd_in_footer is None else self.gd_in_footer
        out += _padded(struct.pack(f"<{len(directory)}I", *directory))
        out += _marker(self.footer_marker, 1)
        out += self._header(position, None)
        out += self.end_of_stream + self.tail
        path.write_bytes(out)
        return path

    def _header(self, directory: int, capacity: int | None) -> bytes:
        return struct.pack(
            "<4sIIQQQQIQQQ?4sH",
            b"KDMV",
            self.version,
            self.flags,
            self.capacity // SECTOR if capacity is None else capacity,
            self.grain_sectors,
            1,
            20,
            self.entries,
            0,
            directory,
            self.overhead,
            False,
            b"\n \r\n",
            1,
        ).ljust(SECTOR, b"\0")


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")


def _marker(kind: int, sectors: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")
