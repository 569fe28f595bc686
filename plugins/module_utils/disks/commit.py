# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The overlay's changes onto the copy of the disk that it was made over."""

from __future__ import annotations

import pathlib

from .file_range import sync_file
from .qemu import check_qcow2, file_blockdev, json_name, run_img

#: For the few megabytes of an overlay, on slow storage. Seconds.
_TIMEOUT = 3600.0


def commit_overlay(overlay: pathlib.Path, copy: pathlib.Path, copy_format: str) -> None:
    """Write what ``overlay`` changed into ``copy``, and check the copy. May be repeated: the overlay stays whole.

    Args:
        overlay: made over the image that ``copy`` is a copy of; its backing file becomes ``copy``.
        copy: ``qcow2`` or ``raw`` file.
        copy_format: which of them.

    Raises:
        JobError: class ``transient``, a step failed; the copy may hold a part of the changes.
    """
    backing = json_name(file_blockdev(copy, copy_format))
    run_img(["rebase", "-u", "-f", "qcow2", "-b", backing, "-F", copy_format, overlay])
    # -d keeps the overlay as it is, so that a commit which was cut off can be made again.
    run_img(["commit", "-q", "-d", "-f", "qcow2", overlay], timeout=_TIMEOUT)
    if copy_format == "qcow2":
        check_qcow2(copy)
    sync_file(copy)
