# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is to become of the jobs: a pure function of jobs, workers and the time."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime
import functools

from ..protocol import models, status
from ..protocol.errors import ErrorClass, JobError, environment
from ..protocol.fields import moment
from ..protocol.lifecycle import HELD, TERMINAL, Actor, Phase
from ..protocol.retries import RetryPolicy
from ..scheduling import matching, waiting
from ..scheduling.matching import Demand, Offer, Unmet

#: A worker that was not heard of for so long has lost its jobs; the node agent renews six times as often.
WORKER_LEASE_SECONDS = 60.0
#: The reasons for which a job waits are written at most so often, and only when other kinds of them came up.
EXPLAIN_SECONDS = 10.0
_MAX_REASONS = 10


CORDONED = Unmet("NodeCordoned", "its node is cordoned")
NODE_MISSING = Unmet("NodeMissing", "its node is not known to the cluster")
DRAINING = Unmet("WorkerDraining", "is about to end, and takes no further job")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job that is not over, as far as deciding takes it."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    created: datetime.datetime
    status: models.JobStatus
    problem: JobError | None = None
    """What is wrong with its document; then the fields below mean nothing."""
    demand: Demand | None = None
    priority: int = 0
    suspend: bool = False
    cancel: bool = False
    retries: RetryPolicy = dataclasses.field(default_factory=RetryPolicy)
    deadline: datetime.datetime | None = None
    deleting: bool = False
    """Somebody deleted it, and something else still keeps it."""
    settled: bool = False
    """It is counted, and not decided upon: a write is under way, or the last one failed a moment ago."""

    @functools.cached_property
    def key(self) -> str:
        """What it is called in the whole cluster."""
        return f"{self.namespace}/{self.name}"

    @functools.cached_property
    def suspended(self) -> bool:
        """Whether its status says that it is held back; ``suspend`` says whether it is to be."""
        return any(one.type == "Suspended" and one.status == "True" for one in self.status.conditions)

    @functools.cached_property
    def waiting_kinds(self) -> frozenset[str]:
        """The kinds of the reasons for which it waits, as far as they are written."""
        return frozenset(reason.reason for reason in self.status.waiting)


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker that is alive."""

    status: models.WorkerStatus
    closed: Unmet | None = None
    """Why it gets no job for the time being; None: it may get some. :data:`CORDONED` also loses what it has not begun.
    """


@dataclasses.dataclass(frozen=True)
class Decision:
    """One write: this job's status is to become ``after``."""

    job: Job
    after: models.JobStatus


def decide(
    jobs: c.Iterable[Job],
    workers: c.Mapping[str, Worker],
    gone: c.Container[str],
    told: c.Mapping[str, datetime.datetime],
    now: datetime.datetime,
) -> c.Iterator[Decision]:
    """Yield what is to be written, the most urgent first: losses and ends, assignments, then explanations.

    The iterator may be left at any time; what it did not come to comes again with the next call.

    Args:
        workers: those that are alive, by their nodes' names.
        gone: nodes whose worker has lost its jobs. One that is neither here nor there may yet be heard of.
        told: when the reasons for which a job waits were last written, by the job's key.
    """
    desk = _Desk(workers, now)
    # With what a job's status is before it is assigned; None: as it is, or a few steps on, which cost time to make and
    # are made only where they are written.
    queue: list[tuple[Job, models.JobStatus | None]] = []
    for job in jobs:
        held = job.status.phase in HELD
        if held:
            desk.occupy(job.status.assigned_node)
        if job.settled or job.deleting:
            continue
        after = _without_worker(job, workers, gone, now) if held else _ended(job, now)
        if after is not None and after.phase in TERMINAL:
            yield Decision(job, after)
        elif after is not None or not held:
            # The slot that it leaves is of no use: its node is gone, or cordoned.
            queue.append((job, after))
    queue.sort(key=lambda item: (-item[0].priority, item[0].created, item[0].key))
    later: list[tuple[Job, models.JobStatus | None]] = []
    for job, after in queue:
        node = desk.place(job, after or job.status)
        if node is None:
            later.append((job, after))
        else:
            before = after or _queued(job, now)
            assigned = status.record_attempt(before, node, WORKER_LEASE_SECONDS, Actor.CONTROL, now)
            yield Decision(job, _stamped(job, assigned.model_copy(update={"assigned_node": node})))
    ahead: list[str] = []
    for job, after in later:
        moves = after is not None or job.status.phase is not Phase.QUEUED or job.suspend != job.suspended
        differs = moves or desk.kinds(job, after or job.status, ahead) != job.waiting_kinds
        if differs and (moves or now - told.get(job.key, _NEVER) >= _EXPLAIN_EVERY):
            reasons = desk.explain(job, after or job.status, ahead)
            waits = (after or _queued(job, now)).model_copy(update={"waiting": reasons})
            yield Decision(job, _stamped(job, waits))
        if desk.may_run(job, after or job.status):
            ahead.append(job.name)


