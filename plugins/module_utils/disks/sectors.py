# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The size of a disk's logical sectors, which no image format tells."""

from __future__ import annotations

import os
import pathlib

#: What a disk's sectors may be. Bytes.
SECTOR, BIG_SECTOR = 512, 4096
# UEFI specification, 5.3.2: the GPT's header lies in sector 1 and begins with this.
_GPT = b"EFI PART"


def sector_size(device: pathlib.Path) -> int:
    """Return 4096 for a disk whose GPT was written in sectors of that size, else 512.

    An MBR looks the same with either size, and so does a disk without a table: they are taken for disks of 512 bytes,
    as hypervisors make them.

    Args:
        device: the whole disk, a flat file or block device.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = {size for size in (SECTOR, BIG_SECTOR) if os.pread(descriptor, len(_GPT), size) == _GPT}
    finally:
        os.close(descriptor)
    return BIG_SECTOR if found == {BIG_SECTOR} else SECTOR
