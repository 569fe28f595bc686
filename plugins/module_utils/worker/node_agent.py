# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node agent: between a cluster, which decides who gets a job, and the queue of its node, where it gets done.

It compares, again and again, what the API server says of the jobs that this node has with what the queue says of them,
and does the one thing that brings them together: gives a job, passes on a wish, tells of progress or of an end, takes a
job away. So nothing depends on having seen a change happen; what was missed while one of the two was away is caught up.

The API server's word on who has a job is final. Every write to it tests that the job is still this node's attempt; what
is not is killed. The worker's leases last only while this process reaches the API server (:mod:`.keeper`).
"""

from __future__ import annotations

import asyncio
import collections.abc as c
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import signal
import time
import typing as t

from ..backends.base import Fenced, WorkerState
from ..backends.host import boottime, now
from ..backends.kube.api import Absent, Api, Changed, Login
from ..backends.kube.cache import Cache, Change
from ..backends.kube.resources import (
    JOBS,
    Object,
    assigned_to,
    job_of,
    status_patch,
    worker_lease,
)
from ..backends.local import LocalBackend
from ..backends.local_grants import Given
from ..protocol import fields, models, status
from ..protocol.errors import ErrorClass, JobError
from ..protocol.lifecycle import HELD, TERMINAL, Phase
from ..protocol.retries import RetryPolicy
from ..telemetry.logs import JobLog
from . import keeper, node_relay, node_status, node_worker, workdirs
from .config import Config
from .exporter import Exporter
from .health import ALIVE, SILENT_SECONDS
from .job_process import Pipeline
from .node_status import Node

log = logging.getLogger(__name__)

T = t.TypeVar("T")

#: How often the Lease is renewed in the time that it lasts.
_RENEWALS = 6
_RENEW_TIMEOUT_SECONDS = 5.0
_RENEW_AGAIN_SECONDS = 1.0
_REQUEST_SECONDS = 10.0
_CANCEL_AGAIN_SECONDS = 1.0
#: Between two looks at the queue.
_TURN_SECONDS = 0.25
#: A job's first progress is told after the first time, further ones at most once in the second.
_FIRST_PROGRESS_SECONDS = 2.0
_PROGRESS_SECONDS = 10.0
#: After a failure, before the same is tried again for the same job.
_REST_SECONDS = 2.0
#: How often it is asked what became of a job of which something is kept here: work that may go on, or only a record.
_ASK_UNFINISHED_SECONDS = 30.0
_ASK_FINISHED_SECONDS = 600.0
_ASK_AT_ONCE = 10
#: How many jobs that this node had are kept in its queue, with their events.
_MAX_KEPT = 100
_NODE_SECONDS = 10.0
#: Without any news, in case that somebody deleted what was told.
_NODE_AGAIN_SECONDS = 300.0
#: A container that starts again has it too, and need not wait for its predecessor's Lease to end.
_IDENTITY = os.uname().nodename
#: A worker that lags behind its keeper for so long hangs.
_HANGS_SECONDS = 15.0
#: From the request to end: for the worker's checkpoints, and for all.
_CHECKPOINT_SECONDS = 20.0
_LEAVE_SECONDS = 30.0
#: Between two words in the file by which :mod:`.health` knows that this process minds its jobs.
_ALIVE_SECONDS = 5.0
#: HTTP status of writers that got into each other's way.
_CONFLICT = 409

KEEPER = "keeper"


def run(config: Config, pipeline: Pipeline, node: Node, exporter: Exporter, login: Login | None = None) -> int:
    """Work for the cluster until told to leave by SIGTERM, and return the exit status; 1 if the worker ended by itself.

    Raises:
        JobError: the state folder or the login cannot be used.
    """
    backend = LocalBackend(config.state_dir)
    holding = node_worker.lock(config.state_dir)
    config = dataclasses.replace(config, keeper=config.state_dir / KEEPER)
    try:
        worker = node_worker.Worker(config, pipeline, exporter)
        try:
            return asyncio.run(NodeAgent(config, node, backend, worker).run(login))
        finally:
            worker.signal(signal.SIGKILL)
    finally:
        backend.close()
        os.close(holding)


async def _end(tasks: c.Sequence[asyncio.Future[t.Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    pending = set(tasks)
    while pending:
        # Not once: before Python 3.12, asyncio.wait_for forgets a cancellation that comes together with its answer.
        for one in pending:
            one.cancel()
        pending = (await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS))[1]
    await asyncio.gather(*tasks, return_exceptions=True)


class NodeAgent:
    """One node's agent, for one life of its worker."""

    def __init__(self, config: Config, node: Node, backend: LocalBackend, worker: node_worker.Worker) -> None:
        """Prepare to work with the queue of ``backend``, whose ``worker`` has not begun yet."""
        self._config = config
        self._node = node
        self._backend = backend
        self._worker = worker
        self._assigned: dict[str, models.MigrationJob] = {}
        """The jobs that this node has, by uid, as the API server told or answered last."""
        self._here: dict[str, Given] = {}
        """The jobs that were given to the queue, by uid, as they are there."""
        self._over: dict[str, int] = {}
        """The epoch of the last attempt that is known not to be this node's any more; older news of it are skipped."""
        self._next_progress: dict[str, float] = {}
        self._next_ask: dict[str, float] = {}
        self._rest_until: dict[str, float] = {}
        self._minded: float | None = None
        """When the jobs were last looked at; None: not yet."""
        self._seen_version = (0, 0)
        self._stale = True
        self._told_node: models.WorkerStatus | None = None
        self._tell_node_again = 0.0
        self._lagging_since: float | None = None
        self._said: dict[str, str] = {}

    async def run(self, login: Login | None) -> int:
        """See :func:`run`."""
        self._wake = asyncio.Event()
        self._leaving = asyncio.Event()
        self._in_touch = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leaving.set)
        with concurrent.futures.ThreadPoolExecutor(1, "queue") as self._threads:
            async with Api.connect(login) as self._api:
                self._jobs = Cache(self._api, JOBS, self._read, self._changed, fields=assigned_to(self._node.name))
                self._worker_end = asyncio.ensure_future(self._worker.wait())
                ends = [self._worker_end, asyncio.ensure_future(self._leaving.wait())]
                works = (self._keep(), self._jobs.run(), self._work(), self._say_alive())
                tasks = [asyncio.ensure_future(one) for one in works]
                try:
                    await asyncio.wait([*ends, *tasks], return_when=asyncio.FIRST_COMPLETED)
                    for task in tasks:
                        if task.done():
                            # Only a mistake in the program ends one.
                            task.result()
                    if not self._leaving.is_set():
                        log.error("the worker ended by itself, with status %d", self._worker_end.result())
                        return 1
                    await self._leave()
                    return 0
                finally:
                    await _end([*ends, *tasks])
                    await self._release()

    async def _work(self) -> None:
        """Hand back what a predecessor had, let the worker begin, and mind the jobs."""
        await self._in_queue(self._backend.bury_workers)
        await self._in_touch.wait()
        self._worker.begin()
        log.info("node %s: at work", self._node.name)
        await self._jobs.synced.wait()
        await asyncio.gather(self._mind_jobs(), self._mind_node())

    async def _say_alive(self) -> None:
        """Say so while the jobs are minded. That the API server is away at the start, so that none are, is no fault."""
        while True:
            if self._minded is None or time.monotonic() - self._minded < SILENT_SECONDS / 2:
                try:
                    keeper.write(self._config.state_dir / ALIVE, boottime())
                except OSError as error:
                    self._say("alive", f"the state folder cannot be written: {error.strerror}")
            await asyncio.sleep(_ALIVE_SECONDS)

    async def _leave(self) -> None:
        """Let the worker make its checkpoints, and hand back what this node has."""
        log.info("node %s: leaving", self._node.name)
        deadline = time.monotonic() + _LEAVE_SECONDS
        self._worker.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(asyncio.shield(self._worker_end), _CHECKPOINT_SECONDS)
        except asyncio.TimeoutError:
            self._worker.signal(signal.SIGKILL)
            await self._worker_end
        with contextlib.suppress(JobError):
            await self._in_queue(self._backend.bury_workers)
        self._stale = True
        while (self._assigned or self._is_schedulable()) and time.monotonic() < deadline:
            self._wake.set()
            await asyncio.sleep(_TURN_SECONDS)

    def _is_schedulable(self) -> bool:
        """Whether the cluster believes that this node takes jobs."""
        return self._told_node is not None and self._told_node.schedulable

    # -- the lease -----------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew the Lease, and tell the worker each time.

        While another agent of this node holds it, this one waits: both would carry out the same jobs.
        """
        path = self._config.state_dir / KEEPER
        seconds = self._config.lease_seconds
        while True:
            began = boottime()
            wait = _RENEW_AGAIN_SECONDS
            try:
                renewal = self._api.hold_lease(
                    self._node.namespace, worker_lease(self._node.name), _IDENTITY, round(seconds)
                )
                await asyncio.wait_for(renewal, _RENEW_TIMEOUT_SECONDS)
                # From before the request: the operator cannot have counted from any earlier.
                keeper.write(path, began)
                self._in_touch.set()
                self._forget_saying("lease")
                wait = seconds / _RENEWALS
            except (JobError, asyncio.TimeoutError, OSError) as error:
                self._say("lease", f"the lease cannot be renewed: {error or 'no answer in time'}")
            await asyncio.sleep(max(0.0, began + wait - boottime()))

    async def _release(self) -> None:
        """Let the next agent of this node begin at once."""
        with contextlib.suppress(JobError, asyncio.TimeoutError):
            release = self._api.release_lease(self._node.namespace, worker_lease(self._node.name), _IDENTITY)
            await asyncio.wait_for(release, _RENEW_TIMEOUT_SECONDS)

    # -- what the cluster says -----------------------------------------------------------------------------------------

    def _read(self, found: Object) -> models.MigrationJob | None:
        """Return the job of an API object; None where it is not this node's to work on."""
        try:
            job = job_of(found)
            return job if job.status.phase in HELD else None
        except JobError as error:
            self._say(found["metadata"]["uid"], str(error))
            return None

    def _changed(self, change: Change[models.MigrationJob]) -> None:
        before, after = change.before, change.after
        if before is not None and (after is None or after.metadata.uid != before.metadata.uid):
            uid = _uid(before)
            if self._assigned.pop(uid, None) is not None:
                self._next_ask[uid] = 0.0
            self._over.pop(uid, None)
        if after is not None and after.status.epoch > self._over.get(_uid(after), 0):
            self._assigned[_uid(after)] = after
        self._wake.set()

    async def _write(self, job: models.MigrationJob, after: models.JobStatus) -> None:
        """Write a job's status, or learn that it is not this node's any more."""
        uid = _uid(job)
        metadata = job.metadata
        try:
            found = await asyncio.wait_for(
                self._api.patch(
                    JOBS,
                    metadata.name,
                    status_patch(job.status, after),
                    metadata.namespace,
                    subresource="status",
                ),
                _REQUEST_SECONDS,
            )
        except (Changed, Absent) as error:
            if error.code == _CONFLICT:
                # That tells nothing of who has the job.
                raise
            _log_of(job).warning("it is not this node's any more: %s", error)
            self._let_go(uid, job.status.epoch)
            self._next_ask[uid] = 0.0
            return
        if after.assigned_node is None:
            _log_of(job).info("%s", after.phase.value)
            self._let_go(uid, job.status.epoch)
        elif self._assigned.get(uid) is job:
            # Else the watch was faster with something newer, and will tell of this write as well.
            self._assigned[uid] = job_of(found)

    def _let_go(self, uid: str, epoch: int) -> None:
        known = self._assigned.get(uid)
        if known is not None and known.status.epoch <= epoch:
            # The watch may be faster with the next attempt than the answer that the last one is over.
            del self._assigned[uid]
        self._over[uid] = epoch
        self._next_ask[uid] = time.monotonic() + _ASK_UNFINISHED_SECONDS

    # -- what the queue says -------------------------------------------------------------------------------------------

    async def _in_queue(self, call: c.Callable[..., T], *args: t.Any) -> T:
        """Call the queue, which may block, in the one thread that does."""
        self._stale = True
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args))

    async def _refresh(self) -> None:
        """Catch up with the queue."""
        stale, self._stale = self._stale, False
        version = await asyncio.get_running_loop().run_in_executor(self._threads, self._backend.data_version)
        if not stale and version == self._seen_version:
            return
        self._seen_version = version
        known = {uid: given.version for uid, given in self._here.items()}
        changed, uids = await self._in_queue(self._backend.given, known)
        self._stale = False
        for given in changed:
            self._here[given.uid] = given
        for uid in self._here.keys() - uids:
            del self._here[uid]
        memories: tuple[dict[str, t.Any], ...] = (self._next_progress, self._next_ask, self._rest_until, self._over)
        for memory in memories:
            for uid in memory.keys() - uids - self._assigned.keys():
                del memory[uid]

    # -- bringing the two together -------------------------------------------------------------------------------------

    async def _mind_jobs(self) -> None:
        while True:
            self._wake.clear()
            self._minded = time.monotonic()
            try:
                await self._refresh()
                open_here = {uid for uid, given in self._here.items() if not given.spent}
                await asyncio.gather(*(self._mind(uid) for uid in open_here | self._assigned.keys()))
                await self._mind_kept()
                self._forget_saying("queue")
            except (JobError, OSError) as error:
                self._say("queue", str(error))
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TURN_SECONDS)

    async def _mind(self, uid: str) -> None:
        """Do what there is to do for one job."""
        if time.monotonic() < self._rest_until.get(uid, 0.0):
            return
        try:
            await self._settle(uid)
            self._forget_saying(uid)
        except (JobError, asyncio.TimeoutError) as error:
            self._say(uid, f"job {uid}: {error or 'no answer in time'}")
            self._rest_until[uid] = time.monotonic() + _REST_SECONDS

    async def _settle(self, uid: str) -> None:
        job, here = self._assigned.get(uid), self._here.get(uid)
        if job is None:
            if here is not None and not here.spent:
                await self._in_queue(self._backend.revoke, uid, "the cluster took the job back")
        elif here is None or here.epoch < job.status.epoch:
            await self._take(job)
        elif here.epoch == job.status.epoch and here.spent:
            result = await self._in_queue(self._backend.result, uid)
            ended = node_relay.relay(job.status, here, now(), result)
            await self._write(job, node_status.located(self._node, ended))
        elif here.epoch == job.status.epoch:
            await self._pass_on(job, here)
            await self._tell_progress(job, here)

    async def _take(self, job: models.MigrationJob) -> None:
        """Give the queue a job that was assigned to this node, if there is still any sense in it."""
        moment = now()
        if job.status.phase is not Phase.ASSIGNED:
            lost = JobError(
                ErrorClass.TRANSIENT,
                status.WORKER_LOST,
                f"The worker of the node {self._node.name} has forgotten the job.",
                "See whether its state folder outlives its pod.",
                job.status.stage or "",
            )
            await self._write(job, node_relay.failed(job.status, lost, RetryPolicy.of(job.spec), moment))
        elif job.spec.cancel:
            await self._write(job, node_relay.cancelled(job.status, moment))
        elif job.spec.suspend or self._leaving.is_set():
            why = "suspended" if job.spec.suspend else "the node's worker ends"
            await self._write(job, node_relay.hand_back(job.status, why, moment))
        else:
            _log_of(job).info("attempt %d", job.status.epoch)
            self._next_progress[_uid(job)] = time.monotonic() + _FIRST_PROGRESS_SECONDS
            await self._in_queue(self._backend.give, job, self._node.name, _seconds_left(job))
            self._wake.set()

    async def _pass_on(self, job: models.MigrationJob, here: Given) -> None:
        """Pass on what people want of a job by now."""
        wanted, known, key = job.spec, here.job.spec, job.metadata.key
        if wanted.cancel and not known.cancel:
            await self._in_queue(self._backend.cancel, key)
        waits = here.job.status.phase is Phase.QUEUED
        if waits and (wanted.suspend or self._leaving.is_set()):
            # There is nobody to hand it back.
            await self._in_queue(self._backend.revoke, here.uid, "it was not begun")
        elif wanted.suspend != known.suspend:
            await self._in_queue(self._backend.suspend, key, wanted.suspend)
        if wanted.priority != known.priority:
            await self._in_queue(self._backend.set_priority, key, wanted.priority)

    async def _tell_progress(self, job: models.MigrationJob, here: Given) -> None:
        moment = time.monotonic()
        if moment < self._next_progress.setdefault(here.uid, moment + _FIRST_PROGRESS_SECONDS):
            return
        after = node_relay.relay(job.status, here, now())
        if after != job.status:
            self._next_progress[here.uid] = moment + _PROGRESS_SECONDS
            await self._write(job, after)

    # -- what is kept of jobs that this node had -----------------------------------------------------------------------

    async def _mind_kept(self) -> None:
        """Ask what became of them, and forget those that will not come back."""
        kept = {uid: given for uid, given in self._here.items() if given.spent and uid not in self._assigned}
        moment = time.monotonic()
        due = [uid for uid in kept if self._next_ask.get(uid, 0.0) <= moment]
        await asyncio.gather(*(self._ask(kept[uid]) for uid in due[:_ASK_AT_ONCE]))
        finished = [uid for uid, given in kept.items() if given.job.status.phase in TERMINAL]
        for uid in finished[: max(0, len(kept) - _MAX_KEPT)]:
            await self._drop(kept[uid])

    async def _ask(self, given: Given) -> None:
        over = given.job.status.phase in TERMINAL
        wait = _ASK_FINISHED_SECONDS if over else _ASK_UNFINISHED_SECONDS
        self._next_ask[given.uid] = time.monotonic() + wait
        metadata = given.job.metadata
        try:
            request = self._api.get(JOBS, metadata.name, metadata.namespace)
            found: models.MigrationJob | None = job_of(await asyncio.wait_for(request, _REQUEST_SECONDS))
        except Absent:
            found = None
        except (JobError, asyncio.TimeoutError) as error:
            self._say(given.uid, f"job {metadata.key}: {error or 'no answer in time'}")
            return
        self._forget_saying(given.uid)
        if given.uid not in self._assigned and (found is None or self._is_useless(given, found)):
            await self._drop(given)

    def _is_useless(self, given: Given, found: models.MigrationJob) -> bool:
        """Whether what is kept of an attempt here serves nobody, now that the job of that name is as ``found``."""
        if found.status.assigned_node not in (None, self._node.name):
            return True
        if found.status.phase not in TERMINAL:
            return False
        told_here = _uid(found) == given.uid and given.job.status.phase in TERMINAL
        return not told_here and not status.may_be_taken_up(found.status)

    async def _drop(self, given: Given) -> None:
        _log_of(given.job).info("nothing of it is kept here any more")
        await self._in_queue(self._backend.drop, given.uid)
        roots, state_dir = self._config.roots, self._config.state_dir
        try:
            await self._in_queue(workdirs.forget, given.job.metadata.key, roots, state_dir)
        except OSError as error:
            # The worker's sweep comes back to it.
            _log_of(given.job).warning("cannot clear its folder: %s", error)

    # -- the node ------------------------------------------------------------------------------------------------------

    async def _mind_node(self) -> None:
        """Keep the node's MigrationWorker true, and end a worker that hangs."""
        state: WorkerState | None = None
        while True:
            try:
                found = await self._state()
                self._end_if_it_hangs(found)
                state = found or state
                if state is not None:
                    await self._tell_node(self._described(state))
                self._forget_saying("node")
            except (JobError, Fenced, asyncio.TimeoutError) as error:
                self._say("node", f"the node cannot be told of: {error or 'no answer in time'}")
            wait = _TURN_SECONDS if self._told_node is None else _NODE_SECONDS
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news_of_node(), wait)

    async def _news_of_node(self) -> None:
        """Wait for what must be told at once: that this node takes no further job."""
        if self._told_node is None or self._is_schedulable():
            await self._leaving.wait()
        else:
            await asyncio.Event().wait()

    async def _state(self) -> WorkerState | None:
        """Return the worker as the queue sees it; None while it is not registered."""
        workers = await self._in_queue(self._backend.workers)
        return next((one for one in workers if one.registration.pid == self._worker.pid), None)

    def _end_if_it_hangs(self, state: WorkerState | None) -> None:
        """End a worker that was at work once, and has not taken over the keeper's word for too long."""
        said = boottime() - keeper.read(self._config.state_dir / KEEPER)
        little = self._config.lease_seconds / 3
        lags = state is None or state.seconds_since_heartbeat - said > little
        if self._told_node is None or said > little or not lags:
            self._lagging_since = None
        elif self._lagging_since is None:
            self._lagging_since = time.monotonic()
        elif time.monotonic() - self._lagging_since > _HANGS_SECONDS:
            log.error("the worker hangs; ending it")
            self._worker.signal(signal.SIGKILL)

    def _described(self, state: WorkerState) -> models.WorkerStatus:
        running = [job.metadata.key for job in self._assigned.values()]
        return node_status.describe(
            self._node, state, running, schedulable=not self._leaving.is_set(), before=self._told_node
        )

    async def _tell_node(self, told: models.WorkerStatus) -> None:
        moment = time.monotonic()
        again = self._told_node is None or moment > self._tell_node_again
        if again or (self._told_node is not None and node_status.differs(told, self._told_node)):
            await asyncio.wait_for(node_status.write(self._api, self._node, told), _REQUEST_SECONDS)
            self._told_node = told
            self._tell_node_again = moment + _NODE_AGAIN_SECONDS
        if again:
            await asyncio.wait_for(node_status.tie_to_release(self._api, self._node), _REQUEST_SECONDS)

    # -- the log -------------------------------------------------------------------------------------------------------

    def _say(self, about: str, what: str) -> None:
        """Log what is tried again and again, once and not each time."""
        if self._said.get(about) != what:
            self._said[about] = what
            log.warning("%s", what)

    def _forget_saying(self, about: str) -> None:
        self._said.pop(about, None)


def _log_of(job: models.MigrationJob) -> JobLog:
    return JobLog(log, job.metadata.key, job.status.epoch)


def _uid(job: models.MigrationJob) -> str:
    return job.metadata.uid or ""


def _seconds_left(job: models.MigrationJob) -> float | None:
    """Return what is left of a job's deadline, in seconds: the one place where two machines' clocks are compared."""
    limit, created = job.spec.active_deadline_seconds, job.metadata.creation_timestamp
    if limit is None or created is None:
        return None
    return limit - (now() - fields.moment(created)).total_seconds()
