# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documents of the Worker Job Protocol v1 as typed models.

Field names are snake_case here and camelCase in documents; both are accepted. Unknown fields are refused, because a
field that is silently ignored is a promise broken. Sizes are bytes and times seconds unless a name says otherwise;
instants are RFC 3339 strings in UTC.

The models import nothing that touches a disk, a network or a privilege.
"""

from __future__ import annotations

import enum
import typing as t

from . import _pydantic as p
from .errors import ErrorClass
from .lifecycle import Phase

API_VERSION = "hyper2kvm.io/v1"
PROTOCOL_VERSION = "1.0"

# RFC 1123 label, as Kubernetes takes for names.
_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
_MAC_PATTERN = r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$"

Name = t.Annotated[str, p.Field(pattern=_NAME_PATTERN)]
Digest = t.Annotated[str, p.Field(pattern=_DIGEST_PATTERN)]
Mac = t.Annotated[str, p.Field(pattern=_MAC_PATTERN)]


class Document(p.BaseModel):
    """What all parts of a document share: camelCase outside, unknown fields refused."""

    model_config = p.ConfigDict(alias_generator=p.to_camel, populate_by_name=True, extra="forbid")

    def to_document(self) -> dict[str, t.Any]:
        """Return the camelCase document as JSON-able data, without fields that are unset (None)."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Operation(str, enum.Enum):
    """What a job does."""

    CONVERT = "convert"
    REHEARSE = "rehearse"
    PLAN = "plan"
    INSPECT = "inspect"
    FIX = "fix"
    BOOT_TEST = "boot-test"


class SourceType(str, enum.Enum):
    """The kind of a source. ``auto`` looks at the file's name and content, but never takes raw for something else."""

    AUTO = "auto"
    OVA = "ova"
    OVF = "ovf"
    VMDK = "vmdk"
    QCOW2 = "qcow2"
    RAW = "raw"


class TargetFormat(str, enum.Enum):
    """The format of a target's disks."""

    QCOW2 = "qcow2"
    RAW = "raw"


class Allocation(str, enum.Enum):
    """Whether a target's blocks are reserved before they are written."""

    SPARSE = "sparse"
    PREALLOCATED = "preallocated"


class Compression(str, enum.Enum):
    """Compression of a qcow2 target's clusters."""

    NONE = "none"
    ZLIB = "zlib"
    ZSTD = "zstd"


class Definition(str, enum.Enum):
    """A virtual machine definition that can be written beside the disks."""

    LIBVIRT = "libvirt"
    KUBEVIRT = "kubevirt"


class RehearsePolicy(str, enum.Enum):
    """When the fixed overlay is booted before anything is copied.

    ``auto`` leaves it out where the copy is expected to take less time than the boot test.
    """

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class SecretRef(Document):
    """A secret by reference: ``<secrets root>/<name>/<key>`` wherever the worker runs. Never a value."""

    name: Name
    key: t.Annotated[str, p.Field(pattern=r"^[-._a-zA-Z0-9]{1,253}$")]


class DiskSpec(Document):
    """One disk of a source that consists of bare disk images."""

    path: t.Annotated[str, p.Field(min_length=1, max_length=4096)]
    """Relative to the worker's input root, or absolute below it."""
    format: t.Optional[t.Literal["vmdk", "qcow2", "raw"]] = None
    """None: the source's ``type``."""
    digest: t.Optional[Digest] = None
    """Expected SHA-256 of the image file's bytes; a mismatch fails the job before any change."""


class SourceSpec(Document):
    """What is to be moved: one file or folder (``path``), or all the disks of the VM (``disks``), boot disk first."""

    type: SourceType = SourceType.AUTO
    path: t.Optional[t.Annotated[str, p.Field(min_length=1, max_length=4096)]] = None
    disks: list[DiskSpec] = p.Field(default_factory=list, max_length=64)
    digest: t.Optional[Digest] = None
    """Expected SHA-256 of the file at ``path``."""

    @p.model_validator(mode="after")
    def _one_of(self) -> SourceSpec:
        if (self.path is None) == (not self.disks):
            raise ValueError("give either path (one file or folder) or disks (all disks of the VM)")
        if self.disks and self.digest:
            raise ValueError("digest goes with path; give each disk of disks its own digest")
        if self.disks and self.type in (SourceType.OVA, SourceType.OVF):
            raise ValueError(f"type {self.type.value} takes path, not disks")
        return self