_NEVER = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
_EXPLAIN_EVERY = datetime.timedelta(seconds=EXPLAIN_SECONDS)


def _ended(job: Job, now: datetime.datetime) -> models.JobStatus | None:
    """Return the end of a job that no worker has and none will get; None: it may yet be done."""
    if job.cancel:
        return _stamped(job, status.advance(job.status, Phase.CANCELLED, Actor.CONTROL, now))
    if job.problem is not None:
        before = job.status if job.status.phase is Phase.CREATED else _queued(job, now)
        failed = status.fail(before, job.problem, Actor.CONTROL, now, policy=RetryPolicy())
        return _stamped(job, failed.model_copy(update={"result": job.problem.details}))
    if job.deadline is not None and now >= job.deadline:
        return _stamped(job, _too_late(job, _queued(job, now), now))
    return None


def _queued(job: Job, now: datetime.datetime) -> models.JobStatus:
    """Return the status of a job that no worker has, after the steps that bring it into the queue."""
    after = job.status
    if after.phase is Phase.CREATED:
        after = status.advance(after, Phase.VALIDATED, Actor.CONTROL, now)
    if after.phase is Phase.VALIDATED:
        after = status.advance(after, Phase.QUEUED, Actor.CONTROL, now)
    return after if job.suspend == job.suspended else status.suspended(after, job.suspend, now)


def _without_worker(
    job: Job, workers: c.Mapping[str, Worker], gone: c.Container[str], now: datetime.datetime
) -> models.JobStatus | None:
    """Return what becomes of a held job whose worker is lost, or has not begun and is not to; None: it has it still."""
    before, node = job.status, job.status.assigned_node or ""
    late = job.deadline is not None and now >= job.deadline
    # What ends it anyway is its worker's to do, as long as that is there.
    ends = job.cancel or late
    if not node or node in gone:
        if job.cancel:
            after = status.advance(
                before, Phase.CANCELLED, Actor.CONTROL, now, message="its worker was lost, and it was to be cancelled"
            )
        elif late:
            after = _too_late(job, before, now)
        else:
            error = JobError(
                ErrorClass.TRANSIENT,
                status.LEASE_EXPIRED,
                f"The worker {node} was not heard of in time.",
                "See whether the node is up, and the worker's log.",
                before.stage or "",
            )
            after = status.fail(before, error, Actor.CONTROL, now, policy=job.retries)
    elif before.phase is Phase.ASSIGNED and node in workers and workers[node].closed == CORDONED and not ends:
        after = status.advance(
            before, Phase.QUEUED, Actor.CONTROL, now, reason="NodeCordoned", message=f"the node {node} was cordoned"
        )
    else:
        return None
    if after.phase is Phase.QUEUED and job.suspend != job.suspended:
        after = status.suspended(after, job.suspend, now)
    return _stamped(job, after.model_copy(update={"assigned_node": None}))


