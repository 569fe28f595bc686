# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents of JobSpec 1.0, the job protocol of the project hyper2kvm up to early 2026, as jobs of this protocol.

Each of their fields has one place in a job, or is kept as an annotation where it only tells something, or is refused
with the reason; docs/worker/JOBSPEC1.md has the table. What JobSpec 1.0 says: hyper2kvm/worker/schemas.py of that
project (fields, bounds, defaults).
"""

from __future__ import annotations

import pathlib
import re
import typing as t

from . import _pydantic as p
from . import models, validation
from .errors import ErrorClass, JobError

ANNOTATION = "jobspec1.hyper2kvm.io/"

Document = dict[str, t.Any]


class _Part(p.BaseModel):
    """A part of a JobSpec 1.0 document. Unknown fields are refused."""

    model_config = p.ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Image(_Part):
    """The disk image."""

    path: str
    format: t.Literal["qcow2", "vmdk", "raw", "vdi", "vhd", "vhdx"] | None = None
    checksum: str | None = None
    size_bytes: t.Annotated[int, p.Field(ge=0)] | None = None

    @p.field_validator("checksum")
    @classmethod
    def _sha256(cls, checksum: str | None) -> str | None:
        if checksum is not None and not re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", checksum):
            raise ValueError("must be a SHA-256 digest: 64 hexadecimal digits, perhaps with sha256: before them")
        return checksum


class CapabilityRequirements(_Part):
    """What the job demands of a worker."""

    needs_nbd: bool = False
    needs_lvm: bool = False
    needs_mount: bool = False
    needs_selinux_tools: bool = False
    min_memory_gb: t.Annotated[int, p.Field(ge=1)] | None = None
    min_disk_space_gb: t.Annotated[int, p.Field(ge=1)] | None = None


class ExecutionPolicy(_Part):
    """How the job is carried out. Times are seconds."""

    retry_count: t.Annotated[int, p.Field(ge=0, le=5)] = 0
    timeout_seconds: t.Annotated[int, p.Field(ge=60, le=86400)] | None = None
    """JobSpec 1.0 has 7200 where it is unset, and measures the run alone; a job's deadline counts its waiting too."""
    idempotent: bool = True
    priority: t.Annotated[int, p.Field(ge=1, le=10)] = 5
    """1 goes first."""


class Artifacts(_Part):
    """What is left, and where."""

    log_upload: bool = True
    store_fixed_image: bool = True
    output_path: t.Annotated[str, p.Field(min_length=1)]
    keep_intermediates: bool = False


class Audit(_Part):
    """Who wants it."""

    requested_by: str
    ticket: str | None = None
    tags: dict[str, str] | None = None


class JobSpec1(_Part):
    """A document of JobSpec 1.0."""

    version: t.Literal["1.0"] = "1.0"
    job_id: str
    created_at: str | None = None
    operation: t.Literal[
        "inspect",
        "convert",
        "offline_fix",
        "boot_repair",
        "selinux_prep",
        "lvm_repair",
        "fs_repair",
        "initramfs_regenerate",
    ]
    image: Image
    requested_actions: list[str] = p.Field(default_factory=list)
    capability_requirements: CapabilityRequirements = p.Field(default_factory=CapabilityRequirements)
    execution_policy: ExecutionPolicy = p.Field(default_factory=ExecutionPolicy)
    artifacts: Artifacts
    audit: Audit
    parameters: dict[str, t.Any] | None = None


class Mapped(t.NamedTuple):
    """An operation of this protocol that does what one of JobSpec 1.0 asks for."""

    operation: models.Operation
    fixers: tuple[str, ...] = ()
    """The only fixers that run; none: all."""


#: Each operation of JobSpec 1.0, or why it cannot be honoured.
OPERATIONS: dict[str, Mapped | str] = {
    "inspect": Mapped(models.Operation.INSPECT),
    "convert": Mapped(models.Operation.CONVERT),
    "offline_fix": Mapped(models.Operation.FIX),
    "boot_repair": Mapped(
        models.Operation.FIX,
        ("fstab", "crypttab", "grub", "initramfs", "resume", "serial-console", "uefi-fallback"),
    ),
    "initramfs_regenerate": Mapped(models.Operation.FIX, ("initramfs",)),
    "selinux_prep": "labels are kept as they are, and nothing relabels a guest",
    "lvm_repair": "no metadata of LVM is repaired",
    "fs_repair": "no filesystem is repaired: a journal is replayed, and one that does not mount fails the job",
}

