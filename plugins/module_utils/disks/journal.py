# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a filesystem was unmounted cleanly: an export of a running VM shows itself here."""

from __future__ import annotations

import os
import pathlib
import struct

from .command import run_command

# ext4 superblock, at 1024: s_feature_incompat at 0x60, flag RECOVER (kernel: Documentation/filesystems/ext4/super.rst).
_EXT_INCOMPAT = 1024 + 0x60
_EXT_RECOVER = 0x4
# btrfs superblock, at 64 KiB: log_root at 0x60, not 0 while a log tree is to be replayed (btrfs on-disk format).
_BTRFS_LOG_ROOT = 0x10000 + 0x60
#: Filesystems that have one.
JOURNALS = ("ext3", "ext4", "btrfs", "xfs")
_XFS_DIRTY = b"state: <DIRTY>"


def needs_replay(device: pathlib.Path, fstype: str) -> bool:
    """Whether ``device`` holds a journal or log that a mount would replay; False for what has none.

    Raises:
        OSError: the device cannot be read.
        JobError: the tool that reads XFS' log is missing or hangs.
    """
    if fstype in ("ext3", "ext4"):
        return bool(_unsigned(device, _EXT_INCOMPAT, "<I") & _EXT_RECOVER)
    if fstype == "btrfs":
        return _unsigned(device, _BTRFS_LOG_ROOT, "<Q") != 0
    if fstype == "xfs":
        return _xfs_needs_replay(device)
    return False


def _xfs_needs_replay(device: pathlib.Path) -> bool:
    seen, tail = False, b""

    def look(piece: bytes) -> None:
        # A log can be printed at great length.
        nonlocal seen, tail
        seen = seen or _XFS_DIRTY in tail + piece
        tail = piece[-len(_XFS_DIRTY) :]

    # Whatever it says of a log that it cannot read: mounting will tell.
    run_command(["xfs_logprint", "-t", device], what="Reading XFS' log", on_output=look, accept=range(-64, 256))
    return seen


def _unsigned(device: pathlib.Path, offset: int, layout: str) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (value,) = struct.unpack(layout, os.pread(descriptor, struct.calcsize(layout), offset))
    finally:
        os.close(descriptor)
    return int(value)
