# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Transactions over the local queue: records in, records and event files out."""

# False alarm: contextlib throws into the generator, so that the inner context ends.
# pylint: disable=contextmanager-generator-missing-cleanup
from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import pathlib
import sqlite3

from ..protocol import errors, models
from ..protocol.lifecycle import HELD, Actor, Phase
from ..scheduling import order
from ..scheduling.matching import Offer, Unmet
from .base import Fenced, Hold, NotFound
from .database import Database
from .event_file import catch_up, event_file
from .event_stream import NAME as STREAM
from .event_stream import EventStream, Rotation
from .host import Instant, ProcessId, refuse_network_filesystem
from .records import Record

_HELD = tuple(phase.value for phase in sorted(HELD))
HELD_SQL = f"phase IN ({', '.join(repr(phase) for phase in _HELD)})"
#: The database's file.
QUEUE = "queue.db"
CORDONED = Unmet("WorkerCordoned", "takes no further job until it is uncordoned")
_NEVER_STARTED = "Its deadline (activeDeadlineSeconds) passed while it waited."


class Change:
    """One transaction. What is saved in it is seen by others, and in the event files, after it."""

    def __init__(self, tx: sqlite3.Connection, closed: Unmet | None = None) -> None:
        """Work within ``tx``. ``closed`` is why no worker takes a job for the time being; None: they do."""
        self.tx = tx
        self.closed = closed
        self.touched: dict[str, None] = {}
        self.removed: dict[str, None] = {}

    def find(self, name: str) -> Record | None:
        """Return the job of that name, if there is one."""
        row = self.tx.execute("SELECT * FROM jobs WHERE name = ?", (name,)).fetchone()
        return None if row is None else Record.load(row)

    def get(self, name: str) -> Record:
        """Return the job of that name. Raises: NotFound."""
        record = self.find(name)
        if record is None:
            raise NotFound(name)
        return record

    def held(self, hold: Hold) -> Record:
        """Return the job that a worker still holds. Raises: Fenced."""
        row = self.tx.execute(f"SELECT * FROM jobs WHERE uid = ? AND epoch = ? AND {HELD_SQL}", (hold.uid, hold.epoch))
        found = row.fetchone()
        if found is None:
            raise Fenced(f"job {hold.uid} is no longer held with epoch {hold.epoch}")
        return Record.load(found)

    def save(self, record: Record) -> None:
        """Write a record and its events."""
        record.save(self.tx)
        self.touched[record.name] = None

    def replace(self, record: Record) -> None:
        """Remove a job's row but not its events, so that another of its name can follow."""
        self.tx.execute("DELETE FROM jobs WHERE number = ?", (record.number,))

    def remove(self, record: Record) -> None:
        """Remove a job and its events."""
        self.replace(record)
        self.tx.execute("DELETE FROM events WHERE name = ?", (record.name,))
        self.removed[record.name] = None

    def waiting(self) -> list[Waiting]:
        """Return the jobs that wait for a worker and are not suspended, the one that goes first in front."""
        columns = "number, uid, name, priority, epoch, demand, not_before"
        rows = self.tx.execute(
            f"SELECT {columns} FROM jobs"
            " WHERE phase = 'QUEUED' AND suspend = 0 AND epoch < coalesce(granted, epoch + 1)"
        )
        return order.in_order(Waiting(*row) for row in rows)

    def due(self) -> list[str]:
        """Return the names of the jobs that :meth:`maintain` has something to do for."""
        rows = self.tx.execute(
            "SELECT name, coalesce(remove_after, deadline) AS due FROM jobs"
            " WHERE (phase = 'QUEUED' AND deadline IS NOT NULL AND granted IS NULL) OR remove_after IS NOT NULL"
        )
        return [row["name"] for row in rows if Instant.load(row["due"]).passed()]

    def maintain(self) -> None:
        """Fail waiting jobs whose deadline passed, and remove finished ones whose time has come."""
        for name in self.due():
            record = self.get(name)
            if record.over:
                self.remove(record)
            else:
                error = errors.environment(
                    "DeadlineExceeded", _NEVER_STARTED, "Submit it again with more time, or when a worker is free."
                )
                record.fail(error, Actor.CONTROL)
                self.save(record)

    def worker(self, name: str) -> Worker:
        """Return a registered worker. Raises: Fenced."""
        row = self.tx.execute("SELECT * FROM workers WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise Fenced(f"worker {name} is not registered")
        return Worker.load(row)

    def alive(self) -> list[Worker]:
        """Return the workers whose lease runs and whose process is not known to be dead."""
        workers = [Worker.load(row) for row in self.tx.execute("SELECT * FROM workers ORDER BY name")]
        return [worker for worker in workers if worker.alive()]

    def running(self, worker: str) -> dict[str, Phase]:
        """Return the names of the jobs that a worker holds, with their phase."""
        rows = self.tx.execute(f"SELECT name, phase FROM jobs WHERE worker = ? AND {HELD_SQL}", (worker,))
        return {row["name"]: Phase(row["phase"]) for row in rows}

    def offers(self) -> list[Offer]:
        """Return what the workers that are alive offer."""
        return [self.offer(worker.registration) for worker in self.alive()]

    def offer(self, worker: models.WorkerRegistration) -> Offer:
        """Return what a worker offers."""
        return Offer(worker, len(self.running(worker.name)), self.closed)


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What is known of a waiting job without reading its document."""

    number: int
    uid: str
    name: str
    priority: int
    epoch: int
    demand: str
    not_before: str | None

    def backs_off(self) -> bool:
        """Whether its next attempt must not be made yet."""
        return self.not_before is not None and not Instant.load(self.not_before).passed()


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker's row."""

    registration: models.WorkerRegistration
    roots: str
    process: ProcessId
    lease_seconds: float
    lease: Instant
    free_scratch: int
    free_output: int

    @classmethod
    def load(cls, row: sqlite3.Row) -> Worker:
        """Return what a row of the table ``workers`` holds."""
        return cls(
            models.WorkerRegistration.model_validate_json(row["registration"]),
            row["roots"],
            ProcessId.load(row["process"]),
            row["lease_seconds"],
            Instant.load(row["lease"]),
            row["free_scratch"],
            row["free_output"],
        )

    def alive(self) -> bool:
        """Whether its lease runs and its process is not known to be dead."""
        return self.lease.of_this_boot() and not self.lease.passed() and self.process.alive() is not False


class Store:
    """The state folder: database and event files."""

    def __init__(self, state_dir: pathlib.Path, *, patience: float = 10.0) -> None:
        """Use, and make if need be, the folder ``state_dir``. ``patience`` (s) is how long to wait for other writers.

        Raises:
            JobError: (environment) it cannot be made, or lies on a network filesystem.
        """
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise errors.environment(
                "StateUnusable",
                f"The state folder {state_dir} cannot be made: {error.strerror}.",
                "Give a folder that may be written (--state-dir, hyper2kvm_state_dir), or be root, as a worker must.",
            ) from error
        refuse_network_filesystem(state_dir)
        self._events = state_dir / "events"
        self._cordon = state_dir / "cordoned"
        self._database = Database(state_dir / QUEUE, patience)

    def close(self) -> None:
        """Close the connection to the database, before a fork or at the end; it reopens by itself."""
        self._database.close()

    def data_version(self) -> tuple[int, int]:
        """Return what differs from the last one if another connection has written since, or this one is new."""
        return self._database.data_version()

    def cordon(self) -> None:
        """Let the workers of this queue take no further job, over their restarts too."""
        self._cordon.touch(mode=0o600)

    def uncordon(self) -> None:
        """Let them take jobs again."""
        self._cordon.unlink(missing_ok=True)

    def _closed(self) -> Unmet | None:
        return CORDONED if self._cordon.exists() else None

    @contextlib.contextmanager
    def _view(self) -> c.Iterator[Change]:
        with self._database.reading() as tx:
            yield Change(tx, self._closed())

    @contextlib.contextmanager
    def _change(self, *, keep: bool = True) -> c.Iterator[Change]:
        with self._database.writing(keep=keep) as tx:
            change = Change(tx, self._closed())
            yield change
        if keep:
            for name in change.removed:
                event_file(self._events, name).unlink(missing_ok=True)
            for name in change.touched:
                self._export(name)

    def _export(self, name: str) -> None:
        # What was committed is true even where its copy cannot be written now; a later event catches it up.
        with contextlib.suppress(OSError):
            catch_up(self._database, self._events, name)

    def export_stream(self, rotation: Rotation) -> None:
        """Catch up the file of all jobs' events, where nobody else does so; it is caught up later if that fails."""
        with contextlib.suppress(OSError):
            EventStream(self._events, rotation).catch_up(self._database)

    def reconcile_events(self) -> None:
        """Catch up the event files of all jobs, and remove those of jobs that are gone, after somebody died."""
        with self._database.writing() as tx:
            names = {row["name"] for row in tx.execute("SELECT name FROM jobs")}
            files = {event_file(self._events, name) for name in names}
            for file in self._events.glob("*.jsonl"):
                if file not in files and file.name != STREAM:
                    file.unlink(missing_ok=True)
        for name in sorted(names):
            self._export(name)
