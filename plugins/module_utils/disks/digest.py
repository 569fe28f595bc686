# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The content digest of a file of our own: a copy, or a finished target. :mod:`.scan` defines the digest."""

from __future__ import annotations

import pathlib
import typing as t

from .command import never, unseen
from .copy import scan_image
from .file_range import FileRange
from .model import DiskImage
from .qcow2 import read_header


def digest_disk(
    path: pathlib.Path,
    fmt: str,
    *,
    workdir: pathlib.Path,
    progress: t.Callable[[int, int], None] = unseen,
    cancelled: t.Callable[[], bool] = never,
) -> str:
    """Return ``sha256:…``, the content digest of the disk image ``path``.

    Args:
        path: an image that needs no other file.
        fmt: ``qcow2`` or ``raw``.
        progress: gets bytes done and in all, of the virtual disk's data.
        cancelled: asked for each 4 MiB; True ends it.
        workdir: an existing folder for mount points.

    Raises:
        JobError: class ``invalid``, it is damaged; class ``transient``, it cannot be read, or it was cancelled.
    """
    return scan_image(image_of(path, fmt), progress=progress, cancelled=cancelled, workdir=workdir).digest


def image_of(path: pathlib.Path, fmt: str) -> DiskImage:
    """Describe a ``qcow2`` or ``raw`` image of our own, which needs no other file.

    Raises:
        JobError: class ``invalid``, it is damaged.
    """
    with FileRange(path) as file:
        size = read_header(file).size if fmt == "qcow2" else file.length
    return DiskImage("disk", path, "qcow2" if fmt == "qcow2" else "raw", "", size)
