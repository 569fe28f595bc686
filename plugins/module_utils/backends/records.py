# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One job as the local queue keeps it: a row, changed by the lifecycle's rules and written back with its events."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import datetime
import json
import sqlite3
import typing as t
import uuid

from ..protocol import fields, lifecycle, models, status
from ..protocol.errors import JobError
from ..protocol.fields import timestamp
from ..protocol.lifecycle import Actor, Phase
from ..protocol.reports import EVENT_TYPE_PREFIX
from ..protocol.retries import RetryPolicy
from ..scheduling.matching import Demand
from ..telemetry.metrics import happened
from ..telemetry.metrics.book import Tally
from .host import Instant, ProcessId, now

_EVENT_SOURCE = "/hyper2kvm/local"


@dataclasses.dataclass(frozen=True)
class Grant:
    """A cluster's leave to make one attempt at a job. What comes after that attempt is decided there, and not here."""

    node: str
    """This node's name in the cluster."""
    epoch: int
    """Of the attempt."""


@dataclasses.dataclass
class Record:
    """A job's row. Changing it writes nothing until :meth:`save`."""

    number: int
    """Of the submission; 0 until it is saved for the first time."""
    uid: str
    name: str
    """The job's key: its name, or ``namespace/name`` of a job that a cluster gave."""
    document: str
    """``metadata`` and ``spec`` as submitted, less the three mutable fields below."""
    status: models.JobStatus
    result: str | None
    spec_digest: str
    demand: Demand
    priority: int
    suspend: bool
    cancel: bool
    worker: str | None = None
    process: ProcessId | None = None
    lease: Instant | None = None
    not_before: Instant | None = None
    deadline: Instant | None = None
    remove_after: Instant | None = None
    progressed: Instant | None = None
    """When the attempt's last progress came in; None: there was none yet."""
    announced: Instant | None = None
    """When it was last put into an event."""
    grant: Grant | None = None
    """None: the job was submitted to this queue, which decides all that becomes of it."""
    sequence: int = 0
    version: int = 0
    _events: list[str] = dataclasses.field(default_factory=list)
    _tallies: list[Tally] = dataclasses.field(default_factory=list)

    @classmethod
    def new(cls, job: models.MigrationJob, spec_digest: str) -> Record:
        """Return a job that has just been created, under a new uid."""
        uid = str(uuid.uuid4())
        created = timestamp(now())
        metadata = job.metadata.model_copy(update={"uid": uid, "creation_timestamp": created})
        limit = job.spec.active_deadline_seconds
        record = cls(
            number=0,
            uid=uid,
            name=metadata.name,
            document=json.dumps({"metadata": metadata.to_document(), "spec": job.spec.to_document()}),
            status=models.JobStatus(),
            result=None,
            spec_digest=spec_digest,
            demand=Demand.of(job),
            priority=job.spec.priority,
            suspend=job.spec.suspend,
            cancel=job.spec.cancel,
            deadline=None if limit is None else Instant.after(limit),
        )
        record.emit("phase", {"to": Phase.CREATED.value})
        return record

    @classmethod
    def given(
        cls, job: models.MigrationJob, spec_digest: str, grant: Grant, deadline: Instant | None, before: Record | None
    ) -> Record:
        """Return a job that a cluster gives for one attempt, waiting for it.

        ``before`` is the record that has its name so far; of the same uid, its events are gone on with.
        """
        uid = job.metadata.uid
        if uid is None:
            raise AssertionError("uid is not None")
        again = before is not None and before.uid == uid
        waiting = models.JobStatus(
            epoch=grant.epoch - 1,
            attempts=[attempt for attempt in job.status.attempts if attempt.epoch < grant.epoch],
            stages=job.status.stages,
        )
        moment = now()
        for phase in (Phase.VALIDATED, Phase.QUEUED):
            waiting = status.advance(waiting, phase, Actor.CONTROL, moment)
        record = cls(
            number=0,
            uid=uid,
            name=job.metadata.key,
            document=json.dumps({"metadata": job.metadata.to_document(), "spec": job.spec.to_document()}),
            status=waiting,
            result=None,
            spec_digest=spec_digest,
            demand=Demand.of(job),
            priority=job.spec.priority,
            suspend=False,
            cancel=False,
            deadline=deadline,
            grant=grant,
            sequence=before.sequence if before is not None and again else 0,
        )
        came = {"from": before.phase.value} if before is not None and again else {}
        record.emit("phase", {**came, "to": Phase.QUEUED.value, "why": f"given to the node {grant.node}"})
        return record

    @property
    def created(self) -> str:
        """When the job was made."""
        return t.cast(str, json.loads(self.document)["metadata"]["creationTimestamp"])

    @property
    def phase(self) -> Phase:
        """Where the job is in its life."""
        return self.status.phase

    @property
    def held(self) -> bool:
        """Whether a worker has it."""
        return self.phase in lifecycle.HELD

    @property
    def over(self) -> bool:
        """Whether it will never change again."""
        return self.phase in lifecycle.TERMINAL

    @property
    def epoch(self) -> int:
        """How often the job was claimed."""
        return self.status.epoch

    @property
    def spent(self) -> bool:
        """Whether the attempt that a cluster gave is over, or will not be made; what comes next is decided there."""
        return self.grant is not None and (self.over or (not self.held and self.epoch >= self.grant.epoch))

    def job(self) -> models.MigrationJob:
        """Return the whole document, except for what it waits for."""
        document = json.loads(self.document)
        if self.grant is None:
            # A submitted document may have Kubernetes' word for none.
            document["metadata"].pop("namespace", None)
        told = self.status.to_document()
        if self.lease is not None and self.status.claim is not None:
            began = self.lease.wall - self.status.claim.lease_seconds
            renewed = datetime.datetime.fromtimestamp(began, datetime.timezone.utc)
            told["claim"]["renewedAt"] = timestamp(renewed)
        if self.result is not None:
            told["result"] = json.loads(self.result)
        document["spec"].update(priority=self.priority, suspend=self.suspend, cancel=self.cancel)
        document["status"] = told
        return models.MigrationJob.model_validate(document)

    def relabel(self, metadata: models.Metadata) -> bool:
        """Take over labels and annotations, and return whether that changed anything."""
        document = json.loads(self.document)
        mine = document["metadata"]
        theirs = {"labels": metadata.labels, "annotations": metadata.annotations}
        if all(mine.get(key, {}) == value for key, value in theirs.items()):
            return False
        mine.update(theirs)
        self.document = json.dumps(document)
        self.demand = dataclasses.replace(self.demand, job_labels=tuple(sorted(metadata.labels.items())))
        return True

    def emit(self, kind: str, data: dict[str, t.Any]) -> None:
        """Add the event ``io.hyper2kvm.job.<kind>`` to what is saved next."""
        self.sequence += 1
        namespace, dummy, name = self.name.rpartition("/")
        event = models.Event(
            specversion="1.0",
            id=f"{self.uid}-{self.sequence}",
            source=_EVENT_SOURCE if self.grant is None else f"/hyper2kvm/nodes/{self.grant.node}/{namespace}",
            type=EVENT_TYPE_PREFIX + kind,
            subject=name,
            time=timestamp(now()),
            sequence=self.sequence,
            jobuid=self.uid,
            epoch=self.epoch,
            data=data,
        )
        self._events.append(event.line())

    def count(self, tallies: c.Iterable[Tally]) -> None:
        """Add to what is counted with what is saved next."""
        self._tallies += tallies

    def turn(self, status: models.JobStatus, why: str, **data: t.Any) -> None:
        """Take over a status that :mod:`..protocol.status` made, announce a change of phase, and forget a lost hold."""
        before, self.status = self.status, status
        if before.phase is not self.phase:
            self.emit("phase", {"from": before.phase.value, "to": self.phase.value, "why": why, **data})
            self.count(happened.changed(before, status, self.created))
        if not self.held:
            self.worker = self.process = self.lease = self.progressed = self.announced = None
        if self.over and self.remove_after is None and self.grant is None:
            keep = json.loads(self.document)["spec"].get("ttlSecondsAfterFinished")
            self.remove_after = None if keep is None else Instant.after(keep)

    def advance(self, target: Phase, actor: Actor, why: str) -> None:
        """Take the lifecycle's step to ``target``.

        Raises:
            IllegalTransition: the lifecycle has no such step for this actor.
        """
        self.turn(status.advance(self.status, target, actor, now(), message=why), why)

    def end_stage(self, stage: models.StageRecord) -> None:
        """Record a stage's end."""
        self.count(happened.stage_ended(self.status, stage))
        self.turn(status.end_stage(self.status, stage), "")
        self.emit("stageended", stage.to_document())

    def fail(self, error: JobError, actor: Actor) -> None:
        """End the attempt with ``error``: the job waits for the next one, or is FAILED."""
        policy = RetryPolicy.read(json.loads(self.document)["spec"])
        moment = now()
        failed = status.fail(self.status, error, actor, moment, policy=policy)
        if error.details is not None:
            self.result = json.dumps(error.details)
        if failed.not_before is not None:
            self.not_before = Instant.after((fields.moment(failed.not_before) - moment).total_seconds())
        lacking = dict.fromkeys((*self.demand.capabilities, *status.needs(failed)))
        self.demand = dataclasses.replace(self.demand, capabilities=tuple(lacking))
        told = failed.last_error or models.ErrorDocument.of(error)
        self.turn(failed, told.told, error=told.to_document())
        if self.phase is Phase.FAILED:
            self.count(happened.failed(error.details))
        self._cancel_if_waiting()

    def release(self, actor: Actor, why: str) -> None:
        """Give the job back to the queue, without counting the attempt."""
        self.advance(Phase.QUEUED, actor, why)
        self._cancel_if_waiting()

    def _cancel_if_waiting(self) -> None:
        if self.cancel and self.phase is Phase.QUEUED:
            self.advance(Phase.CANCELLED, Actor.CONTROL, "it was to be cancelled")

    def save(self, tx: sqlite3.Connection) -> None:
        """Write the row and the new events within ``tx``."""
        values = {
            "uid": self.uid,
            "name": self.name,
            "document": self.document,
            "status": json.dumps(self.status.to_document()),
            "result": self.result,
            "spec_digest": self.spec_digest,
            "demand": json.dumps(dataclasses.asdict(self.demand)),
            "phase": self.phase.value,
            "priority": self.priority,
            "suspend": self.suspend,
            "cancel": self.cancel,
            "epoch": self.epoch,
            "worker": self.worker,
            "sequence": self.sequence,
            "version": self.version + 1,
            "node": None if self.grant is None else self.grant.node,
            "granted": None if self.grant is None else self.grant.epoch,
        }
        for column in _DUMPED:
            value = getattr(self, column)
            values[column] = None if value is None else value.dump()
        self.version += 1
        if self.number:
            assignments = ", ".join(f"{column} = :{column}" for column in values)
            tx.execute(f"UPDATE jobs SET {assignments} WHERE number = :number", {**values, "number": self.number})
        else:
            columns = ", ".join(values)
            marks = ", ".join(f":{column}" for column in values)
            self.number = tx.execute(f"INSERT INTO jobs ({columns}) VALUES ({marks})", values).lastrowid or 0
        first = self.sequence - len(self._events) + 1
        tx.executemany(
            "INSERT INTO events (name, uid, sequence, line) VALUES (?, ?, ?, ?)",
            [(self.name, self.uid, first + index, line) for index, line in enumerate(self._events)],
        )
        self._events.clear()
        add_tallies(tx, self._tallies)
        self._tallies.clear()

    @classmethod
    def load(cls, row: sqlite3.Row | dict[str, t.Any]) -> Record:
        """Return the job that a row of the table ``jobs`` holds."""
        values: dict[str, t.Any] = {name: row[name] for name in _PLAIN}
        for column, kind in _DUMPED.items():
            values[column] = None if row[column] is None else kind.load(row[column])
        return cls(
            **values,
            suspend=bool(row["suspend"]),
            cancel=bool(row["cancel"]),
            status=models.JobStatus.model_validate_json(row["status"]),
            demand=load_demand(row["demand"]),
            grant=None if row["node"] is None else Grant(row["node"], row["granted"]),
        )


def add_tallies(tx: sqlite3.Connection, tallies: c.Iterable[Tally]) -> None:
    """Add to what was counted so far, within ``tx``."""
    tx.executemany(
        "INSERT INTO tallies (metric, labels, part, amount) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
        [row for tally in tallies for row in tally.rows()],
    )


_PLAIN = (
    *("number", "uid", "name", "document", "result", "spec_digest"),
    *("priority", "worker", "sequence", "version"),
)
_DUMPED: dict[str, type[Instant] | type[ProcessId]] = {
    "process": ProcessId,
    "lease": Instant,
    "not_before": Instant,
    "deadline": Instant,
    "remove_after": Instant,
    "progressed": Instant,
    "announced": Instant,
}


def load_demand(text: str) -> Demand:
    """Return the demand that a row holds as JSON."""
    raw = json.loads(text)
    return Demand(
        operation=raw["operation"],
        capabilities=tuple(raw["capabilities"]),
        labels=tuple((key, value) for key, value in raw["labels"]),
        job_labels=tuple((key, value) for key, value in raw["job_labels"]),
        protocol=raw["protocol"],
    )
