# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator at work: sees jobs, workers and nodes through watches, and writes what :mod:`.decide` says."""

from __future__ import annotations

import asyncio
import collections
import collections.abc as c
import dataclasses
import datetime
import itertools
import logging
import random
import time
import typing as t

from ..backends.kube.api import Absent, Api, ApiError, Changed, Exists, Refused
from ..backends.kube.cache import Cache, Change
from ..backends.kube.resources import (
    EVENTS,
    JOBS,
    LEASES,
    NODES,
    OPEN_JOBS,
    WORKERS,
    Object,
    job_key,
    status_patch,
    worker_lease,
    worker_of,
)
from ..protocol import fields, models
from ..protocol.errors import JobError
from ..protocol.lifecycle import HELD, Phase
from ..telemetry.logs import JobLog
from ..telemetry.metrics import happened, table
from ..telemetry.metrics.book import Book, Tally
from . import happenings
from .decide import CORDONED, DRAINING, NODE_MISSING, WORKER_LEASE_SECONDS, Decision, Job, Worker, decide
from .finished import Remover, finished_jobs
from .metrics import View
from .view import Finished, LeaseView, node_of_lease, read_cordoned, read_finished, read_job, read_lease

log = logging.getLogger(__name__)

#: Writes at once.
WRITERS = 32
#: Between two looks at everything: at least this, so that changes that come together are looked at once …
_PAUSE_SECONDS = 0.02
#: … and so many times as long as the last look took, so that thousands of jobs that wait do not take all of the time …
_PAUSE_LOOKS = 2.0
#: … and at most this, for what only the clock brings about (backoff, deadlines, leases).
_LOOK_SECONDS = 1.0
#: After a write that failed: the first wait for another try, and the longest. They double.
_FIRST_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 60.0
_EVENT_TRIES = 5
#: A new leader tells what its predecessor may not have come to tell of jobs that ended so lately.
_RECENT = datetime.timedelta(seconds=120)


@dataclasses.dataclass
class _Trouble:
    """Writes of one job that failed in a row."""

    count: int = 0
    until: float = 0.0
    """When the next may be tried, by the monotonic clock."""


