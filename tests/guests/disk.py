# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partition tables and filesystems in a sparse file, made without a partition scan and without vfat in the kernel."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import os
import pathlib
import uuid

from tests.guests.host import run
from tests.guests.specs import MIB, GuestSpec

_TYPES = {
    "bios": {"esp": "ef", "swap": "82", "linux": "83"},
    "uefi": {
        "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
        "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    },
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A partition that a guest has. Bytes."""

    number: int
    start: int
    size: int
    filesystem: str
    """``ext4``, ``xfs``, ``btrfs``, ``vfat`` or ``swap``."""
    mountpoint: str
    """Where the guest mounts it; ``none`` for swap."""
    uuid: str
    """As ``blkid`` shows it."""
    partuuid: str

    @property
    def device(self) -> str:
        """Its name on VMware's hardware."""
        return f"/dev/sda{self.number}"


def layout(spec: GuestSpec) -> tuple[Slice, ...]:
    """The partitions of a guest, one after another from 1 MiB on; the root filesystem takes what the others leave.

    Their identifiers are new in every call: the kernel does not mount two filesystems of one UUID side by side, and
    a guest may be in use while its successor is built.
    """
    wanted: list[tuple[str, str, int]] = []
    if spec.firmware == "uefi":
        wanted.append(("vfat", "/boot/efi", 128))
    if spec.boot_partition:
        wanted.append(("ext4", "/boot", 512))
    taken = sum(size for dummy, dummy, size in wanted) + spec.swap_mib + 2  # a MiB in front, one for the backup GPT
    wanted.append((spec.filesystem, "/", spec.disk_mib - taken))
    if spec.swap_mib:
        wanted.append(("swap", "none", spec.swap_mib))
    slices = []
    disk_id = uuid.uuid4().hex[:8]
    start = 1
    for number, (filesystem, mountpoint, size) in enumerate(wanted, 1):
        identifier = str(uuid.uuid4())
        partuuid = str(uuid.uuid4()) if spec.firmware == "uefi" else f"{disk_id}-{number:02d}"
        shown = f"{identifier[:4]}-{identifier[4:8]}".upper() if filesystem == "vfat" else identifier
        slices.append(Slice(number, start * MIB, size * MIB, filesystem, mountpoint, shown, partuuid))
        start += size
    return tuple(slices)


def write_table(disk: pathlib.Path, spec: GuestSpec, slices: c.Sequence[Slice]) -> None:
    """Make the file with its partition table (MBR for BIOS, GPT for UEFI)."""
    with disk.open("xb") as file:
        file.truncate(spec.disk_mib * MIB)
    types = _TYPES[spec.firmware]
    mbr = ["label: dos", f"label-id: 0x{slices[0].partuuid[:8]}"]
    lines = ["label: gpt"] if spec.firmware == "uefi" else mbr
    for part in slices:
        kind = types[{"vfat": "esp", "swap": "swap"}.get(part.filesystem, "linux")]
        own = f", uuid={part.partuuid}" if spec.firmware == "uefi" else ", bootable" if part.number == 1 else ""
        lines.append(f"start={part.start // 512}, size={part.size // 512}, type={kind}{own}")
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin="\n".join(lines).encode())


def make_filesystem(disk: pathlib.Path, part: Slice) -> None:
    """Put an empty filesystem into its partition.

    Not every mkfs takes an offset, so it is made in a file beside the disk and its few written blocks are moved.
    """
    fresh = disk.with_name(f"{disk.name}.{part.number}")
    with fresh.open("xb") as file:
        file.truncate(part.size)
    command: dict[str, list[str]] = {
        "ext4": ["mke2fs", "-q", "-t", "ext4", "-U", part.uuid],
        "xfs": ["mkfs.xfs", "-q", "-m", f"uuid={part.uuid}"],
        "btrfs": ["mkfs.btrfs", "-q", "-U", part.uuid],
        "vfat": ["mkfs.vfat", "-F", "32", "-i", part.uuid.replace("-", "")],
        "swap": ["mkswap", "-q", "-U", part.uuid],
    }
    run([*command[part.filesystem], fresh])
    copy_data(fresh, disk, part.start)
    fresh.unlink()


def copy_data(source: pathlib.Path, target: pathlib.Path, offset: int) -> None:
    """Copy what is not zero from ``source`` into ``target`` at ``offset``, where everything is zero so far."""
    with source.open("rb") as reader, target.open("r+b") as writer:
        for start, block in data_blocks(reader.fileno(), 64 * 1024):
            os.pwrite(writer.fileno(), block, offset + start)


def data_blocks(fd: int, size: int) -> c.Iterator[tuple[int, bytes]]:
    """All blocks of a file (aligned to ``size``; offset, bytes) that hold anything but zeros."""
    end = os.fstat(fd).st_size
    position = 0
    zeros = bytes(size)
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            return
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        position = data - data % size
        while position < hole:
            block = os.pread(fd, size, position)
            if block != zeros[: len(block)]:
                yield position, block
            position += size


@contextlib.contextmanager
def mounted(disk: pathlib.Path, slices: c.Iterable[Slice], root: pathlib.Path) -> c.Iterator[pathlib.Path]:
    """Mount a guest's filesystems (all but vfat and swap) below ``root``; only for a private mount namespace.

    A btrfs root is made of the subvolumes ``@`` and ``@home``, as Debian's and Ubuntu's installers make it. At the end
    the filesystems are trimmed, so that deleted blocks are holes of the disk's file again.
    """
    mounts: list[pathlib.Path] = []
    root.mkdir()
    mountable = [part for part in slices if part.filesystem not in ("vfat", "swap")]
    for part in sorted(mountable, key=lambda part: part.mountpoint):
        where = root / part.mountpoint.lstrip("/")
        where.mkdir(exist_ok=True)
        source = f"loop,offset={part.start},sizelimit={part.size}"
        if part.filesystem != "btrfs":
            run(["mount", "-t", part.filesystem, "-o", source, disk, where])
            mounts.append(where)
            continue
        run(["mount", "-t", "btrfs", "-o", source, disk, where])
        run(["btrfs", "subvolume", "create", where / "@"])
        run(["btrfs", "subvolume", "create", where / "@home"])
        (where / "@/home").mkdir()
        run(["umount", where])
        run(["mount", "-t", "btrfs", "-o", f"{source},subvol=@", disk, where])
        loop = run(["findmnt", "-n", "-v", "-o", "SOURCE", where]).strip()
        run(["mount", "-t", "btrfs", "-o", "subvol=@home", loop, where / "home"])
        mounts += [where, where / "home"]
    yield root
    for where in mounts:
        run(["sync", "--file-system", where])  # blocks of deleted files are free once the journal says so
        run(["fstrim", where])
    for where in reversed(mounts):
        run(["umount", where])
    root.rmdir()
