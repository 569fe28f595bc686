# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker tells of itself and of its queue, as samples of metrics."""

from __future__ import annotations

import collections
import collections.abc as c
import shutil

from ..backends.local import LocalBackend
from ..backends.local_figures import Figures, Running
from ..telemetry.metrics import table
from ..telemetry.metrics.book import Sample
from ..telemetry.metrics.table import Metric, Teller
from ..telemetry.version import collection_version
from .context import Roots

#: What the queue of a host is called among others; a cluster's are called as its namespaces.
_QUEUE = "local"


class WorkerMetrics:
    """Reads them anew each time, from the queue's database and the roots: whoever asks need not be the worker."""

    def __init__(self, backend: LocalBackend, roots: Roots, *, in_cluster: bool) -> None:
        """Tell of the queue of ``backend``; in a cluster it is the operator who tells of jobs that wait or are over."""
        self._backend = backend
        self._roots = roots
        self._in_cluster = in_cluster

    def samples(self) -> c.Iterator[Sample]:
        """Yield them.

        Raises:
            JobError: the queue cannot be read.
        """
        figures = self._backend.figures()
        tellers = (Teller.WORKER,) if self._in_cluster else (Teller.QUEUE, Teller.WORKER)
        yield from figures.counted.samples(table.told_by(*tellers))
        if not self._in_cluster:
            yield from _queue(figures)
        yield from _worker(figures)
        yield from _jobs(figures.running)
        for name, root in (("scratch", self._roots.scratch), ("output", self._roots.output)):
            usage = shutil.disk_usage(root)
            yield Sample(table.FREE, (name,), usage.free)
            yield Sample(table.SIZE, (name,), usage.total)
        backend = "kubernetes" if self._in_cluster else "local"
        yield Sample(table.BUILD, ("worker", collection_version(), backend), 1.0)


def _queue(figures: Figures) -> c.Iterator[Sample]:
    phases = {phase.value: count for phase, count in figures.phases.items()}
    yield from _filled(table.JOBS, phases)
    yield Sample(table.QUEUED, (_QUEUE,), figures.waits.count)
    yield Sample(table.OLDEST_WAIT, (_QUEUE,), figures.waits.oldest_seconds)
    for metric, counts in ((table.WAITING, figures.waits.reasons), (table.BLOCKED, figures.waits.blocked)):
        for reason, count in table.known_reasons(counts).items():
            yield Sample(metric, (_QUEUE, reason), count)
    yield Sample(table.WORKERS, (), sum(worker.alive for worker in figures.workers))


def _worker(figures: Figures) -> c.Iterator[Sample]:
    alive = [worker for worker in figures.workers if worker.alive]
    yield Sample(table.SLOTS, (), sum(worker.registration.slots for worker in alive))
    yield Sample(table.SLOTS_USED, (), sum(worker.running for worker in alive))
    if figures.workers:
        yield Sample(table.LEASE_AGE, (), max(worker.lease_age_seconds for worker in figures.workers))
    available: dict[str, bool] = {}
    for worker in alive:
        for name, one in worker.registration.capabilities.items():
            available[name] = available.get(name, False) or one.available
    for name in sorted(available):
        yield Sample(table.CAPABILITY, (name,), float(available[name]))


def _jobs(running: c.Iterable[Running]) -> c.Iterator[Sample]:
    rates: dict[str, float] = collections.defaultdict(float)
    limits: list[int | None] = []
    for job in running:
        namespace, dummy, name = job.key.rpartition("/")
        labels = (namespace or _QUEUE, name, job.stage)
        limits.append(job.limit)
        yield Sample(table.SILENCE, labels, job.silent_seconds)
        if job.progress is None:
            continue
        yield Sample(table.PROGRESS, labels, job.progress.percent / 100)
        if job.stage in table.STAGES:
            rates[job.stage] += job.progress.rate_per_second
        if job.progress.eta_seconds is not None:
            yield Sample(table.REMAINING, labels, job.progress.eta_seconds)
    yield from _filled(table.RATE, rates)
    # One without a limit makes all of them together as fast as they can.
    if limits and None not in limits:
        yield Sample(table.RATE_LIMIT, (), sum(limit for limit in limits if limit is not None))


def _filled(metric: Metric, counts: c.Mapping[str, float]) -> c.Iterator[Sample]:
    """Yield a sample for each value of the metric's one label."""
    for value in metric.labels[0].values:
        yield Sample(metric, (value,), counts.get(value, 0))
