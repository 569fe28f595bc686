# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queue of one host: the workers' side. Claims, leases, and the writes of those that hold a job."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import os
import signal

from ..protocol import errors, models, status
from ..protocol.lifecycle import PROGRESS_STALE_SECONDS, Actor, Phase
from ..scheduling import matching
from ..telemetry.metrics import happened
from . import host
from .base import Fenced, Hold, Order
from .host import Instant, ProcessId, now
from .records import Record, load_demand
from .store import HELD_SQL, Store, Waiting, Worker

#: Progress becomes an event at most this often; the status has it each time.
_EVENT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Lost:
    """A held job whose worker let its lease run out, or is known to be dead."""

    hold: Hold
    name: str
    worker: str
    process: ProcessId | None
    """The job's process; None: it had not begun."""


class LocalWorkerSide(Store):
    """What workers do with the queue."""

    def register(
        self,
        registration: models.WorkerRegistration,
        roots: str,
        lease_seconds: float,
        since: float | None = None,
        free_bytes: tuple[int, int] = (0, 0),
    ) -> None:
        """Make this process known as a worker.

        ``roots`` says which folders it serves, in any form; ``lease_seconds`` is how long it may be silent before
        others may take over what it runs; ``since`` is as with :meth:`heartbeat`; ``free_bytes`` is the free space
        below its scratch and output roots, which each heartbeat tells anew.
        """
        with self._change() as change:
            change.tx.execute(
                "INSERT OR REPLACE INTO workers"
                " (name, registration, roots, process, lease_seconds, lease, free_scratch, free_output)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    registration.name,
                    json.dumps(registration.to_document()),
                    roots,
                    ProcessId.of(os.getpid()).dump(),
                    lease_seconds,
                    Instant.after(lease_seconds, since).dump(),
                    *free_bytes,
                ),
            )

    def unregister(self, worker: str) -> None:
        """Say goodbye; the worker must hold nothing any more."""
        with self._change() as change:
            change.tx.execute("DELETE FROM workers WHERE name = ?", (worker,))

    def roots_of_workers(self) -> dict[str, str]:
        """Return which folders the workers that are alive serve, by their name."""
        with self._view() as change:
            return {worker.registration.name: worker.roots for worker in change.alive()}

    def claim(self, worker: str) -> models.MigrationJob | None:
        """See :meth:`Backend.claim`."""
        # Looked for in a view first, so that a worker with nothing to do never stands in a writer's way.
        with self._view() as change:
            me = change.worker(worker)
            offer = change.offer(me.registration)
            waiting = change.waiting()
        for candidate in waiting:
            if not candidate.backs_off() and matching.first_unmet(load_demand(candidate.demand), offer) is None:
                job = self._take(me, candidate)
                if job is not None:
                    return job
        return None

    def _take(self, me: Worker, candidate: Waiting) -> models.MigrationJob | None:
        """Take the job unless somebody was faster: compare the epoch, and raise it."""
        with self._change() as change:
            found = change.tx.execute(
                "SELECT * FROM jobs WHERE uid = ? AND epoch = ? AND phase = 'QUEUED' AND suspend = 0",
                (candidate.uid, candidate.epoch),
            ).fetchone()
            worker = me.registration.name
            if found is None or len(change.running(worker)) >= me.registration.slots:
                return None
            record = Record.load(found)
            record.worker = worker
            record.lease = me.lease
            record.not_before = None
            claimed = status.record_attempt(record.status, worker, me.lease_seconds, Actor.WORKER, now())
            record.turn(claimed, f"claimed by {worker}", worker=worker)
            change.save(record)
            return record.job()

    def may_wait_for(self, worker: str) -> bool:
        """Whether a job waits that this worker could run, now or after its backoff or when a slot is free.

        So does one that is still in its name though it gave it up: the queue could not be told, and will take it back
        when its lease has ended.

        Raises:
            Fenced: the worker is not registered.
        """
        with self._view() as change:
            offer = matching.Offer(change.worker(worker).registration, 0, change.closed)
            return bool(change.running(worker)) or any(
                matching.first_unmet(load_demand(job.demand), offer) is None for job in change.waiting()
            )

    def heartbeat(self, beat: models.Heartbeat, since: float | None = None) -> None:
        """See :meth:`Backend.heartbeat`.

        ``since`` (as :func:`host.boottime` gives it; None: now) is when the lease begins: a worker whose jobs come from
        elsewhere has it only from when that place last heard of it.

        Raises:
            Fenced: the worker is not registered (any more).
        """
        with self._change() as change:
            lease = Instant.after(change.worker(beat.worker).lease_seconds, since)
            change.tx.execute(
                "UPDATE workers SET lease = ?, free_scratch = ?, free_output = ? WHERE name = ?",
                (lease.dump(), beat.free_scratch_bytes, beat.free_output_bytes, beat.worker),
            )
            for uid, epoch in beat.running.items():
                try:
                    record = change.held(Hold(uid, epoch))
                except Fenced:
                    continue
                record.lease = lease
                # An age below zero is a progress from before a restart; there is no worker that survives one.
                quiet = 0.0 if record.progressed is None else -record.progressed.left()
                if record.phase is Phase.PROGRESSING and quiet > PROGRESS_STALE_SECONDS:
                    record.advance(Phase.RUNNING, Actor.WORKER, f"no progress for {PROGRESS_STALE_SECONDS:.0f} s")
                    change.save(record)
                else:
                    change.tx.execute("UPDATE jobs SET lease = ? WHERE uid = ?", (lease.dump(), uid))

    def orders(self, worker: str, held: c.Collection[Hold]) -> dict[Hold, Order]:
        """See :meth:`Backend.orders`."""
        orders: dict[Hold, Order] = {}
        with self._view() as change:
            for hold in held:
                row = change.tx.execute(
                    f"SELECT suspend, cancel, deadline FROM jobs WHERE uid = ? AND epoch = ? AND worker = ?"
                    f" AND {HELD_SQL}",
                    (hold.uid, hold.epoch, worker),
                ).fetchone()
                if row is None:
                    orders[hold] = Order.FENCED
                elif row["cancel"]:
                    orders[hold] = Order.CANCEL
                elif row["deadline"] is not None and Instant.load(row["deadline"]).passed():
                    orders[hold] = Order.DEADLINE
                elif row["suspend"]:
                    orders[hold] = Order.SUSPEND
        return orders

    def lease_left(self, hold: Hold) -> float:
        """Return the seconds until the hold's lease ends. Raises: Fenced."""
        with self._view() as change:
            record = change.held(hold)
            return 0.0 if record.lease is None else record.lease.left()

    def started(self, hold: Hold, process: ProcessId) -> None:
        """Say which process works on the job, so that a successor can make sure that it is dead. Raises: Fenced."""
        with self._change() as change:
            record = change.held(hold)
            record.process = process
            change.save(record)

    def stage_started(self, hold: Hold, name: str) -> None:
        """See :meth:`Backend.stage_started`."""
        with self._change() as change:
            record = change.held(hold)
            record.turn(status.start_stage(record.status, name, now()), f"the stage {name} began")
            record.announced = None
            record.emit("stagestarted", {"stage": name})
            change.save(record)

    def progress(self, hold: Hold, progress: models.Progress) -> None:
        """See :meth:`Backend.progress`."""
        with self._change() as change:
            record = change.held(hold)
            record.progressed = Instant.after(0)
            before = record.status
            record.turn(status.report_progress(before, progress, now()), "progress was reported")
            record.count(happened.progressed(before, record.status))
            if record.announced is None or -record.announced.left() >= _EVENT_SECONDS:
                record.announced = record.progressed
                record.emit("progress", {} if record.status.progress is None else record.status.progress.to_document())
            change.save(record)

    def stage_ended(self, hold: Hold, record: models.StageRecord) -> None:
        """See :meth:`Backend.stage_ended`."""
        with self._change() as change:
            job = change.held(hold)
            job.end_stage(record)
            change.save(job)

    def warning(self, hold: Hold, message: str) -> None:
        """See :meth:`Backend.warning`."""
        with self._change() as change:
            record = change.held(hold)
            record.emit("warning", {"stage": record.status.stage or "", "message": message})
            change.save(record)

    def complete(self, hold: Hold, result: models.JobResult) -> None:
        """See :meth:`Backend.complete`."""
        with self._change() as change:
            record = change.held(hold)
            if record.phase is Phase.ASSIGNED:
                record.advance(Phase.RUNNING, Actor.WORKER, "it had nothing left to do")
            record.result = json.dumps(result.to_document())
            known = {stage.name for stage in record.status.stages}
            for stage in result.stages:
                # An attempt died after it had made the stage durable, and before it could say so.
                if stage.name not in known:
                    record.end_stage(stage)
            told = {stage.name for stage in result.stages}
            earlier = [stage for stage in record.status.stages if stage.name not in told]
            record.status = record.status.model_copy(update={"stages": [*earlier, *result.stages]})
            record.status.artifacts = result.artifacts
            record.count(happened.completed(result))
            record.advance(Phase.COMPLETED, Actor.WORKER, "every stage ended well")
            change.save(record)

    def fail(self, hold: Hold, error: errors.JobError) -> Phase:
        """See :meth:`Backend.fail`."""
        with self._change() as change:
            record = change.held(hold)
            record.fail(error, Actor.WORKER)
            change.save(record)
            return record.phase

    def cancelled(self, hold: Hold) -> None:
        """See :meth:`Backend.cancelled`."""
        with self._change() as change:
            record = change.held(hold)
            record.advance(Phase.CANCELLED, Actor.WORKER, "the worker stopped it on request")
            change.save(record)

    def release(self, hold: Hold, why: str) -> None:
        """See :meth:`Backend.release`."""
        with self._change() as change:
            record = change.held(hold)
            record.release(Actor.WORKER, why)
            change.save(record)

    def phase(self, uid: str) -> Phase | None:
        """Return where a job is in its life; None if it is gone."""
        with self._view() as change:
            row = change.tx.execute("SELECT phase FROM jobs WHERE uid = ?", (uid,)).fetchone()
            return None if row is None else Phase(row["phase"])

    def has_use_for(self, name: str) -> bool:
        """Return whether what was done for the job of that name may yet be built on; see ``status.may_be_taken_up``."""
        with self._view() as change:
            record = change.find(name)
            return record is not None and status.may_be_taken_up(record.status)

    def lost(self) -> list[Lost]:
        """Return the held jobs whose worker let its lease run out or is known to be dead."""
        with self._view() as change:
            workers = {row["name"]: Worker.load(row) for row in change.tx.execute("SELECT * FROM workers")}
            records = [Record.load(row) for row in change.tx.execute(f"SELECT * FROM jobs WHERE {HELD_SQL}")]
        found = []
        for record in records:
            worker = workers.get(record.worker or "")
            if _is_lost(record, worker):
                hold = Hold(record.uid, record.epoch)
                found.append(Lost(hold, record.name, record.worker or "", record.process))
        return found

    def reclaim(self, lost: Lost, dead: bool) -> None:
        """Give a lost job back to the queue, or fail it if it lost too many workers in a row.

        ``dead`` says that its processes are known to be dead; if not, the attempt's error says ``LeaseExpired``, and
        whoever goes on must not build on what the old worker may still write.
        """
        with self._change() as change:
            try:
                record = change.held(lost.hold)
            except Fenced:
                return
            row = change.tx.execute("SELECT * FROM workers WHERE name = ?", (record.worker,)).fetchone()
            if not _is_lost(record, None if row is None else Worker.load(row)):
                return
            stage = record.status.stage or ""
            error = errors.JobError(
                errors.ErrorClass.TRANSIENT,
                status.WORKER_LOST if dead else status.LEASE_EXPIRED,
                f"The worker {lost.worker} {'died' if dead else 'was not heard of in time'}.",
                "See the worker's log and the kernel's (out of memory?).",
                stage,
            )
            record.fail(error, Actor.CONTROL)
            change.save(record)

    def evict_stopped_writer(self) -> bool:
        """Kill the process that holds the queue's write lock if it is a stopped worker's whose lease has ended.

        A worker that was stopped (SIGSTOP) in the middle of a transaction would keep all others from the queue.

        Returns:
            Whether there was one.
        """
        pid = self._database.writer()
        process = None if pid is None else host.look_at(pid)
        if pid is None or process is None or process.state not in "Tt":
            return False
        with self._view() as change:
            workers = [Worker.load(row) for row in change.tx.execute("SELECT * FROM workers")]
        for worker in workers:
            # Its own process, or that of a job, which is its child.
            if worker.process.pid in (pid, process.parent) and worker.process.alive() and worker.lease.passed():
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def forget_dead_workers(self) -> None:
        """Remove the rows of workers that are gone and hold nothing."""
        with self._change() as change:
            for row in change.tx.execute("SELECT * FROM workers").fetchall():
                if not Worker.load(row).alive() and not change.running(row["name"]):
                    change.tx.execute("DELETE FROM workers WHERE name = ?", (row["name"],))

    def maintain(self) -> None:
        """Fail waiting jobs whose deadline passed, and remove finished ones whose time has come."""
        with self._view() as change:
            due = change.due()
        if due:
            with self._change() as change:
                change.maintain()


def _is_lost(record: Record, worker: Worker | None) -> bool:
    if record.lease is None or not record.lease.of_this_boot() or record.lease.passed():
        return True
    return worker is None or worker.process.alive() is False
