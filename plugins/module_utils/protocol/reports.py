# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is: a job's status, its events, and what workers tell of themselves."""

from __future__ import annotations

import enum
import json
import typing as t

from . import _pydantic as p
from .errors import ErrorClass, JobError
from .fields import (
    PROTOCOL_VERSION,
    Amount,
    CapabilityName,
    Count,
    Digest,
    Document,
    EventType,
    Instant,
    Labels,
    Name,
    ProtocolVersion,
    Report,
)
from .lifecycle import Phase
from .spec import FailureAction, JobSpec, Metadata, Operation


class MatchedRule(Report):
    """The rule of a job's ``failurePolicy`` that an error matched."""

    index: Count
    """Its place among ``spec.failurePolicy.rules``: 0, 1 …"""
    action: FailureAction
    """What it says."""


class ErrorDocument(Report):
    """An error as data (``status.lastError``, failed attempts)."""

    error_class: ErrorClass = p.Field(validation_alias="class", serialization_alias="class")
    """Decides whether a retry can help."""
    stage: str = ""
    """The stage in which it came up; empty: before the first."""
    reason: str
    """A CamelCase word that programs may test (``NoRootDevice``)."""
    message: str
    """What failed and where, for a person. Never a secret, never a traceback."""
    suggestion: str = ""
    """What to do next."""
    retryable: bool
    """Whether another attempt, unchanged, makes sense: by the error's class, or by the rule that it matched."""
    rule: MatchedRule | None = None
    """The rule of the job's ``failurePolicy`` that it matched; unset: none, so that its class decided."""
    needs: list[CapabilityName] = p.Field(default_factory=list)
    """Capabilities that the worker turned out to lack for this job: it waits for a worker that has them."""

    @classmethod
    def of(cls, error: JobError, rule: MatchedRule | None = None) -> ErrorDocument:
        """Return ``error``, which matched ``rule``, as a document, without its details."""
        return cls(
            error_class=error.error_class,
            stage=error.stage,
            reason=error.reason,
            message=error.message,
            suggestion=error.suggestion,
            retryable=error.retryable if rule is None else rule.action is not FailureAction.FAIL_JOB,
            rule=rule,
            needs=list(error.needs),
        )

    @property
    def told(self) -> str:
        """The message, with the rule that the error matched: what a person is to know of it in a line."""
        if self.rule is None:
            return self.message
        return f"{self.message} (matches spec.failurePolicy.rules[{self.rule.index}]: {self.rule.action.value})"


class Progress(Report):
    """How far the running stage is."""

    stage: str
    """The stage that this speaks of."""
    bytes_done: Count = 0
    """Bytes that are done."""
    bytes_total: Count = 0
    """Bytes that there are to do; 0: not known, or the stage moves none."""
    percent: t.Annotated[float, p.Field(ge=0, le=100)] = 0.0
    """Of the stage, 0 to 100."""
    rate_per_second: Amount = 0.0
    """Bytes per second, of late; 0: not known."""
    eta_seconds: Amount | None = None
    """Seconds that the stage is expected to take from now on; unset: not known."""
    message: str = ""
    """What is being done, for a person."""
    updated_at: Instant | None = None
    """When this was told. It decides between RUNNING and PROGRESSING."""


class StageRecord(Report):
    """One stage that ended."""

    name: str
    """``inspect``, ``plan``, ``fix``, ``rehearse``, ``copy``, ``commit``, ``verify`` or ``publish``."""
    started_at: Instant
    """When it began."""
    seconds: Amount
    """How long it took, in seconds."""
    skipped: bool = False
    """It had nothing to do; ``detail`` says why."""
    detail: str = ""
    """What came of it, for a person."""


class Attempt(Report):
    """One try by one worker."""

    epoch: t.Annotated[int, p.Field(ge=1)]
    """Of the claim under which it was made."""
    worker: str
    """The worker's name."""
    started_at: Instant
    """When the job was claimed."""
    ended_at: Instant | None = None
    """When the worker gave it up; unset: it has it still."""
    error: ErrorDocument | None = None
    """Why it failed; unset: it did not (it runs, ended well, or was handed back)."""


class Claim(Report):
    """A worker's hold on a job. Writes that carry another epoch are refused."""

    worker: str
    """The worker's name."""
    epoch: t.Annotated[int, p.Field(ge=1)]
    """Raised by one with each claim of the job; it never falls."""
    lease_seconds: t.Annotated[float, p.Field(gt=0)]
    """Seconds from ``renewedAt`` for which the hold lasts."""
    renewed_at: Instant
    """When the worker was last heard of."""


