# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Documents of JobSpec 1.0: every field is mapped, kept or refused; none is ignored."""

from __future__ import annotations

import copy
import json
import pathlib
import re
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers import registry
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import jobspec1, models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PAGE = pathlib.Path(__file__).parents[5] / "docs/worker/JOBSPEC1.md"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

Document = dict[str, t.Any]


def document(**changes: t.Any) -> Document:
    """A conversion; ``changes`` are fields by their path with ``__`` for the dot, None takes one away."""
    made: Document = {
        "version": "1.0",
        "job_id": "job-uuid-1234",
        "operation": "convert",
        "image": {"path": "vms/Web_01.vmdk"},
        "artifacts": {"output_path": "/data/output"},
        "audit": {"requested_by": "api-service"},
    }
    for path, value in changes.items():
        *parts, last = path.split("__")
        part = made
        for name in parts:
            part = part.setdefault(name, {})
        if value is None:
            part.pop(last, None)
        else:
            part[last] = value
    return made


def field(job: models.MigrationJob, path: str) -> t.Any:
    """A field of the job's document; None where it is unset."""
    found: t.Any = job.to_document()
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


MAPPED: list[tuple[Document, str, t.Any]] = [
    ({}, "metadata.name", "job-uuid-1234"),
    ({}, "spec.operation", "convert"),
    ({"operation": "inspect"}, "spec.operation", "inspect"),
    ({"operation": "offline_fix", "image__format": "raw"}, "spec.operation", "fix"),
    ({"operation": "offline_fix", "image__format": "raw"}, "spec.target.format", "raw"),
    ({"operation": "offline_fix", "image__path": "a.IMG"}, "spec.target.format", "raw"),
    ({"operation": "initramfs_regenerate", "image__path": "a.qcow2"}, "spec.guest.fixers.only", ["initramfs"]),
    ({}, "spec.source.path", "vms/Web_01.vmdk"),
    ({}, "spec.source.type", "auto"),
    ({"image__format": "vmdk"}, "spec.source.type", "vmdk"),
    ({"image__checksum": DIGEST.upper()}, "spec.source.digest", f"sha256:{DIGEST}"),
    ({"image__checksum": f"sha256:{DIGEST}"}, "spec.source.digest", f"sha256:{DIGEST}"),
    ({}, "spec.target.path", "/data/output/job-uuid-1234"),
    ({"artifacts__output_path": "out/"}, "spec.target.path", "out/job-uuid-1234"),
    ({}, "spec.target.name", "web-01"),
    ({"image__path": "__.vmdk"}, "spec.target.name", None),
    ({}, "spec.target.format", "qcow2"),
    ({"parameters__output_format": "raw"}, "spec.target.format", "raw"),
    ({"parameters__compress": True}, "spec.target.compression", "zlib"),
    ({"parameters__compress": False}, "spec.target.compression", "none"),
    ({"capability_requirements__needs_nbd": True}, "spec.requirements.capabilities", ["attach"]),
    ({"capability_requirements__needs_mount": True}, "spec.requirements.capabilities", ["attach"]),
    ({"capability_requirements__needs_lvm": True}, "spec.requirements.capabilities", ["guest-volumes"]),
    ({}, "spec.backoffLimit", 0),
    ({"execution_policy__retry_count": 5}, "spec.backoffLimit", 5),
    ({}, "spec.activeDeadlineSeconds", None),
    ({"execution_policy__timeout_seconds": 7200}, "spec.activeDeadlineSeconds", 7200),
    ({}, "spec.priority", 0),
    ({"execution_policy__priority": 1}, "spec.priority", 400),
    ({"execution_policy__priority": 10}, "spec.priority", -500),
    ({"audit__tags": {"wave": "1"}}, "metadata.labels", {"wave": "1"}),
]


@pytest.mark.parametrize(("changes", "path", "value"), MAPPED)
def test_each_field_has_its_place(changes: Document, path: str, value: t.Any) -> None:
    assert field(jobspec1.parse(document(**changes)), path) == value


