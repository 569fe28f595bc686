# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Workers whose work is fake and whose talk with the API server is real: leases, registrations, statuses."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import datetime
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Absent, Api, Changed, Exists
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Cache, Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    NODES,
    OPEN_JOBS,
    WORKERS,
    Object,
    assigned_to,
    job_of,
    status_patch,
    worker_lease,
    worker_object,
    worker_status_patch,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import HELD, Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy

from tests.kube.registrations import registration

Work = t.Callable[[models.MigrationJob], c.Awaitable[None]]
"""Stands for the execution: returns when the job is done, raises JobError where it fails."""


async def at_once(job: models.MigrationJob) -> None:
    """Work that is done at once."""


async def for_ever(job: models.MigrationJob) -> None:
    """Work that never ends by itself."""
    await asyncio.Event().wait()


class FakeWorker:
    """The worker of one node, and the node itself, which is an object without a machine."""

    def __init__(
        self, api: Api, namespace: str, node: str, slots: int = 2, work: Work = at_once, lease_seconds: int = 60
    ) -> None:
        """Work for ``node``; the Lease is in ``namespace``."""
        self.node = node
        self.done: list[tuple[str, int]] = []
        """Jobs that ended here well, each with its epoch."""
        self.refused: list[str] = []
        """Jobs of which a write was refused because they are somebody else's."""
        self.running: dict[str, models.MigrationJob] = {}
        """Jobs that it has, as they were when it began."""
        self._api = api
        self._namespace = namespace
        self._slots = slots
        self._work = work
        self._lease_seconds = lease_seconds
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._jobs: Cache[Object] = Cache(
            api, JOBS, lambda found: found, self._changed, fields=f"{assigned_to(node)},{OPEN_JOBS}"
        )

    @contextlib.asynccontextmanager
    async def alive(self) -> c.AsyncIterator[FakeWorker]:
        """Live as long as the context lasts, and die without a word."""
        await self.register()
        await self.renew()
        tasks = [asyncio.create_task(self._renew_for_ever()), asyncio.create_task(self._jobs.run())]
        try:
            yield self
        finally:
            tasks += [*self._tasks.values(), *self._ending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def register(self, **fields: t.Any) -> None:
        """Create the node and tell of the worker; ``fields`` as :class:`models.WorkerStatus` has them."""
        with contextlib.suppress(Exists):
            document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
            await self._api.create(NODES, document)
        with contextlib.suppress(Exists):
            await self._api.create(WORKERS, worker_object(self.node))
        told = worker_status_patch(registration(self.node, self._slots, **fields))
        await self._api.patch(WORKERS, self.node, told, subresource="status")

    async def renew(self) -> None:
        """Say that it lives."""
        await self._api.hold_lease(self._namespace, worker_lease(self.node), self.node, self._lease_seconds)

    async def finish(self, job: models.MigrationJob) -> None:
        """End ``job`` well, in one write.

        :raises Changed: it is not this worker's any more.
        """
        now = _now()
        after = status.advance(job.status, Phase.RUNNING, Actor.WORKER, now) if _fresh(job) else job.status
        after = status.advance(after, Phase.COMPLETED, Actor.WORKER, now)
        await self._write(job, after)
        self.done.append((job.metadata.key, job.status.epoch))

    async def _write(self, job: models.MigrationJob, after: models.JobStatus) -> None:
        assert job.metadata.namespace is not None
        if after.phase not in HELD:
            after = after.model_copy(update={"assigned_node": None})
        patch = status_patch(job.status, after)
        await self._api.patch(JOBS, job.metadata.name, patch, job.metadata.namespace, subresource="status")

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 6)
            with contextlib.suppress(JobError):
                await self.renew()

    def _changed(self, change: Change[Object]) -> None:
        key = change.key
        job = None if change.after is None else job_of(change.after)
        mine = self.running.get(key)
        if mine is not None and (job is None or job.status.epoch != mine.status.epoch):
            # Fenced, over or gone.
            self._leave(key)
            mine = None
        if job is not None and mine is None:
            self.running[key] = job
            self._tasks[key] = asyncio.create_task(self._do(key, job))
        elif job is not None and (job.spec.cancel or job.spec.suspend) and self._tasks[key] not in self._ending:
            self._tasks[key].cancel()
            self._tasks[key] = asyncio.create_task(self._stop(job))

    def _leave(self, key: str) -> None:
        del self.running[key]
        task = self._tasks.pop(key)
        if task not in self._ending:
            task.cancel()

    async def _do(self, key: str, job: models.MigrationJob) -> None:
        try:
            await self._work(job)
            self._is_ending()
            await self._insist(lambda: self.finish(job))
        except Changed:
            self.refused.append(key)
        except JobError as error:
            self._is_ending()
            failed = status.fail(job.status, error, Actor.WORKER, _now(), policy=RetryPolicy.of(job.spec))
            await self._insist(lambda: self._write(job, failed))

    async def _stop(self, job: models.MigrationJob) -> None:
        self._is_ending()
        phase = Phase.CANCELLED if job.spec.cancel else Phase.QUEUED
        after = status.advance(job.status, phase, Actor.WORKER, _now())
        with contextlib.suppress(Changed):
            await self._insist(lambda: self._write(job, after))

    def _is_ending(self) -> None:
        """Keep this task from being cancelled when the watch tells of the end that it writes."""
        task = asyncio.current_task()
        assert task is not None
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _insist(self, write: c.Callable[[], c.Awaitable[None]]) -> None:
        while True:
            try:
                await write()
                return
            except (Changed, Absent):
                raise
            except JobError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.5)


def _fresh(job: models.MigrationJob) -> bool:
    return job.status.phase is Phase.ASSIGNED


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