class WaitReason(Report):
    """Why a queued job is not running: how many workers fail it for this reason, and a few of them."""

    reason: str
    """A CamelCase word that programs may test."""
    message: str
    """The same for a person."""
    count: Count
    """Workers that it holds for; 0 where the reason lies in the job itself."""
    examples: list[str] = p.Field(default_factory=list, max_length=3)
    """Names of some of these workers."""


class Artifact(Report):
    """A file that the job published, or a block device that holds a disk."""

    path: str
    """Relative to the worker's output root; of a device its absolute path."""
    storage: str | None = None
    """On Kubernetes, where each node has an output root of its own: the claim, or the node's folder, that holds it."""
    kind: t.Literal["disk", "map", "libvirt", "kubevirt", "result", "console", "screenshot"]
    """What it is: a disk, the map of what was read of it, a definition, the result, or a boot test's evidence."""
    format: str | None = None
    """Of a disk: ``qcow2`` or ``raw``."""
    size_bytes: Count
    """Size of the file in bytes; on a device, of the disk."""
    digest: Digest | None = None
    """Of a disk the content digest (holes and zeros hash alike), of others the SHA-256 of the file."""


class Condition(Report):
    """A condition in the shape of Kubernetes' metav1.Condition."""

    type: str
    """``Validated``, ``Queued``, ``Assigned``, ``Progressing``, ``Suspended``, ``Complete`` or ``Failed``."""
    status: t.Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str
    """A CamelCase word that programs may test."""
    message: str = ""
    """The same for a person."""
    last_transition_time: Instant
    """When ``status`` last changed."""


class JobStatus(Report):
    """What is. Written by the backend and by the worker that holds the claim."""

    phase: Phase = Phase.CREATED
    """Where the job is in its life."""
    stage: str | None = None
    """The stage that runs, or in which the job ended."""
    progress: Progress | None = None
    """How far that stage is."""
    epoch: Count = 0
    """How often the job was claimed."""
    claim: Claim | None = None
    """The hold of the worker that has the job."""
    attempts: list[Attempt] = p.Field(default_factory=list)
    """All tries, oldest first."""
    last_error: ErrorDocument | None = None
    """Why the last failed attempt failed; on FAILED, why the job did."""
    waiting: list[WaitReason] = p.Field(default_factory=list, max_length=10)
    """Why a queued job is not running."""
    not_before: Instant | None = None
    """Earliest next attempt, after a failed one."""
    stages: list[StageRecord] = p.Field(default_factory=list)
    """The stages that ended, in order."""
    artifacts: list[Artifact] = p.Field(default_factory=list)
    """What the job published."""
    conditions: list[Condition] = p.Field(default_factory=list)
    """The same as ``phase`` for tools that know Kubernetes' conventions; each type at most once."""
    result: dict[str, t.Any] | None = None
    """The result document (``MigrationResult``) of a job that ended, as far as it got."""
    started_at: Instant | None = None
    """When the first stage began, of the first attempt."""
    finished_at: Instant | None = None
    """When the job ended."""
    assigned_node: str | None = None
    """On Kubernetes, the node whose worker has the job and alone may write this status. Unset: none has."""
    observed_generation: Count | None = None
    """On Kubernetes, ``metadata.generation`` of the spec that the control plane last acted upon."""


class MigrationJob(Document):
    """The job document."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    """The protocol's name and major version."""
    kind: t.Literal["MigrationJob"] = "MigrationJob"
    """The kind of document."""
    metadata: Metadata
    """The job's identity."""
    spec: JobSpec
    """What is wanted."""
    status: JobStatus = p.Field(default_factory=JobStatus)
    """What is. A backend ignores it in a document that is submitted."""


class Capability(Report):
    """One thing that a worker tried at its start, and what came of it."""

    available: bool
    """Whether it worked."""
    detail: str = ""
    """How it works here, or why it does not."""


class Acceptance(Report):
    """What a worker takes on; the other side of matching."""

    operations: list[Operation] = p.Field(default_factory=lambda: list(Operation))
    """Operations that it does."""
    labels: Labels = p.Field(default_factory=dict)
    """Labels that a job must carry in its metadata, each with this value."""


