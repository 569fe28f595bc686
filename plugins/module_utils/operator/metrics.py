# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's metrics, as Prometheus reads them: what it counted since it was started, and how things are."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime

from ..protocol.lifecycle import Phase
from ..scheduling import waiting
from ..telemetry.metrics import table
from ..telemetry.metrics.book import Book, Sample
from ..telemetry.metrics.exposition import Exposition
from ..telemetry.metrics.table import Teller
from .decide import Job


@dataclasses.dataclass(frozen=True)
class View:
    """How things are, as the operator that leads sees them."""

    jobs: c.Collection[Job]
    """Those that are not over."""
    workers: int
    """Those that are alive."""
    slots: int
    """Of these."""
    lease_ages: c.Mapping[str, float]
    """How long ago each node's Lease was seen to change, in seconds, of every node that has told of a worker."""
    pending: int
    """Decisions that are being written."""


class Metrics:
    """All metrics of one operator."""

    def __init__(self, version: str) -> None:
        """Begin at zero.

        Raises:
            JobError: (environment) ``prometheus_client`` is missing.
        """
        self.counted = Book()
        self.view: c.Callable[[], View] | None = None
        """Asked for how things are; None: this operator stands by, and cannot tell."""
        self._version = version
        self._exposition = Exposition(self._samples)

    def answer(self, accept: str) -> tuple[str, bytes]:
        """Return all of them, with their media type, in the format that a request's header ``Accept`` asks for."""
        return self._exposition.answer(accept)

    def _samples(self) -> c.Iterator[Sample]:
        yield Sample(table.LEADING, (), float(self.view is not None))
        yield Sample(table.BUILD, ("operator", self._version, "kubernetes"), 1.0)
        yield from self.counted.samples(table.told_by(Teller.QUEUE, Teller.OPERATOR))
        if self.view is not None:
            yield from _gauges(self.view())


def _gauges(view: View) -> c.Iterator[Sample]:
    phases = collections.Counter(job.status.phase.value for job in view.jobs)
    for phase in table.JOBS.labels[0].values:
        yield Sample(table.JOBS, (phase,), phases[phase])
    now = datetime.datetime.now(datetime.timezone.utc)
    queues: dict[str, list[Job]] = collections.defaultdict(list)
    for job in view.jobs:
        queues[job.namespace].append(job)
    for queue, jobs in queues.items():
        yield from _queue(queue, [job for job in jobs if job.status.phase is Phase.QUEUED], now)
    yield Sample(table.WORKERS, (), view.workers)
    yield Sample(table.OPERATOR_SLOTS, (), view.slots)
    yield Sample(table.PENDING, (), view.pending)
    for node, age in view.lease_ages.items():
        yield Sample(table.NODE_LEASE_AGE, (node,), age)


def _queue(queue: str, jobs: c.Collection[Job], now: datetime.datetime) -> c.Iterator[Sample]:
    ready = [job.created for job in jobs if not job.suspend]
    yield Sample(table.QUEUED, (queue,), len(ready))
    yield Sample(table.OLDEST_WAIT, (queue,), max(0.0, (now - min(ready)).total_seconds()) if ready else 0.0)
    reasons: collections.Counter[str] = collections.Counter()
    blocked: collections.Counter[str] = collections.Counter()
    for job in jobs:
        reasons.update(job.waiting_kinds)
        if waiting.is_blocked(job.status.waiting):
            blocked[job.status.waiting[0].reason] += 1
    for metric, counts in ((table.WAITING, reasons), (table.BLOCKED, blocked)):
        for reason, count in table.known_reasons(counts).items():
            yield Sample(metric, (queue, reason), count)
