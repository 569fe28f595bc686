# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of an EFI system partition on a host whose kernel has no vfat, by mtools."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import stat as st
import tempfile
import typing as t

from ..disks.command import run_command

# mtools expands patterns in names; a loader's names need nothing else than these.
_NAME = re.compile(r"^[\w .,()+@=&#$%!'{}~^-]+$", re.ASCII)


class EspFiles:
    """A FAT filesystem's files and folders; names are compared without case. Sizes are not told (0).

    It is a :class:`~.graft.Graft`.
    """

    def __init__(self, device: pathlib.Path, workdir: pathlib.Path) -> None:
        """Read the listing.

        Args:
            device: the partition as a block device or flat file.
            workdir: for data on its way.

        Raises:
            JobError: it is no readable FAT filesystem, or mtools is not installed.
        """
        self._device = device
        self._workdir = workdir
        listing = self._run(["mdir", "-/", "-b", "-a", "-i", str(device), "::/"]).decode("utf-8", "replace")
        self._names: dict[str, str] = {"/": "/"}
        self._folders: set[str] = {"/"}
        for line in listing.splitlines():
            path = line.removeprefix("::")
            if path.startswith("/") and all(_NAME.match(part) for part in path.strip("/").split("/")):
                key = path.rstrip("/").lower()
                self._names[key] = path.rstrip("/")
                if path.endswith("/"):
                    self._folders.add(key)

    def lstat(self, path: str) -> os.stat_result:
        """As :meth:`Graft.lstat`."""
        key = self._key(path)
        mode = st.S_IFDIR | 0o755 if key in self._folders else st.S_IFREG | 0o644
        return os.stat_result((mode, 0, 0, 1, 0, 0, 0, 0, 0, 0))

    def listdir(self, path: str) -> list[str]:
        """As :meth:`Graft.listdir`."""
        above = self._key(path).rstrip("/") + "/"
        return [
            name.rpartition("/")[2]
            for key, name in self._names.items()
            if key != "/" and key.startswith(above) and "/" not in key[len(above) :]
        ]

    def read(self, path: str, limit: int) -> bytes:
        """As :meth:`Graft.read`."""
        data = bytearray()

        def keep(piece: bytes) -> None:
            data.extend(piece[: limit - len(data)])

        name = self._names[self._key(path)]
        self._run(["mcopy", "-n", "-i", str(self._device), f"::{name}", "-"], keep)
        return bytes(data)

    def free_bytes(self) -> int:
        """As :meth:`Graft.free_bytes`, by mdir's last line: "123 456 bytes free"."""
        listing = self._run(["mdir", "-a", "-i", str(self._device), "::/"]).decode("ascii", "replace")
        found = re.search(r"([\d ]+) bytes free", listing)
        return int(found[1].replace(" ", "")) if found else 0

    def write(self, path: str, data: bytes) -> None:
        """As :meth:`Graft.write`."""
        name = self._new_name(path)
        with tempfile.NamedTemporaryFile(prefix="esp-", dir=self._workdir) as file:
            file.write(data)
            file.flush()
            self._run(["mcopy", "-o", "-i", str(self._device), file.name, f"::{name}"])
        self._names[name.lower()] = name

    def mkdir(self, path: str) -> None:
        """As :meth:`Graft.mkdir`."""
        name = self._new_name(path)
        self._run(["mmd", "-i", str(self._device), f"::{name}"])
        self._names[name.lower()] = name
        self._folders.add(name.lower())

    def remove(self, path: str) -> None:
        """As :meth:`Graft.remove`."""
        key = self._key(path)
        self._run(["mdel", "-i", str(self._device), f"::{self._names[key]}"])
        del self._names[key]

    def sync(self) -> None:
        """Write out what mtools left in the host's cache.

        Raises:
            OSError: a write was lost.
        """
        descriptor = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _key(self, path: str) -> str:
        key = path.rstrip("/").lower() or "/"
        if key not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return key

    def _new_name(self, path: str) -> str:
        """The name to write to: as it is spelled there already, else as asked for below the folder's own spelling."""
        folder, dummy, name = path.rpartition("/")
        if not _NAME.match(name):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        known = self._names.get(path.lower())
        return known or self._names[self._key(folder)].rstrip("/") + "/" + name

    def _run(self, args: list[str], on_output: t.Callable[[bytes], None] | None = None) -> bytes:
        # Without the first of these mtools refuses partitions of odd geometry.
        return run_command(
            ["env", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null", *args],
            what="Using the EFI system partition by mtools",
            on_output=on_output,
        )
