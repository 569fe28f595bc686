# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Open a source: find its images, check what they claim, and tell what the machine was."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import typing as t

from ..protocol import models
from ..protocol.errors import invalid, unsupported
from . import qcow2, vmdk
from .file_range import FileRange, truncated
from .manifest import check_range, compare_bytes
from .model import DiskImage, Hardware, Source
from .ovf import OvfDisk
from .package import Package, open_folder, open_ova
from .paths import confine
from .usage import writer_of

_SECTOR = 512
_MAX_DESCRIPTOR_FILE = 1024**2
_SUFFIXES = {
    ".ova": models.SourceType.OVA,
    ".ovf": models.SourceType.OVF,
    ".vmdk": models.SourceType.VMDK,
    ".qcow2": models.SourceType.QCOW2,
    ".raw": models.SourceType.RAW,
    ".img": models.SourceType.RAW,
    ".dd": models.SourceType.RAW,
}
_FLAT_EXTENTS = frozenset({"FLAT", "VMFS"})


def open_source(spec: models.SourceSpec, input_root: pathlib.Path) -> Source:
    """Open what a job's ``spec.source`` names. Reads headers and tables, and writes nothing.

    Args:
        spec: the job's.
        input_root: absolute; every file of the source is below it.

    Raises:
        JobError: class ``invalid``, something is not there, leaves the root, is truncated or not what it says; class
            ``unsupported``, a kind of image that cannot be moved yet.
    """
    if spec.path is None:
        return _open_disks(spec, input_root)
    path = confine(input_root, spec.path, "spec.source.path")
    kind = _kind(spec.type, path)
    if kind in (models.SourceType.OVA, models.SourceType.OVF):
        package = open_ova(path) if kind is models.SourceType.OVA else open_folder(path)
        source = _open_package(package, input_root, path.stem)
        if spec.digest is not None:
            if path.is_dir():
                raise invalid("NotAFile", f"spec.source.digest: {path.name} is a folder, which has no digest.")
            source = dataclasses.replace(source, container=path, container_digest=spec.digest)
        return source
    return _open_disks(
        models.SourceSpec(disks=[models.DiskSpec(path=spec.path, format=kind.value, digest=spec.digest)]), input_root
    )


def check_manifest(
    source: Source,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    bandwidth: int | None = None,
) -> None:
    """Read every file of ``source`` for which a digest is known, and compare.

    Args:
        source: as opened.
        progress: gets bytes done and bytes in all.
        cancelled: True ends it.
        bandwidth: upper bound of the reading, in bytes per second.

    Raises:
        JobError: class ``invalid``, a file is not what its manifest or the job says.
    """
    ranges = [(i.path, i.offset, i.length, i.manifest_digest) for i in source.images if i.manifest_digest]
    _check_ranges(ranges + _container(source), progress, cancelled, bandwidth)


def check_container(
    source: Source,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    bandwidth: int | None = None,
) -> None:
    """Compare the digest that the job gives for a whole OVA or OVF, where it does; copying compares the others.

    Raises:
        JobError: class ``invalid``, the file is not what the job says.
    """
    _check_ranges(_container(source), progress, cancelled, bandwidth)


def check_given(source: Source, progress: t.Callable[[int, int], None], cancelled: t.Callable[[], bool]) -> None:
    """Compare the digests that the job itself gives: of a whole OVA or OVF, or of bare disks. Not a manifest's.

    Raises:
        JobError: class ``invalid``, a file is not what the job says.
    """
    if source.packaged:
        check_container(source, progress, cancelled)
    else:
        check_manifest(source, progress, cancelled)


def has_writer(source: Source) -> str | None:
    """Return who has a file of ``source`` open for writing, in words for a person; None: nobody that can be seen."""
    for path in dict.fromkeys(path for image in source.images for path in (image.path, *image.extents)):
        found = writer_of(path)
        if found:
            return found
    return None


# -- kinds -------------------------------------------------------------------------------------------------------------


def _kind(told: models.SourceType, path: pathlib.Path) -> models.SourceType:
    if path.is_dir():
        if told in (models.SourceType.AUTO, models.SourceType.OVF):
            return models.SourceType.OVF
        raise invalid("NotAFile", f"{path.name} is a folder, and type {told.value} wants a file.")
    if told is not models.SourceType.AUTO:
        return told
    found = _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise invalid(
            "UnknownType",
            f"The name {path.name} does not tell what kind of image it is.",
            "Set spec.source.type: ova, ovf, vmdk, qcow2 or raw.",
        )
    return found


