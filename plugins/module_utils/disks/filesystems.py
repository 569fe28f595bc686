# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What partitions hold, as libblkid's low-level probe sees it."""

from __future__ import annotations

from .attach import AttachedDisk, Attachment
from .btrfs import read_membership
from .command import run_command
from .model import Filesystem, Partition
from .partitions import read_partitions

#: blkid(8): nothing was found, or several things at once (of which it names none: an old signature left behind).
_NOTHING, _AMBIVALENT = 2, 8


def probe(attachment: Attachment) -> list[Filesystem]:
    """Return what each partition of each attached disk holds, in the order of disks and partitions.

    The values come from the guest: they name things, and are never a path on this host.

    Raises:
        JobError: a disk cannot be read.
    """
    return [
        probe_partition(disk, partition)
        for disk in attachment.disks.values()
        for partition in read_partitions(disk, disk.name)
    ]


def probe_partition(disk: AttachedDisk, partition: Partition) -> Filesystem:
    """Return what ``partition`` holds; its type is empty where nothing is recognised.

    Raises:
        JobError: the disk cannot be read.
    """
    output = run_command(
        [
            "blkid",
            "--probe",
            "--output=export",
            f"--offset={partition.start}",
            f"--size={partition.size}",
            "--usages=filesystem,raid,crypto,other",
            disk.device,
        ],
        what=f"Probing partition {partition.number} of {disk.name}",
        accept=(0, _NOTHING, _AMBIVALENT),
    )
    found = dict(line.split("=", 1) for line in output.decode("utf-8", "replace").splitlines() if "=" in line)
    fstype = _unescaped(found.get("TYPE", ""))
    member, members = read_membership(disk.device, partition.start) if fstype == "btrfs" else (1, 1)
    return Filesystem(
        partition=partition,
        type=fstype,
        uuid=_unescaped(found.get("UUID", "")),
        label=_unescaped(found.get("LABEL", "")),
        member=member,
        members=members,
    )


def _unescaped(value: str) -> str:
    """Undo the shell's escapes that ``--output=export`` puts before special characters."""
    plain, escaped = [], False
    for character in value:
        if character == "\\" and not escaped:
            escaped = True
            continue
        plain.append(character)
        escaped = False
    return "".join(plain)
