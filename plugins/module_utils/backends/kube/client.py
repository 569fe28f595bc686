# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs as MigrationJobs in a namespace of a Kubernetes cluster: the people's side.

Who does the jobs is the operator's affair, and how the nodes' workers'. Here a person's wishes become API requests, and
what the API server says becomes job documents.
"""

from __future__ import annotations

import asyncio
import builtins
import collections.abc as c
import contextlib
import datetime
import time
import typing as t
import uuid

from ...protocol import fields, models
from ...protocol.errors import ErrorClass, JobError, environment, transient, unsupported
from ...protocol.lifecycle import HELD, TERMINAL
from ...scheduling import matching, waiting
from ..base import Conflict, NotFound, Outcome, Submission, WorkerState, gives_way
from . import resources
from .api import Absent, Api, Exists, Expired, Login, Refused, namespace_of
from .resources import JOBS, LEASES, NODES, WORKERS, Object

T = t.TypeVar("T")

#: How long a forced submission waits for the running job that it replaces: until the lease of a node that is out of
#: reach has ended, and somebody has noticed. Seconds.
_CANCEL_PATIENCE_SECONDS = 90.0
#: How long an object may take to be gone once it is deleted; nothing of ours holds it back.
_DELETE_PATIENCE_SECONDS = 30.0
#: How long a watch bears an API server that cannot be reached: it may be upgraded meanwhile.
_OUTAGE_SECONDS = 300.0
_POLL_SECONDS = 0.5
_RECONNECT_SECONDS = 1.0
#: So long after its last sign of life a worker counts as gone: its lease, and some time for clocks that differ.
_SILENCE_SECONDS = 75.0


class KubernetesBackend:
    """The jobs of one namespace, for a program without an event loop of its own. Belongs to one thread."""

    def __init__(self, login: Login | None = None, namespace: str | None = None) -> None:
        """Prepare to speak to the API server; nothing is asked yet.

        Args:
            login: who is asking whom; default: as kubectl would, or the pod's own account.
            namespace: of the jobs; default: that of the login.

        Raises:
            JobError: (environment) the client's library is missing, or the login's settings cannot be used.
        """
        login = login or Login()
        self._loop = asyncio.new_event_loop()
        self._connection = contextlib.AsyncExitStack()
        try:
            self._api = self._run(self._connection.enter_async_context(Api.connect(login)))
            self.namespace = namespace or namespace_of(login)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Log out."""
        self._run(self._connection.aclose())
        self._loop.close()

    def submit(
        self,
        job: models.MigrationJob,
        *,
        force: bool = False,
        dry_run: bool = False,
        patience: float = _CANCEL_PATIENCE_SECONDS,
    ) -> Submission:
        """See :meth:`PeopleSide.submit`. ``dry_run`` lets the API server check everything, and store nothing.

        A job that gives way is deleted, and the new one begins with no stage done as far as its status says. Labels and
        annotations that others have given a job stay.

        Args:
            patience: seconds to wait until a running job that is to give way has stopped.

        Raises:
            JobError: class ``invalid``, the API server refuses the document; class ``environment``, this login may not;
                class ``transient``, the running job has not stopped yet.
        """
        return self._run(self._submit(job, force, dry_run, patience))

    async def _submit(self, job: models.MigrationJob, force: bool, dry_run: bool, patience: float) -> Submission:
        job = self._placed(job)
        end = time.monotonic() + patience
        retried: models.MigrationJob | None = None
        while True:
            old = await self._find(job.metadata.name)
            if old is None:
                try:
                    created = await self._create(job, dry_run)
                except Exists:
                    # Somebody was faster; it is looked at like any other that is there.
                    continue
                return Submission(created, Outcome.RETRIED if retried else Outcome.CREATED, retried)
            if not gives_way(old, job, force=force):
                updated = await self._update(old, job, dry_run)
                return Submission(updated or old, Outcome.UPDATED if updated else Outcome.UNCHANGED, old)
            if dry_run:
                return Submission(await self._checked(job), Outcome.RETRIED, old)
            retried = retried or old
            if old.status.phase in HELD:
                await self._stop(old, end)
            else:
                await self._remove(old)

    def get(self, name: str) -> models.MigrationJob:
        """See :meth:`PeopleSide.get`. What it waits for is what the operator last said."""
        return self._run(self._get(name))

    def list(self, labels: c.Mapping[str, str] | None = None) -> builtins.list[models.MigrationJob]:
        """See :meth:`PeopleSide.list`. Objects that break the protocol are left out."""
        return self._run(self._list(labels or {}))

    async def _list(self, labels: c.Mapping[str, str]) -> builtins.list[models.MigrationJob]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        jobs = []
        for found in await self._api.all(JOBS, self.namespace, labels=selector):
            with contextlib.suppress(JobError):
                job = resources.job_of(found)
                job.status.result = None
                jobs.append(job)
        return sorted(jobs, key=lambda job: (job.metadata.creation_timestamp or "", job.metadata.name))

    def watch(self, names: c.Collection[str], timeout: float | None = None) -> c.Iterator[models.MigrationJob]:
        """See :meth:`PeopleSide.watch`. An API server that is away for up to five minutes is waited for."""
        end = None if timeout is None else time.monotonic() + timeout
        jobs = self._changes(list(dict.fromkeys(names)))
        try:
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                try:
                    yield self._run(asyncio.wait_for(jobs.__anext__(), left))
                except (StopAsyncIteration, asyncio.TimeoutError):
                    return
        finally:
            self._run(jobs.aclose())

    async def _changes(self, names: builtins.list[str]) -> c.AsyncGenerator[models.MigrationJob, None]:
        """Yield the jobs as they are, then each change, until all are over or gone."""
        selector = f"metadata.name={names[0]}" if len(names) == 1 else ""
        found, version = await self._snapshot(selector)
        for name in names:
            if name not in found:
                raise NotFound(name)
        unfinished = set(names)
        for name in names:
            job = resources.job_of(found[name])
            if job.status.phase in TERMINAL:
                unfinished.remove(name)
            yield job
        if not unfinished:
            return
        async for name, change in self._stream(selector, found, version):
            if name not in unfinished:
                continue
            changed = None if change is None else resources.job_of(change)
            if changed is None or changed.status.phase in TERMINAL:
                unfinished.remove(name)
            if changed is not None:
                yield changed
            if not unfinished:
                return

    async def _stream(
        self, selector: str, found: dict[str, Object], version: str
    ) -> c.AsyncGenerator[tuple[str, Object | None], None]:
        """Yield each object that changes, by its name, for ever; None where it is gone. ``found`` is where to begin."""
        known = {name: _version(one) for name, one in found.items()}
        lost: float | None = None
        while True:
            try:
                if not version:
                    found, version = await self._snapshot(selector)
                    lost = None
                    for name in known.keys() - found.keys():
                        yield name, None
                    for name, one in found.items():
                        if known.get(name) != _version(one):
                            yield name, one
                    known = {name: _version(one) for name, one in found.items()}
                async for notice in self._api.watch(JOBS, version, self.namespace, fields=selector):
                    lost, version = None, _version(notice.object)
                    if notice.type == "BOOKMARK":
                        continue
                    name = notice.object["metadata"]["name"]
                    if notice.type == "DELETED":
                        known.pop(name, None)
                        yield name, None
                    else:
                        known[name] = version
                        yield name, notice.object
                lost = None
            except Expired:
                version = ""
            except JobError as error:
                if error.error_class is not ErrorClass.TRANSIENT:
                    raise
                lost = lost or time.monotonic()
                if time.monotonic() - lost > _OUTAGE_SECONDS:
                    raise
                await asyncio.sleep(_RECONNECT_SECONDS)

    def events(self, name: str, since: int = 0) -> builtins.list[models.Event]:
        """Events of the protocol stay on the node that does the job; this says where.

        Raises:
            NotFound: there is no such job.
            JobError: class ``unsupported``, always.
        """
        nodes = sorted({attempt.worker for attempt in self.get(name).status.attempts})
        where = f"on {', '.join(nodes)}" if nodes else "on the node that will do it"
        raise unsupported(
            "EventsOnNode",
            f"The event stream of job {name} is {where}, in events/ of the worker's state.",
            f"See the job's conditions, or kubectl get events --namespace {self.namespace}.",
        )

    def explain(self, name: str) -> builtins.list[models.WaitReason]:
        """See :meth:`PeopleSide.explain`. Computed from what the workers tell of themselves."""
        return self._run(self._explain(name))

    async def _explain(self, name: str) -> builtins.list[models.WaitReason]:
        job = await self._get(name)
        if job.status.phase in HELD or job.status.phase in TERMINAL:
            return []
        if job.spec.suspend:
            return [waiting.suspended()]
        if job.status.not_before is not None:
            left = (fields.moment(job.status.not_before) - _now()).total_seconds()
            if left > 0:
                return [waiting.backing_off(left, job.status.last_error)]
        cordoned = await self._cordoned()
        offers = []
        for worker, _age in await self._alive():
            closed = None
            if worker.name in cordoned:
                closed = matching.Unmet("NodeCordoned", "its node is cordoned")
            elif not worker.schedulable:
                closed = matching.Unmet("WorkerDraining", "is about to end, and takes no further job")
            offers.append(matching.Offer(worker, len(worker.running), closed))
        reasons = matching.explain(matching.Demand.of(job), offers)
        if any(reason.reason == "NoFreeSlot" for reason in reasons):
            # Only the operator sees the jobs of all namespaces.
            reasons += [reason for reason in job.status.waiting if reason.reason == "JobsAhead"]
        return reasons

    def cancel(self, name: str) -> models.MigrationJob:
        """See :meth:`PeopleSide.cancel`."""
        return self._run(self._change(name, {"cancel": True}))

    def suspend(self, name: str, suspended: bool = True) -> models.MigrationJob:
        """See :meth:`PeopleSide.suspend`."""
        return self._run(self._change(name, {"suspend": suspended}))

    def set_priority(self, name: str, priority: int) -> models.MigrationJob:
        """See :meth:`PeopleSide.set_priority`."""
        return self._run(self._change(name, {"priority": priority}))

    async def _change(self, name: str, wanted: dict[str, t.Any]) -> models.MigrationJob:
        job = await self._get(name)
        if job.status.phase in TERMINAL or all(getattr(job.spec, field) == value for field, value in wanted.items()):
            return job
        return resources.job_of(await self._api.patch(JOBS, name, resources.spec_patch(wanted), self.namespace))

    def delete(self, name: str) -> None:
        """See :meth:`PeopleSide.delete`. Also a job that still waits may go; its object is gone afterwards.

        Raises:
            Conflict: a worker has the job; cancel it first.
        """
        self._run(self._delete(name))

    async def _delete(self, name: str) -> None:
        job = await self._get(name)
        if job.status.phase in HELD:
            raise Conflict(
                "JobNotOver", f"Job {name} is {job.status.phase.value}.", "Cancel it, wait for its end, then delete it."
            )
        await self._remove(job)

    def workers(self) -> builtins.list[WorkerState]:
        """See :meth:`PeopleSide.workers`.

        Jobs of other namespaces are named ``<namespace>/<name>``, and their phase is left empty. Where this login may
        not see the workers' Leases, all workers are returned, as if heard of just now.
        """
        return self._run(self._workers())

    async def _workers(self) -> builtins.list[WorkerState]:
        phases = {job.metadata.name: job.status.phase.value for job in await self._list({})}
        return [
            WorkerState(
                registration=worker,
                running=dict(self._shown(key, phases) for key in worker.running),
                seconds_since_heartbeat=age,
                free_scratch_bytes=worker.free_scratch_bytes,
                free_output_bytes=worker.free_output_bytes,
            )
            for worker, age in await self._alive()
        ]

    def _shown(self, key: str, phases: dict[str, str]) -> tuple[str, str]:
        namespace, _slash, name = key.partition("/")
        return (name, phases.get(name, "")) if namespace == self.namespace else (key, "")

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _run(self, step: c.Coroutine[t.Any, t.Any, T]) -> T:
        return self._loop.run_until_complete(step)

    async def _find(self, name: str) -> models.MigrationJob | None:
        try:
            return await self._get(name)
        except NotFound:
            return None

    async def _get(self, name: str) -> models.MigrationJob:
        try:
            return resources.job_of(await self._api.get(JOBS, name, self.namespace))
        except Absent:
            raise NotFound(name) from None

    async def _snapshot(self, selector: str) -> tuple[dict[str, Object], str]:
        """Return the objects by name, and the version of which they are."""
        found: dict[str, Object] = {}
        version = ""
        async for page in self._api.pages(JOBS, self.namespace, fields=selector):
            version = page.resource_version
            found |= {one["metadata"]["name"]: one for one in page.objects}
        return found, version

    def _placed(self, job: models.MigrationJob) -> models.MigrationJob:
        """Return ``job`` in this namespace. Raises: JobError, class ``invalid``, it names another."""
        named = job.metadata.namespace
        if named not in (None, self.namespace):
            raise Conflict(
                "OtherNamespace",
                f"metadata.namespace: the job is for {named}, and is handed to {self.namespace}.",
                "Leave one of the two out.",
            )
        return job.model_copy(
            update={"metadata": job.metadata.model_copy(update={"namespace": self.namespace})}, deep=True
        )

    async def _create(self, job: models.MigrationJob, dry_run: bool) -> models.MigrationJob:
        document = resources.object_of(job)
        return resources.job_of(await self._api.create(JOBS, document, self.namespace, dry_run=dry_run))

    async def _checked(self, job: models.MigrationJob) -> models.MigrationJob:
        """Let the API server check a job whose name is taken, under another that nobody has."""
        other = job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": f"h-{uuid.uuid4()}"})})
        checked = await self._create(other, True)
        named = checked.metadata.model_copy(update={"name": job.metadata.name})
        return checked.model_copy(update={"metadata": named})

    async def _update(
        self, old: models.MigrationJob, job: models.MigrationJob, dry_run: bool
    ) -> models.MigrationJob | None:
        """Take over what may change of a job; None where nothing does."""
        patch: Object = {}
        for field in ("labels", "annotations"):
            mine, theirs = getattr(old.metadata, field), getattr(job.metadata, field)
            news = {key: value for key, value in theirs.items() if mine.get(key) != value}
            if news:
                patch.setdefault("metadata", {})[field] = news
        if old.status.phase not in TERMINAL:
            wanted: dict[str, t.Any] = {"priority": job.spec.priority, "suspend": job.spec.suspend}
            if job.spec.cancel:
                wanted["cancel"] = True
            spec = {field: value for field, value in wanted.items() if getattr(old.spec, field) != value}
            if spec:
                patch |= resources.spec_patch(spec)
        if not patch:
            return None
        name = old.metadata.name
        return resources.job_of(await self._api.patch(JOBS, name, patch, self.namespace, dry_run=dry_run))

    async def _stop(self, job: models.MigrationJob, end: float) -> None:
        """Ask that a running job stops, and wait a moment for that.

        Raises:
            JobError: class ``transient``, ``end`` has come.
        """
        if not job.spec.cancel:
            await self._change(job.metadata.name, {"cancel": True})
        if time.monotonic() > end:
            raise transient(
                "JobStillRunning",
                f"Job {job.metadata.name} was asked to stop, and still runs.",
                "See whether its worker and the operator are alive, and submit again.",
            )
        await asyncio.sleep(_POLL_SECONDS)

    async def _remove(self, job: models.MigrationJob) -> None:
        """Delete exactly this job, and wait until it is gone.

        Raises:
            JobError: class ``transient``, something holds it back.
        """
        name, uid = job.metadata.name, job.metadata.uid or ""
        end = time.monotonic() + _DELETE_PATIENCE_SECONDS
        with contextlib.suppress(Absent):
            await self._api.delete(JOBS, name, self.namespace, uid=uid)
            while (left := await self._find(name)) is not None and left.metadata.uid == uid:
                if time.monotonic() > end:
                    raise transient(
                        "JobNotGone", f"Job {name} is deleted, and yet there.", "See its metadata.finalizers."
                    )
                await asyncio.sleep(_POLL_SECONDS)

    async def _alive(self) -> builtins.list[tuple[models.WorkerStatus, float]]:
        """Return the workers that were heard of lately, and how long ago that was in seconds.

        Raises:
            JobError: class ``environment``, this login may not see workers.
        """
        try:
            listed = await self._api.all(WORKERS)
        except Refused as error:
            raise environment(
                "WorkersForbidden",
                f"The workers are not shown to this login: {error.message}",
                "Have an administrator bind the ClusterRole hyper2kvm-workers-view to it (kubectl create "
                "clusterrolebinding NAME --clusterrole hyper2kvm-workers-view --user USER).",
            ) from error
        found = [resources.worker_of(one) for one in listed]
        workers = sorted((worker for worker in found if worker is not None), key=lambda worker: worker.name)
        ages = await self._silences(workers)
        return [
            (worker, age)
            for worker in workers
            if (age := ages.get(worker.name, float("inf")) if ages is not None else 0.0) <= _SILENCE_SECONDS
        ]

    async def _cordoned(self) -> set[str]:
        """Return the nodes that take no pods; none where this login may not see nodes."""
        try:
            nodes = await self._api.all(NODES, fields="spec.unschedulable=true")
        except Refused:
            return set()
        return {node["metadata"]["name"] for node in nodes}

    async def _silences(self, workers: builtins.list[models.WorkerStatus]) -> dict[str, float] | None:
        """Return the age of each worker's Lease in seconds, by this machine's clock; None where it may not be seen.

        The Leases are in the release's namespace, which is found by one of them. Workers that are not heard of there
        are looked for elsewhere: an earlier release in another namespace may have left its workers and their Leases.
        """
        ages: dict[str, float] = {}
        read: set[str] = set()
        try:
            for worker in workers:
                if ages.get(worker.name, float("inf")) <= _SILENCE_SECONDS:
                    continue
                field = f"metadata.name={resources.worker_lease(worker.name)}"
                found = {lease["metadata"]["namespace"] for lease in await self._api.all(LEASES, fields=field)}
                for namespace in found - read:
                    for name, age in (await self._ages(namespace)).items():
                        ages[name] = min(age, ages.get(name, age))
                read |= found
        except Refused:
            return None
        return ages

    async def _ages(self, namespace: str) -> dict[str, float]:
        prefix = resources.worker_lease("")
        ages = {}
        for lease in await self._api.all(LEASES, namespace):
            name, renewed = lease["metadata"]["name"], lease["spec"].get("renewTime")
            if name.startswith(prefix) and renewed:
                ages[name.removeprefix(prefix)] = max(0.0, (_now() - fields.moment(renewed)).total_seconds())
        return ages


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def _version(found: Object) -> str:
    return str(found["metadata"]["resourceVersion"])
