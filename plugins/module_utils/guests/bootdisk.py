# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of a VM's disks it boots from, by what is on them: whoever lists disks need not know.

Facts: a BIOS reads the first sector of the first disk in its boot order, and runs it where it ends with 55 AA; code
for any system, as Windows, parted and syslinux write it, goes on with the partition that is marked active (Microsoft:
"Master Boot Record"; libparted/labels/dos.c; syslinux: mbr/mbr.S, gptmbr.S), GRUB's and LILO's own with what it was
installed for (GRUB: grub-core/boot/i386/pc/boot.S; LILO: first.S). UEFI starts loaders from an EFI system partition
(UEFI specification, 13.3).
"""

from __future__ import annotations

import collections.abc as c
import os
import pathlib
import typing as t

from ..disks.model import Filesystem, Firmware
from .facts import GuestFacts
from .roots import is_esp

BootCode = t.Literal["none", "generic", "own"]
"""What a disk's first sector holds: nothing that runs; code for any system; the code of a boot loader of its own."""

_SECTOR = 512
#: Before the disk's signature and the table.
_CODE_BYTES = 440
_SIGNATURE = b"\x55\xaa"
_LOADERS = (b"GRUB", b"LILO")


def read_boot_code(device: pathlib.Path) -> BootCode:
    """Return what the first sector of a disk holds.

    Args:
        device: the whole disk, a flat file or block device.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return boot_code(os.pread(descriptor, _SECTOR, 0))
    finally:
        os.close(descriptor)


def boot_code(sector: bytes) -> BootCode:
    """Return what a disk's first 512 bytes hold."""
    code = sector[:_CODE_BYTES]
    if sector[_SECTOR - 2 :] != _SIGNATURE or not any(code):
        return "none"
    return "own" if any(name in code for name in _LOADERS) else "generic"


def find_boot_disk(
    disks: c.Sequence[str], codes: c.Mapping[str, BootCode], firmware: Firmware, facts: GuestFacts
) -> str | None:
    """Return the disk that the VM boots from; None: nothing on the disks tells.

    Of several that can boot it is the one that has the guest's own ESP, or its ``/boot``; else the first.

    Args:
        disks: their names, in the source's order.
        codes: of each disk.
        firmware: how the VM boots.
        facts: the guest's portrait, as much as is known of it.
    """
    home = _home(firmware, facts)

    def rank(disk: str) -> tuple[int, bool]:
        own = [f for f in facts.filesystems if f.partition.disk == disk]
        return _fitness(own, codes.get(disk, "none"), firmware), disk == home

    best = max(disks, key=rank, default=None)  # of equals the first
    return best if best is not None and rank(best)[0] else None


def _fitness(filesystems: c.Sequence[Filesystem], code: BootCode, firmware: Firmware) -> int:
    """How sure it is that a disk boots: 0 it does not, 1 perhaps, 2 it does."""
    if firmware == "uefi":
        partitions = [f for f in filesystems if is_esp(f.partition)]
        return 2 if any(f.type == "vfat" for f in partitions) else int(bool(partitions))
    if code == "generic":
        return 2 if any(f.partition.bootable for f in filesystems) else 1
    return 2 if code == "own" else 0


def _home(firmware: Firmware, facts: GuestFacts) -> str:
    """Return the disk that has the guest's loader, or its files; empty: none is known, or it is in a volume."""
    mounted = {mount.mountpoint: mount.filesystem for mount in facts.mounts}
    found = mounted.get(facts.bootloader.esp if firmware == "uefi" else "/boot") or facts.root
    return found.partition.disk if found is not None and found.volume is None else ""