# -- bare disks --------------------------------------------------------------------------------------------------------


def _open_disks(spec: models.SourceSpec, input_root: pathlib.Path) -> Source:
    images, warnings, files = [], [], []
    for index, disk in enumerate(spec.disks):
        field = f"spec.source.disks[{index}].path" if spec.path is None and len(spec.disks) > 1 else "spec.source.path"
        path = confine(input_root, disk.path, field)
        kind = disk.format or _kind(spec.type, path).value
        if not path.is_file() or kind not in ("vmdk", "qcow2", "raw"):
            raise invalid("NotADisk", f"{path.name} is no disk image.", "Give an OVA or OVF as spec.source.path.")
        image, found = _open_image(path, kind, name=f"disk{index}", field=field, digest=disk.digest)
        if disk.digest is not None and image.extents:
            raise unsupported(
                "DigestOfDescriptor",
                f"{field}: the digest is that of {path.name} alone, whose data lie in {image.path.name}.",
                "Give the flat file as a raw disk with its own digest, or leave the digest out.",
            )
        images.append(image)
        warnings += found
        files += [image.path, *image.extents]
    return Source(
        images=tuple(images),
        hardware=Hardware(name=images[0].path.stem),
        identity=_identity(files, input_root),
        warnings=tuple(warnings),
    )


def _open_image(
    path: pathlib.Path,
    kind: str,
    *,
    name: str,
    field: str,
    digest: str | None,
    offset: int = 0,
    length: int | None = None,
) -> tuple[DiskImage, list[str]]:
    """Check an image of the kind that the job or the OVF tells."""
    with FileRange(path, offset, length) as file:
        if kind == "vmdk":
            return _open_vmdk(file, DiskImage(name, path, "vmdk", "", 0, offset, length, (), digest), field), []
        if kind == "qcow2":
            header = qcow2.read_header(file)
            if not header.extended_l2:
                qcow2.Tables(file, header).check()
            size = _whole_sectors(header.size)
            warnings = [f"{path.name} holds {header.snapshots} snapshots, which are not carried over."]
            return DiskImage(name, path, "qcow2", "", size, offset, length, (), digest), (
                warnings if header.snapshots else []
            )
        if file.length == 0:
            raise truncated(path)
        head = file.read(0, min(4, file.length))
        warnings = []
        if head in (qcow2.MAGIC, vmdk.MAGIC):
            warnings = [
                f"{path.name} is read as a raw disk, as it is called, though it begins like an image of another format."
            ]
        return DiskImage(name, path, "raw", "", _whole_sectors(file.length), offset, length, (), digest), warnings


def _open_vmdk(file: FileRange, image: DiskImage, field: str) -> DiskImage:
    head = file.read(0, min(len(vmdk.DESCRIPTOR_START), file.length))
    if head.startswith(vmdk.MAGIC):
        extent = vmdk.SparseExtent(file)
        _refuse_parent(extent.descriptor, file.path)
        extent.check()
        subformat = "streamOptimized" if extent.compressed else "monolithicSparse"
        return dataclasses.replace(image, subformat=subformat, virtual_size=extent.virtual_size)
    if image.offset or file.length > _MAX_DESCRIPTOR_FILE:
        raise invalid("BadVmdk", f"{file.path.name} does not begin as a VMDK.", "Export or upload it again.")
    descriptor = vmdk.parse_descriptor(file.read(0, file.length), file.path.name)
    _refuse_parent(descriptor, file.path)
    extents = descriptor.extents
    if len(extents) != 1 or extents[0].kind not in _FLAT_EXTENTS:
        raise unsupported(
            "VmdkSubformat",
            f"{file.path.name} is a VMDK of type {descriptor.create_type or 'unknown'} with {len(extents)} extents.",
            "Export the VM as an OVA, or convert the disk to one file: qemu-img convert -O qcow2.",
        )
    flat = confine(file.path.parent, extents[0].name, f"{field}: extent")
    size = extents[0].size
    if not 0 < size <= vmdk.MAX_CAPACITY or extents[0].offset:
        raise invalid("BadVmdk", f"{file.path.name}: a disk of {size} bytes in one extent is not possible.")
    if not flat.is_file() or flat.stat().st_size < size:
        raise truncated(flat)
    if flat.stat().st_size > size:
        raise invalid("BadVmdk", f"{flat.name} is larger than its descriptor {file.path.name} says.")
    if image.manifest_digest:
        # The digest is the descriptor's, which is at hand; the extent's own comes from the caller.
        compare_bytes(file.path.name, image.manifest_digest, file.read(0, file.length))
    return DiskImage(
        name=image.name,
        path=flat,
        format="raw",
        subformat=descriptor.create_type,
        virtual_size=size,
        extents=(file.path,),
    )


