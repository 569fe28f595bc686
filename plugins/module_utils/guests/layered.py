# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's files as they will be: planned changes laid over a tree that stays as it is."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat as st
import typing as t

from .faults import check_size
from .reading import READ_LIMIT, Reading
from .tree import GuestTree, Owner

#: The biggest file that is appended to or replaced: an initramfs is tens of megabytes.
CHANGE_LIMIT = 1024**3

Kind = t.Literal["write", "append", "symlink", "remove", "mkdir"]


@dataclasses.dataclass
class Entry:
    """What a path will be. ``seen`` is the digest of the guest's own content that the plan was made from."""

    kind: Kind
    seen: str | None
    data: bytes = b""
    """Of ``write`` all, of ``append`` what comes behind the guest's own."""
    target: str = ""
    mode: int | None = None
    owner: Owner | None = None


class LayeredTree(Reading):
    """The reading methods of :class:`GuestTree`, which see planned changes."""

    def __init__(self, tree: GuestTree) -> None:
        self.tree = tree
        self._entries: dict[str, Entry] = {}

    def link_at(self, path: str) -> str | None:
        """As :meth:`Reading.link_at`."""
        entry = self._entries.get(path)
        if entry is None:
            return self.tree.link_at(path)
        return entry.target if entry.kind == "symlink" else None

    def stat(self, path: str) -> os.stat_result:
        """Return the status in the guest as it is, of what ``path`` will lead to."""
        return self.tree.stat(self.resolve(path))

    def lstat(self, path: str) -> os.stat_result:
        """Return the status in the guest as it is, of what is at ``path`` itself."""
        return self.tree.lstat(self.resolve(path, follow=False))

    def open_fd(self, path: str) -> int:
        """As :meth:`Reading.open_fd`; a file with planned changes comes from memory."""
        path = self.resolve(path)
        if path not in self._entries:
            return self.tree.open_fd(path)
        file = os.memfd_create("guest-file", os.MFD_CLOEXEC)
        with open(file, "r+b", closefd=False) as stream:
            stream.write(self.read_bytes(path, CHANGE_LIMIT))
            stream.seek(0)
        return file

    def read_bytes(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """As :meth:`Reading.read_bytes`."""
        path = self.resolve(path)
        entry = self._entries.get(path)
        if entry is None:
            return self.tree.read_bytes(path, limit)
        if entry.kind == "append":
            return self.tree.read_bytes(path, limit) + entry.data
        if entry.kind != "write":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        check_size(path, len(entry.data), limit)
        return entry.data

    def listdir(self, path: str) -> list[str]:
        """As :meth:`Reading.listdir`."""
        path = self.resolve(path)
        above = path.rstrip("/") + "/"
        planned = {p[len(above) :]: e.kind != "remove" for p, e in self._entries.items() if p.startswith(above)}
        try:
            names = set(self.tree.listdir(path))
        except FileNotFoundError:
            if not any(planned.values()) and path not in self._entries:
                raise
            names = set()
        names -= {name for name, stays in planned.items() if not stays}
        return sorted(names | {name.partition("/")[0] for name, stays in planned.items() if stays})

    def mode_at(self, path: str) -> int:
        """As :meth:`Reading.mode_at`; of what is planned the type alone."""
        entry = self._entries.get(path)
        if entry is not None:
            kinds = {"symlink": st.S_IFLNK, "mkdir": st.S_IFDIR, "remove": 0}
            return kinds.get(entry.kind, st.S_IFREG)
        above = path.rstrip("/") + "/"
        implied = any(p.startswith(above) and e.kind != "remove" for p, e in self._entries.items())
        return self.tree.mode_at(path) or (st.S_IFDIR if implied else 0)
