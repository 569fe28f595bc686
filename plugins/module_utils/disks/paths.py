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
    """Return the existing regular file or folder that ``name`` means below ``root``.

    Args:
        root: absolute.
        name: relative to ``root``, or absolute below it.
        what: where the name was found, for the error (``spec.source.path``).

    Raises:
        JobError: class ``invalid``: it leaves the root (``..``, absolute elsewhere, a symbolic link anywhere on the
            way), has a protocol prefix, does not exist, or is neither a regular file nor a folder.
    """
    path = _below(root, name, what)
    mode = 0
    for step in _steps(root, path):
        try:
            mode = os.lstat(step).st_mode
        except OSError as error:
            raise invalid(
                "NotFound", f"{what}: {name!r} cannot be opened: {error.strerror}.", f"Looked in {root}."
            ) from (error)
        if stat.S_ISLNK(mode):
            raise _refused(what, name, f"{step.name!r} is a symbolic link")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _refused(what, name, "it is neither a regular file nor a folder")
    return path


def confine_new(root: pathlib.Path, name: str, what: str) -> pathlib.Path:
    """Return the path that ``name`` means below ``root``, whether or not it exists yet.

    Raises:
        JobError: class ``invalid``, as for :func:`confine`.
    """
    path = _below(root, name, what)
    for step in _steps(root, path):
        try:
            mode = os.lstat(step).st_mode
        except FileNotFoundError:
            break
        except OSError as error:
            raise _refused(what, name, str(error.strerror)) from error
        if stat.S_ISLNK(mode):
            raise _refused(what, name, f"{step.name!r} is a symbolic link")
    return path


def _below(root: pathlib.Path, name: str, what: str) -> pathlib.Path:
    """Return ``name`` as an absolute path below ``root``, judged by its text alone."""
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
    return path


def _steps(root: pathlib.Path, path: pathlib.Path) -> list[pathlib.Path]:
    """Every path from below ``root`` down to ``path``."""
    return [parent for parent in reversed((path, *path.parents)) if parent == path or root in parent.parents]


def _refused(what: str, name: str, why: str) -> JobError:
    shown = name if len(name) <= 200 else name[:200] + "…"
    return invalid(
        "PathRefused", f"{what}: {shown!r} is refused: {why}.", "Put the file below the root and name it plainly."
    )
