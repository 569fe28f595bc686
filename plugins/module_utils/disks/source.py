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
from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange
from .hyperv import parse_hyperv
from .images import SUFFIXES, Place, open_image, whole_sectors
from .manifest import check_range
from .model import DiskImage, Hardware, ImageFormat, NamedDisk, Packing, Part, Source
from .package import Package, open_folder, open_ova
from .paths import confine, confine_beside
from .unpack import Unpacker
from .usage import writer_of
from .vbox import parse_vbox
from .vmx import parse_vmx
from .xml_text import MAX_SIZE

#: Kinds by the ending of a file's name; those of images are in :data:`.images.SUFFIXES`.
_SUFFIXES = {
    ".ova": models.SourceType.OVA,
    ".ovf": models.SourceType.OVF,
    ".vmx": models.SourceType.VMX,
    ".vbox": models.SourceType.VBOX,
    ".xml": models.SourceType.HYPERV,
    ".vmcx": models.SourceType.HYPERV,
    **{suffix: models.SourceType(fmt) for suffix, fmt in SUFFIXES.items()},
}
_COMPRESSIONS: dict[str, t.Literal["gzip", "xz"]] = {".gz": "gzip", ".xz": "xz"}
#: Words and numbers in the URIs by which OVF descriptors tell a disk's format; the first that is there counts.
_FORMAT_WORDS: dict[str, ImageFormat] = {
    "vmdk": "vmdk",
    "qcow2": "qcow2",
    "raw": "raw",
    "vhdx": "vhdx",
    "vhd": "vhd",
    # VirtualBox's reference to Microsoft's page about VHD.
    "linkid=137171": "vhd",
    "vdi": "vdi",
}
_MAX_CHUNKS = 100_000
IMAGE_FORMATS = frozenset(t.get_args(ImageFormat))


def open_source(spec: models.SourceSpec, input_root: pathlib.Path, unpacker: Unpacker | None = None) -> Source:
    """Open what a job's ``spec.source`` names. Reads headers and tables, and writes nothing to it.

    Args:
        spec: the job's.
        input_root: absolute; every file of the source is below it.
        unpacker: makes readable what cannot be read in place; without one such a source is refused.

    Raises:
        JobError: class ``invalid``, something is not there, leaves the root, is truncated or not what it says; class
            ``unsupported``, a kind of image that cannot be moved yet, or not without an ``unpacker``.
    """
    return _readable(_find(spec, input_root), input_root, unpacker)


def identity_of(spec: models.SourceSpec, input_root: pathlib.Path) -> str:
    """Return :attr:`.model.Source.identity` of what a job's ``spec.source`` names, without unpacking anything.

    Raises:
        JobError: as for :func:`open_source`.
    """
    return _find(spec, input_root).identity


def files_of(spec: models.SourceSpec, input_root: pathlib.Path) -> list[pathlib.Path]:
    """Return the files that hold the disks of what a job's ``spec.source`` names, parents included, in no order.

    Raises:
        JobError: as for :func:`open_source`.
    """
    source = _find(spec, input_root)
    return _files(source.images) + ([part.path for part in source.packing.parts] if source.packing else [])


def _find(spec: models.SourceSpec, input_root: pathlib.Path) -> Source:
    """Open a source as far as it can be read in place; images that cannot are as their ``packing`` tells."""
    if spec.path is None:
        return _open_disks(spec, input_root)
    path = confine(input_root, spec.path, "spec.source.path")
    kind = _kind(spec.type, path)
    if kind.value in IMAGE_FORMATS:
        disk = models.DiskSpec(path=spec.path, digest=spec.digest)
        return _open_disks(models.SourceSpec(type=kind, disks=[disk]), input_root)
    if spec.digest is not None and path.is_dir():
        raise invalid("NotAFile", f"spec.source.digest: {path.name} is a folder, which has no digest.", "Leave it out.")
    source = _open_machine(path, kind, input_root)
    return source if spec.digest is None else dataclasses.replace(source, container=path, container_digest=spec.digest)


