# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files of Windows' registry made of a few keys, for tests of what is read from them."""

from __future__ import annotations

import struct
import typing as t

Values = dict[str, t.Union[str, int]]  # noqa: UP007 (evaluated at run time)


def hive(path: str, values: Values, *, beside: int = 0, kind: bytes = b"lh") -> bytes:
    """A hive with one path of keys; at each step there are ``beside`` other keys before the one that leads on."""
    cells = bytearray(b"hbin".ljust(32, b"\0"))

    def cell(data: bytes) -> int:
        offset = len(cells)
        size = -(-(len(data) + 4) // 8) * 8
        cells.extend(struct.pack("<i", -size) + data.ljust(size - 4, b"\0"))
        return offset

    def key(name: str, subkeys: list[int], listed: dict[str, str | int]) -> int:
        width = 8 if kind != b"li" else 4
        index = cell(
            kind + struct.pack("<H", len(subkeys)) + b"".join(struct.pack("<I", k).ljust(width, b"\0") for k in subkeys)
        )
        if kind == b"lf":
            # A list of lists.
            index = cell(b"ri" + struct.pack("<HI", 1, index))
        made = []
        for title, value in listed.items():
            raw = struct.pack("<I", value) if isinstance(value, int) else (value + "\0").encode("utf-16-le")
            inline = len(raw) <= 4
            where = int.from_bytes(raw, "little") if inline else cell(raw)
            size = len(raw) | (0x80000000 if inline else 0)
            head = struct.pack("<HIIIHH", len(title), size, where, 4 if isinstance(value, int) else 1, 1, 0)
            made.append(cell(b"vk" + head + title.encode()))
        values_at = cell(b"".join(struct.pack("<I", v) for v in made))
        record = bytearray(0x4C)
        record[:4] = b"nk" + struct.pack("<H", 0x20)
        struct.pack_into("<II", record, 0x14, len(subkeys), 0)
        struct.pack_into("<I", record, 0x1C, index)
        struct.pack_into("<II", record, 0x24, len(made), values_at)
        struct.pack_into("<H", record, 0x48, len(name))
        return cell(bytes(record) + name.encode())

    names = path.split("\\")
    last = key(names[-1], [], values)
    for name in reversed(["ROOT", *names[:-1]]):
        last = key(name, [*(key(f"a{n}", [], {}) for n in range(beside)), last], {})
    header = bytearray(b"regf".ljust(0x1000, b"\0"))
    struct.pack_into("<I", header, 0x24, last)
    return bytes(header) + bytes(cells)
