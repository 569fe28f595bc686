# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files laid over an initramfs: as few entries as possible, none that changes anything else."""

from __future__ import annotations

import posixpath
import stat

from ...protocol.errors import unsupported
from . import cpio
from .rootfs import RootFs


class Additions:
    """Collects files for an appended archive, against the root that the initramfs unpacks to.

    No entry is made for a folder that exists, nor over a link: where a name leads through links, the file goes to
    where they lead. A file with several names is replaced by a new one, so that its other names keep their content.
    """

    def __init__(self, root: RootFs) -> None:
        self._before = root
        self.current = root.copy()
        """What the root will be with all that was added so far."""
        self._entries: list[cpio.Entry] = []
        self._written: set[str] = set()

    def put(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file, or give an existing one new bytes (it keeps its mode).

        Raises:
            JobError: (unsupported) there is something at this name, or on the way, that is no file or folder.
        """
        path = self._destination(name)
        node = self.current.nodes.get(path)
        if node is not None:
            if node.data == data and node.size == len(data):
                return
            mode = stat.S_IMODE(node.mode)
            if node.names > 1:
                # A link always takes the place of what is there, and a file that of a link: no write in place.
                self._emit(cpio.symlink(path, "/"))
        self._emit(cpio.file(path, data, mode))

    def relink(self, name: str, target: str) -> None:
        """Let an existing link lead to another target."""
        path = self.current.locate(name)
        if not (path is not None and self.current.nodes[path].type == stat.S_IFLNK):
            raise AssertionError(name)
        self._emit(cpio.symlink(path, target))

    def _destination(self, name: str) -> str:
        path = self.current.resolve(name)
        if path is not None:
            if self.current.nodes[path].type == stat.S_IFREG:
                return path
            raise self._in_the_way(name)
        folder = self._folder(posixpath.dirname(name))
        path = posixpath.join(folder, posixpath.basename(name))
        if path in self.current.nodes:
            raise self._in_the_way(name)
        return path

    def _folder(self, name: str) -> str:
        path = self.current.resolve(name)
        if path is None:
            path = posixpath.join(self._folder(posixpath.dirname(name)), posixpath.basename(name))
            if path in self.current.nodes:
                raise self._in_the_way(name)
            self._emit(cpio.directory(path))
        elif self.current.nodes[path].type != stat.S_IFDIR:
            raise self._in_the_way(name)
        return path

    def _in_the_way(self, name: str) -> Exception:
        return unsupported(
            "InitramfsNotPatchable",
            f"In the initramfs, something that is neither a file nor a folder is in the way of /{name}.",
            "Rebuild the initramfs in the guest with virtio drivers before the move.",
        )

    def _emit(self, entry: cpio.Entry) -> None:
        self.current.unpack(entry)
        self._entries.append(entry)
        self._written.add(entry.name)

    def archive(self) -> bytes | None:
        """The archive, None where there is nothing to add; checked by unpacking it once more from its bytes.

        Raises:
            AssertionError: unpacking would change anything but the files that were put (a mistake in this module).
        """
        if not self._entries:
            return None
        data = cpio.write_archive(self._entries)
        after = self._before.copy()
        for entry in cpio.read_entries(cpio.MemoryStream(data), lambda name, size: True):
            if entry.name != cpio.TRAILER:
                after.unpack(entry)
        if after.lost != self._before.lost:
            raise AssertionError(after.lost)
        for path, node in self._before.nodes.items():
            now = after.nodes[path]
            if now.type != node.type:
                raise AssertionError(f"{path} would change its type")
            if not (path in self._written or (now.mode, now.size, now.data) == (node.mode, node.size, node.data)):
                raise AssertionError(path)
        if not (after.nodes.keys() - self._before.nodes.keys() <= self._written):
            raise AssertionError("after.nodes.keys() - self._before.nodes.keys() <= self._written")
        return data
