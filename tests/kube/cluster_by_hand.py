# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What operator and workers do in a cluster, done by a test's own hand."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import datetime
import threading
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube import resources
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import JOBS, WORKERS
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy

from tests.kube.api_server import ApiServer

Step = c.Callable[[models.JobStatus], models.JobStatus]


def now() -> datetime.datetime:
    """This moment."""
    return datetime.datetime.now(datetime.timezone.utc)


class Cluster:
    """What the rest of a cluster does, done by hand."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self.namespace = namespace

    def turn(self, name: str, *steps: Step) -> None:
        """Take steps of the protocol with a job's status, each by a patch of its own."""

        async def turned(api: Api) -> None:
            after = resources.status_of(await api.get(JOBS, name, self.namespace))
            for step in steps:
                after = step(after)
                patch = [{"op": "add", "path": "/status", "value": after.to_document()}]
                await api.patch(JOBS, name, patch, self.namespace, subresource="status")

        self.do(turned)

    def obey_cancel(self, name: str, *steps: Step) -> None:
        """Take steps with a job when it is asked to stop."""

        async def asked(api: Api) -> None:
            while not (await api.get(JOBS, name, self.namespace))["spec"].get("cancel"):
                await asyncio.sleep(0.05)

        self.do(asked)
        self.turn(name, *steps)

    @contextlib.contextmanager
    def working(self, begin: c.Callable[[], bool] = lambda: True) -> c.Iterator[None]:
        """Do all jobs meanwhile, one step after another; one with the annotation ``fail`` fails.

        :param begin: whether jobs that are in the queue may be begun.
        """
        over = threading.Event()
        worker = threading.Thread(target=self.do, args=(lambda api: self._work(api, over, begin),))
        worker.start()
        try:
            yield
        finally:
            over.set()
            worker.join()

    async def _work(self, api: Api, over: threading.Event, begin: c.Callable[[], bool]) -> None:
        while not over.is_set():
            for found in await api.all(JOBS, self.namespace):
                job = resources.job_of(found)
                step = _NEXT.get(job.status.phase)
                if step is None or (job.status.phase is Phase.QUEUED and not begin()):
                    continue
                fails = job.status.phase is Phase.RUNNING and "fail" in job.metadata.annotations
                after = failed(job.status) if fails else step(job.status)
                if after.phase is Phase.COMPLETED:
                    result = result_of(job)
                    after.result, after.artifacts = result.to_document(), result.artifacts
                patch = [{"op": "add", "path": "/status", "value": after.to_document()}]
                await api.patch(JOBS, job.metadata.name, patch, self.namespace, subresource="status")
            await asyncio.sleep(0.1)

    def do(self, step: c.Callable[[Api], c.Awaitable[None]]) -> None:
        """Ask the API server for something, as its administrator."""

        async def done() -> None:
            async with Api.connect(self._server.login()) as api:
                await step(api)

        asyncio.run(done())

    def worker(self, node: str, *, running: list[str] | None = None, lease: bool = True, **told: t.Any) -> None:
        """A node's worker tells of itself."""
        able = {name: models.Capability(available=True) for name in ("qemu-img", "root", "attach", "boot-test")}
        about = {"name": node, "host": node, "boot_id": "b", "pid": 1, "collection_version": "1.1.0", "slots": 2}
        told = {"capabilities": able, "running": running or [], "free_output_bytes": 1 << 30, **told}

        async def told_it(api: Api) -> None:
            with contextlib.suppress(JobError):
                await api.create(WORKERS, resources.worker_object(node))
            patch = resources.worker_status_patch(models.WorkerStatus.model_validate({**about, **told}))
            await api.patch(WORKERS, node, patch, subresource="status")
            if lease:
                await api.hold_lease(self.namespace, resources.worker_lease(node), node, 60)

        self.do(told_it)

    def forget(self, *nodes: str) -> None:
        """Remove workers, which are the whole cluster's."""

        async def forgotten(api: Api) -> None:
            for node in nodes:
                await api.delete(WORKERS, node)

        self.do(forgotten)


def queued(found: models.JobStatus) -> models.JobStatus:
    """What the operator makes of a new job."""
    valid = status.advance(found, Phase.VALIDATED, Actor.CONTROL, now())
    return status.advance(valid, Phase.QUEUED, Actor.CONTROL, now())


def assigned(found: models.JobStatus) -> models.JobStatus:
    """What the operator makes of a job that waits."""
    return status.record_attempt(found, "node1", 60.0, Actor.CONTROL, now()).model_copy(
        update={"assigned_node": "node1"}
    )


def running(found: models.JobStatus) -> models.JobStatus:
    """What the worker makes of it."""
    return status.start_stage(found, "inspect", now())


def completed(found: models.JobStatus) -> models.JobStatus:
    """How it ends well."""
    return status.advance(found, Phase.COMPLETED, Actor.WORKER, now())


def failed(found: models.JobStatus) -> models.JobStatus:
    """How it ends badly."""
    error = JobError(ErrorClass.UNSUPPORTED, "NoRootDevice", "There is no root filesystem.", stage="inspect")
    return status.fail(found, error, Actor.WORKER, now(), policy=RetryPolicy(2))


def cancelled(found: models.JobStatus) -> models.JobStatus:
    """How it ends when it is asked to stop."""
    return status.advance(found, Phase.CANCELLED, Actor.WORKER, now())


def copying(found: models.JobStatus) -> models.JobStatus:
    """What the worker makes of it later."""
    progress = models.Progress(stage="copy", bytes_done=1 << 20, bytes_total=1 << 21, percent=50.0)
    return status.report_progress(found, progress, now())


def result_of(job: models.MigrationJob) -> models.JobResult:
    """What a worker would tell of a job that ended well."""
    return models.JobResult(
        job=job.metadata.name,
        uid=job.metadata.uid or "",
        operation=job.spec.operation,
        verdict="boots",
        source_identity="of-the-test",
        spec_digest=validation.spec_digest(job.spec),
        completed_at="2026-01-01T00:00:00Z",
        seconds=4.2,
        artifacts=[models.Artifact(path=f"{job.metadata.name}.qcow2", kind="disk", format="qcow2", size_bytes=1 << 20)],
    )


_NEXT: dict[Phase, Step] = {
    Phase.CREATED: queued,
    Phase.QUEUED: assigned,
    Phase.ASSIGNED: running,
    Phase.RUNNING: copying,
    Phase.PROGRESSING: completed,
}
