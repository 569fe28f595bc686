# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job that never got whole has written of its target, and how that is taken away."""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import typing as t

from ..disks.block_device import wipe_unfinished
from ..protocol.errors import JobError
from .target_folder import remove_if_empty

log = logging.getLogger(__name__)


def remove_unfinished(state_file: pathlib.Path, output: pathlib.Path) -> None:
    """Remove the partial targets, and what was published without a result document, of the job with this state.

    Only what the job's durable state names as its own goes, and files only below the output root. Of a device that was
    written that is its first and its last MiB.
    """
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        partials = [pathlib.Path(name) for of_disk in state.get("partials", {}).values() for name in of_disk]
        placed = {pathlib.Path(name): inode for name, inode in state.get("placed", {}).items()}
        texts = [pathlib.Path(name) for name in state.get("texts", [])]
        devices: dict[str, str] = dict(state.get("devices", {}))
        whole = "published" in state and is_result_of(pathlib.Path(state["published"]), state["result"]["uid"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if whole:
        return
    ours = [path for path, inode in placed.items() if _inode(path) == inode]
    gone = [path for path in partials if path.suffix == ".partial"] + ours
    # Definitions tell of disks; where none of ours is in place, they are an older target's.
    gone += texts if ours or devices else []
    for path in gone:
        if path.parent.is_dir() and path.parent.resolve().is_relative_to(output):
            path.unlink(missing_ok=True)
            remove_if_empty(path.parent)
    for name, identity in devices.items():
        try:
            wipe_unfinished(pathlib.Path(name), identity)
        except (JobError, OSError) as error:
            log.warning("%s holds a part of a disk, and cannot be wiped: %s", name, error)


def is_result_of(path: pathlib.Path, uid: str) -> bool:
    """Whether ``path`` is the result document of the job ``uid``, so that its work is whole."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return bool(json.loads(path.read_text(encoding="utf-8"))["uid"] == uid)
    return False


def _inode(path: pathlib.Path) -> t.Any:
    try:
        return path.stat(follow_symlinks=False).st_ino
    except OSError:
        return None
