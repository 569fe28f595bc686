# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images that QEMU cannot make: differencing VHD and VHDX, and snapshots of VMDKs. Byte by byte from the formats."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import struct
import uuid

from disk_files import SECTOR

MIB = 1024**2
VHD_BLOCK = 2 * MIB
PARENT_ID = uuid.UUID("11111111-2222-3333-4444-555555555555")

Writes = dict[int, bytes]
"""What a snapshot changed: data (whole sectors) by offset on the disk."""


def applied(base: pathlib.Path, writes: Writes, target: pathlib.Path) -> pathlib.Path:
    """A raw disk as ``base`` with ``writes``: what a snapshot must show."""
    content = bytearray(base.read_bytes())
    for offset, data in writes.items():
        content[offset : offset + len(data)] = data
    target.write_bytes(content)
    return target


def _by_block(writes: Writes, block: int) -> dict[int, dict[int, bytes]]:
    """The written sectors by block and number within it."""
    blocks: dict[int, dict[int, bytes]] = {}
    for offset, data in writes.items():
        for place in range(offset, offset + len(data), SECTOR):
            sector = data[place - offset : place - offset + SECTOR]
            blocks.setdefault(place // block, {})[place % block // SECTOR] = sector
    return blocks


# -- VHD ---------------------------------------------------------------------------------------------------------------


def _vhd_sum(data: bytes) -> int:
    return ~sum(data) & 0xFFFFFFFF


def vhd_footer(kind: int, size: int, *, unique: uuid.UUID = PARENT_ID, offset: int = 0xFFFFFFFFFFFFFFFF) -> bytes:
    """The footer of a VHD, by a creator whose geometry nobody believes."""
    footer = struct.pack(
        ">8sIIQI4sI4sQQHBBII16s428x",
        *(b"conectix", 2, 0x10000, offset, 0, b"win ", 0x60001, b"Wi2k", size, size),
        *(size // SECTOR // (16 * 17), 16, 17, kind, 0, unique.bytes),
    )
    return footer[:64] + struct.pack(">I", _vhd_sum(footer)) + footer[68:]


def differencing_vhd(
    path: pathlib.Path, size: int, writes: Writes, parent_name: str, *, parent: uuid.UUID = PARENT_ID, **more: uuid.UUID
) -> pathlib.Path:
    """A differencing VHD over the disk whose unique ID is ``parent``."""
    names = [(b"W2ru", parent_name.encode("utf-16-le")), (b"W2ku", ("C:\\VMs\\" + parent_name).encode("utf-16-le"))]
    entries = -(-size // VHD_BLOCK)
    header_at, locator_at, table_at = 512, 1536, 2560
    locators = b""
    for i, (code, name) in enumerate(names):
        locators += struct.pack(">4sIIIQ", code, 512, len(name), 0, locator_at + i * 512)
    header = struct.pack(
        ">8sQQIIII16sII512s192s256x",
        *(b"cxsparse", 0xFFFFFFFFFFFFFFFF, table_at, 0x10000, entries, VHD_BLOCK, 0, parent.bytes, 0, 0),
        *(parent_name.encode("utf-16-be"), locators),
    )
    header = header[:36] + struct.pack(">I", _vhd_sum(header)) + header[40:]
    footer = vhd_footer(4, size, offset=header_at, **more)
    out = bytearray(footer + header)
    for _code, name in names:
        out += name.ljust(512, b"\0")
    table = [0xFFFFFFFF] * entries
    body = bytearray()
    body_at = table_at + -(-entries * 4 // SECTOR) * SECTOR
    for block, sectors in _by_block(writes, VHD_BLOCK).items():
        table[block] = (body_at + len(body)) // SECTOR
        bitmap, data = bytearray(512), bytearray(b"\xee" * VHD_BLOCK)
        for number, sector in sectors.items():
            bitmap[number // 8] |= 0x80 >> number % 8
            data[number * SECTOR : (number + 1) * SECTOR] = sector
        body += bitmap + data
    out += struct.pack(f">{entries}I", *table).ljust(body_at - table_at, b"\xff") + body + footer
    path.write_bytes(out)
    return path


# -- VHDX --------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def crc32c(data: bytes) -> int:
    """CRC-32C bit by bit, as its definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _bit in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


def _summed(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", crc32c(data)) + data[8:]


@dataclasses.dataclass
class Vhdx:
    """A differencing VHDX. Change a field, and :meth:`build` gives another or a broken one."""

    size: int
    writes: Writes
    parent_name: str
    parent_id: str
    whole: dict[int, bytes] = dataclasses.field(default_factory=dict)
    """Blocks that are there as a whole."""
    zeroed: tuple[int, ...] = ()
    """Blocks that are zeros, whatever the parent has."""
    block: int = MIB
    sector: int = 512
    log: bytes = bytes(16)
    data_id: uuid.UUID = PARENT_ID

    def build(self, path: pathlib.Path) -> pathlib.Path:
        """Write the file: headers, BAT at 1 MiB, metadata at 2 MiB, blocks from 3 MiB on."""
        out = bytearray(3 * MIB)
        out[: 8 + 2] = b"vhdxfile" + "x".encode("utf-16-le")
        for number, place in enumerate((64 * 1024, 128 * 1024)):
            header = struct.pack(
                "<4sIQ16s16s16sHHIQ",
                *(b"head", 0, number, bytes(16), self.data_id.bytes_le, self.log, 0, 1, MIB, 3 * MIB),
            )
            out[place : place + 4096] = _summed(header.ljust(4096, b"\0"))
        regions = struct.pack("<4sIII", b"regi", 0, 2, 0)
        for guid, place in (
            ("2dc27766-f623-4200-9d64-115e9bfd4a08", MIB),
            ("8b7ca206-4790-4b9a-b8fe-575f050f886e", 2 * MIB),
        ):
            regions += struct.pack("<16sQII", uuid.UUID(guid).bytes_le, place, MIB, 1)
        for place in (192 * 1024, 256 * 1024):
            out[place : place + 65536] = _summed(regions.ljust(65536, b"\0"))
        metadata = self._metadata()
        out[2 * MIB : 2 * MIB + len(metadata)] = metadata
        out = self._blocks(out)
        path.write_bytes(out)
        return path

    def _metadata(self) -> bytes:
        names = {
            "parent_linkage": "{" + self.parent_id + "}",
            "relative_path": self.parent_name,
            "absolute_win32_path": "C:\\VMs\\" + self.parent_name,
        }
        locator = bytearray(uuid.UUID("b04aefb7-d19e-4a81-b789-25b8e9445913").bytes_le)
        locator += struct.pack("<HH", 0, len(names))
        place, tail = 20 + 12 * len(names), b""
        for key, value in names.items():
            encoded = key.encode("utf-16-le"), value.encode("utf-16-le")
            at = place + len(tail)
            locator += struct.pack("<IIHH", at, at + len(encoded[0]), len(encoded[0]), len(encoded[1]))
            tail += b"".join(encoded)
        items = {
            "caa16737-fa36-4d43-b3b6-33f0aa44e76b": struct.pack("<II", self.block, 2),
            "2fa54224-cd1b-4876-b211-5dbed83bf4b8": struct.pack("<Q", self.size),
            "8141bf1d-a96f-4709-ba47-f233a8faab5f": struct.pack("<I", self.sector),
            "cda348c7-445d-4471-9cc9-e9885251c556": struct.pack("<I", 4096),
            "a8d35f2d-b30b-454d-abf7-d3d84834ab0c": bytes(locator) + tail,
        }
        table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
        values = b""
        for guid, value in items.items():
            table += struct.pack("<16sIII4x", uuid.UUID(guid).bytes_le, 65536 + len(values), len(value), 4)
            values += value
        return table.ljust(65536, b"\0") + values

    def _blocks(self, out: bytearray) -> bytearray:
        count, ratio = -(-self.size // self.block), (1 << 23) * self.sector // self.block
        table = [0] * (-(-count // ratio) * (ratio + 1))
        bitmap = bytearray(MIB)
        for block, sectors in _by_block(self.writes, self.block).items():
            assert block < ratio
            data = bytearray(b"\xee" * self.block)
            for number, sector in sectors.items():
                absolute = block * self.block // SECTOR + number
                bitmap[absolute // 8] |= 1 << absolute % 8
                data[number * SECTOR : (number + 1) * SECTOR] = sector
            table[block] = len(out) | 7
            out += data
        for block, content in self.whole.items():
            table[block] = len(out) | 6
            out += content
        for block in self.zeroed:
            table[block] = 2
        table[ratio] = len(out) | 6
        out += bitmap
        struct.pack_into(f"<{len(table)}Q", out, MIB, *table)
        return out


# -- VMDK: the extents of ESXi's snapshots -----------------------------------------------------------------------------


def cowd_extent(path: pathlib.Path, size: int, writes: Writes) -> pathlib.Path:
    """A vmfsSparse extent with grains of one sector, the tables of 4096 grains behind the directory."""
    grains = _by_block(writes, SECTOR)
    tables = -(-size // SECTOR // 4096)
    header = struct.pack("<4sIIIIII", b"COWD", 1, 3, size // SECTOR, 1, 4, tables)
    first_table = 4 + -(-tables * 4 // SECTOR)
    out = bytearray(header.ljust(4 * SECTOR, b"\0"))
    out += struct.pack(f"<{tables}I", *(first_table + 32 * i for i in range(tables))).ljust(
        (first_table - 4) * SECTOR, b"\0"
    )
    entries = [0] * (tables * 4096)
    data_at = first_table + 32 * tables
    for index, number in enumerate(grains):
        entries[number] = data_at + index
    out += struct.pack(f"<{len(entries)}I", *entries)
    out += b"".join(sectors[0] for sectors in grains.values())
    path.write_bytes(out)
    return path


def sesparse_extent(path: pathlib.Path, size: int, writes: Writes) -> pathlib.Path:
    """A seSparse extent: grains of 4 KiB, tables of 4096 of them; each written grain must be written whole."""
    grain = 8 * SECTOR
    grains = _by_block(writes, grain)
    tables = -(-size // grain // 4096)
    directory_at, tables_at = 2, 16
    grains_at = tables_at + tables * 64
    constant = [0xCAFEBABE, 0x200000001, size // SECTOR, 8, 64, 0, 0, 0, 0, 0]
    constant += [1, 1, 0, 0, 0, 0, directory_at, tables_at - directory_at, tables_at, tables * 64]
    constant += [0, 0, 0, 0, grains_at, len(grains) * 8]
    out = bytearray(struct.pack(f"<{len(constant)}Q", *constant).ljust(SECTOR, b"\0"))
    out += struct.pack("<QQQQB", 0xCAFECAFE, 0, 0, 0, 0).ljust(SECTOR, b"\0")
    out += struct.pack(f"<{tables}Q", *(0x1000000000000000 | i for i in range(tables))).ljust(
        (tables_at - directory_at) * SECTOR, b"\0"
    )
    entries = [0] * (tables * 4096)
    for index, number in enumerate(grains):
        entries[number] = 0x3000000000000000 | (index & 0xFFF) << 48 | index >> 12
    out += struct.pack(f"<{len(entries)}Q", *entries)
    for sectors in grains.values():
        out += b"".join(sectors[i] for i in range(8))
    path.write_bytes(out)
    return path


def vmdk_descriptor(
    path: pathlib.Path, create_type: str, extents: str, *, parent: tuple[str, str] | None = None
) -> pathlib.Path:
    """A descriptor; ``parent`` is its CID and name."""
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", f"parentCID={parent[0] if parent else 'ffffffff'}"]
    lines += [f'createType="{create_type}"', *([f'parentFileNameHint="{parent[1]}"'] if parent else [])]
    path.write_text("\n".join([*lines, "# Extent description", extents, "", "# The Disk Data Base", ""]))
    return path
