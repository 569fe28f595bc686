# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queue of one host: the people's side. See :mod:`.local_worker` for the workers', :mod:`.local_grants` for a
cluster's, :mod:`.local_figures` for what is measured.
"""

from __future__ import annotations

import builtins
import collections.abc as c
import time

from ..protocol import models, status, validation
from ..protocol.errors import transient, unsupported
from ..protocol.lifecycle import Actor, Phase
from ..scheduling import matching, waiting
from .base import Conflict, NotFound, Outcome, Submission, WorkerState, gives_way
from .host import now
from .local_figures import LocalFiguresSide
from .local_grants import LocalGrantSide
from .local_worker import LocalWorkerSide
from .records import Record
from .store import Change

_POLL_SECONDS = 0.2
#: How long a forced submission waits for the running job that it replaces; a cancel takes 5 s at most.
_CANCEL_PATIENCE_SECONDS = 20.0
_MAX_WAIT_REASONS = 10


class LocalBackend(LocalWorkerSide, LocalGrantSide, LocalFiguresSide):
    """A queue in a folder on a local disk, for any number of processes of one host.

    Everything is one SQLite database; no daemon stands between its users. Instances may be shared by threads.
    """

    def submit(
        self,
        job: models.MigrationJob,
        *,
        force: bool = False,
        dry_run: bool = False,
        patience: float = _CANCEL_PATIENCE_SECONDS,
    ) -> Submission:
        """See :meth:`Backend.submit`.

        Args:
            patience: seconds to wait until a running job that is to give way has stopped.

        Raises:
            JobError: as :func:`refuse_namespace`; class ``transient``, the running job has not stopped yet.
        """
        refuse_namespace(job)
        end = time.monotonic() + patience
        while True:
            with self._change(keep=not dry_run) as change:
                change.maintain()
                submission = self._submit(change, job, force, dry_run)
            if submission is not None:
                return submission
            if time.monotonic() > end:
                raise transient(
                    "JobStillRunning",
                    f"Job {job.metadata.name} was asked to stop, and still runs.",
                    "See whether its worker is alive, and submit again.",
                )
            time.sleep(_POLL_SECONDS)

    def _submit(self, change: Change, job: models.MigrationJob, force: bool, dry_run: bool) -> Submission | None:
        """Submit within one transaction; None if a running job must end first."""
        old = change.find(job.metadata.name)
        if old is None:
            return Submission(self._create(change, job, None), Outcome.CREATED)
        before = self._document(change, old)
        if not gives_way(before, job, force=force):
            outcome = Outcome.UPDATED if self._update(change, old, job) else Outcome.UNCHANGED
            return Submission(self._document(change, old), outcome, before)
        if old.held and not dry_run:
            self._cancel(change, old)
            return None
        change.replace(old)
        return Submission(self._create(change, job, old), Outcome.RETRIED, before)

    def _create(self, change: Change, job: models.MigrationJob, old: Record | None) -> models.MigrationJob:
        record = Record.new(job, validation.spec_digest(job.spec))
        if old is not None and old.spec_digest == record.spec_digest:
            record.status.stages = old.status.stages
        record.advance(Phase.VALIDATED, Actor.CONTROL, "the document obeys the protocol")
        record.advance(Phase.QUEUED, Actor.CONTROL, "it waits for a worker")
        if record.suspend:
            record.status = status.suspended(record.status, True, now())
        if record.cancel:
            record.advance(Phase.CANCELLED, Actor.USER, "cancelled by its document")
        change.save(record)
        return self._document(change, record)

    def _update(self, change: Change, record: Record, job: models.MigrationJob) -> bool:
        """Take over what may change of a job; return whether anything did."""
        changed = record.relabel(job.metadata)
        if not record.over:
            if record.priority != job.spec.priority or record.suspend != job.spec.suspend:
                changed = True
                record.priority = job.spec.priority
                _suspend(record, job.spec.suspend)
                record.emit("spec", {"priority": record.priority, "suspend": record.suspend})
            if job.spec.cancel and not record.cancel:
                self._cancel(change, record)
                return True
        if changed:
            change.save(record)
        return changed

    def get(self, name: str) -> models.MigrationJob:
        """See :meth:`Backend.get`."""
        with self._view() as change:
            return self._document(change, change.get(name))

    def list(self, labels: c.Mapping[str, str] | None = None) -> builtins.list[models.MigrationJob]:
        """See :meth:`Backend.list`."""
        wanted = labels or {}
        with self._view() as change:
            rows = change.tx.execute("SELECT * FROM jobs ORDER BY number").fetchall()
            records = [Record.load({**dict(row), "result": None}) for row in rows]
            queue = _Queue(change)
            jobs = []
            for record in records:
                job = record.job()
                if wanted.items() <= job.metadata.labels.items():
                    job.status.waiting = queue.explain(record)[:_MAX_WAIT_REASONS]
                    jobs.append(job)
            return jobs

    def watch(self, names: c.Collection[str], timeout: float | None = None) -> c.Iterator[models.MigrationJob]:
        """See :meth:`Backend.watch`."""
        end = None if timeout is None else time.monotonic() + timeout
        seen: dict[str, tuple[str, int]] = {}
        open_names = list(dict.fromkeys(names))
        first = True
        while True:
            for name in builtins.list(open_names):
                with self._view() as change:
                    found = change.tx.execute("SELECT uid, version FROM jobs WHERE name = ?", (name,)).fetchone()
                    if found is None and first:
                        raise NotFound(name)
                    if found is None:
                        open_names.remove(name)
                        continue
                    if seen.get(name) == tuple(found):
                        continue
                    seen[name] = (found["uid"], found["version"])
                    record = change.get(name)
                    job = self._document(change, record)
                if record.over:
                    open_names.remove(name)
                yield job
            first = False
            if not open_names or (end is not None and time.monotonic() >= end):
                return
            time.sleep(_POLL_SECONDS)

    def events(self, name: str, since: int = 0) -> builtins.list[models.Event]:
        """See :meth:`Backend.events`."""
        with self._view() as change:
            uid = change.get(name).uid
            rows = change.tx.execute(
                "SELECT line FROM events WHERE uid = ? AND sequence > ? ORDER BY sequence", (uid, since)
            )
            return [models.Event.model_validate_json(row["line"]) for row in rows]

    def explain(self, name: str) -> builtins.list[models.WaitReason]:
        """See :meth:`Backend.explain`."""
        with self._view() as change:
            return _Queue(change).explain(change.get(name))

    def cancel(self, name: str) -> models.MigrationJob:
        """See :meth:`Backend.cancel`."""
        with self._change() as change:
            record = change.get(name)
            if not record.over and not record.cancel:
                self._cancel(change, record)
            return self._document(change, record)

    def _cancel(self, change: Change, record: Record) -> None:
        if record.cancel:
            return
        record.cancel = True
        record.emit("spec", {"cancel": True})
        if not record.held:
            record.advance(Phase.CANCELLED, Actor.USER, "cancelled while it waited")
        change.save(record)

    def suspend(self, name: str, suspended: bool = True) -> models.MigrationJob:
        """See :meth:`Backend.suspend`."""
        with self._change() as change:
            record = change.get(name)
            if not record.over and record.suspend != suspended:
                _suspend(record, suspended)
                record.emit("spec", {"suspend": suspended})
                change.save(record)
            return self._document(change, record)

    def set_priority(self, name: str, priority: int) -> models.MigrationJob:
        """See :meth:`Backend.set_priority`."""
        with self._change() as change:
            record = change.get(name)
            if not record.over and record.priority != priority:
                record.priority = priority
                record.emit("spec", {"priority": priority})
                change.save(record)
            return self._document(change, record)

    def delete(self, name: str) -> None:
        """See :meth:`Backend.delete`."""
        with self._change() as change:
            record = change.get(name)
            if not record.over:
                raise Conflict(
                    "JobNotOver", f"Job {name} is {record.phase.value}.", "Cancel it, wait for its end, then delete it."
                )
            change.remove(record)

    def workers(self) -> builtins.list[WorkerState]:
        """See :meth:`Backend.workers`."""
        with self._view() as change:
            return [
                WorkerState(
                    registration=worker.registration,
                    running={name: phase.value for name, phase in change.running(worker.registration.name).items()},
                    seconds_since_heartbeat=max(0.0, worker.lease_seconds - worker.lease.left()),
                    free_scratch_bytes=worker.free_scratch,
                    free_output_bytes=worker.free_output,
                )
                for worker in change.alive()
            ]

    def _document(self, change: Change, record: Record) -> models.MigrationJob:
        job = record.job()
        job.status.waiting = _Queue(change).explain(record)[:_MAX_WAIT_REASONS]
        return job


def refuse_namespace(job: models.MigrationJob) -> None:
    """Refuse a job for a namespace, which a host's queue has none of; ``default`` is what Kubernetes calls none.

    Raises:
        JobError: class ``unsupported``.
    """
    if job.metadata.namespace not in (None, "default"):
        raise unsupported(
            "NoNamespaces",
            f"Job {job.metadata.name} is for the namespace {job.metadata.namespace}; the queue of a host has none.",
            "Leave metadata.namespace out, or hand the job to Kubernetes.",
        )


def _suspend(record: Record, suspended: bool) -> None:
    if record.suspend != suspended:
        record.suspend = suspended
        record.status = status.suspended(record.status, suspended, now())


class _Queue:
    """The waiting jobs and the workers as they are in one transaction; says why a job waits."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._offers: builtins.list[matching.Offer] | None = None
        self._order: builtins.list[str] | None = None

    def explain(self, record: Record) -> builtins.list[models.WaitReason]:
        if record.phase is not Phase.QUEUED:
            return []
        if record.spent:
            return [models.WaitReason(reason="HandedBack", message="the cluster decides who goes on with it", count=0)]
        if record.suspend:
            return [waiting.suspended()]
        if record.not_before is not None and not record.not_before.passed():
            return [waiting.backing_off(record.not_before.left(), record.status.last_error)]
        if self._offers is None:
            self._offers = self._change.offers()
        reasons = matching.explain(record.demand, self._offers)
        if any(reason.reason == "NoFreeSlot" for reason in reasons):
            reasons += self._ahead(record)
        return reasons

    def _ahead(self, record: Record) -> builtins.list[models.WaitReason]:
        if self._order is None:
            self._order = [other.name for other in self._change.waiting()]
        place = self._order.index(record.name)
        return [waiting.jobs_ahead(place, self._order)] if place else []
