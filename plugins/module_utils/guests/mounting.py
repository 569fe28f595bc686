# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mounting a guest's filesystem so that nothing in it can act on this host (mount(2), umount2(2), syncfs(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import pathlib
import struct

from ..protocol.errors import JobError, environment, transient, unsupported

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_MS_NOATIME = 1024
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

# xfs: clones of one template share a UUID. ext4: initialising inode tables would fill the overlay behind our back.
_OPTIONS = {"xfs": ["nouuid"], "ext4": ["noinit_itable"]}
# How to look at a filesystem with an unfinished journal on a device that takes no writes.
_NO_REPLAY = {"xfs": "norecovery", "ext4": "noload", "ext3": "noload", "btrfs": "rescue=nologreplay"}

# XFS' superblock: magic, and sb_versionnum, whose lowest four bits are the format's version (XFS Algorithms & Data
# Structures, "Superblocks"). Kernels are built without version 4 (fs/xfs/Kconfig, XFS_SUPPORT_V4) and say EINVAL.
_XFS_MAGIC, _XFS_VERSION, _XFS_VERSION_MASK = b"XFSB", struct.Struct(">4s96xH"), 0xF

_libc = ctypes.CDLL(None, use_errno=True)


def mount(
    device: pathlib.Path, target: str, fstype: str, *, writable: bool, what: str, options: tuple[str, ...] = ()
) -> None:
    """Mount ``device`` at ``target`` with nosuid, nodev, noexec and noatime, and private to its mount namespace.

    Args:
        device: a block device.
        target: a folder of this host; best ``/proc/self/fd/<n>``, so that no link on the way can redirect it.
        fstype: as blkid names it.
        writable: False mounts read-only; a journal is replayed where the device takes writes.
        what: names the filesystem in errors.
        options: further data for the filesystem, without commas.

    Raises:
        JobError: this host's kernel lacks the filesystem or the privilege (environment), the filesystem is damaged
            (unsupported), or its twin is mounted already (transient).
    """
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME | (0 if writable else _MS_RDONLY)
    data = [*_OPTIONS.get(fstype, []), *options]
    code = _mount(os.fsencode(device), target, fstype, flags, data)
    if code in (errno.EROFS, errno.EUCLEAN) and not writable and fstype in _NO_REPLAY:
        code = _mount(os.fsencode(device), target, fstype, flags, [*data, _NO_REPLAY[fstype]])
    if code:
        if code == errno.EINVAL and fstype == "xfs" and _is_old_xfs(device):
            raise environment(
                "NoFilesystemDriver",
                f"This worker's kernel was built without xfs of version 4 (without checksums), which {what} is.",
                "Use a worker whose kernel has it, or give this one a kernel for micro-VMs.",
            )
        raise _refusal(code, fstype, what)
    _mount(None, target, None, _MS_PRIVATE, [])


def unmount(target: pathlib.Path, *, written: bool) -> None:
    """Write everything out and unmount ``target``.

    Raises:
        JobError: a write was lost, or something still uses the filesystem (transient).
    """
    if written:
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _libc.syncfs(descriptor) != 0:
                raise transient(
                    "LostWrites",
                    f"Writing the guest's filesystem out failed: {os.strerror(ctypes.get_errno())}.",
                    "The changed layer is thrown away; check the worker's scratch space, then try again.",
                )
        finally:
            os.close(descriptor)
    if _libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW) != 0:
        raise transient(
            "StillMounted",
            f"The guest's filesystem at {target} cannot be unmounted: {os.strerror(ctypes.get_errno())}.",
            "See what on this host holds it open (fuser -m), then try again.",
        )


def detach(target: pathlib.Path) -> None:
    """Unmount ``target`` as far as that goes, after a failure."""
    _libc.umount2(os.fsencode(target), _UMOUNT_NOFOLLOW | _MNT_DETACH)


def _mount(source: bytes | None, target: str, fstype: str | None, flags: int, data: list[str]) -> int:
    """Return 0, or the error number."""
    result = _libc.mount(
        source,
        os.fsencode(target),
        None if fstype is None else fstype.encode(),
        ctypes.c_ulong(flags),
        ",".join(data).encode() or None,
    )
    return 0 if result == 0 else ctypes.get_errno()


def _is_old_xfs(device: pathlib.Path) -> bool:
    with device.open("rb") as file:
        magic, version = _XFS_VERSION.unpack(file.read(_XFS_VERSION.size))
    return bool(magic == _XFS_MAGIC and version & _XFS_VERSION_MASK == 4)


def _refusal(code: int, fstype: str, what: str) -> JobError:
    if code == errno.ENODEV:
        return environment(
            "NoFilesystemDriver",
            f"This worker's kernel cannot mount {fstype}, which {what} is.",
            f"Load or install the kernel module {fstype}, or use a worker that has it.",
        )
    if code == errno.EPERM:
        return environment(
            "NotPrivileged", f"This process may not mount {what}.", "Run the worker as root, with CAP_SYS_ADMIN."
        )
    if code in (errno.EEXIST, errno.EBUSY):
        return transient(
            "TwinMounted",
            f"{what} has the same identity as one that this host has mounted: both are clones of a template.",
            "It is tried again when the other one is done.",
        )
    return unsupported(
        "FilesystemDamaged",
        f"{what} ({fstype}) cannot be mounted: {os.strerror(code)}.",
        "Start the VM where it runs now, check the filesystem there (fsck), shut it down and export it again.",
    )