class TargetSpec(Document):
    """What is written, and where."""

    format: TargetFormat = TargetFormat.QCOW2
    path: t.Optional[t.Annotated[str, p.Field(min_length=1, max_length=4096)]] = None
    """Folder for the artifacts, relative to the worker's output root. None: the job's name."""
    name: t.Optional[Name] = None
    """Name of the VM and of its files (``<name>.qcow2``). None: the last part of ``path``."""
    allocation: Allocation = Allocation.SPARSE
    compression: Compression = Compression.NONE
    definitions: list[Definition] = p.Field(default_factory=lambda: [Definition.LIBVIRT, Definition.KUBEVIRT])
    force: bool = False
    """Replace an existing target. Without it an existing target is never overwritten."""

    @p.model_validator(mode="after")
    def _combination(self) -> TargetSpec:
        if self.compression is not Compression.NONE and self.format is not TargetFormat.QCOW2:
            raise ValueError("compression needs format qcow2: raw images have none")
        if self.compression is not Compression.NONE and self.allocation is Allocation.PREALLOCATED:
            raise ValueError("compression and allocation preallocated exclude each other")
        return self


class MacMapping(Document):
    """Gives one network card of the source another MAC address."""

    source: Mac
    target: Mac


class NetworkSpec(Document):
    """What happens to the guest's network cards."""

    pin_names: bool = True
    """Bind the guest's configured interface names (``ens192``) to the target's MAC addresses."""
    mac_map: list[MacMapping] = p.Field(default_factory=list)
    macs: list[Mac] = p.Field(default_factory=list)
    """MAC addresses of the target's cards in the source's order; for sources that tell none."""


