# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Device names of the old hardware, and the format of fstab."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests import fstab
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.devices import Devices, is_unstable, stable_name

from tests.unit.plugins.module_utils.guests.phony import DATA, DATA_UUID, ROOT, ROOT_UUID, SWAP, filesystem

DEVICES = Devices((ROOT, SWAP, DATA))


def test_a_btrfs_on_several_devices_is_one_filesystem() -> None:
    """And two of one UUID, that are not, are none."""
    uuid = "cccccccc-dddd-4eee-8fff-000000000000"
    first, second = (
        dataclasses.replace(filesystem(1, "btrfs", uuid, disk=f"disk{i}"), label="data", member=i, members=2)
        for i in (1, 2)
    )
    devices = Devices((ROOT, first, second))
    for name in (f"UUID={uuid}", "LABEL=data", "/dev/sdb1", "/dev/sdc1"):
        assert devices.find(name) == first
    assert devices.members(second) == (first, second)
    twins = Devices(tuple(dataclasses.replace(f, members=1) for f in (first, second)))
    assert twins.find(f"UUID={uuid}") is None


def test_disks_that_are_listed_in_another_order_are_where_the_guest_had_them() -> None:
    """As far as its root tells: that is known to be the root, by whatever name the guest has for it."""
    blank = filesystem(0, "", "", disk="blank")
    listed = Devices((blank, ROOT, SWAP, DATA))
    assert listed.find("/dev/sda2") is None
    found = listed.ordered("/dev/sda1", ROOT)
    assert (found.find("/dev/sda1"), found.find("/dev/sda2")) == (ROOT, SWAP)
    assert found.disks == ["disk0", "blank", "disk1"]
    assert listed.ordered("/dev/sdc1", ROOT).disks == ["blank", "disk1", "disk0"]
    # Nothing can be learnt: right already, no kernel's name, another partition, more disks than there are.
    for name in ("/dev/sdb1", f"UUID={ROOT_UUID}", "", "/dev/sda7", "/dev/sdd1"):
        assert listed.ordered(name, ROOT) == listed


@pytest.mark.parametrize(
    ("name", "fstype", "found"),
    [
        ("/dev/sda1", "", ROOT),
        ("/dev/sda2", "swap", SWAP),
        ("/dev/sda2", "ext4", None),
        ("/dev/sda1", "ext3", ROOT),
        ("/dev/sda1", "auto", ROOT),
        ("/dev/sda9", "", None),
        ("/dev/sda", "", None),
        ("/dev/sdb1", "xfs", DATA),
        ("/dev/sdc1", "", None),
        ("/dev/hdb1", "", DATA),
        ("/dev/xvda1", "", ROOT),
        ("/dev/vda1", "", ROOT),
        ("/dev/nvme0n1p2", "", SWAP),
        ("/dev/nvme1n1p1", "", DATA),
        (f"UUID={ROOT_UUID.upper()}", "", ROOT),
        (f'UUID="{ROOT_UUID}"', "", ROOT),
        (f"/dev/disk/by-uuid/{DATA_UUID}", "", DATA),
        ("PARTUUID=FF025A63-02", "", SWAP),
        ("UUID=", "", None),
        # The only partition with this number, or the only one of this type with it.
        ("/dev/disk/by-id/scsi-36000c29b5a7d1e0f-part2", "", SWAP),
        ("/dev/disk/by-id/wwn-0x6000c29b5a7d1e0f-part1", "xfs", DATA),
        ("/dev/disk/by-id/wwn-0x6000c29b5a7d1e0f-part1", "", None),
        ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1", "", DATA),
        ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1", "", ROOT),
        ("/dev/disk/by-path/pci-0000:02:05.0-ata-2-part1", "", DATA),
        ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:5:0-part1", "", None),
        ("/dev/mapper/vg-root", "", None),
        ("tmpfs", "tmpfs", None),
    ],
)
def test_what_a_name_means(name: str, fstype: str, found: Filesystem | None) -> None:
    assert DEVICES.find(name, fstype) == found


def test_the_scsi_controllers_own_target_is_skipped() -> None:
    disks = Devices(tuple(filesystem(1, "ext4", f"{index}", disk=f"disk{index}") for index in range(9)))
    for target, disk in ((6, "disk6"), (8, "disk7"), (9, "disk8")):
        found = disks.find(f"/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:{target}:0-part1")
        assert found is not None and found.partition.disk == disk
    assert disks.find("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:7:0-part1") is None


def test_a_label_that_two_filesystems_have_means_neither() -> None:
    twins = Devices((filesystem(1, "ext4", "a"), filesystem(2, "ext4", "a")))
    assert twins.find("UUID=a") is None


@pytest.mark.parametrize(
    ("name", "unstable"),
    [
        ("/dev/sda1", True),
        ("/dev/vdz", True),
        ("/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:1:0-part1", True),
        ("/dev/disk/by-id/scsi-36000c29-part1", True),
        ("/dev/disk/by-id/dm-uuid-LVM-abc", False),
        ("/dev/disk/by-uuid/1", False),
        ("/dev/mapper/root", False),
        ("/dev/md0", False),
        ("/dev/sr0", False),
        ("/dev/fd0", False),
        ("/dev/cdrom", False),
        ("UUID=1", False),
        ("//server/share", False),
    ],
)
def test_which_names_a_move_breaks(name: str, unstable: bool) -> None:
    assert is_unstable(name) is unstable


def test_stable_names() -> None:
    assert stable_name(ROOT) == f"UUID={ROOT_UUID}"
    assert stable_name(filesystem(3, "")) == "PARTUUID=ff025a63-03"
    assert stable_name(filesystem(3, "", partuuid="")) is None


FSTAB = """\
# comment /dev/sda9 / ext4 defaults 0 0
\t/dev/sda1\t/   ext4 errors=remount-ro 0 1   # tail
/dev/sda2 none swap sw
LABEL=a\\040b /srv/x\\040y auto subvol=@x,noauto

garbage
"""


def test_fstab_lines() -> None:
    first, second, third = fstab.parse(FSTAB)
    assert (first.index, first.spec, first.mountpoint, first.type) == (1, "/dev/sda1", "/", "ext4")
    assert (second.options, third.spec, third.mountpoint) == ("sw", "LABEL=a b", "/srv/x y")
    assert third.option("subvol") == "@x" and third.option("x") is None and "noauto" in third.option_list


def test_fstab_edits_touch_one_field() -> None:
    edited = fstab.replace_specs(FSTAB, {1: "UUID=1"})
    assert edited == FSTAB.replace("\t/dev/sda1\t", "\tUUID=1\t")
    assert fstab.replace_specs(FSTAB, {}) == FSTAB
