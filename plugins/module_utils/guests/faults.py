# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong with a guest's file, said so that a person can act on it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
import typing as t

from ..protocol.errors import JobError, unsupported
from . import paths


def check_regular(path: str, status: os.stat_result) -> None:
    """Raise JobError unless ``status`` is that of a regular file."""
    if not st.S_ISREG(status.st_mode):
        kinds = {st.S_IFIFO: "a FIFO", st.S_IFDIR: "a folder", st.S_IFLNK: "a symbolic link", st.S_IFSOCK: "a socket"}
        kind = kinds.get(st.S_IFMT(status.st_mode), "a device")
        raise unsupported(
            "NoRegularFile",
            f"In the guest, {paths.printable(path)} is {kind} and not a regular file.",
            "Look at it in the guest; this is no file that an operating system would make.",
        )


def check_size(path: str, size: int, limit: int) -> None:
    """Raise JobError where ``size`` bytes are more than ``limit``."""
    if size > limit:
        raise unsupported(
            "GuestFileTooBig",
            f"In the guest, {paths.printable(path)} is bigger than the {limit} bytes that are read of such a file.",
            "Look at it in the guest; a file of this kind is small.",
        )


@contextlib.contextmanager
def explained(path: str) -> t.Iterator[None]:
    """Turn what the kernel says into what a person can use; a missing file stays a FileNotFoundError."""
    try:
        yield
    except (FileNotFoundError, JobError):
        raise
    except NotADirectoryError as e:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from e
    except OSError as e:
        raise _explanation(paths.printable(path), e) from e


def _explanation(path: str, e: OSError) -> JobError:
    what = f"In the guest, {path}: {os.strerror(e.errno or errno.EIO)}."
    if e.errno == errno.ELOOP:
        return unsupported("SymlinkLoop", what, "Its symbolic links lead in a circle; mend them in the guest.")
    if e.errno in (errno.ENOSPC, errno.EDQUOT):
        return unsupported("GuestFilesystemFull", what, "Make room on that filesystem in the guest, then export again.")
    if e.errno == errno.EROFS:
        return unsupported(
            "GuestFilesystemReadOnly", what, "The kernel fell back to read-only: check the filesystem in the guest."
        )
    if e.errno in (errno.EPERM, errno.EACCES):
        return unsupported(
            "GuestFileProtected", what, "Remove its immutable or append-only flag (chattr) in the guest."
        )
    if e.errno in (errno.EIO, errno.EUCLEAN, errno.EBADMSG):
        return unsupported("GuestFilesystemDamaged", what, "Check the filesystem in the guest, then export it again.")
    return unsupported("GuestFileUnusable", what, "Look at it in the guest.")