def _too_late(job: Job, before: models.JobStatus, now: datetime.datetime) -> models.JobStatus:
    error = environment(
        "DeadlineExceeded",
        "Its deadline (activeDeadlineSeconds) passed while no worker had it.",
        "Submit it again with more time, or when a worker is free.",
    )
    return status.fail(before, error, Actor.CONTROL, now, policy=job.retries)


def _stamped(job: Job, after: models.JobStatus) -> models.JobStatus:
    return after.model_copy(update={"observed_generation": job.generation})


class _Desk:
    """Hands out the workers' free slots."""

    def __init__(self, workers: c.Mapping[str, Worker], now: datetime.datetime) -> None:
        self._workers = workers
        self._now = now
        self._running: collections.Counter[str] = collections.Counter()
        self._fitting: dict[Demand, list[str]] = {}
        self._reasons: dict[Demand, list[models.WaitReason]] = {}
        self._kinds: dict[tuple[Demand | None, bool, bool, bool], frozenset[str]] = {}

    def occupy(self, node: str | None) -> None:
        self._running[node or ""] += 1

    def place(self, job: Job, after: models.JobStatus) -> str | None:
        """Return the node whose worker is to have the job, and take one of its slots; None: it has to wait."""
        if job.demand is None or not self.may_run(job, after):
            return None
        # Those whose slots are full leave the list, so that a thousand jobs of one kind do not ask them all again.
        fitting = self._fit(job.demand)
        fitting[:] = [node for node in fitting if self._free(node) > 0]
        if not fitting:
            return None
        last = after.attempts[-1].worker if after.attempts else ""
        node = last if last in fitting else max(fitting, key=lambda node: (self._free(node), node))
        self._running[node] += 1
        return node

    def may_run(self, job: Job, after: models.JobStatus) -> bool:
        """Whether only a worker is missing."""
        return not job.suspend and self._wait(after) <= 0

    def kinds(self, job: Job, after: models.JobStatus, ahead: c.Sequence[str]) -> frozenset[str]:
        """Return of what kinds the reasons are that :meth:`explain` gives: the same for many jobs."""
        alike = job.demand, job.suspend, self._wait(after) > 0, bool(ahead)
        if alike not in self._kinds:
            self._kinds[alike] = frozenset(reason.reason for reason in self.explain(job, after, ahead))
        return self._kinds[alike]

    def explain(self, job: Job, after: models.JobStatus, ahead: c.Sequence[str]) -> list[models.WaitReason]:
        """Return why the job waits; ``ahead``: the jobs that go first."""
        if job.suspend:
            return [waiting.suspended()]
        seconds = self._wait(after)
        if seconds > 0:
            return [waiting.backing_off(seconds, after.last_error)]
        if job.demand is None:
            return []
        if job.demand not in self._reasons:
            offers = (Offer(w.status, self._running[node], w.closed) for node, w in self._workers.items())
            self._reasons[job.demand] = matching.explain(job.demand, offers)
        reasons = self._reasons[job.demand]
        if ahead and any(reason.reason == "NoFreeSlot" for reason in reasons):
            return [*reasons[: _MAX_REASONS - 1], waiting.jobs_ahead(len(ahead), ahead)]
        return reasons[:_MAX_REASONS]

    def _fit(self, demand: Demand) -> list[str]:
        if demand not in self._fitting:
            self._fitting[demand] = [
                node
                for node, worker in self._workers.items()
                if matching.first_unmet(demand, Offer(worker.status, self._running[node], worker.closed)) is None
            ]
        return self._fitting[demand]

    def _free(self, node: str) -> int:
        return self._workers[node].status.slots - self._running[node]

    def _wait(self, after: models.JobStatus) -> float:
        if after.not_before is None:
            return 0.0
        return (moment(after.not_before) - self._now).total_seconds()
