# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The matrix of servers that are moved and booted: factors, what does not go together, and a pairwise cover. Pure."""

from __future__ import annotations

import collections.abc as c
import itertools
import typing as t

from tests.guests.specs import (
    SPECS,
    Firmware,
    GuestSpec,
    InitramfsTool,
    Loader,
    NetworkTool,
    ServerSpec,
    Storage,
)

#: What a server may be made of. Seven kinds of storage with four of network are 28 pairs, so that no cover is smaller.
FACTORS: t.Mapping[str, tuple[str, ...]] = {
    "release": ("bullseye", "bookworm", "trixie"),
    "firmware": ("bios", "uefi"),
    "storage": ("ext4", "xfs", "btrfs", "lvm", "luks-lvm", "raid1", "lvm-two-disks"),
    "initramfs": ("initramfs-tools", "dracut"),
    "loader": ("grub", "systemd-boot", "extlinux"),
    "network": ("ifupdown", "NetworkManager", "systemd-networkd", "netplan"),
}

Choice = t.Mapping[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def fits(choice: Choice) -> bool:
    """Whether there are such servers: systemd-boot is a UEFI program, and Debian's extlinux one for the BIOS."""
    return {"grub": True, "systemd-boot": choice["firmware"] == "uefi", "extlinux": choice["firmware"] == "bios"}[
        choice["loader"]
    ]


def choices(factors: t.Mapping[str, c.Sequence[str]], fit: c.Callable[[Choice], bool]) -> list[Choice]:
    """Every combination of one value a factor that fits."""
    rows = (dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values()))
    return [row for row in rows if fit(row)]


def pairs(choice: Choice) -> set[Pair]:
    """All pairs of two factors' values in a combination."""
    return set(itertools.combinations(choice.items(), 2))


def pairwise(rows: c.Sequence[Choice]) -> list[Choice]:
    """A few of the rows that have every pair which any of them has.

    Each next one is that which brings the most pairs that none before it has; the first of several. So the beginning of
    the list covers the most that as many rows could, nearly, and the same rows give the same list.
    """
    missing = set[Pair]().union(*map(pairs, rows))
    cover = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        cover.append(best)
        missing -= pairs(best)
    return cover


_FILESYSTEMS: t.Mapping[str, t.Literal["ext4", "xfs", "btrfs"]] = {"ext4": "ext4", "xfs": "xfs", "btrfs": "btrfs"}
_VOLUMES: t.Mapping[str, tuple[Storage, int]] = {
    "lvm": ("lvm", 1),
    "luks-lvm": ("luks-lvm", 1),
    "raid1": ("raid1", 2),
    "lvm-two-disks": ("lvm", 2),
}


def _spec(number: int, choice: Choice) -> ServerSpec:
    """The description of the cover's server of this number."""
    storage, disks = _VOLUMES.get(choice["storage"], ("plain", 1))
    return ServerSpec(
        name=f"matrix-{number:02}",
        kind="debian",
        hostname=f"server{number:02}",
        address=f"192.168.30.{100 + number}/24",  # the first ones are the gateway's
        mac=f"00:50:56:ab:30:{number:02}",
        disk_mib=2048,
        release=choice["release"],
        firmware=t.cast(Firmware, choice["firmware"]),
        controller="sata" if choice["firmware"] == "uefi" else "pvscsi",
        filesystem=_FILESYSTEMS.get(choice["storage"], "ext4"),
        # extlinux reads ext4 only, and GRUB as it is installed here no volumes; systemd-boot's kernels are on the ESP.
        boot_partition=choice["loader"] == "extlinux" or (storage != "plain" and choice["loader"] == "grub"),
        network_tool=t.cast(NetworkTool, choice["network"]),
        initramfs_tool=t.cast(InitramfsTool, choice["initramfs"]),
        swap_mib=0,
        cpus=1,
        storage=storage,
        disks=disks,
        loader=t.cast(Loader, choice["loader"]),
    )


#: What each server of the matrix is made of, by its name.
COVER: t.Mapping[str, Choice] = {
    f"matrix-{number:02}": choice for number, choice in enumerate(pairwise(choices(FACTORS, fits)), 1)
}
#: Their descriptions, by name.
MATRIX: t.Mapping[str, ServerSpec] = {
    name: _spec(number, choice) for number, (name, choice) in enumerate(COVER.items(), 1)
}
#: Every guest that can be built, by its name.
ALL: t.Mapping[str, GuestSpec] = {**SPECS, **MATRIX}
