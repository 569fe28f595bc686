# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A batch as it was seen from its begin to its end, and what was told meanwhile of the time left."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import pathlib

from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.batch_progress import BatchProgress, JobProgress

PATH = pathlib.Path(__file__).parents[1] / "unit/plugins/module_utils/telemetry/recorded_batch.jsonl"
"""The recording that the tests use: ``python -m bench estimate`` makes one."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """How all jobs of a batch were at one moment."""

    at: float
    """Seconds since the epoch."""
    jobs: list[JobProgress]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What was told, and what came."""

    passed: float
    """Share of the batch's time that had passed, 0 to 1."""
    told: float
    """Seconds left, as the progress said."""
    true: float
    """Seconds until the last job ended."""
    whole: float
    """Seconds from the first moment to that end."""

    @property
    def error(self) -> float:
        """By how much it was off, as a share of the batch's whole time: above 0 it told too much."""
        return (self.told - self.true) / self.whole


def write(path: pathlib.Path, moments: c.Iterable[Moment]) -> None:
    """Keep a recording, a line a moment."""
    path.write_text("".join(f"{json.dumps(dataclasses.asdict(moment))}\n" for moment in moments), encoding="utf-8")


def read(path: pathlib.Path) -> list[Moment]:
    """Return the moments of a recording."""
    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Moment(one["at"], [JobProgress(**job) for job in one["jobs"]]) for one in documents]


def estimates(moments: c.Sequence[Moment]) -> list[Estimate]:
    """Return what a batch's progress told of the time left, at each moment at which it told anything.

    Raises:
        ValueError: the batch did not come to its end.
    """
    ends = [job.finished for job in moments[-1].jobs if job.finished is not None]
    if len(ends) < len(moments[-1].jobs):
        raise ValueError("the recording ends before the batch does")
    begin, end = moments[0].at, max(ends)
    told = [(moment.at, BatchProgress.of(moment.jobs, moment.at).left) for moment in moments if moment.at < end]
    return [
        Estimate((at - begin) / (end - begin), left, end - at, end - begin) for at, left in told if left is not None
    ]
