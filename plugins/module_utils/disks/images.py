# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open one disk image of a known format, with the files that it needs: extents, and the parents of a snapshot.

A format is told (by the job, the metadata or the file's name), never found by looking: a guest could have written what
there is to see. Names within an image are confined like those of a job.
"""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from . import qcow2, vdi, vhd, vhdx, vmdk
from .file_range import FileRange, truncated
from .manifest import compare_bytes
from .model import DiskImage, ImageFormat, Part
from .paths import confine, confine_beside, from_windows

#: Formats by the ending of a file's name.
SUFFIXES: dict[str, ImageFormat] = {
    ".vmdk": "vmdk",
    ".qcow2": "qcow2",
    ".raw": "raw",
    ".img": "raw",
    ".dd": "raw",
    ".vhd": "vhd",
    ".avhd": "vhd",
    ".vhdx": "vhdx",
    ".avhdx": "vhdx",
    ".vdi": "vdi",
}
#: As QEMU names them in the headers of its images.
_QEMU_NAMES: dict[str, ImageFormat] = {"qcow2": "qcow2", "raw": "raw", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhdx"}
#: VMware's longest chain is 32 snapshots.
_MAX_CHAIN = 33
_SECTOR = 512
_MAX_DESCRIPTOR_FILE = 1024**2
_FLAT, _SPARSE, _FOREIGN = frozenset({"FLAT", "VMFS"}), "SPARSE", frozenset({"VMFSSPARSE", "SESPARSE"})
_SUGGEST_EXPORT = "Export the VM as an OVA, or convert the disk to one file: qemu-img convert -O qcow2."


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an image is, and who says so. Bytes."""

    path: pathlib.Path
    root: pathlib.Path
    """The parents of a snapshot are below it."""
    what: str
    """Where its name was found, for errors."""
    name: str
    """The disk's."""
    digest: str | None = None
    offset: int = 0
    length: int | None = None
    children: tuple[pathlib.Path, ...] = ()
    """The snapshots that were followed to get here."""


def open_image(place: Place, kind: str, warnings: list[str]) -> DiskImage:
    """Check the image at ``place``, of the format ``kind``, and all that it needs.

    Raises:
        JobError: class ``invalid``, it is not what it is said to be, is cut short, or a name in it is refused; class
            ``unsupported``, it is of a kind that cannot be moved.
    """
    if place.path in place.children or len(place.children) >= _MAX_CHAIN:
        raise invalid(
            "BadChain",
            f"{place.path.name} is part of a chain of snapshots without an end.",
            "Consolidate the VM's snapshots, then export it again.",
        )
    with FileRange(place.path, place.offset, place.length) as file:
        return _OPENERS[kind](file, place, warnings)


def whole_sectors(size: int) -> int:
    """Virtual disks consist of whole sectors; QEMU pads the last one of a raw image with zeros."""
    return -(-size // _SECTOR) * _SECTOR


def _image(place: Place, fmt: ImageFormat, subformat: str, size: int, **more: t.Any) -> DiskImage:
    return DiskImage(
        name=place.name,
        path=place.path,
        format=fmt,
        subformat=subformat,
        virtual_size=size,
        offset=place.offset,
        length=place.length,
        manifest_digest=place.digest,
        **more,
    )


def _over(image: DiskImage, parent: DiskImage) -> DiskImage:
    files = (*image.extents, parent.path, *parent.extents)
    return dataclasses.replace(image, backing=parent, extents=files)


def _parent(place: Place, name: str, kind: str, warnings: list[str]) -> DiskImage:
    """Open the parent that the image at ``place`` names."""
    if place.offset or place.length is not None:
        raise unsupported(
            "SnapshotDisk",
            f"{place.path.name} holds a snapshot: its disk is only what differs from a parent.",
            "Consolidate the VM's snapshots before the export.",
        )
    what = f"{place.what}: parent of {place.path.name}"
    path = confine_beside(place.root, place.path, name, what)
    return open_image(Place(path, place.root, what, place.name, children=(*place.children, place.path)), kind, warnings)


def _differs(place: Place, parent: DiskImage) -> JobError:
    return invalid(
        "WrongParent",
        f"{parent.path.name} is not the disk that the snapshot {place.path.name} was made of, or was changed since.",
        "Copy the VM's whole folder again, while the VM is shut down.",
    )


# -- formats -----------------------------------------------------------------------------------------------------------


def _open_raw(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    if file.length == 0:
        raise truncated(place.path)
    if file.read(0, min(4, file.length)) in (qcow2.MAGIC, vmdk.MAGIC):
        warnings.append(
            f"{place.path.name} is read as a raw disk, as it is called, though it begins like an image of another "
            "format."
        )
    return _image(place, "raw", "", whole_sectors(file.length))


def _open_qcow2(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    header = qcow2.read_header(file)
    if not header.extended_l2:
        qcow2.Tables(file, header).check()
    if header.snapshots:
        warnings.append(f"{place.path.name} holds {header.snapshots} snapshots, which are not carried over.")
    image = _image(place, "qcow2", "", whole_sectors(header.size))
    if header.backing is None:
        return image
    kind = _QEMU_NAMES.get(header.backing_format)
    if kind is None:
        raise unsupported(
            "UnknownParent",
            f"{place.path.name} does not tell the format of its backing file, and nobody should guess it.",
            "Record it: qemu-img rebase -u -b BACKING -F FORMAT IMAGE.",
        )
    return _over(image, _parent(place, header.backing, kind, warnings))


def _open_vhd(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    header = vhd.read_vhd(file)
    if header.kind == "fixed":
        # A fixed disk is a raw one with a footer behind it, which is left out.
        whole = Part(place.path, place.offset, place.length, place.digest) if place.digest else None
        image = _image(place, "raw", "fixed VHD", header.size, enclosing=whole)
        return dataclasses.replace(image, length=header.size, manifest_digest=None)
    for _block in vhd.blocks(file, header):
        pass
    image = _image(place, "vhd", header.kind, header.size)
    if header.kind == "dynamic":
        return image
    parent = _windows_parent(place, header.parent_names, "vhd", warnings)
    with FileRange(parent.path) as parent_file:
        if vhd.read_vhd(parent_file).unique_id != header.parent_id:
            raise _differs(place, parent)
    return _over(image, parent)


def _open_vhdx(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    header = vhdx.read_vhdx(file)
    vhdx.check_blocks(file, header)
    if not header.differencing:
        return _image(place, "vhdx", "", header.size)
    parent = _windows_parent(place, header.parent_names, "vhdx", warnings)
    with FileRange(parent.path) as parent_file:
        if vhdx.read_vhdx(parent_file).data_write_id not in header.parent_ids:
            raise _differs(place, parent)
    return _over(_image(place, "vhdx", "differencing", header.size), parent)


def _windows_parent(place: Place, names: tuple[str, ...], kind: str, warnings: list[str]) -> DiskImage:
    if not names:
        raise invalid("BadChain", f"{place.path.name} is a snapshot that does not name its parent.")
    # A path of the Windows host means nothing here; its last part is looked for beside the snapshot.
    return _parent(place, from_windows(names[0]), kind, warnings)


def _open_vdi(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    header = vdi.read_vdi(file)
    return _image(place, "vdi", header.kind, header.size)


def _open_vmdk(file: FileRange, place: Place, warnings: list[str]) -> DiskImage:
    head = file.read(0, min(len(vmdk.DESCRIPTOR_START), file.length))
    if head.startswith(vmdk.MAGIC):
        extent = vmdk.SparseExtent(file)
        if extent.descriptor is None:
            raise AssertionError("extent.descriptor is not None")
        extent.check()
        subformat = "streamOptimized" if extent.compressed else "monolithicSparse"
        image, descriptor = _image(place, "vmdk", subformat, extent.virtual_size), extent.descriptor
    else:
        if place.offset or file.length > _MAX_DESCRIPTOR_FILE:
            raise invalid("BadVmdk", f"{place.path.name} does not begin as a VMDK.", "Export or upload it again.")
        text = file.read(0, file.length)
        descriptor = vmdk.parse_descriptor(text, place.path.name)
        if place.digest:
            # The digest is the descriptor's, which is at hand; the extents' own come from the caller.
            compare_bytes(place.path.name, place.digest, text)
        if len(descriptor.extents) == 1 and descriptor.extents[0].kind in _FLAT and not descriptor.has_parent:
            # Of one flat extent the file itself is read, except where a snapshot wants to see its CID.
            flat = _open_flat(descriptor, place)
            if not place.children:
                return flat
        image = _open_extents(descriptor, dataclasses.replace(place, digest=None))
    if descriptor.has_parent:
        image = _over(image, _vmdk_parent(descriptor, place, warnings))
    return image


def _vmdk_parent(descriptor: vmdk.Descriptor, place: Place, warnings: list[str]) -> DiskImage:
    if not descriptor.parent_name:
        raise invalid("BadChain", f"{place.path.name} is a snapshot that does not name its parent.")
    parent = _parent(place, descriptor.parent_name, "vmdk", warnings)
    if _content_id(parent) != descriptor.parent_id:
        raise _differs(place, parent)
    return parent


def _content_id(image: DiskImage) -> str:
    with FileRange(image.path) as file:
        if file.read(0, len(vmdk.MAGIC)) == vmdk.MAGIC:
            descriptor = vmdk.SparseExtent(file).descriptor
            return descriptor.content_id if descriptor else ""
        return vmdk.parse_descriptor(file.read(0, file.length), image.path.name).content_id


def _open_flat(descriptor: vmdk.Descriptor, place: Place) -> DiskImage:
    extent = descriptor.extents[0]
    flat = confine(place.path.parent, extent.name, f"{place.what}: extent")
    size = extent.size
    if not 0 < size <= vmdk.MAX_CAPACITY or extent.offset:
        raise invalid("BadVmdk", f"{place.path.name}: a disk of {size} bytes in one extent is not possible.")
    if not flat.is_file() or flat.stat().st_size < size:
        raise truncated(flat)
    if flat.stat().st_size > size:
        raise invalid("BadVmdk", f"{flat.name} is larger than its descriptor {place.path.name} says.")
    return DiskImage(
        name=place.name,
        path=flat,
        format="raw",
        subformat=descriptor.create_type,
        virtual_size=size,
        extents=(place.path,),
    )


def _open_extents(descriptor: vmdk.Descriptor, place: Place) -> DiskImage:
    """QEMU reads these by the descriptor, so what it would see there must be what was checked here."""
    what = place.path.name
    if not descriptor.extents or not descriptor.plain:
        raise invalid(
            "BadVmdk", f"{what} is not a VMDK descriptor that can be read: its list of extents is broken.",
            _SUGGEST_EXPORT,
        )  # fmt: skip
    files = []
    for extent in descriptor.extents:
        if extent.kind not in {*_FLAT, _SPARSE, *_FOREIGN} or extent.access != "RW":
            raise unsupported(
                "VmdkSubformat",
                f"{what} is a VMDK of type {descriptor.create_type or 'unknown'} with an extent that is "
                f"{extent.access} {extent.kind}.",
                _SUGGEST_EXPORT,
            )
        files.append(_open_extent(extent, place))
    size = sum(extent.size for extent in descriptor.extents)
    if not 0 < size <= vmdk.MAX_CAPACITY:
        raise invalid("BadVmdk", f"{what}: a disk of {size} bytes is not possible.")
    return _image(place, "vmdk", descriptor.create_type, size, extents=tuple(dict.fromkeys(files)))


def _open_extent(extent: vmdk.Extent, place: Place) -> pathlib.Path:
    path = confine(place.path.parent, extent.name, f"{place.what}: extent")
    if path != place.path.parent / extent.name or not path.is_file():
        raise invalid("PathRefused", f"{place.what}: the extent {extent.name[:200]!r} is a link or a folder.")
    with FileRange(path) as file:
        if extent.kind in _FLAT:
            if extent.offset + extent.size > file.length:
                raise truncated(path)
            return path
        if extent.kind == _SPARSE:
            sparse = vmdk.SparseExtent(file, described=True)
            sparse.check()
            size = sparse.virtual_size
        else:
            size = vmdk.foreign_extent_size(file)
        if size != extent.size:
            raise invalid("BadVmdk", f"{path.name} has {size} bytes, though {place.path.name} says {extent.size}.")
    return path


_OPENERS: dict[str, t.Callable[[FileRange, Place, list[str]], DiskImage]] = {
    "raw": _open_raw,
    "qcow2": _open_qcow2,
    "vhd": _open_vhd,
    "vhdx": _open_vhdx,
    "vdi": _open_vdi,
    "vmdk": _open_vmdk,
}
