# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a source is, once it was opened and checked: images, hardware, identity. Plain data."""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

ImageFormat = t.Literal["vmdk", "qcow2", "raw", "vhd", "vhdx", "vdi"]
Firmware = t.Literal["bios", "uefi"]


@dataclasses.dataclass(frozen=True)
class DiskImage:
    """One virtual disk of a source. All sizes are bytes."""

    name: str
    """``disk0``, ``disk1`` … in the source's order; unique within a job."""
    path: pathlib.Path
    """The file that holds it: absolute, below the input root, no symbolic link on the way."""
    format: ImageFormat
    subformat: str
    """The kind within the format: ``streamOptimized``, ``monolithicFlat`` …; ``fixed``, ``dynamic``,
    ``differencing``; or empty."""
    virtual_size: int
    offset: int = 0
    """Where the image begins within ``path`` (the member of an OVA)."""
    length: int | None = None
    """How long it is there; None: to the end of the file."""
    extents: tuple[pathlib.Path, ...] = ()
    """Further files that the image reads (extents; parents and what they read), checked like ``path``."""
    manifest_digest: str | None = None
    """``sha1:…``, ``sha256:…`` or ``sha512:…`` of the file, from a manifest or the job; still to be compared."""
    backing: DiskImage | None = None
    """The image that shows through where this one holds nothing: a snapshot's parent."""
    enclosing: Part | None = None
    """The bytes that a digest is of, where the image is only a part of them, or was made of them; to be compared."""
    packing: Packing | None = None
    """How the image is packed. Until it was unpacked only its name, path and format are known."""

    @property
    def chain(self) -> list[DiskImage]:
        """This image, its parent, that one's parent …"""
        return [self, *(self.backing.chain if self.backing else [])]


@dataclasses.dataclass(frozen=True)
class Packing:
    """A file that lies compressed, or in pieces, and cannot be read in place. Bytes."""

    parts: tuple[Part, ...]
    """Where its bytes lie, in order."""
    compression: t.Literal["", "gzip", "xz"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of a file, and its digest where a manifest tells it."""

    path: pathlib.Path
    offset: int = 0
    length: int | None = None
    """None: to the end of the file."""
    digest: str | None = None


class Run(t.NamedTuple):
    """A part of a virtual disk that an image holds itself. Bytes."""

    begin: int
    """On the virtual disk."""
    length: int
    stored: int | None
    """Where in its file; None: they are zeros."""


@dataclasses.dataclass(frozen=True)
class NamedDisk:
    """A disk as a virtual machine's metadata name it. Bytes."""

    name: str
    """The file, as the metadata spell it."""
    format: str
    """As the metadata tell it: a word, a URI, or empty."""
    bus: str
    """As the source names it."""
    capacity: int | None = None
    compressed: bool = False
    """Whether the file is a gzip file as a whole."""
    chunk_size: int | None = None
    """Of a file that is split into chunks."""
    size: int | None = None
    """Of the file as it is packed, all chunks together."""


@dataclasses.dataclass(frozen=True)
class Described:
    """A virtual machine as its metadata describe it."""

    hardware: Hardware
    disks: tuple[NamedDisk, ...]
    """In the order in which the machine tries them."""


@dataclasses.dataclass(frozen=True)
class Nic:
    """One network card."""

    network: str = ""
    model: str = ""
    """As the source names it (``VmxNet3``)."""
    mac: str | None = None
    """Lower case, colons; None: the source does not tell."""


@dataclasses.dataclass(frozen=True)
class Hardware:
    """The virtual machine's hardware as its metadata tells it."""

    name: str = ""
    cpus: int = 1
    memory_bytes: int = 1024**3
    firmware: Firmware | None = None
    """None: the metadata does not tell; the disk decides."""
    secure_boot: bool = False
    disk_buses: tuple[str, ...] = ()
    """As the source names them (``VirtualSCSI``), one a disk."""
    nics: tuple[Nic, ...] = ()
    not_carried: tuple[str, ...] = ()
    """What the target will not have (vTPM, NVRAM, sound …), each a sentence for a person."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An opened source."""

    images: tuple[DiskImage, ...]
    hardware: Hardware
    identity: str
    """Digest over name, size, mtime and inode of every file of the source: equal as long as nothing changed."""
    warnings: tuple[str, ...] = ()
    packing: Packing | None = None
    """How an OVA is packed as a whole. Until it was unpacked there are no images."""
    container: pathlib.Path | None = None
    """The OVA or OVF descriptor, where the job gives a digest for it."""
    container_digest: str | None = None
    """``sha256:…`` of the container's bytes, from the job; still to be compared."""
    packaged: bool = False
    """Whether the images come with an OVF descriptor: their digests are those of its manifest, not of the job."""


@dataclasses.dataclass(frozen=True)
class Partition:
    """A partition, or the whole disk where it has no table. Bytes."""

    disk: str
    """:attr:`DiskImage.name`"""
    number: int
    """0 for a disk without a table."""
    start: int
    size: int
    type_id: str = ""
    """GPT type GUID (lower case) or MBR type (two hex digits)."""
    partuuid: str = ""
    label: str = ""
    bootable: bool = False


@dataclasses.dataclass(frozen=True)
class Volume:
    """A block device that others make up: a logical volume, what a LUKS container holds, a RAID array."""

    name: str
    """Unique within a job: ``vg0/root``, ``luks-<uuid>``, ``md-<uuid>``. The disk of the partitions in it."""
    kind: t.Literal["lvm", "luks", "raid1"]
    uuid: str
    size: int
    names: tuple[str, ...]
    """What the guest's own files may call it: ``/dev/mapper/vg0-root``."""
    members: tuple[str, ...]
    """What makes it up, each as a person knows it: ``disk0 partition 2``."""


@dataclasses.dataclass(frozen=True)
class Filesystem:
    """What a partition, or a volume, holds, as libblkid sees it."""

    partition: Partition
    type: str
    """``ext4``, ``xfs``, ``btrfs``, ``vfat``, ``swap``, ``crypto_LUKS``, ``LVM2_member`` … or empty."""
    uuid: str = ""
    label: str = ""
    member: int = 1
    """Which of its devices this is, where it lies on several (btrfs)."""
    members: int = 1
    """On how many devices it lies."""
    volume: Volume | None = None
    """What it lies in, where that is no partition of a disk; ``partition.disk`` is the volume's name then."""

    @property
    def place(self) -> str:
        """Where it is, for a person: ``disk0 partition 2``, ``disk1``, ``vg0/root``."""
        number = self.partition.number
        return f"{self.partition.disk} partition {number}" if number else self.partition.disk
