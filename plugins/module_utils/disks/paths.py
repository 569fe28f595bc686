# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Paths that documents, image headers and OVF files name: they stay below a root, or they are refused."""

from __future__ import annotations

import os
import pathlib
import re
import stat

from ..protocol.errors import JobError, invalid

#: What QEMU takes for a protocol (``json:``, ``nbd:``, ``http://``): block.c, path_has_protocol.
_PROTOCOL = re.compile(r"^[^/]*:")


def confine(root: pathlib.Path, name: str, what: str) -> pathlib.Path:
    """Return the existing regular file or folder that ``name`` means below ``root``, free of symbolic links.

    Args:
        root: absolute.
        name: relative to ``root``, or absolute below it.
        what: where the name was found, for the error (``spec.source.path``).

    Raises:
        JobError: class ``invalid``: it leaves the root (``..``, absolute elsewhere, through a symbolic link), has a
            protocol prefix, does not exist, or is neither a regular file nor a folder.
    """
    if not name or "\0" in name:
        raise _refused(what, name, "it is no path")
    if _PROTOCOL.match(name):
        raise _refused(what, name, "a colon in its first part could be taken for a protocol such as nbd:")
    given = pathlib.PurePosixPath(name)
    if ".." in given.parts:
        raise _refused(what, name, "it contains '..'")
    path = root / given
    if path != root and root not in path.parents:
        raise _refused(what, name, f"it is not below {root}")
    try:
        real_root, real = root.resolve(strict=True), path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        why = (error.strerror if isinstance(error, OSError) else None) or "a loop of symbolic links"
        raise invalid(
            "NotFound", f"{what}: {_shown(name)} cannot be opened: {why}.", f"It is looked for in {root}."
        ) from error
    if real != real_root and real_root not in real.parents:
        raise _refused(what, name, f"a symbolic link leads out of {root}")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _refused(what, name, "it is neither a regular file nor a folder")
    return real


def confine_beside(root: pathlib.Path, file: pathlib.Path, name: str, what: str) -> pathlib.Path:
    """Return the existing file that ``name`` means to ``file``: beside it, in a folder near it, or absolute.

    Unlike the names in documents it may climb by ``..``, as snapshots name their parents, but not out of ``root``.

    Args:
        root: absolute.
        file: what names it; below ``root``, free of symbolic links.
        name: relative to the folder of ``file``, or absolute below ``root``.
        what: where the name was found, for the error.

    Raises:
        JobError: as for :func:`confine`.
    """
    if not name or "\0" in name or _PROTOCOL.match(name):
        return confine(root, name, what)
    path = os.path.normpath(file.parent / name)
    if not pathlib.PurePath(path).is_relative_to(root.resolve()):
        raise _refused(what, name, f"it is not below {root}")
    found = confine(root.resolve(), path, what)
    if not found.is_file():
        raise _refused(what, name, "it is a folder")
    return found


def from_windows(name: str) -> str:
    """Return a path as Windows spells it as one of this system: the last part alone, where it begins at a drive.

    >>> from_windows(r"..\\base\\a.vhdx"), from_windows(r"C:\\VMs\\a.vhdx")
    ('../base/a.vhdx', 'a.vhdx')
    """
    path = pathlib.PureWindowsPath(name)
    return path.name if path.drive or path.root else path.as_posix()


def _refused(what: str, name: str, why: str) -> JobError:
    return invalid(
        "PathRefused",
        f"{what}: {_shown(name)} is refused: {why}.",
        "Put the file itself below the root, under a plain name.",
    )


def _shown(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:200] + "…")
