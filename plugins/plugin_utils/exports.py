# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which VMs lie in a folder of exports."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import fnmatch
import os
import pathlib

from ..module_utils.ansible_support.documents import printable
from ..module_utils.disks.source import files_of, kind_by_name
from ..module_utils.protocol import models
from ..module_utils.protocol.errors import JobError
from .names import slug
from .places import Faulty

#: What describes a whole VM, and so says which disks are its own.
_DESCRIPTIONS = (
    models.SourceType.OVA,
    models.SourceType.OVF,
    models.SourceType.VMX,
    models.SourceType.VBOX,
    models.SourceType.HYPERV,
)
#: Where Hyper-V puts a VM's description. Other XML files are of other programs.
_HYPERV_FOLDER = "Virtual Machines"


@dataclasses.dataclass(frozen=True)
class Export:
    """A VM in the folder."""

    host: str
    path: str
    """Relative to the folder."""
    kind: str
    """As a job's ``spec.source.type``."""


@dataclasses.dataclass(frozen=True)
class Found:
    """The VMs of a folder."""

    exports: tuple[Export, ...]
    warnings: tuple[str, ...]
    """What cannot be read, or cannot be a host, each with its file."""


def find_exports(folder: pathlib.Path, exclude: c.Sequence[str] = ()) -> Found:
    """Look for VMs in ``folder`` and all below it. Reads what tells of disks: descriptors, headers, tables.

    A file that holds a disk of a VM described beside it, an extent or a parent of another image is no VM of its own.
    Links are not followed.

    :param exclude: shell patterns of files and folders that are left out, by name or by path within the folder.

    Raises:
        Faulty: the folder cannot be read, or two files would be one host.
    """
    root = folder.absolute()
    if not root.is_dir():
        raise Faulty(f"{printable(str(folder))} is no folder that can be read.")
    warnings: list[str] = []
    owned: set[pathlib.Path] = set()
    unreadable: dict[pathlib.Path, str] = {}
    kept: list[tuple[pathlib.Path, models.SourceType]] = []
    found = list(_candidates(root, exclude, warnings))
    # Descriptions first: what they own need not be opened, and an extent alone could not be.
    for path, kind in [*_of(found, described=True), *_of(found, described=False)]:
        if path in owned:
            continue
        kept.append((path, kind))
        try:
            files = files_of(models.SourceSpec(type=kind, path=str(path.relative_to(root))), root)
            owned.update(file for file in files if file != path)
        except JobError as error:
            # It stays a VM, which the rehearsal will refuse: one that is left out would be missed by nobody.
            unreadable[path] = f"{printable(str(path))}: {printable(str(error))}"
            if kind in _DESCRIPTIONS:
                owned.update(other for other, dummy in found if other.parent == path.parent and _begins(other, path))
    exports = [(path.relative_to(root), kind) for path, kind in kept if path not in owned]
    # An image that another one turned out to own may well be no whole one by itself.
    warnings += [text for path, text in unreadable.items() if path not in owned]
    return Found(tuple(_named(sorted(exports))), tuple(warnings))


def _of(
    found: list[tuple[pathlib.Path, models.SourceType]], *, described: bool
) -> list[tuple[pathlib.Path, models.SourceType]]:
    return [(path, kind) for path, kind in found if (kind in _DESCRIPTIONS) == described]


def _begins(disk: pathlib.Path, description: pathlib.Path) -> bool:
    return disk != description and disk.name.startswith(description.stem)


def _candidates(
    root: pathlib.Path, exclude: c.Sequence[str], warnings: list[str]
) -> c.Iterator[tuple[pathlib.Path, models.SourceType]]:
    def excluded(path: pathlib.Path) -> bool:
        names = (path.name, str(path.relative_to(root)))
        return path.name.startswith(".") or any(fnmatch.fnmatch(name, one) for name in names for one in exclude)

    def refuse(error: OSError) -> None:
        raise Faulty(f"{printable(str(error.filename))} cannot be read: {error.strerror}.")

    for folder, folders, files in os.walk(root, onerror=refuse):
        here = pathlib.Path(folder)
        folders[:] = sorted(name for name in folders if not excluded(here / name))
        for name in sorted(files):
            path = here / name
            kind = kind_by_name(path)
            if kind is None or excluded(path) or path.is_symlink() or not path.is_file():
                continue
            if kind is models.SourceType.HYPERV and here.name != _HYPERV_FOLDER:
                continue
            if printable(name) != name or not str(path).isprintable():
                warnings.append(
                    f"{printable(str(path))} is left out: rename it, its path holds what cannot be printed."
                )
                continue
            yield path, kind


def _named(exports: list[tuple[pathlib.Path, models.SourceType]]) -> c.Iterator[Export]:
    """Name each VM after its file; after its whole path where others have a file of the same name."""
    short = collections.Counter(slug(_stem(path)) for path, dummy in exports)
    taken: dict[str, pathlib.Path] = {}
    for path, kind in exports:
        host = slug(_stem(path))
        if short[host] > 1 or not host:
            host = slug(str(path.parent / _stem(path)))
        if not host:
            raise Faulty(f"{path} has neither a letter nor a digit in its name, so no host can be named after it.")
        if host in taken:
            raise Faulty(f"{taken[host]} and {path} would both be the host {host}. Rename one of them.")
        taken[host] = path
        yield Export(host, str(path), kind.value)


def _stem(path: pathlib.Path) -> str:
    """Return a file's name without its endings: that of its kind, and of its compression."""
    plain = pathlib.Path(path.stem)
    return (
        plain.stem
        if kind_by_name(path) is not None and kind_by_name(pathlib.Path(plain.name)) is not None
        else plain.name
    )
