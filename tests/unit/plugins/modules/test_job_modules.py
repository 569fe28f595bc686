# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules about jobs, on a queue without a worker."""

from __future__ import annotations

import json
import os
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import module as plumbing
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Hold
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import _pydantic, models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import environment, transient, unsupported
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import engine, workdirs
from ansible_collections.hyper2kvm.core.plugins.modules import (
    guest_fix,
    job_validate,
    migration_job,
    migration_job_info,
    worker_info,
)

if t.TYPE_CHECKING:
    from .conftest import Run

Host = dict[str, t.Any]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    """Options that name the folders of a host with one source."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input/web01.raw").write_bytes(bytes(1 << 20))
    return {"input_root": str(tmp_path / "input"), "output_root": str(tmp_path / "output")}


def wanted(**options: t.Any) -> dict[str, t.Any]:
    """Options of a job that is not waited for."""
    return {"name": "web01", "source": {"path": "web01.raw"}, "wait": False, **options}


def queue(host: Host) -> LocalBackend:
    """The queue of a host."""
    return LocalBackend(pathlib.Path(host["output_root"]) / ".hyper2kvm")


def take(host: Host) -> Hold:
    """Claim the next job as a worker would."""
    backend = queue(host)
    registration = models.WorkerRegistration(
        name="tester",
        host="here",
        boot_id="x",
        pid=os.getpid(),
        collection_version="1.0.0",
        slots=4,
        capabilities={
            name: models.Capability(available=True)
            for name in ("qemu-img", "root", "attach", "boot-test", "nbd", "fuse")
        },
    )
    backend.register(registration, "{}", 30.0)
    job = backend.claim("tester")
    assert job is not None
    return Hold(job.metadata.uid or "", job.status.epoch)


def fail(host: Host) -> None:
    """Let the next job fail for good."""
    queue(host).fail(take(host), unsupported("NoRootDevice", "The root device is missing.", "Look at the initramfs."))


def result_of(job: models.MigrationJob, host: Host) -> models.JobResult:
    """What the engine would tell of a job that it has done."""
    return models.JobResult(
        job=job.metadata.name,
        uid=job.metadata.uid or "",
        operation=job.spec.operation,
        verdict="boots",
        source_identity=open_source(job.spec.source, pathlib.Path(host["input_root"])).identity,
        spec_digest=validation.spec_digest(job.spec),
        completed_at="2026-01-01T00:00:00Z",
        seconds=1.0,
    )


def publish(host: Host, job: dict[str, t.Any]) -> pathlib.Path:
    """Write the result document as the engine does when a job's work is whole."""
    parsed = validation.parse_job({key: job[key] for key in ("metadata", "spec")})
    result = result_of(parsed, host)
    path = pathlib.Path(host["output_root"]) / parsed.metadata.name / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result.to_document()), encoding="utf-8")
    return path


def test_a_job_is_submitted_once(run: Run, host: Host) -> None:
    first = run(migration_job, **host, **wanted())
    again = run(migration_job, **host, **wanted())
    assert first["changed"] and first["job"]["status"]["phase"] == "QUEUED"
    assert first["diff"][0]["before"] == "" and first["diff"][0]["after"]["spec"]["source"]["path"] == "web01.raw"
    assert not again["changed"] and again["job"]["metadata"]["uid"] == first["job"]["metadata"]["uid"]


def test_a_failure_policy_is_an_option_and_its_rule_is_told(run: Run, host: Host) -> None:
    rules = [{"classes": ["transient"], "reasons": ["Hiccup"], "action": "FailJob"}]
    first = run(migration_job, **host, **wanted(failure_policy={"rules": rules}))
    assert first["job"]["spec"]["failurePolicy"] == {"rules": rules}
    again = run(migration_job, **host, **wanted(failure_policy={"rules": rules}))
    assert not again["changed"]
    other = run(
        migration_job, **host, **wanted(failure_policy={"rules": [{"classes": ["internal"], "action": "Retry"}]})
    )
    assert other["failed"] and "spec.failurePolicy.rules" in other["msg"]
    queue(host).fail(take(host), transient("Hiccup", "The disk hiccupped.", "Look at it."))
    ended = run(migration_job, **host, name="web01")
    assert ended["failed"] and ended["msg"] == "The disk hiccupped. Look at it."
    assert (ended["error"]["rule"], ended["error"]["retryable"]) == ({"index": 0, "action": "FailJob"}, False)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"action": "Retry"}, "give classes, reasons or both"),
        ({"classes": ["transient"]}, "missing required arguments: action"),
        ({"classes": ["passing"], "action": "Retry"}, "value of classes must be one or more of"),
        ({"reasons": ["WorkerLost"], "action": "FailJob"}, "no policy changes what follows WorkerLost"),
    ],
)
def test_a_failure_policy_that_cannot_be_honoured_is_refused(
    run: Run, host: Host, rule: dict[str, t.Any], words: str
) -> None:
    refused = run(migration_job, **host, **wanted(failure_policy={"rules": [rule]}))
    assert refused["failed"] and words in refused["msg"]