#: Each action that JobSpec 1.0 names, by whether an operation takes it as one of its steps, or why none does.
ACTIONS: dict[str, tuple[models.Operation, ...] | str] = {
    "nbd_attach": tuple(models.Operation),
    "mount": tuple(models.Operation),
    "lvm_activate": tuple(models.Operation),
    "inspect": tuple(models.Operation),
    "validation": tuple(models.Operation),
    "cleanup": tuple(models.Operation),
    "conversion": (models.Operation.CONVERT,),
    "initramfs_regen": (models.Operation.CONVERT, models.Operation.FIX),
    "initramfs_regenerate": (models.Operation.CONVERT, models.Operation.FIX),
    "fsck": "no filesystem is repaired: a journal is replayed, and one that does not mount fails the job; a job of "
    "this protocol has them checked by verify.fsck",
    "selinux_prep": "labels are kept as they are, and nothing relabels a guest",
}

#: Formats that a target may have, by what the image of an offline fix is named.
_BY_SUFFIX = {".qcow2": "qcow2", ".raw": "raw", ".img": "raw"}

#: Where a field of this protocol comes from, so that a complaint names what its reader wrote; the longest fits.
_ORIGIN = {
    "metadata.name": "job_id",
    "metadata.labels": "audit.tags",
    "metadata.annotations": "audit",
    "spec.source": "image.path",
    "spec.source.type": "image.format",
    "spec.source.digest": "image.checksum",
    "spec.target": "artifacts.output_path",
    "spec.target.format": "parameters.output_format",
    "spec.target.compression": "parameters.compress",
}


def recognises(data: t.Any) -> bool:
    """Whether ``data`` is meant as a document of JobSpec 1.0: it has that protocol's ``job_id``, and no ``kind``."""
    return isinstance(data, dict) and "job_id" in data and not {"kind", "apiVersion", "api_version"} & set(data)


def parse(document: t.Mapping[str, t.Any] | bytes | str) -> models.MigrationJob:
    """Return the job that a document of either protocol describes: data, or JSON or YAML text.

    Raises:
        JobError: (invalid) as :func:`validation.parse_job`; (unsupported, ``UnsupportedJobSpec``) JobSpec 1.0 asks for
            something that cannot be honoured; the message names each such field and why.
    """
    if not p.HAS_PYDANTIC:
        return validation.parse_job(document)
    data = validation.load_document(document) if isinstance(document, (bytes, str)) else document
    if not recognises(data):
        return validation.parse_job(t.cast("t.Mapping[str, t.Any]", data))
    try:
        return validation.parse_job(to_document(t.cast(Document, data)))
    except JobError as error:
        raise _in_its_own_words(error) from None


def to_document(data: t.Mapping[str, t.Any]) -> Document:
    """Return the document of this protocol, in camelCase, that asks for what a JobSpec 1.0 document asks for.

    Raises:
        JobError: as :func:`parse`.
    """
    try:
        wanted = JobSpec1.model_validate(data)
    except p.ValidationError as error:
        raise validation._refusal(validation._problems(JobSpec1, error)) from None
    refused: list[validation.Problem] = []
    mapped = OPERATIONS[wanted.operation]
    if isinstance(mapped, str):
        raise _unsupported([validation.Problem("operation", f"{wanted.operation}: {mapped}")])
    spec: Document = {
        "operation": mapped.operation.value,
        "source": _source(wanted.image, refused),
        "target": _target(wanted, mapped.operation, refused),
        "requirements": {"capabilities": _capabilities(wanted.capability_requirements, refused)},
        **_policy(wanted.execution_policy, refused),
    }
    if mapped.fixers:
        spec["guest"] = {"fixers": {"only": list(mapped.fixers)}}
    _check_actions(wanted.requested_actions, mapped.operation, refused)
    if refused:
        raise _unsupported(refused)
    metadata: Document = {"name": wanted.job_id, "annotations": _annotations(wanted)}
    if wanted.audit.tags:
        metadata["labels"] = wanted.audit.tags
    return {"apiVersion": models.API_VERSION, "kind": "MigrationJob", "metadata": metadata, "spec": spec}


def _source(image: Image, refused: list[validation.Problem]) -> Document:
    source: Document = {"path": image.path}
    if image.format is not None:
        source["type"] = image.format
        if image.format not in {kind.value for kind in models.SourceType}:
            refused.append(validation.Problem("image.format", f"no source of the format {image.format} can be read"))
    if image.checksum is not None:
        source["digest"] = f"sha256:{image.checksum.removeprefix('sha256:').lower()}"
    return source


