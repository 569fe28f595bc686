# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values out of a file of Windows' registry, read only, within bounds.

Format: "Windows registry file format specification" of the regf project (base block, cells nk, vk, lf, lh, li, ri).
"""

from __future__ import annotations

import struct
import typing as t

_BINS = 0x1000
_ROOT = 0x24
_DATA_LIMIT = 16344
_KEYS_LIMIT = 20_000
_ASCII_KEY, _ASCII_VALUE = 0x20, 1
_INLINE = 0x80000000
_TEXTS = (1, 2)
_NUMBERS = {4: "<I", 11: "<Q"}


class Hive:
    """One such file."""

    def __init__(self, data: bytes) -> None:
        """Take the file's bytes.

        Raises:
            ValueError: it is none.
        """
        if data[:4] != b"regf" or len(data) < _BINS:
            raise ValueError("no registry file")
        self._data = data

    def values(self, path: str) -> dict[str, str | int]:
        """Return the texts and numbers of a key, by name; nothing where there is no such key.

        Args:
            path: names with backslashes between them, from the hive's root, in any case.

        Raises:
            ValueError: the file is damaged on the way.
        """
        try:
            key = self._number(_ROOT)
            for name in path.split("\\"):
                found = [k for k in self._subkeys(key) if self._key_name(k).lower() == name.lower()]
                if not found:
                    return {}
                key = found[0]
            return dict(self._values(key))
        except (struct.error, IndexError) as error:
            raise ValueError("damaged") from error

    def _cell(self, offset: int) -> int:
        """Where a cell's content begins."""
        return _BINS + offset + 4

    def _number(self, at: int, form: str = "<I") -> int:
        return t.cast(int, struct.unpack_from(form, self._data, at)[0])

    def _key_name(self, key: int) -> str:
        at = self._cell(key)
        size = self._number(at + 0x48, "<H")
        raw = self._data[at + 0x4C : at + 0x4C + size]
        return raw.decode("latin-1" if self._number(at + 2, "<H") & _ASCII_KEY else "utf-16-le", "replace")

    def _subkeys(self, key: int) -> t.Iterator[int]:
        at = self._cell(key)
        if self._data[at : at + 2] != b"nk":
            raise ValueError("damaged")
        if self._number(at + 0x14):
            yield from self._listed(self._number(at + 0x1C), 0)

    def _listed(self, offset: int, depth: int) -> t.Iterator[int]:
        at = self._cell(offset)
        kind, count = self._data[at : at + 2], self._number(at + 2, "<H")
        if count > _KEYS_LIMIT or depth > 2:
            raise ValueError("damaged")
        width = 8 if kind in (b"lf", b"lh") else 4
        for index in range(count):
            item = self._number(at + 4 + index * width)
            if kind == b"ri":
                yield from self._listed(item, depth + 1)
            else:
                yield item

    def _values(self, key: int) -> t.Iterator[tuple[str, str | int]]:
        at = self._cell(key)
        count, listed = self._number(at + 0x24), self._number(at + 0x28)
        for index in range(min(count, _KEYS_LIMIT)):
            value = self._cell(self._number(self._cell(listed) + 4 * index))
            name_size, size = self._number(value + 2, "<H"), self._number(value + 4)
            kind, flags = self._number(value + 12), self._number(value + 16, "<H")
            name = self._data[value + 20 : value + 20 + name_size]
            where = value + 8 if size & _INLINE else self._cell(self._number(value + 8))
            raw = self._data[where : where + min(size & ~_INLINE, _DATA_LIMIT)]
            text = name.decode("latin-1" if flags & _ASCII_VALUE else "utf-16-le", "replace")
            if kind in _TEXTS:
                yield text, raw.decode("utf-16-le", "replace").rstrip("\0")
            elif kind in _NUMBERS:
                yield text, t.cast(int, struct.unpack_from(_NUMBERS[kind], raw)[0])
