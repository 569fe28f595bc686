# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a mounted guest. Whatever the guest holds, nothing outside of it is read or changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import stat as st
import typing as t

from ..disks.closing import Closing
from ..protocol.errors import environment, unsupported
from . import paths
from .faults import check_regular, check_size, explained
from .graft import Graft
from .openat2 import open_in_root
from .reading import READ_LIMIT, Reading

_LIST_LIMIT = 100_000
#: What is opened on a filesystem that is not mounted goes through memory: kernels and initramfs on an ESP. Bytes.
_GRAFTED_LIMIT = 512 * 1024**2
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
# linux/fs.h: FS_IOC_GETFLAGS on machines of 64 bits, FS_IMMUTABLE_FL and FS_APPEND_FL.
_GET_FLAGS = 0x80086601
_PROTECTED = 0x10 | 0x20
_SELINUX = "security.selinux"
# A new file takes its folder's type, but for the names that the reference policy singles out (filetrans_pattern).
_NAMED_TYPES = {".ssh": b"ssh_home_t"}

Owner = tuple[int, int]
"""User and group id."""


class GuestTree(Closing, Reading):
    """Files below ``root``, which stands for the guest's ``/``."""

    def __init__(self, root: pathlib.Path, *, writable: bool = False) -> None:
        """Hold ``root`` open until :meth:`close`.

        Args:
            root: a folder of this host.
            writable: whether the writing methods are allowed.
        """
        self.root = root
        self.writable = writable
        self._grafts: dict[str, Graft] = {}
        self._links: dict[str, str | None] = {}
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def add_graft(self, path: str, graft: Graft) -> None:
        """Show ``graft`` at a canonical path of the guest, where a folder is."""
        self._grafts[path] = graft
        self._links.clear()

    def close(self) -> None:
        """Let go of the root, so that it can be unmounted."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    # -- reading -------------------------------------------------------------------------------------------------------

    def link_at(self, path: str) -> str | None:
        """As :meth:`Reading.link_at`."""
        if path not in self._links:
            target = None
            if self._graft(path) is None:
                with contextlib.suppress(FileNotFoundError), self._opened(path, os.O_PATH | os.O_NOFOLLOW) as file:
                    if st.S_ISLNK(os.fstat(file).st_mode):
                        target = os.readlink("", dir_fd=file)
            self._links[path] = target
        return self._links[path]

    def lstat(self, path: str) -> os.stat_result:
        """As :meth:`Reading.lstat`."""
        return self._status(self.resolve(path, follow=False))

    def stat(self, path: str) -> os.stat_result:
        """As :meth:`Reading.stat`."""
        return self._status(self.resolve(path))

    def mode_at(self, path: str) -> int:
        """As :meth:`Reading.mode_at`."""
        try:
            return self._status(path).st_mode
        except FileNotFoundError:
            return 0

    def open_fd(self, path: str) -> int:
        """As :meth:`Reading.open_fd`."""
        path = self.resolve(path)
        if self._graft(path) is not None:
            data = self.read_bytes(path, _GRAFTED_LIMIT)
            file = os.memfd_create("guest-file", os.MFD_CLOEXEC)
            with open(file, "r+b", closefd=False) as stream:
                stream.write(data)
                stream.seek(0)
            return file
        with self._opened(path, os.O_PATH | os.O_NOFOLLOW) as file:
            check_regular(path, os.fstat(file))
        with explained(path):
            file = open_in_root(self._root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            check_regular(path, os.fstat(file))
        except BaseException:
            os.close(file)
            raise
        return file

    def read_bytes(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """As :meth:`Reading.read_bytes`."""
        path = self.resolve(path)
        graft = self._graft(path)
        if graft is not None:
            status = self._status(path)
            check_regular(path, status)
            check_size(path, status.st_size, limit)
            with explained(path):
                data = graft[0].read(graft[1], limit + 1)
        else:
            file = self.open_fd(path)
            with explained(path), open(file, "rb", buffering=0) as stream:
                check_size(path, os.fstat(file).st_size, limit)
                data = b"".join(iter(lambda: stream.read(1024**2), b""))
        check_size(path, len(data), limit)
        return data

    def listdir(self, path: str) -> list[str]:
        """As :meth:`Reading.listdir`."""
        path = self.resolve(path)
        graft = self._graft(path)
        with explained(path):
            if graft is not None:
                return sorted(graft[0].listdir(graft[1]))
            folder = open_in_root(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                names = []
                with os.scandir(folder) as entries:
                    for entry in entries:
                        names.append(entry.name)
                        if len(names) > _LIST_LIMIT:
                            raise unsupported(
                                "GuestFolderTooBig",
                                f"The guest's folder {paths.printable(path)} has more than {_LIST_LIMIT} entries.",
                                "Clear it in the guest, then export the VM again.",
                            )
            finally:
                os.close(folder)
        for mount in self._grafts:
            parent, name = paths.split(mount)
            if parent == path and name not in names:
                names.append(name)
        return sorted(names)

    def free_space(self, path: str) -> tuple[int, int, int]:
        """Return free bytes, free inodes and a device number of the filesystem that holds ``path``.

        Free inodes are -1 where the filesystem makes them as needed.
        """
        path = self.resolve(path)
        graft = self._graft(path)
        if graft is not None:
            # No kernel gives it a number; each graft is a filesystem of its own.
            return graft[0].free_bytes(), -1, -1 - list(self._grafts.values()).index(graft[0])
        with self._opened(path, os.O_PATH) as file:
            room = os.fstatvfs(file)
            return room.f_bavail * room.f_frsize, room.f_favail if room.f_files else -1, os.fstat(file).st_dev

    def is_protected(self, path: str) -> bool:
        """Whether the guest's kernel, or this one, refuses to change what is at ``path`` itself; not for nothing."""
        path = self.resolve(path, follow=False)
        mode = self.mode_at(path)
        if self._graft(path) is not None or not (st.S_ISREG(mode) or st.S_ISDIR(mode)):
            return False
        with self._opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as file:
            if self.writable and os.fstatvfs(file).f_flag & os.ST_RDONLY:
                return True
            flags = bytearray(8)
            with contextlib.suppress(OSError):
                fcntl.ioctl(file, _GET_FLAGS, flags)
            return bool(int.from_bytes(flags[:4], "little") & _PROTECTED)

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, path: str, data: bytes, mode: int | None = None, owner: Owner | None = None) -> None:
        """Replace or create a file in one step; missing folders are made.

        An existing file keeps its owner, mode and extended attributes unless told otherwise. A new one belongs to
        root with mode 0644, and takes its folder's SELinux label.

        Raises:
            JobError: what is there is no regular file, or the filesystem refuses.
        """
        path = self._writing(path)
        folder, name = paths.split(path)
        self._make_folders(folder)
        graft = self._graft(path)
        if graft is not None:
            with explained(path):
                graft[0].write(graft[1], data)
            return
        with self.folder(folder) as parent, explained(path):
            new = f".{os.urandom(6).hex()}.hyper2kvm"
            try:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent), "wb") as file:
                    file.write(data)
                    file.flush()
                    self._dress(file.fileno(), path, folder, mode, owner)
                os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new, dir_fd=parent)
                raise

    def append(self, path: str, data: bytes) -> None:
        """Add ``data`` at the end of an existing regular file."""
        path = self._writing(path)
        if self._graft(path) is not None:
            self.write(path, self.read_bytes(path, _GRAFTED_LIMIT) + data)
            return
        check_regular(path, self._status(path))
        with explained(path):
            file = open_in_root(self._root, path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(file, "ab") as stream:
                stream.write(data)

    def symlink(self, path: str, target: str) -> None:
        """Put a symbolic link at ``path``, in place of a file or link that is there; missing folders are made."""
        path = self._writing(path, follow=False)
        folder, name = paths.split(path)
        self._make_folders(folder)
        self._refuse_graft(path)
        with self.folder(folder) as parent, explained(path):
            new = f".{os.urandom(6).hex()}.hyper2kvm"
            os.symlink(target, new, dir_fd=parent)
            try:
                self._inherit_label(f"/proc/self/fd/{parent}/{new}", folder, name)
                os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                os.unlink(new, dir_fd=parent)
                raise

    def remove(self, path: str) -> None:
        """Remove a file or link (not what it leads to)."""
        path = self._writing(path, follow=False)
        folder, name = paths.split(path)
        graft = self._graft(path)
        if graft is not None:
            with explained(path):
                graft[0].remove(graft[1])
            return
        with self.folder(folder) as parent, explained(path):
            os.unlink(name, dir_fd=parent)

    def mkdir(self, path: str, mode: int = _FOLDER_MODE, owner: Owner | None = None) -> None:
        """Make a folder, and those above it; nothing where it exists."""
        path = self._writing(path)
        if self.is_dir(path):
            return
        folder, name = paths.split(path)
        self._make_folders(folder)
        graft = self._graft(path)
        with explained(path):
            if graft is not None:
                graft[0].mkdir(graft[1])
                return
            with self.folder(folder) as parent:
                os.mkdir(name, 0o700, dir_fd=parent)
        with self._opened(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) as made, explained(path):
            if owner is not None:
                os.fchown(made, *owner)
            os.fchmod(made, mode)
            self._inherit_label(made, folder, name)

    def set_label(self, path: str, label: str) -> None:
        """Give what is at a canonical path an SELinux label; nothing on a filesystem that has none."""
        if self._graft(path) is not None:
            return
        folder, name = paths.split(path)
        with self.folder(folder) as parent, contextlib.suppress(OSError):
            os.setxattr(f"/proc/self/fd/{parent}/{name}", _SELINUX, label.encode() + b"\0", follow_symlinks=False)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _graft(self, path: str) -> tuple[Graft, str] | None:
        for mount, graft in self._grafts.items():
            if path == mount or path.startswith(mount + "/"):
                return graft, path[len(mount) :] or "/"
        return None

    def _refuse_graft(self, path: str) -> None:
        if self._graft(path) is not None:
            raise unsupported(
                "NoSymlinks",
                f"The filesystem of {paths.printable(path)} has no symbolic links.",
                "Leave out the fixer or the file that asks for it.",
            )

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> t.Iterator[int]:
        with explained(path):
            file = open_in_root(self._root, path, flags)
        try:
            yield file
        finally:
            os.close(file)

    def folder(self, path: str) -> contextlib.AbstractContextManager[int]:
        """Open a folder at a canonical path; the descriptor is closed with the context."""
        return self._opened(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

    def _status(self, path: str) -> os.stat_result:
        graft = self._graft(path)
        if graft is not None:
            with explained(path):
                return graft[0].lstat(graft[1])
        with self._opened(path, os.O_PATH | os.O_NOFOLLOW) as file:
            return os.fstat(file)

    def _writing(self, path: str, *, follow: bool = True) -> str:
        if not self.writable:
            raise environment("GuestReadOnly", f"{paths.printable(path)} cannot be written: the guest is read-only.")
        path = self.resolve(path, follow=follow)
        self._links.clear()
        return path

    def _make_folders(self, path: str) -> None:
        if not self.exists(path):
            self.mkdir(path)

    def _dress(self, file: int, path: str, folder: str, mode: int | None, owner: Owner | None) -> None:
        """Give a new file the owner, attributes and mode of the one that it replaces, or those of a new one."""
        try:
            with self._opened(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as old:
                status = os.fstat(old)
                check_regular(path, status)
                os.fchown(file, *(owner or (status.st_uid, status.st_gid)))
                os.fchmod(file, st.S_IMODE(status.st_mode) if mode is None else mode)
                for name in os.listxattr(old):
                    os.setxattr(file, name, os.getxattr(old, name))
        except FileNotFoundError:
            os.fchown(file, *(owner or (0, 0)))
            os.fchmod(file, _FILE_MODE if mode is None else mode)
            self._inherit_label(file, folder, paths.split(path)[1])

    def _inherit_label(self, file: int | str, folder: str, name: str) -> None:
        """Give a new file, by descriptor or path (of a link), the SELinux label that the guest's kernel would."""
        with self.folder(folder) as parent:
            try:
                label = os.getxattr(parent, _SELINUX)
            except OSError:
                return
        if name in _NAMED_TYPES and label.count(b":") >= 2:
            fields = label.split(b":")
            label = b":".join([*fields[:2], _NAMED_TYPES[name], *(fields[3:] or [b"\0"])])
        if isinstance(file, int):
            os.setxattr(file, _SELINUX, label)
        else:
            os.setxattr(file, _SELINUX, label, follow_symlinks=False)
