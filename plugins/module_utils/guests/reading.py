# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a guest's files: the questions that inspection and fixers ask, of the guest as it is or as it will be.

Paths are the guest's own, as text (``/etc/fstab``; bytes that are no UTF-8 as surrogate escapes). A missing file
raises :class:`FileNotFoundError`; everything else that is wrong with a file raises a
:class:`~..protocol.errors.JobError` that names it.
"""

from __future__ import annotations

import abc
import errno
import fnmatch
import os
import re
import stat as st
import typing as t

from ..protocol.errors import unsupported
from . import paths
from .faults import explained

#: Configuration is small; what is bigger is read through :meth:`Reading.open_fd`.
READ_LIMIT = 16 * 1024**2
#: What a pattern may match; a guest may have a million files where three are expected.
_MATCH_LIMIT = 1000


class Reading(abc.ABC):
    """Files of a guest."""

    @abc.abstractmethod
    def link_at(self, path: str) -> str | None:
        """Return the target of the symbolic link at a canonical path; None where there is none."""

    @abc.abstractmethod
    def mode_at(self, path: str) -> int:
        """Return type and permission bits of what is at a canonical path; 0 for nothing."""

    @abc.abstractmethod
    def lstat(self, path: str) -> os.stat_result:
        """Return the status of what is at ``path`` itself."""

    @abc.abstractmethod
    def stat(self, path: str) -> os.stat_result:
        """Return the status of what ``path`` leads to."""

    @abc.abstractmethod
    def open_fd(self, path: str) -> int:
        """Open a regular file for reading; the caller closes the descriptor.

        Raises:
            JobError: it is a FIFO, a device or a folder.
        """

    @abc.abstractmethod
    def read_bytes(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """Return the content of a regular file.

        Raises:
            JobError: it is no regular file, or bigger than ``limit`` bytes.
        """

    @abc.abstractmethod
    def listdir(self, path: str) -> list[str]:
        """Return the sorted names in a folder."""

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """Return the canonical path of ``path``; its last part need not exist."""
        with explained(path):
            return paths.resolve(path, self.link_at, follow=follow)

    def exists(self, path: str) -> bool:
        """Whether ``path`` leads to something."""
        return self._mode(path) != 0

    def is_file(self, path: str) -> bool:
        """Whether ``path`` leads to a regular file."""
        return st.S_ISREG(self._mode(path))

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` leads to a folder."""
        return st.S_ISDIR(self._mode(path))

    def is_symlink(self, path: str) -> bool:
        """Whether ``path`` itself is a symbolic link, dangling or not."""
        return self.link_at(self.resolve(path, follow=False)) is not None

    def readlink(self, path: str) -> str:
        """Return the target of the symbolic link at ``path``, as it is written there."""
        target = self.link_at(self.resolve(path, follow=False))
        if target is None:
            raise FileNotFoundError(errno.ENOENT, "no symbolic link", path)
        return target

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        """Return the content of a regular file as text; bytes that are no UTF-8 survive as surrogate escapes."""
        return self.read_bytes(path, limit).decode("utf-8", "surrogateescape")

    def text(self, path: str) -> str:
        """Return :meth:`read_text`, or nothing where there is no such file."""
        try:
            return self.read_text(path)
        except FileNotFoundError:
            return ""

    def names(self, path: str) -> list[str]:
        """Return :meth:`listdir`, or nothing where there is no such folder."""
        return self.listdir(path) if self.is_dir(path) else []

    def glob(self, pattern: str) -> list[str]:
        """Return the sorted paths that match; ``*``, ``?`` and ``[]`` stay within one name. Links are followed."""
        found = ["/"]
        for part in [p for p in pattern.split("/") if p]:
            step: list[str] = []
            for folder in found:
                if not re.search(r"[*?[]", part):
                    if self.exists(paths.join(folder, part)):
                        step.append(paths.join(folder, part))
                    continue
                step += [
                    paths.join(folder, name)
                    for name in self.names(folder)
                    if fnmatch.fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
                ]
            found = step
        if len(found) > _MATCH_LIMIT:
            raise unsupported(
                "GuestFolderTooBig",
                f"In the guest, more than {_MATCH_LIMIT} files match {paths.printable(pattern)}.",
                "Look at it in the guest; an operating system has a few of them.",
            )
        return found

    def files(self, *patterns: str) -> list[str]:
        """Return the regular files among :meth:`glob`'s, pattern after pattern."""
        return [path for pattern in patterns for path in self.glob(pattern) if self.is_file(path)]

    def walk(self, path: str) -> t.Iterator[tuple[str, list[str], list[str]]]:
        """Yield folder, names of folders and names of all else, from ``path`` down. Links are not followed."""
        todo = [self.resolve(path)]
        while todo:
            folder = todo.pop()
            folders: list[str] = []
            others: list[str] = []
            for name in self.listdir(folder):
                (folders if st.S_ISDIR(self.mode_at(paths.join(folder, name))) else others).append(name)
            yield folder, folders, others
            todo += [paths.join(folder, name) for name in reversed(folders)]

    def _mode(self, path: str) -> int:
        try:
            return self.mode_at(self.resolve(path))
        except FileNotFoundError:
            return 0
