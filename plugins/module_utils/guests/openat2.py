# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Opening a path below a folder so that no link in it can lead out of that folder.

Facts are those of openat2(2); the system call has number 437 on every architecture (kernel ≥ 5.6).
"""

from __future__ import annotations

import ctypes
import errno
import os

from ..protocol.errors import environment

_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open an existing ``path`` as if the folder with descriptor ``root`` were ``/``; return the new descriptor.

    Raises:
        OSError: as open(2).
        JobError: this host cannot confine a path (environment).
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    while True:
        # Raw system calls take C longs: plain ints would be passed as 32 bits.
        descriptor = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_long(root),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return int(descriptor)
        code = ctypes.get_errno()
        if code == errno.ENOSYS:
            raise environment(
                "NoOpenat2",
                "This host's kernel (or its container's seccomp filter) has no openat2, so a guest's links cannot be "
                "kept inside the guest.",
                "Run the worker on Linux 5.6 or later, with a seccomp profile that allows openat2.",
            )
        # EAGAIN: a rename elsewhere on the host raced with the look-up of "..".
        if code not in (errno.EAGAIN, errno.EINTR):
            raise OSError(code, os.strerror(code), path)