def test_what_only_tells_something_is_kept_with_the_job() -> None:
    told = document(audit__ticket="INC-1", created_at="2026-01-30T10:00:00Z", image__size_bytes=42)
    assert jobspec1.parse(told).metadata.annotations == {
        "jobspec1.hyper2kvm.io/requested-by": "api-service",
        "jobspec1.hyper2kvm.io/ticket": "INC-1",
        "jobspec1.hyper2kvm.io/created-at": "2026-01-30T10:00:00Z",
        "jobspec1.hyper2kvm.io/size-bytes": "42",
    }


REFUSED: list[tuple[Document, str]] = [
    ({"operation": "selinux_prep"}, "operation"),
    ({"operation": "lvm_repair"}, "operation"),
    ({"operation": "fs_repair"}, "operation"),
    ({"operation": "offline_fix"}, "image.format"),
    ({"operation": "offline_fix", "image__format": "vmdk"}, "image.format"),
    ({"requested_actions": ["fsck"]}, "requested_actions[0]"),
    ({"requested_actions": ["mount", "selinux_prep"]}, "requested_actions[1]"),
    ({"requested_actions": ["dance"]}, "requested_actions[0]"),
    ({"operation": "inspect", "requested_actions": ["initramfs_regenerate"]}, "requested_actions[0]"),
    ({"capability_requirements__needs_selinux_tools": True}, "capability_requirements.needs_selinux_tools"),
    ({"capability_requirements__min_memory_gb": 4}, "capability_requirements.min_memory_gb"),
    ({"capability_requirements__min_disk_space_gb": 4}, "capability_requirements.min_disk_space_gb"),
    ({"execution_policy__idempotent": False}, "execution_policy.idempotent"),
    ({"artifacts__store_fixed_image": False}, "artifacts.store_fixed_image"),
    ({"artifacts__keep_intermediates": True}, "artifacts.keep_intermediates"),
    ({"parameters__fstab_mode": "uuid"}, "parameters.fstab_mode"),
    ({"operation": "inspect", "parameters__compress": True}, "parameters.compress"),
]