class Controller:
    """Acts on all jobs of the cluster. Only the leader may run it."""

    def __init__(self, api: Api, namespace: str, identity: str, counted: Book) -> None:
        """Act through ``api`` as ``identity``, and count; the workers' Leases are in ``namespace``."""
        self._api = api
        self._namespace = namespace
        self._identity = identity
        self._counted = counted
        self._dirty = asyncio.Event()
        self._jobs: Cache[Job] = Cache(api, JOBS, self._read_job, self._job_changed, list_fields=OPEN_JOBS)
        self._workers = Cache(api, WORKERS, worker_of, self._look)
        self._nodes = Cache(api, NODES, read_cordoned, self._look)
        self._leases = Cache(api, LEASES, read_lease, self._lease_changed, namespace=namespace)
        self._caches: tuple[Cache[t.Any], ...] = (self._leases, self._nodes, self._workers, self._jobs)
        self._heard: dict[str, float] = {}
        """When each node's Lease was last seen to change, or missed for the first time; by the monotonic clock."""
        self._assumed: dict[str, Job] = {}
        """Jobs as they will be when the write that is under way succeeds."""
        self._trouble: dict[str, _Trouble] = collections.defaultdict(_Trouble)
        self._told: dict[str, datetime.datetime] = {}
        self._remover = Remover(api, _now)
        self._writing = asyncio.Semaphore(WRITERS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._looked = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether everything was listed once."""
        return all(cache.synced.is_set() for cache in self._caches)

    @property
    def seconds_since_look(self) -> float:
        """For how long it has not looked at the jobs; of one that is well, about a second at most."""
        return time.monotonic() - self._looked

    def view(self) -> View:
        """Return how things are, for metrics."""
        moment = time.monotonic()
        workers = self._alive(moment)
        return View(
            jobs=self._jobs.objects.values(),
            workers=len(workers),
            slots=sum(worker.status.slots for worker in workers.values()),
            lease_ages={node: moment - self._heard.get(node, moment) for node in self._workers.objects},
            pending=len(self._assumed),
        )

    async def run(self) -> t.NoReturn:
        """Act, for ever."""
        runs = [*(cache.run() for cache in self._caches), self._remover.run(), self._tick(), self._decide_for_ever()]
        tasks = [asyncio.create_task(run) for run in runs]
        self._spawn(self._take_stock())
        try:
            # They only end by a mistake in the program.
            await asyncio.gather(*tasks)
            raise AssertionError("the operator's tasks ended")
        finally:
            for task in [*tasks, *self._tasks]:
                task.cancel()

    # -- looking -----------------------------------------------------------------------------------------------------

    def _read_job(self, found: Object) -> Job | None:
        return read_job(found, self._jobs.objects.get(job_key(found)))

    def _look(self, change: Change[t.Any]) -> None:
        if change.before != change.after:
            self._dirty.set()

    def _lease_changed(self, change: Change[LeaseView]) -> None:
        if change.after is not None and change.after != change.before:
            self._heard[node_of_lease(change.key.partition("/")[2])] = time.monotonic()
            self._dirty.set()

    def _job_changed(self, change: Change[Job]) -> None:
        self._dirty.set()
        before, after = change.before, change.after
        if after is not None:
            known = before if before is not None and before.uid == after.uid else None
            if known is not None:
                self._counted.add(*happened.changed(known.status, after.status, fields.timestamp(after.created)))
            if after.status.phase in HELD and (known is None or known.status.epoch < after.status.epoch):
                self._assigned(after, new=known is not None)
            return
        self._trouble.pop(change.key, None)
        self._told.pop(change.key, None)
        ended = None if change.found is None else read_finished(change.found)
        if ended is not None:
            self._saw_end(before, ended)
        elif change.found is None and before is not None:
            self._spawn(self._look_up(before))

    def _saw_end(self, before: Job | None, ended: Finished) -> None:
        # One that was never seen open, or was another job of that name, has lived its life between two looks.
        known = before.status if before is not None and before.uid == ended.uid else models.JobStatus()
        self._counted.add(*happened.changed(known, ended.status, ended.created))
        self._ended(ended)

    async def _look_up(self, job: Job) -> None:
        """Find out whether a job that is no longer listed is over or gone."""
        try:
            ended = read_finished(await self._api.get(JOBS, job.name, job.namespace))
        except JobError:
            return
        if ended is not None and ended.uid == job.uid:
            self._saw_end(job, ended)

    async def _take_stock(self) -> None:
        """Look once at the jobs that are over: what is to be removed some time, and what nobody may have told."""
        # After the open ones were listed, so that none can end unseen between the two.
        await self._jobs.synced.wait()
        wait = _FIRST_BACKOFF_SECONDS
        while True:
            try:
                async for job in finished_jobs(self._api):
                    end = job.status.finished_at
                    if end is None or _now() - fields.moment(end) > _RECENT:
                        self._remover.add(job)
                        continue
                    if job.status.attempts:
                        event = happenings.assigned(job.namespace, job.name, job.uid, job.status, self._identity)
                        self._tell(event)
                    self._ended(job)
                return
            except JobError as error:
                log.warning("jobs that are over: %s", error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LONGEST_BACKOFF_SECONDS)

    # -- deciding ----------------------------------------------------------------------------------------------------

    async def _decide_for_ever(self) -> None:
        for cache in self._caches:
            await cache.synced.wait()
        log.info("%d jobs, %d workers", len(self._jobs.objects), len(self._workers.objects))
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            began = time.monotonic()
            self._reconcile()
            self._looked = time.monotonic()
            self._counted.add(Tally(table.RECONCILE, (), self._looked - began))
            await asyncio.sleep(max(_PAUSE_SECONDS, _PAUSE_LOOKS * (self._looked - began)))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._dirty.set()

    def _reconcile(self) -> None:
        moment = time.monotonic()
        jobs = [self._as_assumed(key, job, moment) for key, job in self._jobs.objects.items()]
        workers, gone = self._alive(moment), self._gone(moment)
        room = WRITERS - len(self._assumed)
        if room > 0:
            for decision in itertools.islice(decide(jobs, workers, gone, self._told, _now()), room):
                self._assume(decision)
        self._forget_workers(workers, moment)

    def _as_assumed(self, key: str, job: Job, moment: float) -> Job:
        assumed = self._assumed.get(key)
        if assumed is not None:
            return assumed
        trouble = self._trouble.get(key)
        if trouble is not None and moment < trouble.until:
            return dataclasses.replace(job, settled=True)
        return job

    def _alive(self, moment: float) -> dict[str, Worker]:
        """Return the workers whose Lease lasts, by their nodes' names."""
        alive: dict[str, Worker] = {}
        for node, told in self._workers.objects.items():
            lease = self._leases.objects.get(f"{self._namespace}/{worker_lease(node)}")
            if lease is None or moment - self._heard.get(node, moment) > lease.seconds:
                continue
            cordoned = self._nodes.objects.get(node)
            closed = None
            if cordoned is None:
                closed = NODE_MISSING
            elif cordoned:
                closed = CORDONED
            elif not told.schedulable:
                closed = DRAINING
            alive[node] = Worker(told, closed)
        return alive

    def _gone(self, moment: float) -> c.Container[str]:
        return _Gone(self._heard, self._leases.objects, self._namespace, moment)

    def _forget_workers(self, alive: c.Mapping[str, Worker], moment: float) -> None:
        """Remove what workers told whose node is gone, once their Lease has ended as well."""
        gone = self._gone(moment)
        for node in self._workers.objects.keys() - self._nodes.objects.keys() - alive.keys():
            key = f"worker {node}"
            if node in gone and moment >= self._trouble[key].until:
                # Not again before the watch has told that it is gone.
                self._trouble[key].until = moment + _LONGEST_BACKOFF_SECONDS
                self._spawn(self._forget(node))

    async def _forget(self, node: str) -> None:
        for resource, name, namespace in ((WORKERS, node, None), (LEASES, worker_lease(node), self._namespace)):
            try:
                await self._api.delete(resource, name, namespace)
            except Absent:
                continue
            except JobError as error:
                log.warning("worker %s: %s", node, error)
                return
        self._heard.pop(node, None)
        self._trouble.pop(f"worker {node}", None)
        log.info("worker %s: removed, as its node is gone", node)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _assume(self, decision: Decision) -> None:
        job, after = decision.job, decision.after
        self._assumed[job.key] = dataclasses.replace(job, status=after, settled=True)
        if after.phase is Phase.QUEUED:
            self._told[job.key] = _now()
        self._spawn(self._write(decision))

    async def _write(self, decision: Decision) -> None:
        job, after = decision.job, decision.after
        patch = status_patch(job.status, after, job.resource_version)
        try:
            if job.status.assigned_node in self._gone(time.monotonic()) and await self._lives(job.status.assigned_node):
                return
            async with self._writing:
                found = await self._api.patch(JOBS, job.name, patch, job.namespace, subresource="status")
            self._counted.add(Tally(table.WRITES, ("status", "written")))
            self._trouble.pop(job.key, None)
            _log_of(job).info("%s", _told(job.status, after))
            self._jobs.fold(found)
        except JobError as error:
            self._counted.add(Tally(table.WRITES, ("status", type(error).__name__)))
            await self._failed(job, error)
        finally:
            del self._assumed[job.key]
            self._dirty.set()

    async def _lives(self, node: str | None) -> bool:
        """Whether a worker that seems to be lost renewed its Lease after all, and only the watch did not tell.

        Asked before a job is taken away, so that a watch that hangs cannot take all jobs away from all workers.
        """
        if not node:
            return False
        key, name = f"{self._namespace}/{worker_lease(node)}", worker_lease(node)
        known = self._leases.objects.get(key)
        try:
            self._leases.fold(await self._api.get(LEASES, name, self._namespace))
        except Absent:
            return False
        return self._leases.objects.get(key) != known

    async def _failed(self, job: Job, error: JobError) -> None:
        """Make sure that the next try is made with what is there now, and not at once."""
        trouble = self._trouble[job.key]
        wait = min(_FIRST_BACKOFF_SECONDS * 2.0**trouble.count, _LONGEST_BACKOFF_SECONDS)
        trouble.count = min(trouble.count + 1, 16)
        trouble.until = time.monotonic() + wait * random.uniform(0.5, 1.0)
        if isinstance(error, Absent):
            _log_of(job).info("it is gone")
        elif isinstance(error, Changed):
            _log_of(job).info("changed meanwhile, looking again")
            try:
                self._jobs.fold(await self._api.get(JOBS, job.name, job.namespace))
            except JobError as again:
                _log_of(job).warning("%s", again)
        else:
            _log_of(job).log(logging.ERROR if isinstance(error, Refused) else logging.WARNING, "%s", error)

    # -- telling -----------------------------------------------------------------------------------------------------

    def _assigned(self, job: Job, *, new: bool) -> None:
        """Tell that a node got a job; ``new``: the assignment is this operator's, and not one that it found."""
        if new:
            self._counted.add(Tally(table.ASSIGNMENTS))
        self._tell(happenings.assigned(job.namespace, job.name, job.uid, job.status, self._identity))

    def _ended(self, job: Finished) -> None:
        self._remover.add(job)
        self._tell(happenings.ended(job.namespace, job.name, job.uid, job.status, self._identity))

    def _tell(self, event: Object) -> None:
        self._spawn(self._write_event(event))

    async def _write_event(self, event: Object) -> None:
        namespace = event["metadata"]["namespace"]
        for tries in range(_EVENT_TRIES):
            try:
                async with self._writing:
                    await self._api.create(EVENTS, event, namespace)
                self._counted.add(Tally(table.WRITES, ("event", "written")))
                return
            except Exists:
                return
            except JobError as error:
                self._counted.add(Tally(table.WRITES, ("event", type(error).__name__)))
                if isinstance(error, (Absent, Refused)) or not isinstance(error, ApiError):
                    # The namespace is being deleted, for example.
                    log.info("event %s: %s", event["metadata"]["name"], error)
                    return
            await asyncio.sleep(2.0**tries * random.uniform(0.5, 1.0))

    def _spawn(self, work: c.Coroutine[t.Any, t.Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a mistake in the program", exc_info=task.exception())


class _Gone(t.Container[str]):
    """The nodes whose worker was not heard of for as long as its Lease lasts, by this operator's own clock."""

    def __init__(
        self, heard: dict[str, float], leases: c.Mapping[str, LeaseView], namespace: str, moment: float
    ) -> None:
        self._heard = heard
        self._leases = leases
        self._namespace = namespace
        self._moment = moment

    def __contains__(self, node: object) -> bool:
        lease = self._leases.get(f"{self._namespace}/{worker_lease(str(node))}")
        # Of a worker that has no Lease the time counts from when it was first missed.
        heard = self._heard.setdefault(str(node), self._moment)
        return self._moment - heard > (WORKER_LEASE_SECONDS if lease is None else lease.seconds)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _log_of(job: Job) -> JobLog:
    return JobLog(log, job.key, job.status.epoch)


def _told(before: models.JobStatus, after: models.JobStatus) -> str:
    words = f"{before.phase.value} → {after.phase.value}"
    if after.assigned_node:
        return f"{words} on {after.assigned_node}, epoch {after.epoch}"
    if after.waiting:
        return f"{words}: {after.waiting[0].message}"
    return words if after.last_error is None else f"{words}: {after.last_error.told}"
