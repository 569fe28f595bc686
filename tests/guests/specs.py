# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guests that demo, tests and benchmarks move: what each one is. Plain data, hashed into the cache's keys."""

from __future__ import annotations

import dataclasses
import typing as t

MIB = 1024**2

#: The password of root in every guest. They are test guests without secrets and are never put on a real network.
ROOT_PASSWORD = "hyper2kvm"

Firmware = t.Literal["bios", "uefi"]
NetworkTool = t.Literal["ifupdown", "NetworkManager", "systemd-networkd", "netplan"]
InitramfsTool = t.Literal["initramfs-tools", "dracut"]
Loader = t.Literal["grub", "systemd-boot", "extlinux"]
Storage = t.Literal["plain", "lvm", "luks-lvm", "raid1"]


@dataclasses.dataclass(frozen=True)
class GuestSpec:
    """One guest as it comes out of VMware. Whatever is written here decides what the builder makes."""

    name: str
    kind: t.Literal["debian", "tiny", "blank", "nokernel"]
    """``debian``: a whole Debian with systemd; ``tiny``: real kernel, initramfs and udev, busybox as userland;
    ``blank``: a partition table and nothing else; ``nokernel``: ``tiny`` whose /boot lost kernel and initramfs."""
    hostname: str
    address: str
    """The static IPv4 address with its prefix length, on ``ens192``."""
    mac: str | None
    """The card's address as the OVF tells it. None: an export without ``exportFlags=mac``, ovftool's default."""
    disk_mib: int
    release: str = "bookworm"
    firmware: Firmware = "bios"
    controller: t.Literal["pvscsi", "sata"] = "pvscsi"
    """What the disk hangs on in VMware: the paravirtual SCSI adapter, or the AHCI one. (UEFI guests have the latter,
    for Debian's OVMF has no driver for the former, and the source's boot could not be shown.)"""
    filesystem: t.Literal["ext4", "xfs", "btrfs"] = "ext4"
    boot_partition: bool = False
    """An ext4 /boot of its own."""
    network_tool: NetworkTool = "ifupdown"
    initramfs_tool: InitramfsTool = "initramfs-tools"
    initramfs_policy: t.Literal["list", "dep"] = "list"
    """What the guest's own configuration says about ``MODULES``."""
    initramfs_compression: t.Literal["zstd", "xz", "lz4", "gzip"] = "zstd"
    swap_mib: int = 512
    """0: no swap partition."""
    cpus: int = 2
    memory_mib: int = 1024
    nvram: bool = False
    """Whether the export has a file with the firmware's variables, as vSphere 7 and later write one."""

    @property
    def gateway(self) -> str:
        """The first address of the guest's network."""
        return self.address.split("/")[0].rsplit(".", 1)[0] + ".1"

    @property
    def network(self) -> str:
        """The guest's network with its prefix length (always /24 here)."""
        return self.address.split("/")[0].rsplit(".", 1)[0] + ".0/24"


@dataclasses.dataclass(frozen=True)
class ServerSpec(GuestSpec):
    """A guest that comes as bare disks, ``disk0.vmdk`` …, boot disk first; its root may lie in volumes."""

    storage: Storage = "plain"
    disks: int = 1
    loader: Loader = "grub"


def _volumes(name: str, number: int, storage: Storage, disks: int) -> ServerSpec:
    return ServerSpec(
        name=name,
        kind="debian",
        hostname=name.removeprefix("debian12-"),
        address=f"192.168.20.{number}/24",
        mac=None,
        disk_mib=1536,
        boot_partition=True,
        swap_mib=0,
        storage=storage,
        disks=disks,
    )


def _tiny(name: str, number: int, kind: t.Literal["tiny", "blank", "nokernel"] = "tiny") -> GuestSpec:
    return GuestSpec(
        name=name,
        kind=kind,
        hostname=name,
        address=f"192.168.56.{number}/24",
        mac=f"00:50:56:ab:00:{number:02x}",
        disk_mib=512,
        swap_mib=0,
        cpus=1,
        memory_mib=512,
    )


_TABLE = (
    GuestSpec(
        name="debian12",
        kind="debian",
        hostname="web01",
        address="192.168.10.21/24",
        mac="00:50:56:ab:10:21",
        disk_mib=8192,
    ),
    GuestSpec(
        name="debian12-uefi",
        kind="debian",
        hostname="db01",
        address="192.168.10.31/24",
        mac="00:50:56:ab:10:31",
        disk_mib=8192,
        firmware="uefi",
        controller="sata",
        filesystem="xfs",
        network_tool="systemd-networkd",
        initramfs_policy="dep",
        initramfs_compression="xz",
        nvram=True,
    ),
    GuestSpec(
        name="debian12-btrfs",
        kind="debian",
        hostname="files01",
        address="192.168.10.41/24",
        mac=None,
        disk_mib=8192,
        filesystem="btrfs",
        boot_partition=True,
        initramfs_compression="lz4",
    ),
    _volumes("debian12-lvm", 11, "lvm", 2),
    _volumes("debian12-luks", 12, "luks-lvm", 1),
    _volumes("debian12-raid", 13, "raid1", 2),
    _tiny("tiny", 11),
    _tiny("tiny-blank", 12, "blank"),
    _tiny("tiny-nokernel", 13, "nokernel"),
)

#: Every guest by its name.
SPECS: t.Mapping[str, GuestSpec] = {spec.name: spec for spec in _TABLE}
