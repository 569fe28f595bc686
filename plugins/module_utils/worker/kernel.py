# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The few system calls that Python has no name for: namespaces, mounts and the signal of a dying parent.

Numbers from linux/sched.h, linux/mount.h, linux/prctl.h and asm-generic/unistd.h; they are the same on all
architectures.
"""

from __future__ import annotations

import ctypes
import os
import signal

_CLONE_NEWNS = 0x00020000
_CLONE_NEWPID = 0x20000000
_CLONE_NEWNET = 0x40000000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
# MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC and NOSYMFOLLOW.
_SOURCE_ATTRIBUTES = 0x1 | 0x2 | 0x4 | 0x8 | 0x200000
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def name_process(name: str) -> None:
    """Give this process a name of up to 15 bytes for process lists."""
    _check(_libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), 0, 0, 0), "prctl")


def fork_into_pid_namespace() -> int:
    """Fork; the child is the first process of a new PID namespace, so that its end ends all its descendants.

    Returns:
        As :func:`os.fork`; the child's PID is that in the parent's namespace.

    Raises:
        OSError: this process may not make namespaces.
    """
    mine = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWPID), "unshare")
        try:
            return os.fork()
        finally:
            # In the parent: its later children belong to its own namespace again. In the child this is its own anyway.
            if _libc.setns(mine, _CLONE_NEWPID) != 0 and os.getpid() != 1:
                _check(-1, "setns")
    finally:
        os.close(mine)


def private_mounts() -> None:
    """Move the calling process to a mount namespace of its own, of which nothing shows elsewhere.

    Raises:
        OSError: this process may not.
    """
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount")


def leave_network() -> None:
    """Move the calling process to a network namespace of its own, in which there is nothing.

    Raises:
        OSError: this process may not.
    """
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")


def own_mounts() -> None:
    """Move the first process of a PID namespace to a mount namespace of its own, with a ``/proc`` that fits.

    Nobody else sees the mounts made there, and they go when its last process ends.

    Raises:
        OSError: this process may not.
    """
    private_mounts()
    _check(_libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, None), "mount /proc")


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def protect(folder: str | os.PathLike[str]) -> bool:
    """Let nobody in this mount namespace write below ``folder``, or follow a symbolic link there.

    A name that was checked to hold no link can then be opened by any program, though somebody outside puts a link in
    its way meanwhile.

    Returns:
        False: this kernel cannot do it (it takes Linux 5.14).

    Raises:
        OSError: the folder cannot be mounted upon itself.
    """
    path = os.fsencode(folder)
    _check(_libc.mount(path, path, None, _MS_BIND | _MS_REC, None), f"mount {os.fspath(folder)}")
    attributes = _MountAttributes(attr_set=_SOURCE_ATTRIBUTES)
    done = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_long(_AT_FDCWD),
        ctypes.c_char_p(path),
        ctypes.c_long(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    return bool(done == 0)


def detach_mount(path: str) -> None:
    """Take a mount away from the tree at once, whoever still uses it.

    Raises:
        OSError: it cannot be done.
    """
    _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), f"umount {path}")