@pytest.mark.parametrize(("changes", "where"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name_with_the_reason(changes: Document, where: str) -> None:
    with pytest.raises(JobError) as caught:
        jobspec1.parse(document(**changes))
    error = caught.value
    assert (error.error_class, error.reason) == (ErrorClass.UNSUPPORTED, "UnsupportedJobSpec")
    (problem,) = (error.details or {})["problems"]
    assert problem["field"] == where and len(problem["message"]) > 20
    assert f"{where}: " in str(error) and "JOBSPEC1.md" in error.suggestion


INVALID: list[tuple[Document, str]] = [
    ({"version": "2.0"}, "version"),
    ({"job_id": "Not A Name"}, "job_id"),
    ({"operation": "teleport"}, "operation"),
    ({"image__path": None}, "image.path"),
    ({"image__path": "../etc/shadow"}, "image.path"),
    ({"image__format": "floppy"}, "image.format"),
    ({"image__checksum": "md5:1"}, "image.checksum"),
    ({"image__sise_bytes": 1}, "image.sise_bytes"),
    ({"execution_policy__retry_count": 6}, "execution_policy.retry_count"),
    ({"execution_policy__priority": 0}, "execution_policy.priority"),
    ({"artifacts__output_path": ""}, "artifacts.output_path"),
    ({"artifacts__output_path": "a/../.."}, "artifacts.output_path"),
    ({"audit": None}, "audit"),
    ({"audit__tags": {"a b": "c"}}, "audit.tags"),
    ({"parameters__output_format": "vdi"}, "parameters.output_format"),
    ({"surprise": 1}, "surprise"),
]


@pytest.mark.parametrize(("changes", "where"), INVALID)
def test_a_mistake_is_told_in_the_documents_own_words(changes: Document, where: str) -> None:
    with pytest.raises(JobError) as caught:
        jobspec1.parse(document(**changes))
    assert caught.value.error_class is ErrorClass.INVALID
    fields = [problem["field"] for problem in (caught.value.details or {})["problems"]]
    assert all(one == where or one.startswith((f"{where}.", f"{where}[")) for one in fields), fields


def test_documents_of_either_protocol_are_taken_as_text_and_as_data() -> None:
    told = document()
    ours = jobspec1.parse(told).to_document()
    assert jobspec1.parse(json.dumps(told)).to_document() == ours
    assert jobspec1.parse(ours).to_document() == ours
    # One that says what it is, is that.
    with pytest.raises(JobError, match="job_id: unknown field"):
        jobspec1.parse({**ours, "job_id": "x"})


def test_the_fixers_are_such_as_there_are() -> None:
    known = {fixer.name for fixer in registry.fixers(t.cast("t.Any", None))}
    for mapped in jobspec1.OPERATIONS.values():
        if isinstance(mapped, jobspec1.Mapped):
            assert set(mapped.fixers) <= known


def leaves(model: type[t.Any], prefix: str = "") -> t.Iterator[str]:
    """Every field of JobSpec 1.0 by its path."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, jobspec1._Part):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_page_has_a_row_for_each_field_operation_and_action() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (*leaves(jobspec1.JobSpec1), *jobspec1.OPERATIONS, *jobspec1.ACTIONS):
        assert re.search(rf"^\|[^|]*`{re.escape(name)}`", page, re.MULTILINE), name


# -- no field is ignored -----------------------------------------------------------------------------------------------

_OTHERS: dict[str, t.Any] = {
    "job_id": "another",
    "created_at": "2026-01-30T10:00:00Z",
    "operation": "inspect",
    "image.path": "vms/other.vmdk",
    "image.format": "vmdk",
    "image.checksum": DIGEST,
    "image.size_bytes": 1,
    "requested_actions": ["fsck"],
    "capability_requirements.needs_nbd": True,
    "capability_requirements.needs_lvm": True,
    "capability_requirements.needs_mount": True,
    "capability_requirements.needs_selinux_tools": True,
    "capability_requirements.min_memory_gb": 1,
    "capability_requirements.min_disk_space_gb": 1,
    "execution_policy.retry_count": 1,
    "execution_policy.timeout_seconds": 60,
    "execution_policy.idempotent": False,
    "execution_policy.priority": 1,
    "artifacts.store_fixed_image": False,
    "artifacts.output_path": "elsewhere",
    "artifacts.keep_intermediates": True,
    "audit.requested_by": "somebody",
    "audit.ticket": "INC-1",
    "audit.tags": {"a": "b"},
    "parameters": {"output_format": "raw"},
}
#: ``log_upload``: nothing is uploaded anywhere, and the logs lie in the output folder either way. ``version`` has one
#: value.
_WITHOUT_CHOICE = {"version", "artifacts.log_upload"}


def outcome(told: Document) -> t.Any:
    """The job, or why there is none."""
    try:
        return jobspec1.parse(told).to_document()
    except JobError as error:
        return str(error)


@pytest.mark.parametrize("path", [name for name in leaves(jobspec1.JobSpec1) if name not in _WITHOUT_CHOICE])
def test_every_field_makes_a_difference(path: str) -> None:
    assert outcome(document(**{path.replace(".", "__"): _OTHERS[path]})) != outcome(document())


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
_JSON = _SCALARS | st.lists(_SCALARS, max_size=3) | st.dictionaries(st.text(max_size=10), _SCALARS, max_size=3)
_PATHS = [*leaves(jobspec1.JobSpec1), "surprise", "image", "audit", "artifacts", "parameters.compress"]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(_PATHS), _JSON, max_size=4))
def test_any_document_is_a_job_or_an_error_for_people(changes: Document) -> None:
    told = document()
    for path, value in changes.items():
        part = told
        *parts, last = path.split(".")
        for name in parts:
            if not isinstance(part.get(name), dict):
                part[name] = {}
            part = part[name]
        part[last] = value
    before = copy.deepcopy(told)
    try:
        job = jobspec1.parse(told)
    except JobError as error:
        assert error.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)
        assert (error.details or {})["problems"]
    else:
        # It is a document of this protocol, which says the same again.
        assert jobspec1.parse(json.dumps(job.to_document())).spec == job.spec
    assert told == before
