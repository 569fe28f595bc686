# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a btrfs says of the devices that it lies on (btrfs on-disk format, "Superblock" and "Device item")."""

from __future__ import annotations

import os
import pathlib
import struct

# The superblock is at 64 KiB; num_devices at 0x88 of it, and the device's own number at 0xc9.
_SUPERBLOCK = 0x10000
_NUM_DEVICES = _SUPERBLOCK + 0x88
_DEVICE_ID = _SUPERBLOCK + 0xC9


def read_membership(device: pathlib.Path, offset: int) -> tuple[int, int]:
    """Return this member's number and the number of members of the btrfs at ``offset`` of ``device``.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        (count,) = struct.unpack("<Q", os.pread(descriptor, 8, offset + _NUM_DEVICES))
        (number,) = struct.unpack("<Q", os.pread(descriptor, 8, offset + _DEVICE_ID))
    finally:
        os.close(descriptor)
    return number, count
