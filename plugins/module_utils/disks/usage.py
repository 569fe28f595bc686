# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who has a file or block device open for writing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import signal
import stat
import struct

# QEMU's image locks (block/file-posix.c): who may write holds a lock on byte 100 + 1, who may resize on 100 + 3.
_QEMU_WRITE_LOCKS = (101, 103)
_F_OFD_GETLK = 36
_FLOCK = struct.Struct("@hhqqi")


def writer_of(path: pathlib.Path) -> str | None:
    """Return who holds the file ``path`` open for writing, in words for a person; None: nobody that can be seen.

    A file's writer on this host is seen whatever its namespaces are, though its name only within this one's; a block
    device's only within this one's. QEMU's locks are seen wherever the filesystem shares locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        found = _process_with(path, _file_of(status)) or _qemu_lock(path, descriptor)
        if found is None and _is_open_for_writing(descriptor):
            return f"a process has {path.name} open for writing (fuser tells which)"
        return found
    finally:
        os.close(descriptor)


def _is_open_for_writing(descriptor: int) -> bool:
    """Whether anybody can write to the file: the kernel gives a read lease on files without writers only (fcntl(2))."""
    try:
        # Whoever opens it for writing in this very moment has the kernel tell us, by default with a signal that kills.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        # This filesystem has no leases.
        return False
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _file_of(status: os.stat_result) -> tuple[int, ...]:
    """What several names of one file have in common; a block device may have several nodes."""
    return (status.st_rdev,) if stat.S_ISBLK(status.st_mode) else (status.st_dev, status.st_ino)


def _process_with(path: pathlib.Path, file: tuple[int, ...]) -> str | None:
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        # A process or its descriptors may go while they are looked at; those of others need root.
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(process / "fd"):
                with contextlib.suppress(OSError, ValueError):
                    if _file_of(os.stat(descriptor.path)) == file and _opened_for_writing(process, descriptor.name):
                        name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                        return f"process {process.name} ({name}) has {path.name} open for writing"
    return None


def _opened_for_writing(process: pathlib.Path, descriptor: str) -> bool:
    for line in (process / "fdinfo" / descriptor).read_text(encoding="ascii").splitlines():
        key, _colon, value = line.partition(":")
        if key == "flags":
            return int(value, 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _qemu_lock(path: pathlib.Path, descriptor: int) -> str | None:
    with contextlib.suppress(OSError):
        for byte in _QEMU_WRITE_LOCKS:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            answer = fcntl.fcntl(descriptor, _F_OFD_GETLK, asked.ljust(32, b"\0"))
            if _FLOCK.unpack_from(answer)[0] != fcntl.F_UNLCK:
                return f"a QEMU process holds its lock for writing on {path.name}"
    return None
