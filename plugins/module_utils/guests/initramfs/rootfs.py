# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel's first root holds once archives were unpacked into it, entry by entry, as init/initramfs.c does it.

An entry over a node of another type replaces it (a directory over a link destroys the link); a file over a file is
truncated and rewritten *in place*, so that its hard links change too; a link is always replaced; a directory over a
directory stays. Parents must exist and are reached through links.
"""

from __future__ import annotations

import dataclasses
import posixpath
import stat
import typing as t

from . import cpio

_LINKS_FOLLOWED = 40


@dataclasses.dataclass
class Node:
    """One file, directory, link or device of the root."""

    type: int
    """``stat.S_IFREG`` and its kin."""
    mode: int
    size: int = 0
    data: bytes | None = b""
    """Bytes of a file (None: not kept) or target of a link."""
    names: int = 1
    """How many names the node has."""


class RootFs:
    """The nodes by canonical path: no leading slash, no link on the way."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {"": Node(stat.S_IFDIR, 0o755)}
        self.lost: list[str] = []
        """Names that the kernel would not create, because their parent is no directory."""
        self._linked: dict[tuple[int, int], Node] = {}
        self._parents: dict[str, str | None] = {}

    def copy(self) -> RootFs:
        """An independent copy."""
        other = RootFs()
        copies = {id(node): dataclasses.replace(node) for node in self.nodes.values()}
        other.nodes = {path: copies[id(node)] for path, node in self.nodes.items()}
        other.lost = list(self.lost)
        return other

    def locate(self, name: str) -> str | None:
        """The canonical path of ``name``, its last part not followed; None where a parent is no directory."""
        parent, last = posixpath.split(posixpath.normpath("/" + name)[1:])
        if parent not in self._parents:
            self._parents[parent] = self.resolve(parent)
        real = self._parents[parent]
        if real is None or self.nodes[real].type != stat.S_IFDIR:
            return None
        return f"{real}/{last}" if real else last

    def resolve(self, name: str) -> str | None:
        """The canonical path of the node that ``name`` leads to, links followed; None where there is none."""
        pending = [part for part in reversed(name.split("/")) if part not in ("", ".")]
        path, followed = "", 0
        while pending:
            part = pending.pop()
            if part == "..":
                path = posixpath.dirname(path)
                continue
            here = f"{path}/{part}" if path else part
            node = self.nodes.get(here)
            if node is None:
                return None
            if node.type != stat.S_IFLNK:
                path = here
                continue
            followed += 1
            target = (node.data or b"").decode("utf-8", "surrogateescape")
            if followed > _LINKS_FOLLOWED:
                return None
            if target.startswith("/"):
                path = ""
            pending += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return path

    def get(self, name: str) -> Node | None:
        """The node that ``name`` leads to, links followed."""
        path = self.resolve(name)
        return None if path is None else self.nodes[path]

    def read(self, name: str) -> bytes | None:
        """A regular file's bytes; None where there is none, or its bytes were not kept."""
        node = self.get(name)
        return node.data if node is not None and node.type == stat.S_IFREG else None

    def below(self, folder: str) -> t.Iterator[str]:
        """The canonical paths below the folder that ``folder`` leads to."""
        real = self.resolve(folder)
        if real is not None:
            prefix = f"{real}/" if real else ""
            yield from (path for path in self.nodes if path.startswith(prefix) and path)

    def end_archive(self) -> None:
        """Forget inode numbers: they join hard links within one archive only."""
        self._linked.clear()

    def unpack(self, entry: cpio.Entry) -> None:
        """Do with one entry what the kernel does."""
        if posixpath.normpath("/" + entry.name) == "/":
            return
        path = self.locate(entry.name)
        if path is None:
            self.lost.append(entry.name)
            return
        old = self.nodes.get(path)
        kind = entry.type
        if old is not None and (kind == stat.S_IFLNK or old.type != kind):
            if old.type == stat.S_IFDIR:
                if any(name.startswith(path + "/") for name in self.nodes):
                    self.lost.append(entry.name)
                    return
            else:
                old.names -= 1
            del self.nodes[path]
            old = None
        if kind in (stat.S_IFDIR, stat.S_IFLNK):
            self._parents.clear()
        if kind == stat.S_IFREG:
            self._unpack_file(path, old, entry)
        elif old is None:
            self.nodes[path] = Node(kind, entry.mode, entry.size, entry.data)
        else:
            old.mode = entry.mode

    def _unpack_file(self, path: str, old: Node | None, entry: cpio.Entry) -> None:
        key = (entry.inode, entry.mode)
        first = self._linked.get(key) if entry.nlink >= 2 else None
        if first is not None:
            # The kernel links the new name to the first one; the data come with the last name.
            if old is not None and old is not first:
                old.names -= 1
            if old is not first:
                first.names += 1
            self.nodes[path] = first
            if entry.size:
                first.size, first.data = entry.size, entry.data
            return
        if old is None:
            old = self.nodes[path] = Node(stat.S_IFREG, entry.mode)
        old.mode, old.size, old.data = entry.mode, entry.size, entry.data
        if entry.nlink >= 2:
            self._linked[key] = old
