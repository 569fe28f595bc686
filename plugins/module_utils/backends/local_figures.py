# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queue of one host in figures: how many jobs wait and why, what runs and how fast, what was counted so far."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime
import json

from ..protocol import fields, models
from ..protocol.lifecycle import TERMINAL, Phase
from ..scheduling import matching, waiting
from ..telemetry.metrics.book import Book, Row, Tally
from .host import now
from .records import Record, add_tallies, load_demand
from .store import HELD_SQL, Change, Store, Worker


@dataclasses.dataclass(frozen=True)
class Waits:
    """The jobs that wait."""

    count: int
    """Suspended ones apart."""
    oldest_seconds: float
    """How long the oldest of them has been there; 0: there is none."""
    reasons: c.Mapping[str, int]
    """Jobs by what they wait for, suspended ones too; one with several reasons counts for each."""
    blocked: c.Mapping[str, int]
    """Those among them that no worker will take unless somebody acts, by the reason that most workers have."""


@dataclasses.dataclass(frozen=True)
class Running:
    """A job that a worker has."""

    key: str
    """Its name, perhaps with its namespace and a slash before it."""
    stage: str
    progress: models.Progress | None
    silent_seconds: float
    """Since it last told of progress, or was claimed."""
    limit: int | None
    """Bytes per second that it may read; None: as many as it can."""


@dataclasses.dataclass(frozen=True)
class Alive:
    """A worker that is registered."""

    registration: models.WorkerRegistration
    running: int
    lease_age_seconds: float
    alive: bool
    """Whether its lease runs and its process is not known to be dead."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """A queue at one moment."""

    phases: c.Mapping[Phase, int]
    """Jobs that are not over."""
    waits: Waits
    running: list[Running]
    workers: list[Alive]
    counted: Book


class LocalFiguresSide(Store):
    """What a queue tells of itself."""

    def figures(self) -> Figures:
        """Return the queue in figures. It reads no document of a job that waits, however many do."""
        with self._view() as change:
            over = ", ".join(f"'{phase.value}'" for phase in sorted(TERMINAL))
            counts = change.tx.execute(f"SELECT phase, count(*) FROM jobs WHERE phase NOT IN ({over}) GROUP BY phase")
            held = [Record.load(row) for row in change.tx.execute(f"SELECT * FROM jobs WHERE {HELD_SQL}")]
            workers = [Worker.load(row) for row in change.tx.execute("SELECT * FROM workers ORDER BY name")]
            return Figures(
                phases={Phase(phase): count for phase, count in counts},
                waits=_waits(change),
                running=[_running(record) for record in held],
                workers=[_alive(change, worker) for worker in workers],
                counted=Book(Row(*row) for row in change.tx.execute("SELECT * FROM tallies")),
            )

    def count(self, tallies: c.Iterable[Tally]) -> None:
        """Count what the queue cannot see by itself."""
        with self._change() as change:
            add_tallies(change.tx, tallies)


def _waits(change: Change) -> Waits:
    jobs = change.waiting()
    oldest = min(jobs, key=lambda job: job.number, default=None)
    backing_off = sum(job.backs_off() for job in jobs)
    reasons = collections.Counter({"BackingOff": backing_off} if backing_off else {})
    suspended = change.tx.execute("SELECT count(*) FROM jobs WHERE phase = 'QUEUED' AND suspend = 1").fetchone()[0]
    if suspended:
        reasons["Suspended"] = suspended
    blocked: collections.Counter[str] = collections.Counter()
    offers = change.offers()
    # A thousand jobs have a few different demands.
    for demand, count in collections.Counter(job.demand for job in jobs if not job.backs_off()).items():
        found = matching.explain(load_demand(demand), offers)
        for reason in {one.reason for one in found}:
            reasons[reason] += count
        if found and waiting.is_blocked(found):
            blocked[found[0].reason] += count
    return Waits(len(jobs), 0.0 if oldest is None else _age(change, oldest.uid), reasons, blocked)


def _age(change: Change, uid: str) -> float:
    document = change.tx.execute("SELECT document FROM jobs WHERE uid = ?", (uid,)).fetchone()[0]
    created = fields.moment(json.loads(document)["metadata"]["creationTimestamp"])
    return max(0.0, (now() - created).total_seconds())


def _running(record: Record) -> Running:
    if record.progressed is not None:
        silent = -record.progressed.left()
    else:
        silent = _since(record.status.attempts[-1].started_at)
    return Running(
        key=record.name,
        stage=record.status.stage or "",
        progress=record.status.progress,
        silent_seconds=max(0.0, silent),
        limit=json.loads(record.document)["spec"].get("limits", {}).get("bandwidthBytesPerSecond"),
    )


def _since(instant: str) -> float:
    elapsed: datetime.timedelta = now() - fields.moment(instant)
    return elapsed.total_seconds()


def _alive(change: Change, worker: Worker) -> Alive:
    return Alive(
        registration=worker.registration,
        running=len(change.running(worker.registration.name)),
        lease_age_seconds=max(0.0, worker.lease_seconds - worker.lease.left()),
        alive=worker.alive(),
    )
