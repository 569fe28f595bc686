# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof that a target holds what was read of its source, but for what the fixes changed.

Each byte of the copy is read back once. The regions that the overlay changes are read and compared before the commit;
all others after it, in the same read that gives the target's digest.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as t

from ..protocol.errors import JobError, transient
from .blockmap import REGION
from .copy import Ranges, scan_image
from .copylog import CopyLog, RegionRecord
from .model import DiskImage
from .qemu import json_name, run_img
from .scan import ContentDigest


@dataclasses.dataclass(frozen=True)
class Proof:
    """Content digests, each ``sha256:…``."""

    copied: str
    """Of the copy before commit."""
    target: str
    """Of the target as it is."""


def changed_regions(overlay: pathlib.Path) -> list[int]:
    """Return the numbers of the regions of which the qcow2 file ``overlay`` holds a part, ascending.

    Raises:
        JobError: class ``transient``, it cannot be read.
    """
    alone = {"driver": "qcow2", "file": {"driver": "file", "filename": str(overlay)}, "backing": None}
    text = run_img(["map", "--output=json", json_name(alone)], timeout=600.0)
    found: set[int] = set()
    for extent in json.loads(text):
        # QEMU tells it from 6.1 on; before, what is no data may be a hole or zeros that were written.
        if extent.get("present", True):
            found.update(range(extent["start"] // REGION, -(-(extent["start"] + extent["length"]) // REGION)))
    return sorted(found)


def prove_changed_regions(
    copy: DiskImage,
    log: CopyLog,
    changed: t.Sequence[int],
    *,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    workdir: pathlib.Path,
) -> None:
    """Compare what will be changed with what was read; before the commit.

    Args:
        copy: the copy, a ``qcow2`` or ``raw`` image of our own.
        log: of the copy.
        changed: as :func:`changed_regions` returns them.
        progress: gets bytes done and in all.
        cancelled: asked for each 4 MiB; True ends it.
        workdir: an existing folder for mount points.

    Raises:
        JobError: class ``transient``, the copy differs (reason ``CopyDiffers``) or cannot be read, or cancelled.
    """
    wanted = set(changed)
    comparison = _Comparison(copy.path, (r for r in log.records() if r.number in wanted))
    ranges: Ranges = [(number * REGION, (number + 1) * REGION) for number in changed]
    scan_image(
        copy,
        progress=progress,
        cancelled=cancelled,
        workdir=workdir,
        ranges=ranges,
        on_region=comparison.see,
    )
    comparison.end()


def prove_target(
    target: DiskImage,
    log: CopyLog,
    changed: t.Sequence[int],
    *,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    workdir: pathlib.Path,
) -> Proof:
    """Read the target after the commit, compare what the overlay did not change, and return the digests.

    Arguments and errors are those of :func:`prove_changed_regions`, which must have come before.
    """
    comparison = _Comparison(target.path, log.records(), frozenset(changed))
    copied = ContentDigest(target.virtual_size)
    result = scan_image(
        target,
        progress=progress,
        cancelled=cancelled,
        workdir=workdir,
        on_region=comparison.see,
    )
    comparison.end()
    for record in log.records():
        copied.add(record.number, record.digest)
    return Proof(copied.text(), result.digest)


class _Comparison:
    """Compares regions as they are seen with those that were logged; both come in the disk's order."""

    def __init__(
        self, path: pathlib.Path, expected: t.Iterator[RegionRecord], changed: frozenset[int] = frozenset()
    ) -> None:
        self._path = path
        # Regions of zeros may be in the one and not in the other.
        self._expected = (r for r in expected if r.digest is not None and r.number not in changed)
        self._changed = changed
        self._next = next(self._expected, None)

    def see(self, seen: RegionRecord) -> None:
        """Compare the next region that was seen.

        Raises:
            JobError: class ``transient``, it differs.
        """
        if seen.digest is None or seen.number in self._changed:
            return
        if self._next is None or self._next.number != seen.number or self._next.digest != seen.digest:
            raise self._differs(seen.number if self._next is None else min(seen.number, self._next.number))
        self._next = next(self._expected, None)

    def end(self) -> None:
        """Make sure that no logged region is missing.

        Raises:
            JobError: class ``transient``, one is.
        """
        if self._next is not None:
            raise self._differs(self._next.number)

    def _differs(self, region: int) -> JobError:
        return copy_differs(self._path, f"at byte {region * REGION} of the disk or after")


def copy_differs(copy: pathlib.Path, where: str) -> JobError:
    """The error for a copy that is not what was read."""
    return transient(
        "CopyDiffers",
        f"The copy {copy.name} differs from what was read: {where}.",
        "The storage lost or changed data; check it, then run the job again: it copies anew.",
    )