class SshKeys(Document):
    """Keys to add to a user's ``~/.ssh/authorized_keys``."""

    user: t.Annotated[str, p.Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "root"
    keys: list[str] = p.Field(default_factory=list)
    keys_from: t.Optional[SecretRef] = None
    """A file of further keys, one a line."""

    @p.field_validator("keys")
    @classmethod
    def _one_line(cls, keys: list[str]) -> list[str]:
        for key in keys:
            if "\n" in key or len(key.split()) < 2:
                raise ValueError("a key is one line: type, base64 data and perhaps a comment")
        return keys


class FixSelection(Document):
    """Which fixers run: all that find something to do, less ``skip``; or those of ``only``."""

    only: list[str] = p.Field(default_factory=list)
    skip: list[str] = p.Field(default_factory=list)


class GuestSpec(Document):
    """What is changed inside the guest."""

    enabled: bool = True
    """False: the guest's files are left as they are."""
    fixers: FixSelection = p.Field(default_factory=FixSelection)
    network: NetworkSpec = p.Field(default_factory=NetworkSpec)
    ssh_keys: list[SshKeys] = p.Field(default_factory=list)
    hostname: t.Optional[t.Annotated[str, p.Field(pattern=r"^[a-zA-Z0-9]([-.a-zA-Z0-9]{0,251}[a-zA-Z0-9])?$")]] = None
    timezone: t.Optional[t.Annotated[str, p.Field(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$")]] = None
    reset_machine_id: bool = False
    reset_ssh_host_keys: bool = False


class VerifySpec(Document):
    """How the result is proven."""

    boot: bool = True
    """Boot the finished target; False: the result says "not verified"."""
    rehearse: RehearsePolicy = RehearsePolicy.AUTO
    timeout_seconds: t.Annotated[int, p.Field(ge=10, le=7200)] = 600
    """For one boot test."""
    marker: t.Optional[t.Annotated[str, p.Field(min_length=1, max_length=200)]] = None
    """A text that the guest's console must show. None: the guest reports its boot target, or a login prompt."""


class Requirements(Document):
    """What the job demands of a worker."""

    capabilities: list[str] = p.Field(default_factory=list)
    labels: dict[str, str] = p.Field(default_factory=dict)


class Limits(Document):
    """What the job may use of a worker."""

    bandwidth_bytes_per_second: t.Optional[t.Annotated[int, p.Field(ge=65536)]] = None
    """Upper bound of the copy's read rate."""


class JobSpec(Document):
    """What is wanted. Only ``suspend``, ``priority`` and ``cancel`` may change once a job exists."""

    operation: Operation = Operation.CONVERT
    source: SourceSpec
    target: TargetSpec = p.Field(default_factory=TargetSpec)
    guest: GuestSpec = p.Field(default_factory=GuestSpec)
    verify: VerifySpec = p.Field(default_factory=VerifySpec)
    requirements: Requirements = p.Field(default_factory=Requirements)
    limits: Limits = p.Field(default_factory=Limits)
    priority: t.Annotated[int, p.Field(ge=-1000, le=1000)] = 0
    """Higher goes first."""
    suspend: bool = False
    cancel: bool = False
    backoff_limit: t.Annotated[int, p.Field(ge=0, le=20)] = 2
    """Retries after the first attempt, for failures that a retry can help."""
    active_deadline_seconds: t.Optional[t.Annotated[int, p.Field(ge=1)]] = None
    """Counted from creation; when it passes, the job fails wherever it is."""
    ttl_seconds_after_finished: t.Optional[t.Annotated[int, p.Field(ge=0)]] = None
    """After this the job's record is removed; the target and its result.json stay."""


#: Fields of a spec that may change after a job was created.
MUTABLE_SPEC_FIELDS = frozenset({"suspend", "priority", "cancel"})


class Metadata(Document):
    """A job's identity. ``uid`` and ``creation_timestamp`` are given by the backend."""

    name: Name
    namespace: t.Optional[Name] = None
    uid: t.Optional[str] = None
    creation_timestamp: t.Optional[str] = None
    labels: dict[str, str] = p.Field(default_factory=dict)
    annotations: dict[str, str] = p.Field(default_factory=dict)


class ErrorDocument(Document):
    """An error as data (``status.lastError``, failed attempts)."""

    error_class: ErrorClass = p.Field(alias="class")
    stage: str = ""
    reason: str
    message: str
    suggestion: str = ""
    retryable: bool


class Progress(Document):
    """How far the running stage is. Bytes, bytes per second, seconds."""

    stage: str
    bytes_done: int = 0
    bytes_total: int = 0
    percent: float = 0.0
    rate_per_second: float = 0.0
    eta_seconds: t.Optional[float] = None
    message: str = ""


class StageRecord(Document):
    """One stage that ended."""

    name: str
    started_at: str
    seconds: float
    skipped: bool = False
    detail: str = ""


class Attempt(Document):
    """One try by one worker."""

    epoch: int
    worker: str
    started_at: str
    ended_at: t.Optional[str] = None
    error: t.Optional[ErrorDocument] = None


class Claim(Document):
    """A worker's hold on a job. Writes that carry another epoch are refused."""

    worker: str
    epoch: int
    lease_seconds: float
    renewed_at: str


class WaitReason(Document):
    """Why a queued job is not running: how many workers fail it for this reason, and a few of them."""

    reason: str
    message: str
    count: int
    examples: list[str] = p.Field(default_factory=list, max_length=3)


class Artifact(Document):
    """A file that the job published."""

    path: str
    kind: t.Literal["disk", "libvirt", "kubevirt", "result", "console", "screenshot"]
    format: t.Optional[str] = None
    size_bytes: int
    digest: t.Optional[Digest] = None


class Condition(Document):
    """A condition in Kubernetes' metav1.Condition shape."""

    type: str
    status: t.Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    last_transition_time: str


class JobStatus(Document):
    """What is. Written by the backend and by the worker that holds the claim."""

    phase: Phase = Phase.CREATED
    stage: t.Optional[str] = None
    progress: t.Optional[Progress] = None
    epoch: int = 0
    claim: t.Optional[Claim] = None
    attempts: list[Attempt] = p.Field(default_factory=list)
    last_error: t.Optional[ErrorDocument] = None
    waiting: list[WaitReason] = p.Field(default_factory=list, max_length=10)
    not_before: t.Optional[str] = None
    """Earliest next attempt, after a failed one."""
    stages: list[StageRecord] = p.Field(default_factory=list)
    artifacts: list[Artifact] = p.Field(default_factory=list)
    conditions: list[Condition] = p.Field(default_factory=list)
    result: t.Optional[dict[str, t.Any]] = None
    """The result document (:class:`JobResult`) of a job that ended well, and of a rehearsal or plan."""
    started_at: t.Optional[str] = None
    finished_at: t.Optional[str] = None


class MigrationJob(Document):
    """The job document."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    kind: t.Literal["MigrationJob"] = "MigrationJob"
    metadata: Metadata
    spec: JobSpec
    status: JobStatus = p.Field(default_factory=JobStatus)


class FileChange(Document):
    """One file of the guest that a fixer changes (or would change)."""

    path: str
    kind: t.Literal["write", "append", "symlink", "remove", "mkdir"]
    fixer: str
    why: str
    before: t.Optional[Digest] = None
    after: t.Optional[Digest] = None
    diff: str = ""
    """Unified diff of text; a short description of binary data."""


class Digests(Document):
    """The three digests of a disk; holes and zeros hash alike.

    ``source`` covers the virtual disk's bytes that were read, ``copy`` the copy before commit (the same ranges), and
    ``target`` the finished virtual disk.
    """

    source: t.Optional[Digest] = None
    copied: t.Optional[Digest] = None
    target: t.Optional[Digest] = None


class DiskResult(Document):
    """What happened to one disk. Bytes."""

    name: str
    source: str
    target: t.Optional[str] = None
    virtual_size_bytes: int
    bytes_read: int = 0
    bytes_written: int = 0
    digests: Digests = p.Field(default_factory=Digests)


class BootTestResult(Document):
    """What a boot test saw."""

    verdict: t.Literal["booted", "failed", "not-verified"]
    seconds: float = 0.0
    accelerator: t.Optional[t.Literal["kvm", "tcg"]] = None
    marker: str = ""
    """What was taken as the proof of a boot."""
    reason: str = ""
    """Of a failure: ``NoRootDevice``, ``DroppedToInitramfs``, ``NoBootloader``, ``EmergencyMode``, …"""
    message: str = ""
    suggestion: str = ""
    facts: dict[str, t.Any] = p.Field(default_factory=dict)
    """As the guest reported: target, root, mounts, addresses by interface, failed units."""
    console_tail: list[str] = p.Field(default_factory=list)
    warnings: list[str] = p.Field(default_factory=list)


class JobResult(Document):
    """``result.json``: everything that a job did and found."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    kind: t.Literal["MigrationResult"] = "MigrationResult"
    job: str
    uid: str
    operation: Operation
    verdict: t.Literal["boots", "boots-with-warnings", "will-not-boot", "not-verified", "done"]
    source_identity: str
    """Digest over size, mtime and inode of the source's files: what ``present`` compares."""
    spec_digest: Digest
    """Of the frozen part of the spec."""
    completed_at: str
    seconds: float
    guest: t.Optional[dict[str, t.Any]] = None
    hardware: t.Optional[dict[str, t.Any]] = None
    changes: list[FileChange] = p.Field(default_factory=list)
    warnings: list[str] = p.Field(default_factory=list)
    not_carried: list[str] = p.Field(default_factory=list)
    disks: list[DiskResult] = p.Field(default_factory=list)
    rehearsal: t.Optional[BootTestResult] = None
    rehearsal_key: t.Optional[Digest] = None
    """Of source and guest settings: a conversion with the same key need not rehearse again."""
    boot_test: t.Optional[BootTestResult] = None
    artifacts: list[Artifact] = p.Field(default_factory=list)
    stages: list[StageRecord] = p.Field(default_factory=list)


class Capability(Document):
    """One thing that a worker tried at its start, and what came of it."""

    available: bool
    detail: str = ""


class Acceptance(Document):
    """What a worker takes on; the other side of matching."""

    operations: list[Operation] = p.Field(default_factory=lambda: list(Operation))
    labels: dict[str, str] = p.Field(default_factory=dict)
    """Labels that a job must carry in its metadata."""


class WorkerRegistration(Document):
    """What a worker tells of itself when it starts."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    kind: t.Literal["MigrationWorker"] = "MigrationWorker"
    name: str
    host: str
    boot_id: str
    pid: int
    protocol_version: str = PROTOCOL_VERSION
    collection_version: str
    slots: t.Annotated[int, p.Field(ge=1)]
    labels: dict[str, str] = p.Field(default_factory=dict)
    accepts: Acceptance = p.Field(default_factory=Acceptance)
    capabilities: dict[str, Capability] = p.Field(default_factory=dict)


class Heartbeat(Document):
    """What a worker tells while it lives; renews the leases that it names."""

    worker: str
    time: str
    running: dict[str, int] = p.Field(default_factory=dict)
    """Epoch by job uid."""
    free_scratch_bytes: int
    free_output_bytes: int


class Event(Document):
    """One CloudEvents 1.0 event of a job (JSON event format). ``sequence`` is gapless from 1 for each job uid."""

    specversion: t.Literal["1.0"] = "1.0"
    id: str
    source: str
    type: t.Annotated[str, p.Field(pattern=r"^io\.hyper2kvm\.job\.[a-z]+$")]
    subject: str
    time: str
    datacontenttype: t.Literal["application/json"] = "application/json"
    sequence: int
    jobuid: str
    epoch: int = 0
    data: dict[str, t.Any] = p.Field(default_factory=dict)
