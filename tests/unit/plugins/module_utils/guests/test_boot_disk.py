# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of several disks a VM boots from, in whatever order they are listed."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Partition, Volume
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.bootdisk import boot_code, find_boot_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import Bootloader, GuestFacts, Mount
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import ESP_TYPES

DISKS = ("disk0", "disk1", "disk2")
CODE = b"\xeb\x63\x90"
GUID, EFI_GUID = "0fc63daf-8483-4772-8e79-3d69d8477de4", ESP_TYPES[0]


def sector(code: bytes, *, signed: bool = True) -> bytes:
    """A disk's first sector, with a disk signature and a partition behind the code."""
    return code.ljust(440, b"\0") + b"\x12\x34\x56\x78".ljust(70, b"\x01") + (b"\x55\xaa" if signed else b"\0\0")


def held(disk: str, fstype: str = "ext4", *, active: bool = False, type_id: str = "83") -> Filesystem:
    """What the first partition of a disk holds."""
    return Filesystem(Partition(disk, 1, 1024**2, 1024**3, type_id, bootable=active), fstype, uuid=disk)


def mounts(**where: Filesystem) -> tuple[Mount, ...]:
    """An fstab, by mount points with ``_`` for ``/``."""
    return tuple(Mount("", point.replace("_", "/"), f.type, "", f) for point, f in where.items())


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (bytes(512), "none"),
        (b"", "none"),
        (sector(b""), "none"),
        (sector(CODE, signed=False), "none"),
        (sector(CODE), "generic"),
        (sector(CODE.ljust(384, b"\x90") + b"GRUB \0Geom\0"), "own"),
        (sector(CODE + b"\0\0\0LILO"), "own"),
        # A partition table that spells a name is no code.
        (bytes(446) + b"GRUB".ljust(64, b"\0") + b"\x55\xaa", "none"),
    ],
)
def test_what_a_first_sector_holds(first: bytes, found: str) -> None:
    assert boot_code(first) == found


@pytest.mark.parametrize(
    ("codes", "filesystems", "found"),
    [
        # blank, GRUB, GRUB: the first that can
        (("none", "own", "own"), [], "disk1"),
        (("own", "none", "none"), [], "disk0"),
        # what parted or Windows wrote on a data disk starts nothing without an active partition
        (("generic", "own", "none"), [held("disk0")], "disk1"),
        (("generic", "own", "none"), [held("disk0", active=True)], "disk0"),
        (("generic", "none", "generic"), [held("disk0"), held("disk2", active=True)], "disk2"),
        # a boot loader that nobody knows is better than nothing
        (("none", "none", "generic"), [], "disk2"),
        # an active partition without code starts nothing either
        (("none", "own", "none"), [held("disk0", active=True)], "disk1"),
        (("none", "none", "none"), [held("disk1", active=True)], None),
        ((), [], None),
    ],
)
def test_a_bios_runs_code(codes: tuple[str, ...], filesystems: list[Filesystem], found: str | None) -> None:
    facts = GuestFacts(filesystems=tuple(filesystems))
    known = dict(zip(DISKS, codes, strict=False))
    assert find_boot_disk(DISKS, known, "bios", facts) == found  # type: ignore[arg-type]


def test_of_two_with_a_boot_loader_it_is_the_one_with_the_guests_own_files() -> None:
    codes = dict.fromkeys(DISKS, "own")
    old, boot, root = held("disk0"), held("disk1"), held("disk2")
    facts = GuestFacts(root=root, filesystems=(old, boot, root), mounts=mounts(_=root, _boot=boot))
    assert find_boot_disk(DISKS, codes, "bios", facts) == "disk1"  # type: ignore[arg-type]
    facts.mounts = mounts(_=root)
    assert find_boot_disk(DISKS, codes, "bios", facts) == "disk2"  # type: ignore[arg-type]
    volume = Volume("disk2", "raid1", "u", 1, (), ("disk0 partition 1", "disk1 partition 1"))
    facts.root = dataclasses.replace(root, volume=volume)
    assert find_boot_disk(DISKS, codes, "bios", facts) == "disk0"  # type: ignore[arg-type]


def test_uefi_starts_the_loader_of_an_esp() -> None:
    other = held("disk0", type_id=GUID)
    unformatted = held("disk0", "", type_id=EFI_GUID)
    mac, esp = held("disk1", "vfat", type_id=EFI_GUID), held("disk2", "vfat", type_id=EFI_GUID)
    codes = {"disk0": "own", "disk1": "none", "disk2": "none"}

    def find(*filesystems: Filesystem, esp_at: str = "", **where: Filesystem) -> str | None:
        facts = GuestFacts(filesystems=filesystems, bootloader=Bootloader(esp=esp_at), mounts=mounts(**where))
        return find_boot_disk(DISKS, codes, "uefi", facts)  # type: ignore[arg-type]

    assert find(other) is None
    assert find(other, esp) == "disk2"
    assert find(unformatted, esp) == "disk2"
    assert find(unformatted) == "disk0"
    assert find(other, mac, esp) == "disk1"
    assert find(other, mac, esp, esp_at="/boot/efi", _boot_efi=esp) == "disk2"
