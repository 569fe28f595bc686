# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What an output root alone tells after its queue was lost: what is done, and what nobody will go on with."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import os
import pathlib
import re
import time

from ..telemetry.report.batch import Record, Unreadable
from ..telemetry.report.documents import read_folder

#: ``<file>.<beginning of the job's uid>.<epoch>.partial``, as :meth:`.layout.TargetLayout.partial` names them.
_PARTIAL = re.compile(r".+\.(?P<writer>[0-9a-f]{8})\.\d+\.partial")
_DISKS = (".qcow2", ".img")


@dataclasses.dataclass(frozen=True)
class Findings:
    """What lies below an output root."""

    done: list[Record]
    """Jobs with a result document; a playbook does not do them again."""
    unreadable: list[Unreadable]
    """Result documents that are none."""
    gone: dict[str, list[str]]
    """Of jobs with a result document: artifacts that are no longer there."""
    orphans: list[pathlib.Path]
    """Partial targets of no job of the queue."""
    unfinished: list[pathlib.Path]
    """Disks in folders without a result document: a job that writes there is refused (TargetExists)."""


def look_through(output: pathlib.Path, uids: c.Collection[str]) -> Findings:
    """Look through an output root. ``uids`` are those of the jobs that the queue knows.

    Raises:
        JobError: class ``invalid``; it is no folder.
    """
    done, unreadable = read_folder(output)
    writers = {uid.partition("-")[0] for uid in uids}
    orphans, unfinished = [], []
    for place, folders, files in os.walk(output):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            match = _PARTIAL.fullmatch(name)
            if match is not None and match["writer"] not in writers:
                orphans.append(pathlib.Path(place, name))
            elif name.endswith(_DISKS) and "result.json" not in files:
                unfinished.append(pathlib.Path(place, name))
    gone = {record.name: _gone(record, output) for record in done}
    return Findings(done, unreadable, {name: one for name, one in gone.items() if one}, orphans, unfinished)


def _gone(record: Record, output: pathlib.Path) -> list[str]:
    """Return the artifacts that are no longer there. Content is not compared: a VM that runs changes its disks."""
    return [one.path for one in record.result.artifacts if not (output / one.path).exists()]


def remove(orphans: c.Iterable[pathlib.Path], idle_seconds: float) -> list[pathlib.Path]:
    """Remove partial targets that nobody has written to for ``idle_seconds``, and return which.

    An output root may be that of several hosts; what one of them copies into is written every few seconds.
    """
    gone = []
    for path in orphans:
        if time.time() - path.stat().st_mtime > idle_seconds:
            path.unlink()
            gone.append(path)
    return gone