def _target(wanted: JobSpec1, operation: models.Operation, refused: list[validation.Problem]) -> Document:
    """Return the target, a folder for the job alone, so that no job writes over another's artifacts."""
    artifacts = wanted.artifacts
    target: Document = {"path": f"{artifacts.output_path.rstrip('/')}/{wanted.job_id}"}
    name = re.sub(r"[^a-z0-9]+", "-", pathlib.PurePosixPath(wanted.image.path).stem.lower()).strip("-")[:63].rstrip("-")
    if name:
        target["name"] = name
    if not artifacts.store_fixed_image and operation is not models.Operation.INSPECT:
        why = "the image is what this operation makes; ask for inspect, or for plan or rehearse of this protocol"
        refused.append(validation.Problem("artifacts.store_fixed_image", why))
    if artifacts.keep_intermediates:
        refused.append(validation.Problem("artifacts.keep_intermediates", "what a job needs on its way is removed"))
    parameters = dict(wanted.parameters or {})
    if operation is models.Operation.CONVERT:
        target["format"] = parameters.pop("output_format", None) or "qcow2"
        if parameters.pop("compress", None) is True and target["format"] == "qcow2":
            target["compression"] = "zlib"
    elif operation is models.Operation.FIX:
        image = wanted.image.format or _BY_SUFFIX.get(pathlib.PurePosixPath(wanted.image.path).suffix.lower())
        if image in {kind.value for kind in models.TargetFormat}:
            target["format"] = image
        else:
            why = "an image is fixed as qcow2 or raw; say that it is one of them, or ask for the operation convert"
            refused.append(validation.Problem("image.format", why))
    for name in parameters:
        why = f"{wanted.operation} has no such parameter here; use the fields of this protocol"
        refused.append(validation.Problem(f"parameters.{name}", why))
    return target


def _capabilities(needs: CapabilityRequirements, refused: list[validation.Problem]) -> list[str]:
    for field in ("min_memory_gb", "min_disk_space_gb"):
        if getattr(needs, field) is not None:
            why = "workers are not chosen by their size; use requirements.labels of this protocol"
            refused.append(validation.Problem(f"capability_requirements.{field}", why))
    if needs.needs_selinux_tools:
        why = "no job here uses SELinux's tools: labels are kept as they are"
        refused.append(validation.Problem("capability_requirements.needs_selinux_tools", why))
    wanted = {"attach": needs.needs_nbd or needs.needs_mount, "guest-volumes": needs.needs_lvm}
    return [name for name, needed in wanted.items() if needed]


def _policy(policy: ExecutionPolicy, refused: list[validation.Problem]) -> Document:
    if not policy.idempotent:
        why = "a job whose worker dies is resumed by another; there is no job that is never begun again"
        refused.append(validation.Problem("execution_policy.idempotent", why))
    # 1 to 10 and the lower the sooner, onto a scale on which 0 is usual and the higher goes first.
    fields: Document = {"backoffLimit": policy.retry_count, "priority": (5 - policy.priority) * 100}
    if policy.timeout_seconds is not None:
        fields["activeDeadlineSeconds"] = policy.timeout_seconds
    return fields


def _check_actions(actions: list[str], operation: models.Operation, refused: list[validation.Problem]) -> None:
    for index, action in enumerate(actions):
        known = ACTIONS.get(action, f"there is no action {action!a}; there are {', '.join(sorted(ACTIONS))}")
        if isinstance(known, str):
            refused.append(validation.Problem(f"requested_actions[{index}]", known))
        elif operation not in known:
            why = f"{action} is no step of the operation {operation.value}"
            refused.append(validation.Problem(f"requested_actions[{index}]", why))


def _annotations(wanted: JobSpec1) -> dict[str, str]:
    """Return what tells something and asks for nothing."""
    told = {
        "requested-by": wanted.audit.requested_by,
        "ticket": wanted.audit.ticket,
        "created-at": wanted.created_at,
        "size-bytes": wanted.image.size_bytes,
    }
    return {f"{ANNOTATION}{name}": str(value) for name, value in told.items() if value is not None}


def _unsupported(refused: list[validation.Problem]) -> JobError:
    error = validation._refusal(refused)
    error.error_class, error.reason = ErrorClass.UNSUPPORTED, "UnsupportedJobSpec"
    error.message = error.message.replace("is not valid", "of JobSpec 1.0 asks for what cannot be honoured", 1)
    error.suggestion = "Leave these out, or write a job of this protocol; docs/worker/JOBSPEC1.md has the mapping."
    return error


def _in_its_own_words(error: JobError) -> JobError:
    """Return ``error`` with the fields named as JobSpec 1.0 names them."""
    told = (error.details or {}).get("problems")
    if told is None or error.reason != "InvalidDocument":
        return error
    renamed = validation._refusal([validation.Problem(_origin(one["field"]), one["message"]) for one in told])
    renamed.suggestion = "Correct the document; docs/worker/JOBSPEC1.md lists every field."
    return renamed


def _origin(field: str) -> str:
    fits = [path for path in _ORIGIN if field == path or field.startswith((f"{path}.", f"{path}["))]
    return _ORIGIN[max(fits, key=len)] if fits else field