class WorkerRegistration(Report):
    """What a worker tells of itself when it starts."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    """The protocol's name and major version."""
    kind: t.Literal["MigrationWorker"] = "MigrationWorker"
    """The kind of document."""
    name: str
    """Unique among the workers of a backend."""
    host: str
    """The machine or node that it runs on."""
    boot_id: str
    """The kernel's identity of this boot; what ran under another is dead."""
    pid: t.Annotated[int, p.Field(ge=1)]
    """Its process id on that host."""
    protocol_version: ProtocolVersion = PROTOCOL_VERSION
    """Major and minor version of the protocol that it speaks."""
    collection_version: str
    """Version of the collection that it runs."""
    slots: t.Annotated[int, p.Field(ge=1)]
    """Jobs that it runs side by side (count)."""
    labels: Labels = p.Field(default_factory=dict)
    """What jobs may require."""
    accepts: Acceptance = p.Field(default_factory=Acceptance)
    """What it takes on."""
    capabilities: dict[CapabilityName, Capability] = p.Field(default_factory=dict)
    """What it can do, by name: found by trying, never declared."""


class WorkerStatus(WorkerRegistration):
    """On Kubernetes, the ``status`` of a MigrationWorker: what a node's worker told when it started, and how it is."""

    free_scratch_bytes: Count = 0
    """Free space for overlays and throw-away layers, in bytes."""
    free_output_bytes: Count = 0
    """Free space for targets, in bytes."""
    running: list[str] = p.Field(default_factory=list, max_length=256)
    """Jobs that it has, each as ``<namespace>/<name>``; of more than 256, the first."""
    schedulable: bool = True
    """False: it takes no further job, because it is about to end or its node is drained."""
    output_shared: bool = False
    """True: other nodes see the same output root, so that a job can go on there with what was copied here."""
    output_storage: str | None = None
    """The claim that the output root is on, or the folder of the node (which begins with a slash)."""
    conditions: list[Condition] = p.Field(default_factory=list)
    """For tools that know Kubernetes' conventions: ``Ready``; each type at most once."""


class Heartbeat(Report):
    """What a worker tells while it lives; renews the leases that it names."""

    worker: str
    """The worker's name."""
    time: Instant
    """When it was sent, by the worker's clock; for people, never compared with another clock."""
    running: dict[str, int] = p.Field(default_factory=dict)
    """The epoch of each job that it holds, by the job's uid."""
    free_scratch_bytes: Count
    """Free space for overlays and throw-away layers, in bytes."""
    free_output_bytes: Count
    """Free space for targets, in bytes."""


EVENT_TYPE_PREFIX = "io.hyper2kvm.job."


class EventKind(str, enum.Enum):
    """What an event tells: the last word of its type. A reader skips kinds that it does not know."""

    PHASE = "phase"
    """The phase changed: ``from`` (not at the job's creation), ``to``, ``why``; ``worker`` on ASSIGNED; ``error``."""
    SPEC = "spec"
    """Somebody changed what may be changed: ``priority``, ``suspend`` or ``cancel``."""
    STAGE_STARTED = "stagestarted"
    """A stage began: ``stage``."""
    PROGRESS = "progress"
    """The fields of ``status.progress``; at most one each 10 s."""
    STAGE_ENDED = "stageended"
    """A stage ended, durably: the fields of its entry in ``status.stages``."""
    WARNING = "warning"
    """Something that a person should know, though the job goes on: ``stage``, ``message``."""


class Event(Report):
    """One CloudEvents 1.0 event of a job (JSON event format)."""

    specversion: t.Literal["1.0"] = "1.0"
    """The version of CloudEvents."""
    id: t.Annotated[str, p.Field(min_length=1)]
    """Unique for its ``source``: ``<job uid>-<sequence>``."""
    source: t.Annotated[str, p.Field(min_length=1)]
    """Who tells it, as a URI reference: the backend."""
    type: EventType
    """What happened: ``io.hyper2kvm.job.`` and one of the kinds that the specification lists."""
    subject: Name
    """The job's name."""
    time: Instant
    """When it happened."""
    datacontenttype: t.Literal["application/json"] = "application/json"
    """The type of ``data``."""
    sequence: t.Annotated[int, p.Field(ge=1)]
    """1, 2, 3 … for each job uid, without a gap (extension attribute, Integer)."""
    jobuid: t.Annotated[str, p.Field(min_length=1)]
    """The job's uid (extension attribute)."""
    epoch: Count = 0
    """Of the claim under which it happened; 0: before the first (extension attribute, Integer)."""
    data: dict[str, t.Any] = p.Field(default_factory=dict)
    """Details, by the kind of event."""
    position: t.Annotated[int, p.Field(ge=1)] | None = None
    """Its place among the events of all jobs of a queue, rising; only in their common file (extension attribute)."""

    def line(self) -> str:
        """Return the event as a line of a JSON Lines file, without its line feed."""
        return json.dumps(self.to_document(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
