# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest calls its volumes, and by what else its files name them."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.lvm import LogicalVolume, Run
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Partition, Volume
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.devices import Devices, is_unstable
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.unit.plugins.module_utils.guests.phony import Phony, debian, filesystem

LUKS = dataclasses.replace(filesystem(2, "crypto_LUKS"), uuid="11111111-2222-3333-4444-555555555555")


def inside(volume: Volume, fstype: str, number: int = 0) -> Filesystem:
    return Filesystem(
        Partition(volume.name, number, 0, volume.size), fstype, uuid=f"{volume.name}-{number}", volume=volume
    )


def logical(name: str) -> LogicalVolume:
    return LogicalVolume("vg-sys", name, f"AAAA-BBBB-{name}", (Run(0, 4096, ((pathlib.Path("/dev/loop7"), 1024),)),))


def volume(found: LogicalVolume) -> Volume:
    return Volume(f"{found.group}/{found.name}", "lvm", found.uuid, found.size, found.names, ("disk0 partition 2",))


OPENED = Volume(
    f"luks-{LUKS.uuid}", "luks", LUKS.uuid, 4096, (f"/dev/mapper/luks-{LUKS.uuid}",), ("disk0 partition 2",)
)
ARRAY = Volume("md-x", "raid1", "x", 4096, ("/dev/md/0", "/dev/md0"), ("disk0 partition 3", "disk1 partition 3"))


@pytest.mark.parametrize(
    "name",
    [
        "/dev/vg-sys/root-fs",
        "/dev/mapper/vg--sys-root--fs",
        "/dev/disk/by-id/dm-name-vg--sys-root--fs",
        "/dev/disk/by-id/dm-uuid-LVM-AAAABBBBrootfs",
        "UUID=vg-sys/root-fs-0",
    ],
)
def test_a_logical_volume(name: str) -> None:
    root, other = inside(volume(logical("root-fs")), "ext4"), inside(volume(logical("root")), "xfs")
    devices = Devices((filesystem(1, "ext4"), root, other))
    assert devices.find(name) == root
    assert not is_unstable(name)


def test_volumes_are_no_disks() -> None:
    root = inside(volume(logical("root-fs")), "ext4")
    devices = Devices((root, filesystem(1, "ext4"), filesystem(1, "xfs", disk="disk1")))
    assert devices.disks == ["disk0", "disk1"]
    assert devices.find("/dev/sdb1") == filesystem(1, "xfs", disk="disk1")
    assert devices.find("/dev/sda") is None


def test_a_container_by_the_name_that_crypttab_gives_it() -> None:
    devices = Devices((LUKS, inside(OPENED, "ext4")))
    assert devices.find("/dev/mapper/cryptroot") is None
    named = devices.named(f"# comment\ncryptroot UUID={LUKS.uuid} none luks\n")
    found = named.find("/dev/mapper/cryptroot")
    assert found is not None and found.type == "ext4"
    assert named.find(f"/dev/mapper/luks-{LUKS.uuid}") == found
    assert devices.named("other UUID=0 none luks\ncryptswap /dev/sda1 /dev/urandom swap\n") == devices


def test_a_partition_in_an_array() -> None:
    devices = Devices((inside(ARRAY, "ext4", 1), inside(ARRAY, "swap", 2)))
    found = devices.find("/dev/md0p2")
    assert found is not None and found.type == "swap"
    assert devices.find("/dev/md0") is None


def test_tables_of_the_device_mapper() -> None:
    one, two = pathlib.Path("/dev/loop1"), pathlib.Path("/dev/loop2")
    runs = (Run(0, 8192, ((one, 1048576),)), Run(8192, 4096, ((one, 4096), (two, 512)), chunk=65536))
    found = LogicalVolume("vg", "lv", "", runs)
    assert found.table() == ["0 16 linear /dev/loop1 2048", "16 8 striped 2 128 /dev/loop1 8 /dev/loop2 1"]
    assert found.size == 12288


def test_a_hibernated_guest_is_refused(tmp_path: pathlib.Path) -> None:
    guest = debian(tmp_path / "guest")
    guest.filesystems[1] = inside(volume(logical("swap")), "swsuspend")
    with pytest.raises(JobError, match="vg-sys/swap") as caught:
        guest.plan()
    assert caught.value.reason == "Hibernated"


def test_the_list_of_lvms_devices(tmp_path: pathlib.Path) -> None:
    """Entries by serial numbers become such by name, which LVM corrects; those that are in the data stay."""
    guest: Phony = debian(tmp_path / "guest")
    guest.put(
        "/etc/lvm/devices/system.devices",
        "# LVM uses devices listed in this file.\nVERSION=1.1.2\n"
        "IDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2 PVID=abc PART=2\n"
        "IDTYPE=devname IDNAME=/dev/sdb DEVNAME=/dev/sdb PVID=def\n"
        "IDTYPE=md_uuid IDNAME=a:b DEVNAME=/dev/md0 PVID=ghi\n",
    )
    guest.fix("lvm-devices")
    assert guest.text("/etc/lvm/devices/system.devices").splitlines()[2:] == [
        "IDTYPE=devname IDNAME=/dev/sda2 DEVNAME=/dev/sda2 PVID=abc PART=2",
        "IDTYPE=devname IDNAME=/dev/sdb DEVNAME=/dev/sdb PVID=def",
        "IDTYPE=md_uuid IDNAME=a:b DEVNAME=/dev/md0 PVID=ghi",
    ]
