# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OVF packages: descriptor, manifest and the files that they name, in a folder or within an OVA's tar."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import typing as t

from ..protocol.errors import JobError, invalid
from .file_range import FileRange
from .manifest import compare_bytes, parse_manifest
from .model import Described
from .ovf import parse_ovf
from .paths import confine
from .tarfiles import index_tar
from .xml_text import MAX_SIZE

_MAX_MANIFEST = 1024**2

Place = tuple[pathlib.Path, int, t.Optional[int]]  # noqa: UP045 (evaluated at run time)
"""A file, or a part of one: path, offset and length (None: to its end). Bytes."""


@dataclasses.dataclass(frozen=True)
class Package:
    """An opened package, its descriptor checked against its manifest."""

    descriptor: str
    """The descriptor's file name."""
    ovf: Described
    digests: dict[str, str]
    """From the manifest: ``sha256:…`` by file name; empty without one."""
    warnings: tuple[str, ...]
    locate: t.Callable[[str], Place]
    """Finds a file by the name that the descriptor gives; raises JobError where it is not there."""
    files: tuple[pathlib.Path, ...]
    """The OVA, or descriptor and manifest."""


def open_ova(path: pathlib.Path) -> Package:
    """Open the OVA ``path`` in place.

    Raises:
        JobError: it is no whole tar, or no package; see :func:`.ovf.parse_ovf`.
    """
    members = index_tar(path)
    descriptor = _one_descriptor(sorted(members), path)
    folder = descriptor[: descriptor.rfind("/") + 1]

    def locate(name: str) -> Place:
        member = members.get(folder + name)
        if member is None:
            raise _missing(name, path.name)
        return path, member.offset, member.size

    return _open(descriptor, members, locate, [path])


def open_folder(path: pathlib.Path) -> Package:
    """Open the package whose descriptor, or whose folder, is ``path``.

    Raises:
        JobError: it is no package, or a file leaves its folder; see :func:`.ovf.parse_ovf`.
    """
    folder = path if path.is_dir() else path.parent
    names = sorted(entry.name for entry in os.scandir(folder))
    descriptor = path.name if path != folder else _one_descriptor(names, path)

    def locate(name: str) -> Place:
        found = confine(folder, name, f"{descriptor}: file")
        if not found.is_file():
            raise _missing(name, path.name)
        return found, 0, None

    own = [name for name in (descriptor, _manifest_of(descriptor)) if name in names]
    return _open(descriptor, names, locate, [locate(name)[0] for name in own])


def _open(
    descriptor: str, names: t.Container[str], locate: t.Callable[[str], Place], files: list[pathlib.Path]
) -> Package:
    plain = descriptor.rpartition("/")[2]
    shown = _shown(plain)
    digests: dict[str, str] = {}
    warnings: list[str] = []
    if _manifest_of(descriptor) in names:
        digests, warnings = parse_manifest(_read(locate(_manifest_of(plain)), shown, _MAX_MANIFEST))
    text = _read(locate(plain), shown, MAX_SIZE)
    if plain in digests:
        compare_bytes(shown, digests[plain], text)
    ovf = parse_ovf(text, shown)
    if not ovf.disks:
        raise invalid(
            "NoDisk",
            f"{shown} describes a virtual machine without disks.",
            "Give the disks themselves as spec.source.disks, or export the VM with its disks.",
        )
    if digests:
        warnings += [
            f"The manifest does not cover {d.name}." for d in ovf.disks if not d.chunk_size and d.name not in digests
        ]
    return Package(plain, ovf, digests, tuple(warnings), locate, tuple(files))


def _one_descriptor(names: list[str], path: pathlib.Path) -> str:
    found = [name for name in names if name.lower().endswith(".ovf")]
    if len(found) != 1:
        raise invalid(
            "BadOva",
            f"{path.name} holds {len(found)} OVF descriptors instead of one.",
            "Export the VM again; for a folder give the descriptor's own path.",
        )
    return found[0]


def _manifest_of(descriptor: str) -> str:
    return descriptor[: -len(".ovf")] + ".mf"


def _read(place: Place, what: str, limit: int) -> bytes:
    with FileRange(*place) as file:
        if file.length > limit:
            raise invalid("BadOva", f"{what}: a descriptor or manifest is larger than {limit} bytes.")
        return file.read(0, file.length)


def _missing(name: str, package: str) -> JobError:
    return invalid("NotFound", f"{package} lacks the file {_shown(name)}.", "Export the VM again, whole.")


def _shown(name: str) -> str:
    """Return a name that a package's maker chose as text that neither a line nor a terminal suffers from."""
    short = name if len(name) <= 200 else name[:200] + "…"
    return short if short.isprintable() else repr(short)
