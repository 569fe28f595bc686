# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far a batch is: how many jobs are where, their common rate, what the rest waits for, and when it may be done."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime
import statistics
import typing as t

from .units import rough_duration, size

RUNNING = ("ASSIGNED", "RUNNING", "PROGRESSING")
WAITING = ("CREATED", "VALIDATED", "QUEUED")
_ENDS = ("COMPLETED", "FAILED", "CANCELLED")
_SUSPENDED = "Suspended"
_REASONS_SHOWN = 2


@dataclasses.dataclass(frozen=True)
class JobProgress:
    """What a batch's progress needs to know of one job."""

    phase: str
    started: float | None = None
    """When its first attempt began: seconds since the epoch."""
    finished: float | None = None
    """When it ended."""
    stage_left: float | None = None
    """Seconds until its stage ends, as far as that is known."""
    rate: float = 0.0
    """Bytes per second."""
    reasons: tuple[str, ...] = ()
    """Why it waits: names of reasons."""

    @classmethod
    def of(cls, status: c.Mapping[str, t.Any]) -> JobProgress:
        """Return what a job's status (a document in camelCase) says."""
        told = status.get("progress") or {}
        return cls(
            str(status.get("phase") or ""),
            _seconds(status.get("startedAt")),
            _seconds(status.get("finishedAt")),
            told.get("etaSeconds"),
            told.get("ratePerSecond") or 0.0,
            tuple(str(wait.get("reason")) for wait in status.get("waiting") or []),
        )


@dataclasses.dataclass(frozen=True)
class BatchProgress:
    """How far a batch is at one moment."""

    counts: dict[str, int]
    """Numbers of jobs: ``running``, ``waiting``, ``completed``, ``failed``, ``cancelled``."""
    rate: float
    """Bytes per second of all running jobs."""
    left: float | None
    """Seconds until the last job ends; None: nothing tells that yet."""
    reasons: tuple[tuple[str, int], ...]
    """Why jobs wait, with how many do; the most frequent first."""

    @classmethod
    def of(cls, jobs: c.Iterable[JobProgress], now: float) -> BatchProgress:
        """Return how far these jobs are at ``now``, in seconds since the epoch."""
        batch = list(jobs)
        phases = collections.Counter(job.phase for job in batch)
        counts = {
            "running": sum(phases[phase] for phase in RUNNING),
            "waiting": sum(phases[phase] for phase in WAITING),
            **{phase.lower(): phases[phase] for phase in _ENDS},
        }
        reasons = collections.Counter(
            reason for job in batch if job.phase in WAITING for reason in dict.fromkeys(job.reasons)
        )
        rate = sum(job.rate for job in batch if job.phase in RUNNING)
        return cls(counts, rate, _left(batch, now), tuple(reasons.most_common()))

    @property
    def share(self) -> float:
        """The share of jobs that are over, 0 to 1."""
        return sum(self.counts[phase.lower()] for phase in _ENDS) / max(1, sum(self.counts.values()))

    def __str__(self) -> str:
        """Return a line for people."""
        parts = [", ".join(f"{number} {word}" for word, number in self.counts.items() if number) or "nothing to do"]
        if self.rate:
            parts.append(f"{size(self.rate)}/s")
        if self.left is not None and self.counts["running"] + self.counts["waiting"]:
            parts.append(f"about {rough_duration(self.left)} left")
        if self.reasons:
            shown = [f"{reason} ({count})" for reason, count in self.reasons[:_REASONS_SHOWN]]
            parts.append("waiting for " + ", ".join(shown) + (", …" if len(self.reasons) > _REASONS_SHOWN else ""))
        return "; ".join(parts)


def _left(batch: c.Sequence[JobProgress], now: float) -> float | None:
    """Return when the batch may be done, from how long the jobs took that are, and as many side by side as run now.

    A job that runs is taken to need as much longer as those did that took longer than it has by now, and at least what
    its stage says. One that waits is taken to need the mean. As the small ones are done first, a job that runs counts
    in that mean as well where it is known to take longer; and nothing is told until as many are done as run at once.
    """
    took = [
        job.finished - job.started
        for job in batch
        if job.phase == "COMPLETED" and job.started is not None and job.finished is not None
    ]
    running = [job for job in batch if job.phase in RUNNING]
    waiting = [job for job in batch if job.phase in WAITING and _SUSPENDED not in job.reasons]
    if len(took) < len(running) or not took:
        told = [job.stage_left for job in running if job.stage_left is not None]
        # The stages that come after the present one are not known either, so this is the least.
        return max(told, default=None) if len(told) == len(running) and not waiting else None
    passed = [now - (job.started or now) for job in running]
    rest = []
    for job, seconds in zip(running, passed, strict=True):
        longer = [other - seconds for other in took if other > seconds]
        rest.append(max(statistics.fmean(longer) if longer else 0.0, job.stage_left or 0.0))
    known = [seconds + left for seconds, left in zip(passed, rest, strict=True)]
    mean = statistics.fmean([*took, *(one for one in known if one > statistics.fmean(took))])
    work = sum(rest) + mean * len(waiting)
    return max([work / max(1, len(running)), *rest])


def _seconds(instant: str | None) -> float | None:
    return None if not instant else datetime.datetime.fromisoformat(instant.replace("Z", "+00:00")).timestamp()