def _refuse_parent(descriptor: vmdk.Descriptor, path: pathlib.Path) -> None:
    if descriptor.has_parent:
        raise unsupported(
            "SnapshotDisk",
            f"{path.name} is a snapshot: it holds only what differs from its parent.",
            "Consolidate the VM's snapshots before the export.",
        )


# -- OVA and OVF -------------------------------------------------------------------------------------------------------


def _open_package(package: Package, input_root: pathlib.Path, stem: str) -> Source:
    warnings = list(package.warnings)
    images = []
    for index, disk in enumerate(package.ovf.disks):
        image, found = _open_ovf_disk(package, disk, f"disk{index}")
        warnings += found
        images.append(image)
    hardware = package.ovf.hardware
    return Source(
        packaged=True,
        images=tuple(images),
        hardware=hardware if hardware.name else dataclasses.replace(hardware, name=stem),
        identity=_identity([*package.files, *(f for i in images for f in (i.path, *i.extents))], input_root),
        warnings=tuple(warnings),
    )


def _open_ovf_disk(package: Package, disk: OvfDisk, name: str) -> tuple[DiskImage, list[str]]:
    path, offset, length = package.locate(disk.href)
    kind = _disk_kind(disk, package.descriptor)
    image, warnings = _open_image(
        path,
        kind,
        name=name,
        field=package.descriptor,
        digest=package.digests.get(disk.href),
        offset=offset,
        length=length,
    )
    if image.extents:
        image = dataclasses.replace(image, manifest_digest=package.digests.get(image.path.name))
    if disk.capacity is not None and _whole_sectors(disk.capacity) != image.virtual_size:
        warnings.append(
            f"{disk.href} has {image.virtual_size} bytes, though the OVF says {disk.capacity}; the disk decides."
        )
    return image, warnings


def _disk_kind(disk: OvfDisk, what: str) -> str:
    said = disk.format.lower()
    for word in ("vmdk", "qcow2", "raw"):
        if word in said:
            return word
    found = _SUFFIXES.get(pathlib.PurePosixPath(disk.href).suffix.lower())
    if found in (models.SourceType.VMDK, models.SourceType.QCOW2, models.SourceType.RAW):
        return str(found.value)
    raise unsupported("DiskFormat", f"{what}: {disk.href!r} has the format {disk.format!r}, which is not known.")


# -- helpers -----------------------------------------------------------------------------------------------------------


def _identity(files: t.Iterable[pathlib.Path], root: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        status = path.stat()
        name = os.path.relpath(path, root.resolve())
        digest.update(repr((name, status.st_size, status.st_mtime_ns, status.st_ino)).encode())
    return f"sha256:{digest.hexdigest()}"


def _container(source: Source) -> list[tuple[pathlib.Path, int, int | None, str | None]]:
    if source.container is None:
        return []
    return [(source.container, 0, None, source.container_digest)]


def _check_ranges(
    ranges: t.Sequence[tuple[pathlib.Path, int, int | None, str | None]],
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    bandwidth: int | None,
) -> None:
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(FileRange(path, offset, length)) for path, offset, length, _digest in ranges]
        total = sum(file.length for file in files)
        before = 0
        for file, (_path, _offset, _length, digest) in zip(files, ranges, strict=True):
            if digest is None:
                raise AssertionError("digest is not None")
            check_range(
                file,
                digest,
                bandwidth=bandwidth,
                progress=lambda done, base=before: progress(base + done, total),  # type: ignore[misc]
                cancelled=cancelled,
            )
            before += file.length


def _whole_sectors(size: int) -> int:
    """Virtual disks consist of whole sectors; QEMU pads the last one of a raw image with zeros."""
    return -(-size // _SECTOR) * _SECTOR
