# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""qcow2 overlays: everything that changes a guest goes here, never into its source."""

from __future__ import annotations

import pathlib

from ..protocol.errors import invalid
from .model import DiskImage
from .qemu import blockdev, driver, file_blockdev, json_name, run_img

#: qcow2 specification, "Header": the longest backing file name. Bytes.
_BACKING_NAME_LIMIT = 1023


def create_overlay(path: pathlib.Path, image: DiskImage) -> None:
    """Create the qcow2 file ``path``, which shows ``image`` until it is written to.

    Raises:
        JobError: qemu-img failed (no space, no permission).
    """
    _create(path, json_name(blockdev(image)), driver(image.format), image.virtual_size)


def repoint_overlay(path: pathlib.Path, image: DiskImage) -> None:
    """Tell the overlay ``path`` where ``image``, over which it was made, is by now.

    Raises:
        JobError: qemu-img failed.
    """
    name = json_name(blockdev(image))
    run_img(["rebase", "-u", "-f", "qcow2", "-b", name, "-F", driver(image.format), path])


def create_throwaway(path: pathlib.Path, backing: pathlib.Path, backing_format: str) -> None:
    """Create the qcow2 file ``path`` over the qcow2 or raw file ``backing``, for writes that nobody keeps.

    Raises:
        JobError: qemu-img failed, or ``backing`` is no image of ``backing_format``.
    """
    _create(path, json_name(file_blockdev(backing, backing_format)), backing_format, None)


def _create(path: pathlib.Path, backing: str, backing_format: str, size: int | None) -> None:
    if len(backing.encode()) > _BACKING_NAME_LIMIT:
        raise invalid(
            "PathTooLong",
            "The path of a disk image, or its chain of snapshots, is too long for a qcow2 overlay over it.",
            "Use shorter names of folders and files, or consolidate the VM's snapshots.",
        )
    path.unlink(missing_ok=True)
    # Lazy refcounts are left off: an overlay is checked when it is closed, and must be whole then.
    args: list[str | pathlib.Path] = ["create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, path]
    run_img([*args, str(size)] if size is not None else args)
