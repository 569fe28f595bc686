# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a filesystem was unmounted cleanly: an export of a running VM shows itself here."""

from __future__ import annotations

import os
import pathlib
import struct
import subprocess

# ext4 superblock, at 1024: s_feature_incompat at 0x60, flag RECOVER (kernel: Documentation/filesystems/ext4/super.rst).
_EXT_INCOMPAT = 1024 + 0x60
_EXT_RECOVER = 0x4
# btrfs superblock, at 64 KiB: log_root at 0x60, not 0 while a log tree is to be replayed (btrfs on-disk format).
_BTRFS_LOG_ROOT = 0x10000 + 0x60


def needs_replay(device: pathlib.Path, fstype: str) -> bool:
    """Whether ``device`` holds a journal or log that a mount would replay; False for what has none.

    Raises:
        OSError: the device cannot be read.
    """
    if fstype in ("ext3", "ext4"):
        return bool(_unsigned(device, _EXT_INCOMPAT, "<I") & _EXT_RECOVER)
    if fstype == "btrfs":
        return _unsigned(device, _BTRFS_LOG_ROOT, "<Q") != 0
    if fstype == "xfs":
        done = subprocess.run(
            ["xfs_logprint", "-t", str(device)],
            capture_output=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=60,
            check=False,
        )
        return b"state: <DIRTY>" in done.stdout
    return False


def _unsigned(device: pathlib.Path, offset: int, layout: str) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (value,) = struct.unpack(layout, os.pread(descriptor, struct.calcsize(layout), offset))
    finally:
        os.close(descriptor)
    return int(value)