def test_check_mode_submits_nothing(run: Run, host: Host) -> None:
    result = run(migration_job, check=True, **host, **wanted(operation="inspect"))
    assert result["changed"] and result["diff"][0]["after"]["spec"]["operation"] == "inspect"
    assert not pathlib.Path(host["output_root"]).exists()


@pytest.mark.parametrize("operation", ["convert", "fix", "rehearse", "plan"])
def test_check_mode_shows_what_would_change_in_the_guest(
    run: Run, host: Host, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    change = models.FileChange(path="/etc/fstab", kind="write", fixer="fstab", why="names change", diff="-a\n+b\n")

    def plan(job: models.MigrationJob, roots: t.Any) -> models.JobResult:
        del roots
        return result_of(job, host).model_copy(update={"changes": [change]})

    monkeypatch.setattr(engine, "plan_only", plan)
    target = {"format": "raw"}
    seen = run(migration_job, check=True, **host, **wanted(operation=operation, target=target))
    assert seen["diff"][1]["prepared"].startswith("write /etc/fstab: names change (fstab)\n-a\n+b\n")
    assert not pathlib.Path(host["output_root"]).exists()


@pytest.mark.parametrize("check", [True, False])
def test_a_namespace_is_refused_where_there_are_none(run: Run, host: Host, check: bool) -> None:
    definition = {
        "apiVersion": "hyper2kvm.io/v1",
        "kind": "MigrationJob",
        "metadata": {"name": "web01", "namespace": "team-a"},
        "spec": {"source": {"path": "web01.raw"}, "operation": "inspect"},
    }
    refused = run(migration_job, check=check, definition=definition, wait=False, **host)
    assert refused["failed"] and refused["error"]["reason"] == "NoNamespaces"


def test_another_document_for_a_waiting_job_is_an_error_that_names_the_fields(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    result = run(migration_job, **host, **wanted(target={"format": "raw"}))
    assert result["failed"] and result["error"]["class"] == "invalid" and "spec.target.format" in result["msg"]


def test_a_failed_job_is_tried_again_under_a_new_uid(run: Run, host: Host) -> None:
    first = run(migration_job, **host, **wanted())
    fail(host)
    again = run(migration_job, **host, **wanted())
    assert again["changed"] and again["job"]["metadata"]["uid"] != first["job"]["metadata"]["uid"]


def test_the_target_decides_even_where_the_record_is_gone(run: Run, host: Host) -> None:
    publish(host, run(migration_job, check=True, **host, **wanted(operation="inspect"))["job"] | {})
    done = run(migration_job, **host, **wanted(operation="inspect"))
    assert done["changed"]  # inspect leaves inspect.json, and result.json is a conversion's

    job = run(job_validate, name="db01", source={"path": "web01.raw"})["job"]
    publish(host, job)
    unchanged = run(migration_job, **host, **wanted(name="db01"))
    assert not unchanged["changed"] and unchanged["job"]["status"]["phase"] == "COMPLETED"
    assert unchanged["job"]["status"]["result"]["verdict"] == "boots"
    assert [found["metadata"]["name"] for found in run(migration_job_info, **host)["jobs"]] == ["web01"]


@pytest.mark.parametrize("change", ["document", "source"])
def test_a_target_of_other_work_is_never_replaced_unasked(run: Run, host: Host, change: str) -> None:
    publish(host, run(job_validate, name="web01", source={"path": "web01.raw"})["job"])
    options: dict[str, t.Any] = {}
    if change == "document":
        options["guest"] = {"hostname": "other"}
    else:
        (pathlib.Path(host["input_root"]) / "web01.raw").write_bytes(b"\1" * (1 << 20))
    refused = run(migration_job, **host, **wanted(**options))
    assert refused["failed"] and refused["error"]["reason"] == "TargetDiffers"
    forced = run(migration_job, **host, **wanted(target={"force": True}, **options))
    assert forced["changed"] and forced["job"]["status"]["phase"] == "QUEUED"


def test_present_resumes_a_suspended_job(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    held = run(migration_job, **host, name="web01", state="suspended")
    assert held["changed"] and held["job"]["spec"]["suspend"]
    assert held["diff"] == [
        {"before_header": "web01", "after_header": "web01", "before": {"suspend": False}, "after": {"suspend": True}}
    ]
    assert not run(migration_job, **host, name="web01", state="suspended")["changed"]
    resumed = run(migration_job, **host, **wanted())
    assert resumed["changed"] and not resumed["job"]["spec"]["suspend"]


def test_cancelled_and_absent(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    assert run(migration_job, check=True, **host, name="web01", state="cancelled")["changed"]
    assert run(migration_job_info, **host, name="web01")["jobs"][0]["status"]["phase"] == "QUEUED"
    assert run(migration_job, **host, name="web01", state="cancelled")["job"]["status"]["phase"] == "CANCELLED"
    assert not run(migration_job, **host, name="web01", state="cancelled")["changed"]
    assert run(migration_job, **host, name="web01", state="absent")["changed"]
    assert not run(migration_job, **host, name="web01", state="absent")["changed"]
    assert run(migration_job_info, **host)["jobs"] == []


def test_absent_removes_what_was_kept_of_a_failed_job(run: Run, host: Host) -> None:
    uid = run(migration_job, **host, **wanted())["job"]["metadata"]["uid"]
    hold = take(host)
    output = pathlib.Path(host["output_root"])
    state = output / ".hyper2kvm"
    partial = output / "web01/web01.qcow2.1.partial"
    partial.parent.mkdir()
    partial.touch()
    workdir = state / "scratch" / f"web01.{uid}"
    workdir.parent.mkdir()
    with workdirs.held(workdir, state):
        (workdir / "state.json").write_text(json.dumps({"partials": {"disk0": [str(partial)]}}))
    queue(host).fail(hold, environment("NoTool", "A tool is missing.", "Install it."))

    run(migration_job, **host, name="web01", state="absent")

    assert list(workdir.parent.iterdir()) == []
    assert not partial.parent.exists()


def test_absent_needs_no_queue(run: Run, host: Host) -> None:
    assert not run(migration_job, **host, name="web01", state="absent")["changed"]
    assert not pathlib.Path(host["output_root"]).exists()


def test_a_name_alone_waits_for_what_is_there(run: Run, host: Host) -> None:
    missing = run(migration_job, **host, name="web01")
    assert missing["failed"] and missing["error"]["reason"] == "NoSuchJob"
    run(migration_job, **host, **wanted())
    slow = run(migration_job, **host, name="web01", wait_timeout=1)
    assert slow["failed"] and slow["error"]["reason"] == "WaitTimeout" and slow["error"]["retryable"]
    fail(host)
    ended = run(migration_job, **host, name="web01")
    assert ended["failed"] and ended["error"]["reason"] == "NoRootDevice"
    assert "The root device is missing. Look at the initramfs." in ended["msg"]


def test_a_definition_and_options_exclude_each_other(run: Run, host: Host) -> None:
    definition = {"metadata": {"name": "web01"}, "spec": {"source": {"path": "web01.raw"}}}
    result = run(migration_job, **host, **wanted(definition=definition))
    assert result["failed"] and "mutually exclusive" in result["msg"]


def test_rollback_removes_what_was_published_and_nothing_else(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    queue(host).cancel("web01")
    result = publish(host, run(migration_job_info, **host, name="web01")["jobs"][0])
    (result.parent / "notes.txt").write_text("mine", encoding="utf-8")
    there = run(migration_job, check=True, **host, name="web01", state="absent", remove_target=True)
    assert there["changed"] and there["removed"] == ["web01/result.json"] and result.exists()
    gone = run(migration_job, **host, name="web01", state="absent", remove_target=True)
    assert gone["changed"] and gone["removed"] == ["web01/result.json"]
    assert sorted(path.name for path in result.parent.iterdir()) == ["notes.txt"]
    assert not run(migration_job, **host, name="web01", state="absent", remove_target=True)["changed"]


def test_rollback_leaves_devices_and_says_so(run: Run, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda _module, text: warnings.append(text))
    result = publish(host, run(job_validate, name="web01", source={"path": "web01.raw"})["job"])
    document = json.loads(result.read_text(encoding="utf-8"))
    document["artifacts"] = [{"path": "/dev/null", "kind": "disk", "format": "raw", "sizeBytes": 4096}]
    result.write_text(json.dumps(document), encoding="utf-8")
    gone = run(migration_job, **host, name="web01", state="absent", remove_target=True)
    assert gone["removed"] == ["web01/result.json"] and not result.exists()
    assert pathlib.Path("/dev/null").exists()
    (warning,) = warnings
    assert "/dev/null" in warning and "wipefs" in warning, warning


@pytest.mark.parametrize("what", ["changed", "in use"])
def test_rollback_refuses_what_somebody_touched(run: Run, host: Host, what: str) -> None:
    result = publish(host, run(job_validate, name="web01", source={"path": "web01.raw"})["job"])
    disk = result.with_name("web01.img")
    disk.write_bytes(b"x" * 4096)
    document = json.loads(result.read_text(encoding="utf-8"))
    digest = "sha256:" + "0" * 64
    document["artifacts"] = [
        {"path": "web01/web01.img", "kind": "disk", "format": "raw", "sizeBytes": 4096, "digest": digest}
    ]
    result.write_text(json.dumps(document), encoding="utf-8")
    options = {"name": "web01", "state": "absent", "remove_target": True}
    if what == "in use":
        with disk.open("r+b"):
            refused = run(migration_job, **host, **options)
        assert refused["error"]["reason"] == "TargetInUse"
    else:
        refused = run(migration_job, **host, **options)
        assert refused["error"]["reason"] == "TargetChanged"
    assert refused["failed"] and disk.exists() and result.exists()


def test_info_waits_only_as_long_as_the_job_is_where_it_was(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    seen = run(migration_job_info, **host, name="web01", wait_timeout=60, wait_while="RUNNING/copy")
    assert seen["jobs"][0]["status"]["phase"] == "QUEUED"
    assert seen["jobs"][0]["status"]["waiting"][0]["message"]


def test_info_selects_by_label(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted(labels={"batch": "1"}))
    run(migration_job, **host, **wanted(name="db01", labels={"batch": "2"}))
    jobs = run(migration_job_info, **host, label_selectors=["batch=2"])["jobs"]
    assert [job["metadata"]["name"] for job in jobs] == ["db01"]
    assert run(migration_job_info, **host, label_selectors=["batch"])["error"]["reason"] == "InvalidSelector"


def test_info_tells_why_a_job_waits(run: Run, host: Host) -> None:
    assert run(migration_job_info, **host, name="web01", explain=True)["waiting"] == []
    run(migration_job, **host, name="web01", source={"path": "web01.ova"}, wait=False)
    run(migration_job, **host, name="web01", state="suspended")
    found = run(migration_job_info, **host, name="web01", explain=True)
    assert [one["reason"] for one in found["waiting"]] == ["Suspended"]


def test_info_returns_events_without_a_gap(run: Run, host: Host) -> None:
    run(migration_job, **host, **wanted())
    events = run(migration_job_info, **host, name="web01", events=True)["events"]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1)) and events


def test_workers_are_told(run: Run, host: Host) -> None:
    assert run(worker_info, **host)["workers"] == []
    run(migration_job, **host, **wanted())
    take(host)
    (worker,) = run(worker_info, **host)["workers"]
    assert worker["registration"]["name"] == "tester" and list(worker["running"]) == ["web01"]


def test_a_bad_document_names_each_field(run: Run) -> None:
    definition = {"metadata": {"name": "Web"}, "spec": {"source": {"path": "a.ova"}, "target": {"format": "vhd"}}}
    result = run(job_validate, definition=definition)
    assert result["failed"] and result["error"]["class"] == "invalid"
    assert "metadata.name" in result["msg"] and "spec.target.format" in result["msg"]


def test_a_missing_library_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pydantic, "HAS_PYDANTIC", False)
    monkeypatch.setattr(plumbing, "VENV_PYTHON", "/nonexistent/python")
    result = run(job_validate, name="a", source={"path": "a.ova"})
    assert result["failed"] and "pydantic" in result["msg"]


def test_a_missing_library_makes_the_module_run_in_the_collections_own_venv(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    python = tmp_path / "python"
    python.touch()
    asked: list[str] = []

    def respawn(interpreter: str) -> None:
        asked.append(interpreter)
        raise SystemExit("{}")

    monkeypatch.setattr(_pydantic, "HAS_PYDANTIC", False)
    monkeypatch.setattr(plumbing, "VENV_PYTHON", str(python))
    monkeypatch.setattr(plumbing, "respawn_module", respawn)
    with pytest.raises(json.JSONDecodeError):
        run(job_validate, name="a", source={"path": "a.ova"})
    assert asked == [str(python)]


def test_a_mistake_of_our_own_is_told_without_a_bare_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_params: t.Any) -> t.Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(job_validate.options, "job", broken)
    result = run(job_validate, name="a", source={"path": "a.ova"})
    assert result["failed"] and result["error"]["class"] == "internal" and "Traceback" not in result["msg"]


def test_a_repair_refuses_what_it_would_not_do(run: Run, host: Host) -> None:
    image = pathlib.Path(host["output_root"]) / "vm.raw"
    image.parent.mkdir()
    image.write_bytes(bytes(1 << 20))
    guest = {"hostname": "web01", "fixers": {"skip": ["hostname"]}}
    refused = run(guest_fix, source={"path": str(image)}, guest=guest, **host)
    assert refused["error"]["reason"] == "InvalidDocument" and "fixers.skip names hostname" in refused["msg"]