def _open_machine(path: pathlib.Path, kind: models.SourceType, input_root: pathlib.Path) -> Source:
    if kind is models.SourceType.OVA:
        compression = _compression_of_ova(path)
        if compression:
            packing = Packing((Part(path),), compression)
            return Source((), Hardware(), _identity([path], input_root), packing=packing)
        return _open_package(open_ova(path), input_root, path.stem)
    if kind is models.SourceType.OVF:
        return _open_package(open_folder(path), input_root, path.stem)
    return _open_configuration(path, kind, input_root)


def _readable(source: Source, input_root: pathlib.Path, unpacker: Unpacker | None) -> Source:
    """Return ``source`` with images that QEMU and this program read in place."""
    packed = [i for i in source.images if i.packing or i.subformat == "differencing"]
    if source.packing is None and not packed:
        return source
    if unpacker is None:
        name = packed[0].path.name if packed else source.packing.parts[0].path.name if source.packing else ""
        raise unsupported(
            "NeedsUnpacking",
            f"{name} cannot be read in place: it is compressed, in chunks, or a differencing disk.",
            "Unpack or merge it before; or submit a job, which does that in the worker's scratch folder.",
        )
    if source.packing is not None:
        (part,) = source.packing.parts
        path = unpacker.unpack(source.packing, _plain_name(part.path))
        inner = _open_package(open_ova(path), path.parent, path.stem)
        # What it was made of is what must not change.
        outer = dataclasses.replace(
            inner, identity=source.identity, container=source.container, container_digest=source.container_digest
        )
        return _readable(outer, path.parent, unpacker)
    images, warnings = [], list(source.warnings)
    for image in source.images:
        if image.packing is not None:
            path = unpacker.unpack(image.packing, _plain_name(image.path))
            place = Place(path, path.parent, image.path.name, image.name)
            opened = open_image(place, image.format, warnings)
            files = tuple(dict.fromkeys(part.path for part in image.packing.parts))
            image = dataclasses.replace(opened, extents=(*opened.extents, *files))
        images.append(unpacker.merge(image) if image.subformat == "differencing" else image)
    return dataclasses.replace(source, images=tuple(images), warnings=tuple(warnings))


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
    """Compare the digests of files that hold more than images (an OVA, a VHD); copying compares the others.

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
        raise invalid(
            "NotAFile",
            f"{path.name} is a folder, and type {told.value} wants a file.",
            "Leave type out, or give the file in it.",
        )
    if told is not models.SourceType.AUTO:
        return told
    found = kind_by_name(path)
    if found is None:
        raise invalid(
            "UnknownType",
            f"The name {path.name} does not tell what kind of image it is.",
            f"Set spec.source.type: {', '.join(kind.value for kind in models.SourceType if kind is not told)}.",
        )
    return found


def kind_by_name(path: pathlib.Path) -> models.SourceType | None:
    """Return what kind of source a file is by its name; None where the name does not tell."""
    return _SUFFIXES.get(pathlib.PurePath(_plain_name(path)).suffix.lower())


def _plain_name(path: pathlib.Path) -> str:
    """The name of what is packed in the file ``path``; of one that is not, its own name."""
    return path.stem if path.suffix.lower() in _COMPRESSIONS else path.name


def _compression(path: pathlib.Path) -> t.Literal["", "gzip", "xz"]:
    """By the name alone: a guest may have written what a disk begins with."""
    return _COMPRESSIONS.get(path.suffix.lower(), "")


def _compression_of_ova(path: pathlib.Path) -> t.Literal["", "gzip", "xz"]:
    """A tar begins with the name of its first file, so that nothing is hidden by looking."""
    with FileRange(path) as file:
        head = file.read(0, min(6, file.length))
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "xz" if head == b"\xfd7zXZ\0" else ""


# -- bare disks --------------------------------------------------------------------------------------------------------


def _open_disks(spec: models.SourceSpec, input_root: pathlib.Path) -> Source:
    images: list[DiskImage] = []
    warnings: list[str] = []
    for index, disk in enumerate(spec.disks):
        field = f"spec.source.disks[{index}].path" if len(spec.disks) > 1 else "spec.source.path"
        path = confine(input_root, disk.path, field)
        kind = disk.format or _kind(spec.type, path).value
        if not path.is_file() or kind not in IMAGE_FORMATS:
            raise invalid("NotADisk", f"{path.name} is no disk image.", "Give an OVA or OVF as spec.source.path.")
        place = Place(path, input_root, field, f"disk{index}", disk.digest)
        image = _image_or_packing(place, t.cast("ImageFormat", kind), warnings)
        if disk.digest is not None and image.extents:
            raise unsupported(
                "DigestOfDescriptor",
                f"{field}: the digest is that of {path.name} alone, whose data lie in other files as well.",
                "Give the flat file as a raw disk with its own digest, or leave the digest out.",
            )
        images.append(image)
    return Source(
        images=tuple(images),
        hardware=Hardware(name=pathlib.PurePath(_plain_name(images[0].path)).stem),
        identity=_identity(_files(images), input_root),
        warnings=tuple(warnings),
    )


def _image_or_packing(place: Place, kind: ImageFormat, warnings: list[str]) -> DiskImage:
    compression = _compression(place.path)
    if not compression:
        return open_image(place, kind, warnings)
    part = Part(place.path, place.offset, place.length, place.digest)
    return DiskImage(place.name, place.path, kind, "", 0, packing=Packing((part,), compression))


# -- VMX, .vbox, Hyper-V -----------------------------------------------------------------------------------------------


def _open_configuration(path: pathlib.Path, kind: models.SourceType, input_root: pathlib.Path) -> Source:
    parse = {
        models.SourceType.VMX: parse_vmx,
        models.SourceType.VBOX: parse_vbox,
        models.SourceType.HYPERV: parse_hyperv,
    }[kind]
    with FileRange(path) as file:
        if file.length > MAX_SIZE:
            raise invalid(
                "TooLarge",
                f"{path.name} is larger than any configuration of a virtual machine.",
                "Give the VM's own configuration file.",
            )
        text = file.read(0, file.length)
    if path.suffix.lower() == ".vmcx":
        raise unsupported(
            "BinaryConfiguration",
            f"{path.name} is a binary configuration of Hyper-V (Windows Server 2016 and later), which cannot be read.",
            "Give the VM's disks as spec.source.disks, and the network cards' addresses as spec.guest.network.macs.",
        )
    described = parse(text, path.name)
    if not described.disks:
        raise invalid(
            "NoDisk",
            f"{path.name} describes a virtual machine without disks.",
            "Give the disks themselves as spec.source.disks, or export the VM with its disks.",
        )
    warnings: list[str] = []
    images = []
    for index, disk in enumerate(described.disks):
        what = f"{path.name}: disk"
        found = _beside_hyperv(path, disk.name) if kind is models.SourceType.HYPERV else disk.name
        place = Place(confine_beside(input_root, path, found, what), input_root, what, f"disk{index}")
        images.append(open_image(place, _disk_kind(disk, path.name), warnings))
    hardware = described.hardware
    return Source(
        images=tuple(images),
        hardware=hardware if hardware.name else dataclasses.replace(hardware, name=path.stem),
        identity=_identity([path, *_files(images)], input_root),
        warnings=tuple(warnings),
    )


def _beside_hyperv(path: pathlib.Path, name: str) -> str:
    """An export has ``Virtual Machines/<GUID>.xml`` beside ``Virtual Hard Disks/``; it names disks as on its host."""
    plain = pathlib.PureWindowsPath(name).name
    for folder in ("../Virtual Hard Disks", "..", "."):
        if plain and (path.parent / folder / plain).is_file():
            return f"{folder}/{plain}"
    return plain


# -- OVA and OVF -------------------------------------------------------------------------------------------------------


def _open_package(package: Package, input_root: pathlib.Path, stem: str) -> Source:
    warnings = list(package.warnings)
    images = [
        _open_ovf_disk(package, disk, f"disk{index}", input_root, warnings)
        for index, disk in enumerate(package.ovf.disks)
    ]
    hardware = package.ovf.hardware
    return Source(
        packaged=True,
        images=tuple(images),
        hardware=hardware if hardware.name else dataclasses.replace(hardware, name=stem),
        identity=_identity([*package.files, *_files(images)], input_root),
        warnings=tuple(warnings),
    )


def _open_ovf_disk(
    package: Package, disk: NamedDisk, name: str, input_root: pathlib.Path, warnings: list[str]
) -> DiskImage:
    kind = _disk_kind(disk, package.descriptor)
    compression = "gzip" if disk.compressed else _compression(pathlib.Path(disk.name))
    if disk.chunk_size or compression:
        parts = _chunks(package, disk) if disk.chunk_size else [_part(package, disk.name)]
        # Within an OVA all files are the one file; what is packed has a name of its own.
        path = parts[0].path.with_name(pathlib.PurePosixPath(disk.name).name)
        return DiskImage(name, path, kind, "", 0, packing=Packing(tuple(parts), compression))
    path, offset, length = package.locate(disk.name)
    digest = package.digests.get(disk.name)
    image = open_image(Place(path, input_root, package.descriptor, name, digest, offset, length), kind, warnings)
    if image.path != path:
        image = dataclasses.replace(image, manifest_digest=package.digests.get(image.path.name))
    elif image.extents and package.digests:
        warnings.append(f"The manifest's digests of the files that {disk.name} names are not compared.")
    if disk.capacity is not None and whole_sectors(disk.capacity) != image.virtual_size:
        warnings.append(
            f"{disk.name} has {image.virtual_size} bytes, though the OVF says {disk.capacity}; the disk decides."
        )
    return image


def _part(package: Package, name: str) -> Part:
    return Part(*package.locate(name), package.digests.get(name))


def _chunks(package: Package, disk: NamedDisk) -> list[Part]:
    """The pieces of a file, ``<name>.000000000`` and so on (DSP0243, "File References"): all but the last are full."""
    parts: list[Part] = []
    for number in range(_MAX_CHUNKS):
        try:
            parts.append(_part(package, f"{disk.name}.{number:09d}"))
        except JobError as error:
            if error.reason != "NotFound" or not parts:
                raise
            break
    sizes = [part.path.stat().st_size if part.length is None else part.length for part in parts]
    # Of a compressed file the size may be told as it is or as it was; its own end tells whether it is whole.
    whole = disk.compressed or disk.size in (None, sum(sizes))
    if any(size != disk.chunk_size for size in sizes[:-1]) or not whole:
        raise invalid(
            "Truncated", f"The chunks of {disk.name} are not those of the whole file.", "Export or upload it again."
        )
    return parts


def _disk_kind(disk: NamedDisk, what: str) -> ImageFormat:
    said = disk.format.lower()
    for word, fmt in _FORMAT_WORDS.items():
        if word in said:
            return fmt
    # Windows' spelling of a path ends alike.
    found = SUFFIXES.get(pathlib.PurePath(_plain_name(pathlib.Path(disk.name))).suffix.lower())
    if found is None:
        raise unsupported(
            "DiskFormat",
            f"{what}: {disk.name[:200]!r} has the format {said[:200]!r}, which is not known.",
            "Give the disks themselves as spec.source.disks, each with its format.",
        )
    return found


# -- helpers -----------------------------------------------------------------------------------------------------------


def _files(images: t.Iterable[DiskImage]) -> list[pathlib.Path]:
    """All files of these images, as they are: packed ones too."""
    files: list[pathlib.Path] = []
    for image in images:
        files += [part.path for part in image.packing.parts] if image.packing else [image.path, *image.extents]
    return files


def _identity(files: t.Iterable[pathlib.Path], root: pathlib.Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        status = path.stat()
        name = os.path.relpath(path, root.resolve())
        digest.update(repr((name, status.st_size, status.st_mtime_ns, status.st_ino)).encode())
    return f"sha256:{digest.hexdigest()}"


def _container(source: Source) -> list[tuple[pathlib.Path, int, int | None, str | None]]:
    parts = [image.enclosing for image in source.images if image.enclosing]
    if source.container is not None:
        parts.append(Part(source.container, digest=source.container_digest))
    return [(part.path, part.offset, part.length, part.digest) for part in parts]


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
