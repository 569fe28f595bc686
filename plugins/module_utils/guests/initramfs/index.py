# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod's binary indexes (``modules.dep.bin``, ``modules.alias.bin``): a trie of keys, each with values by priority.

Format: kmod's shared/… libkmod-index.h and tools/depmod.c, unchanged since module-init-tools 3.10. Big-endian words;
magic, version 2.1, the root's offset; a node is (each part only where its flag is set in the top bits of the offset
that leads to it) a NUL-ended prefix; first and last child's character and one offset for each character between; the
count of values, each a priority and a NUL-ended string.
"""

from __future__ import annotations

import struct

_MAGIC = 0xB007F457
_VERSION = 0x00020001
_PREFIX, _VALUES, _CHILDREN, _OFFSET = 0x80000000, 0x40000000, 0x20000000, 0x0FFFFFFF
#: Bounds far above what any distribution's modules need: an index may be a graph that looks like an endless tree.
_DEPTH_LIMIT = 512
_KEY_LIMIT = 4096
_VALUE_LIMIT = 64 * 1024
_NODES_LIMIT = 500_000
_ITEMS_LIMIT = 500_000

#: Key, priority (lower comes first), value.
Item = tuple[str, int, str]


class CorruptIndexError(ValueError):
    """The bytes are no index that this version of the format describes."""


def read_index(data: bytes) -> list[Item]:
    """Return all items in the order of their keys.

    Raises:
        CorruptIndexError: another format or version, or damaged.
    """
    items: list[Item] = []
    try:
        magic, version, root = struct.unpack_from(">III", data)
        if magic != _MAGIC or version >> 16 != _VERSION >> 16:
            raise CorruptIndexError("no index of version 2")
        if root:
            _read_node(data, root, "", items, 0, [_NODES_LIMIT])
    except (struct.error, ValueError, IndexError) as error:
        raise CorruptIndexError(str(error)) from error
    return items


def _read_node(data: bytes, pointer: int, key: str, items: list[Item], depth: int, nodes: list[int]) -> None:
    """Read a node and all below it; ``nodes`` holds how many more there may be."""
    at = pointer & _OFFSET
    nodes[0] -= 1
    if depth > _DEPTH_LIMIT or nodes[0] < 0:
        raise CorruptIndexError("the tree has a loop")
    if pointer & _PREFIX:
        end = data.index(b"\0", at, at + _KEY_LIMIT)
        key += data[at:end].decode("ascii")
        at = end + 1
    if len(key) > _KEY_LIMIT:
        raise CorruptIndexError("a key is longer than any")
    children: tuple[int, ...] = ()
    first = 0
    if pointer & _CHILDREN:
        first, last = data[at], data[at + 1]
        children = struct.unpack_from(f">{max(0, last - first + 1)}I", data, at + 2)
        at += 2 + 4 * len(children)
    if pointer & _VALUES:
        (count,) = struct.unpack_from(">I", data, at)
        at += 4
        for dummy in range(count):
            if len(items) >= _ITEMS_LIMIT:
                raise CorruptIndexError("it has more items than any")
            (priority,) = struct.unpack_from(">I", data, at)
            end = data.index(b"\0", at + 4, at + 4 + _VALUE_LIMIT)
            items.append((key, priority, data[at + 4 : end].decode("utf-8", "surrogateescape")))
            at = end + 1
    for character, child in enumerate(children, first):
        if child:
            _read_node(data, child, key + chr(character), items, depth + 1, nodes)


def write_index(items: list[Item]) -> bytes:
    """Return the index of the items; keys must be ASCII. For depmod's own items it gives depmod's own bytes."""
    out = bytearray(struct.pack(">III", _MAGIC, _VERSION, 0))
    ordered = sorted(items, key=lambda item: (item[0], item[1]))
    root = _write_node(out, ordered, 0)
    struct.pack_into(">I", out, 8, root)
    return bytes(out)


def _write_node(out: bytearray, items: list[Item], depth: int) -> int:
    """Write the node for sorted items that share their first ``depth`` characters; return the pointer to it."""
    shortest, longest = (items[0][0], items[-1][0]) if items else ("", "")
    end = depth
    while end < min(len(shortest), len(longest)) and shortest[end] == longest[end]:
        end += 1
    own = [item for item in items if len(item[0]) == end]
    groups: dict[str, list[Item]] = {}
    for item in items[len(own) :]:
        groups.setdefault(item[0][end], []).append(item)
    offsets = {character: _write_node(out, group, end + 1) for character, group in groups.items()}
    pointer = len(out)
    if end > depth:
        out += shortest[depth:end].encode("ascii") + b"\0"
        pointer |= _PREFIX
    if offsets:
        first, last = ord(min(offsets)), ord(max(offsets))
        out += bytes((first, last))
        out += b"".join(struct.pack(">I", offsets.get(chr(code), 0)) for code in range(first, last + 1))
        pointer |= _CHILDREN
    if own:
        out += struct.pack(">I", len(own))
        for dummy, priority, value in own:
            out += struct.pack(">I", priority) + value.encode("utf-8", "surrogateescape") + b"\0"
        pointer |= _VALUES
    return pointer
