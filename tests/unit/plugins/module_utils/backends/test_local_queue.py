# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local queue as its users and workers see it, on a real database."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends import host, local_worker
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import (
    Conflict,
    Fenced,
    Hold,
    NotFound,
    Order,
    Outcome,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError, environment, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from tests.unit.plugins.module_utils.backends.samples import BASICS, job, result, stage, worker

PROBLEM = transient("Hiccup", "the disk hiccupped")


@pytest.fixture
def queue(tmp_path: pathlib.Path) -> t.Iterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "state")
    yield backend
    backend.close()


def claim(queue: LocalBackend, name: str = "host-1") -> tuple[models.MigrationJob, Hold]:
    if name not in queue.roots_of_workers():
        queue.register(worker(name), "roots", 30.0)
    taken = queue.claim(name)
    assert taken is not None
    return taken, hold_of(taken)


def hold_of(of: models.MigrationJob) -> Hold:
    return Hold(of.metadata.uid or "", of.status.epoch)


def lines(tmp_path: pathlib.Path, name: str) -> list[dict[str, t.Any]]:
    text = (tmp_path / "state" / "events" / f"{name}.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


# -- submitting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_namespace_is_refused_where_there_are_none(queue: LocalBackend, dry_run: bool) -> None:
    wanted = job("a")
    wanted.metadata.namespace = "team-a"
    with pytest.raises(JobError, match="namespace team-a") as caught:
        queue.submit(wanted, dry_run=dry_run)
    assert caught.value.reason == "NoNamespaces" and caught.value.suggestion and queue.list() == []
    wanted.metadata.namespace = "default"
    assert queue.submit(wanted, dry_run=dry_run).outcome is Outcome.CREATED


def test_a_job_is_submitted_once(queue: LocalBackend) -> None:
    first = queue.submit(job())
    again = queue.submit(job())
    assert (first.outcome, again.outcome) == (Outcome.CREATED, Outcome.UNCHANGED)
    assert first.job.status.phase is Phase.QUEUED
    assert again.job.metadata.uid == first.job.metadata.uid
    assert len(queue.list()) == 1


def test_a_differing_document_is_refused_with_its_fields(queue: LocalBackend) -> None:
    queue.submit(job())
    with pytest.raises(Conflict, match=r"spec\.source\.path"):
        queue.submit(job(source=models.SourceSpec(path="other.ova")))
    forced = queue.submit(job(source=models.SourceSpec(path="other.ova")), force=True)
    assert forced.outcome is Outcome.RETRIED
    assert queue.get("web01-inspect").spec.source.path == "other.ova"


def test_mutable_fields_and_labels_change_in_place(queue: LocalBackend) -> None:
    uid = queue.submit(job()).job.metadata.uid
    changed = queue.submit(job(priority=5, suspend=True, labels={"wave": "1"}))
    assert changed.outcome is Outcome.UPDATED
    now = queue.get("web01-inspect")
    assert (now.metadata.uid, now.spec.priority, now.spec.suspend) == (uid, 5, True)
    assert now.metadata.labels == {"wave": "1"}
    assert queue.submit(job(labels={"wave": "1"})).job.spec.suspend is False


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_a_job_that_did_not_end_well_is_tried_again_under_a_new_uid(queue: LocalBackend, end: str) -> None:
    queue.submit(job())
    taken, hold = claim(queue)
    queue.stage_started(hold, "inspect")
    queue.stage_ended(hold, stage("inspect"))
    if end == "fail":
        queue.fail(hold, environment("NoSpace", "the disk is full"))
    else:
        queue.cancel("web01-inspect")
        queue.cancelled(hold)
    again = queue.submit(job())
    assert again.outcome is Outcome.RETRIED
    assert again.before is not None
    assert again.before.status.phase in (Phase.FAILED, Phase.CANCELLED)
    assert again.job.metadata.uid != taken.metadata.uid
    assert (again.job.status.phase, again.job.status.epoch) == (Phase.QUEUED, 0)
    assert [record.name for record in again.job.status.stages] == ["inspect"]
    with pytest.raises(Fenced):
        queue.stage_ended(hold, stage("late"))


def test_stages_are_not_kept_for_another_spec(queue: LocalBackend) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    queue.stage_started(hold, "inspect")
    queue.stage_ended(hold, stage("inspect"))
    queue.fail(hold, environment("NoSpace", "the disk is full"))
    again = queue.submit(job(source=models.SourceSpec(path="other.ova")))
    assert again.job.status.stages == []


def test_a_completed_job_stays_unless_forced(queue: LocalBackend) -> None:
    queue.submit(job())
    taken, hold = claim(queue)
    queue.complete(hold, result(taken))
    assert queue.submit(job()).outcome is Outcome.UNCHANGED
    with pytest.raises(Conflict, match=r"COMPLETED.*spec\.source\.path"):
        queue.submit(job(source=models.SourceSpec(path="other.ova")))
    assert queue.submit(job(), force=True).outcome is Outcome.RETRIED


def test_a_running_job_that_differs_is_refused_or_stopped_first(queue: LocalBackend) -> None:
    queue.submit(job())
    taken, hold = claim(queue)
    other = job(source=models.SourceSpec(path="other.ova"))
    with pytest.raises(Conflict, match="ASSIGNED"):
        queue.submit(other)

    def obey() -> None:
        while queue.orders("host-1", [hold]).get(hold) is not Order.CANCEL:
            time.sleep(0.01)
        queue.cancelled(hold)

    obeying = threading.Thread(target=obey)
    obeying.start()
    forced = queue.submit(other, force=True)
    obeying.join()
    assert forced.outcome is Outcome.RETRIED
    assert forced.job.metadata.uid != taken.metadata.uid


def test_a_dry_run_tells_and_changes_nothing(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    assert queue.submit(job(), dry_run=True).outcome is Outcome.CREATED
    assert queue.list() == []
    assert not (tmp_path / "state" / "events" / "web01-inspect.jsonl").exists()
    queue.submit(job())
    assert queue.submit(job(priority=3), dry_run=True).outcome is Outcome.UPDATED
    assert queue.get("web01-inspect").spec.priority == 0


def test_a_document_that_says_cancel_ends_at_once(queue: LocalBackend) -> None:
    assert queue.submit(job(cancel=True)).job.status.phase is Phase.CANCELLED


def test_unknown_jobs_are_not_found(queue: LocalBackend) -> None:
    for act in (queue.get, queue.cancel, queue.delete, queue.explain, queue.events):
        with pytest.raises(NotFound, match="nobody"):
            act("nobody")
    with pytest.raises(NotFound):
        next(queue.watch(["nobody"]))


def test_lists_can_be_narrowed_by_labels(queue: LocalBackend) -> None:
    queue.submit(job("a", labels={"wave": "1", "site": "x"}))
    queue.submit(job("b", labels={"wave": "2"}))
    assert [one.metadata.name for one in queue.list({"wave": "1"})] == ["a"]
    assert [one.metadata.name for one in queue.list()] == ["a", "b"]


# -- claiming --------------------------------------------------------------------------------------------------------


def test_claims_follow_priority_then_age_and_slots(queue: LocalBackend) -> None:
    for name, priority in (("old", 0), ("new", 0), ("urgent", 9)):
        queue.submit(job(name, priority=priority))
    queue.submit(job("held-back", priority=99, suspend=True))
    queue.set_priority("new", 1)
    assert [claim(queue)[0].metadata.name for dummy in range(2)] == ["urgent", "new"]
    assert queue.claim("host-1") is None
    assert claim(queue, "host-2")[0].metadata.name == "old"
    assert queue.claim("host-2") is None
    queue.suspend("held-back", False)
    assert claim(queue, "host-2")[0].metadata.name == "held-back"


def test_a_job_goes_only_to_a_worker_that_can_do_it(queue: LocalBackend) -> None:
    queue.submit(job(requirements=models.Requirements(capabilities=["kvm"])))
    queue.register(worker("plain"), "", 30.0)
    assert queue.claim("plain") is None
    reasons = queue.get("web01-inspect").status.waiting
    assert [(one.reason, one.count, one.examples) for one in reasons] == [("CapabilityMissing", 1, ["plain"])]
    queue.register(worker("strong", ["qemu-img", "root", "attach", "kvm"]), "", 30.0)
    assert queue.explain("web01-inspect") == []
    assert queue.claim("strong") is not None


def test_a_worker_waits_for_what_is_in_its_name(queue: LocalBackend) -> None:
    queue.register(worker(), "", 30.0)
    assert not queue.may_wait_for("host-1")
    queue.submit(job())
    dummy, hold = claim(queue)
    # It may have given the job up, and been unable to say so.
    assert queue.may_wait_for("host-1")
    queue.cancel("web01-inspect")
    queue.cancelled(hold)
    assert not queue.may_wait_for("host-1")


def test_waiting_is_explained(queue: LocalBackend) -> None:
    queue.submit(job("a"))
    assert [one.reason for one in queue.explain("a")] == ["NoWorker"]
    queue.register(worker(slots=1), "", 30.0)
    queue.claim("host-1")
    queue.submit(job("b"))
    queue.submit(job("c"))
    assert [one.reason for one in queue.explain("c")] == ["NoFreeSlot", "JobsAhead"]
    assert "1 waiting jobs go first: b" in queue.explain("c")[1].message
    queue.suspend("c")
    assert [one.reason for one in queue.explain("c")] == ["Suspended"]


def test_a_claim_raises_the_epoch_and_fences_the_one_before(queue: LocalBackend) -> None:
    queue.submit(job())
    dummy, old = claim(queue)
    queue.release(old, "handed back")
    dummy, new = claim(queue)
    assert new.epoch == old.epoch + 1
    late: list[t.Callable[[], object]] = [
        lambda: queue.stage_started(old, "copy"),
        lambda: queue.progress(old, models.Progress(stage="copy")),
        lambda: queue.stage_ended(old, stage("copy")),
        lambda: queue.warning(old, "late"),
        lambda: queue.complete(old, result(job())),
        lambda: queue.fail(old, PROBLEM),
        lambda: queue.cancelled(old),
        lambda: queue.release(old, "late"),
        lambda: queue.started(old, host.ProcessId.of(os.getpid())),
        lambda: queue.lease_left(old),
    ]
    before = queue.get("web01-inspect")
    for write in late:
        with pytest.raises(Fenced):
            write()
    assert queue.get("web01-inspect") == before
    assert queue.orders("host-1", [old]) == {old: Order.FENCED}
    assert queue.orders("host-1", [new]) == {}


def test_progress_is_seen_and_goes_stale(queue: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    queue.stage_started(hold, "copy")
    assert queue.get("web01-inspect").status.phase is Phase.RUNNING
    queue.progress(hold, models.Progress(stage="copy", bytes_done=1, bytes_total=2))
    seen = queue.get("web01-inspect").status
    assert seen.phase is Phase.PROGRESSING
    assert seen.progress is not None
    assert seen.progress.bytes_total == 2
    monkeypatch.setattr(local_worker, "PROGRESS_STALE_SECONDS", 0.0)
    beat = models.Heartbeat(
        worker="host-1",
        time="2026-01-01T00:00:00Z",
        running={hold.uid: hold.epoch},
        free_scratch_bytes=1,
        free_output_bytes=2,
    )
    queue.heartbeat(beat)
    assert queue.get("web01-inspect").status.phase is Phase.RUNNING
    assert [one.free_output_bytes for one in queue.workers()] == [2]


def test_progress_becomes_an_event_only_now_and_then(queue: LocalBackend) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    queue.stage_started(hold, "copy")
    for done in range(5):
        queue.progress(hold, models.Progress(stage="copy", bytes_done=done))
    assert [one.type for one in queue.events("web01-inspect")].count("io.hyper2kvm.job.progress") == 1


# -- ends ------------------------------------------------------------------------------------------------------------


def test_retryable_failures_back_off_until_the_limit(queue: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "BACKOFF_SECONDS", 1.0)
    queue.submit(job(backoff_limit=1))
    dummy, hold = claim(queue)
    assert queue.fail(hold, PROBLEM) is Phase.QUEUED
    waiting = queue.get("web01-inspect").status
    assert waiting.not_before is not None
    assert [one.reason for one in waiting.waiting] == ["BackingOff"]
    failed = time.monotonic()
    while (taken := queue.claim("host-1")) is None:
        assert time.monotonic() < failed + 60
        time.sleep(0.02)
    assert time.monotonic() - failed > 0.8
    assert queue.fail(hold_of(taken), PROBLEM) is Phase.FAILED
    ended = queue.get("web01-inspect").status
    assert [one.error.reason for one in ended.attempts if one.error] == ["Hiccup", "Hiccup"]
    assert ended.last_error is not None
    assert ended.last_error.message == "the disk hiccupped"


def policy(action: str, *classes: str, reasons: tuple[str, ...] = ()) -> models.FailurePolicy:
    return models.FailurePolicy.model_validate({"rules": [{"classes": classes, "reasons": reasons, "action": action}]})


def test_a_jobs_policy_decides_what_is_tried_again_and_it_is_said(queue: LocalBackend) -> None:
    full = environment("NoSpace", "the disk is full", "Make room.")
    queue.submit(job(failure_policy=policy("Retry", "environment", reasons=("NoSpace",))))
    dummy, hold = claim(queue)
    assert queue.fail(hold, full) is Phase.QUEUED
    waits = queue.get("web01-inspect").status
    assert waits.last_error is not None and waits.last_error.retryable
    matches = "the disk is full (matches spec.failurePolicy.rules[0]: Retry)"
    assert [(one.reason, matches in one.message) for one in waits.waiting] == [("BackingOff", True)]
    told = [event for event in queue.events("web01-inspect") if "error" in event.data][-1].data
    assert told["why"] == matches
    assert (told["error"]["rule"], told["error"]["retryable"]) == ({"index": 0, "action": "Retry"}, True)
    queue.submit(job("other", failure_policy=policy("FailJob", "transient")))
    dummy, hold = claim(queue)
    assert queue.fail(hold, PROBLEM) is Phase.FAILED


def test_no_policy_keeps_a_lost_workers_job_or_a_cancelled_one(queue: LocalBackend) -> None:
    queue.submit(job(failure_policy=policy("FailJob", "transient")))
    dummy, hold = claim(queue)
    queue.bury_workers()
    assert queue.get("web01-inspect").status.phase is Phase.QUEUED
    queue.submit(job("other", failure_policy=policy("Ignore", "transient"), priority=1))
    dummy, hold = claim(queue)
    queue.cancel("other")
    assert queue.fail(hold, PROBLEM) is Phase.CANCELLED


def test_what_a_guest_turned_out_to_need_is_waited_for(queue: LocalBackend) -> None:
    """By whatever the job's policy on retries says; but not for ever by who has it."""
    queue.submit(job(backoff_limit=0))
    dummy, hold = claim(queue)
    error = dataclasses.replace(environment("NoDeviceMapper", "it has volumes"), needs=("guest-volumes",))
    assert queue.fail(hold, error) is Phase.QUEUED
    assert queue.claim("host-1") is None
    (why,) = queue.get("web01-inspect").status.waiting
    assert why.reason == "CapabilityMissing" and "guest-volumes" in why.message
    queue.register(worker("host-2", capabilities=(*BASICS, "guest-volumes")), "", 60)
    taken = queue.claim("host-2")
    assert taken is not None
    assert queue.fail(hold_of(taken), error) is Phase.FAILED


def test_a_failure_carries_the_result_as_far_as_it_got(queue: LocalBackend) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    error = environment("NoSpace", "the disk is full")
    error.details = {"verdict": "will-not-boot"}
    queue.fail(hold, error)
    assert queue.get("web01-inspect").status.result == {"verdict": "will-not-boot"}


def test_completion_keeps_result_and_stage_records(queue: LocalBackend) -> None:
    queue.submit(job())
    taken, hold = claim(queue)
    queue.stage_started(hold, "inspect")
    queue.stage_ended(hold, stage("inspect"))
    queue.complete(hold, result(taken))
    ended = queue.get("web01-inspect").status
    assert ended.phase is Phase.COMPLETED
    assert ended.result is not None
    assert ended.result["verdict"] == "done"
    assert [one.name for one in ended.stages] == ["inspect"]
    assert ended.claim is None
    assert queue.list()[0].status.result is None


def test_orders_reach_the_worker(queue: LocalBackend) -> None:
    for name, fields in (("a", {}), ("b", {}), ("c", {"active_deadline_seconds": 1})):
        queue.submit(job(name, **fields))
    queue.register(worker(slots=3), "", 30.0)
    holds = {one.metadata.name: hold_of(one) for one in iter(lambda: queue.claim("host-1"), None)}
    assert queue.orders("host-1", holds.values()) == {}
    queue.cancel("a")
    queue.suspend("b")
    deadline = time.monotonic() + 60
    while holds["c"] not in queue.orders("host-1", holds.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert queue.orders("host-1", holds.values()) == {
        holds["a"]: Order.CANCEL,
        holds["b"]: Order.SUSPEND,
        holds["c"]: Order.DEADLINE,
    }


def test_a_suspended_job_that_is_cancelled_meanwhile_does_not_go_back(queue: LocalBackend) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    queue.suspend("web01-inspect")
    queue.cancel("web01-inspect")
    queue.release(hold, "suspended")
    assert queue.get("web01-inspect").status.phase is Phase.CANCELLED


def test_a_waiting_job_misses_its_deadline_and_a_finished_one_its_record(queue: LocalBackend) -> None:
    queue.submit(job("late", active_deadline_seconds=1))
    queue.submit(job("gone", ttl_seconds_after_finished=0))
    queue.cancel("gone")
    deadline = time.monotonic() + 60
    while queue.get("late").status.phase is not Phase.FAILED:
        assert time.monotonic() < deadline
        queue.maintain()
        time.sleep(0.05)
    error = queue.get("late").status.last_error
    assert error is not None
    assert error.reason == "DeadlineExceeded"
    assert [one.metadata.name for one in queue.list()] == ["late"]


def test_only_what_is_over_can_be_deleted(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.submit(job())
    with pytest.raises(Conflict, match="QUEUED"):
        queue.delete("web01-inspect")
    queue.cancel("web01-inspect")
    queue.delete("web01-inspect")
    assert queue.list() == []
    assert not (tmp_path / "state" / "events" / "web01-inspect.jsonl").exists()


def test_watching_shows_each_change_until_the_end(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.submit(job())
    watching = queue.watch(["web01-inspect"])
    assert next(watching).status.phase is Phase.QUEUED
    other = LocalBackend(tmp_path / "state")
    taken, hold = claim(other)
    assert next(watching).status.phase is Phase.ASSIGNED
    other.complete(hold, result(taken))
    assert [one.status.phase for one in watching] == [Phase.COMPLETED]
    assert [one.status.phase for one in queue.watch(["web01-inspect"], timeout=0)] == [Phase.COMPLETED]


# -- lost workers ----------------------------------------------------------------------------------------------------


def test_what_others_write_while_a_connection_is_made_anew_is_not_missed(
    queue: LocalBackend, tmp_path: pathlib.Path
) -> None:
    other = LocalBackend(tmp_path / "state")
    for number in range(4):
        before = queue.data_version()
        assert queue.data_version() == before
        queue.close()
        other.submit(job(f"web{number}"))
        assert queue.data_version() != before
    before = queue.data_version()
    other.submit(job("last"))
    assert queue.data_version() != before
    other.close()


def test_the_job_of_a_worker_whose_lease_ended_is_taken_over(queue: LocalBackend) -> None:
    queue.submit(job())
    queue.register(worker(), "", 0.05)
    taken = queue.claim("host-1")
    assert taken is not None
    assert queue.lost() == []
    time.sleep(0.06)
    (lost,) = queue.lost()
    assert (lost.hold, lost.name) == (hold_of(taken), "web01-inspect")
    queue.reclaim(lost, dead=False)
    queue.reclaim(lost, dead=False)
    now = queue.get("web01-inspect").status
    assert now.phase is Phase.QUEUED
    assert [one.error.reason for one in now.attempts if one.error] == ["LeaseExpired"]
    assert now.not_before is None


def test_a_renewed_lease_is_not_lost(queue: LocalBackend) -> None:
    queue.submit(job())
    queue.register(worker(), "", 0.2)
    taken = queue.claim("host-1")
    assert taken is not None
    hold = hold_of(taken)
    for dummy in range(6):
        time.sleep(0.05)
        queue.heartbeat(
            models.Heartbeat(
                worker="host-1",
                time="2026-01-01T00:00:00Z",
                running={hold.uid: hold.epoch},
                free_scratch_bytes=0,
                free_output_bytes=0,
            )
        )
    assert queue.lost() == []


def test_a_job_that_kills_its_workers_fails_in_the_end(queue: LocalBackend) -> None:
    queue.submit(job(backoff_limit=0))
    for attempt in range(status.MAX_LOSSES):
        queue.register(worker(f"host-{attempt}"), "", 0.001)
        assert queue.claim(f"host-{attempt}") is not None
        time.sleep(0.002)
        (lost,) = queue.lost()
        queue.reclaim(lost, dead=True)
    ended = queue.get("web01-inspect").status
    assert ended.phase is Phase.FAILED
    assert {one.error.reason for one in ended.attempts if one.error} == {"WorkerLost"}


OTHER_WORKER = """
import os, pathlib, signal, sys
sys.path[:0] = sys.argv[4:]
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from tests.unit.plugins.module_utils.backends.samples import worker
queue = LocalBackend(pathlib.Path(sys.argv[1]))
queue.register(worker("other-9"), "", float(sys.argv[2]))
assert queue.claim("other-9")
if sys.argv[3] == "writing":
    with queue._database.writing():
        print("ready", flush=True)
        signal.pause()
print("ready", flush=True)
signal.pause()
"""


@contextlib.contextmanager
def other_worker(state: pathlib.Path, lease: float, how: str) -> t.Iterator[subprocess.Popen[bytes]]:
    """Run a worker in another process, which claims a job and then waits, ``how`` = in a transaction or idle."""
    root = pathlib.Path(__file__).parents[5]
    args = [str(state), str(lease), how, str(root), str(root / ".collections")]
    with subprocess.Popen([sys.executable, "-c", OTHER_WORKER, *args], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        try:
            yield other
        finally:
            other.kill()


def test_a_dead_process_is_known_without_waiting_for_its_lease(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.submit(job())
    with other_worker(tmp_path / "state", 3600.0, "idle"):
        assert queue.lost() == []
    (lost,) = queue.lost()
    queue.reclaim(lost, dead=True)
    assert queue.get("web01-inspect").status.phase is Phase.QUEUED
    queue.forget_dead_workers()
    assert queue.workers() == []


def test_a_worker_that_was_stopped_while_it_wrote_does_not_block_the_queue_for_ever(tmp_path: pathlib.Path) -> None:
    queue = LocalBackend(tmp_path / "state", patience=0.1)
    queue.submit(job())
    with other_worker(tmp_path / "state", 1.0, "writing") as other:
        with pytest.raises(JobError, match=f"the process {other.pid} for") as caught:
            queue.set_priority("web01-inspect", 1)
        assert caught.value.retryable
        assert not queue.evict_stopped_writer()
        other.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while not queue.evict_stopped_writer():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert other.wait(60) == -signal.SIGKILL
        queue.set_priority("web01-inspect", 1)
        assert len(queue.lost()) == 1
    queue.close()


def test_clock_steps_do_no_harm(queue: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.submit(job(active_deadline_seconds=3600))
    dummy, hold = claim(queue)
    real = time.time
    for step in (-10_000_000, 10_000_000):
        monkeypatch.setattr(time, "time", lambda step=step: real() + step)
        assert queue.lost() == []
        assert queue.orders("host-1", [hold]) == {}
        assert queue.lease_left(hold) > 20


def test_leases_of_another_boot_are_over(queue: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.submit(job())
    claim(queue)
    monkeypatch.setattr(host, "boot_id", lambda: "another boot")
    assert len(queue.lost()) == 1


# -- events ----------------------------------------------------------------------------------------------------------


def test_events_are_gapless_in_queue_and_file(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.submit(job())
    taken, hold = claim(queue)
    queue.stage_started(hold, "inspect")
    queue.warning(hold, "a café\nwith two lines")
    queue.stage_ended(hold, stage("inspect"))
    queue.complete(hold, result(taken))
    events = queue.events("web01-inspect")
    assert [one.sequence for one in events] == list(range(1, len(events) + 1))
    assert [one.to_document() for one in events] == lines(tmp_path, "web01-inspect")
    assert queue.events("web01-inspect", since=events[-2].sequence) == events[-1:]
    phases = [one.data["to"] for one in events if one.type.endswith(".phase")]
    assert phases == ["CREATED", "VALIDATED", "QUEUED", "ASSIGNED", "RUNNING", "COMPLETED"]


@pytest.mark.parametrize("harm", ["torn", "zeros", "behind", "gone", "nothing"])
def test_an_event_file_that_a_crash_left_is_mended(queue: LocalBackend, tmp_path: pathlib.Path, harm: str) -> None:
    queue.submit(job())
    file = tmp_path / "state" / "events" / "web01-inspect.jsonl"
    whole = file.read_bytes()
    if harm == "torn":
        file.write_bytes(whole[:-30])
    elif harm == "zeros":
        file.write_bytes(whole + bytes(5000))
    elif harm == "behind":
        file.write_bytes(whole.splitlines(keepends=True)[0])
    elif harm == "gone":
        file.unlink()
    queue.reconcile_events()
    assert file.read_bytes() == whole
    (tmp_path / "state" / "events" / "stranger.jsonl").write_text("{}\n")
    queue.set_priority("web01-inspect", 1)
    queue.reconcile_events()
    assert [one["sequence"] for one in lines(tmp_path, "web01-inspect")] == [1, 2, 3, 4]
    assert [one.name for one in (tmp_path / "state" / "events").iterdir()] == ["web01-inspect.jsonl"]


def test_long_events_are_found_again(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.submit(job())
    dummy, hold = claim(queue)
    for dummy in range(3):
        queue.warning(hold, "x" * 200_000)
    file = tmp_path / "state" / "events" / "web01-inspect.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    queue.reconcile_events()
    assert file.read_bytes() == whole


# -- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["NFS", "FUSE of another machine", "FUSE of this machine"])
def test_a_network_filesystem_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    # The test's own filesystem poses as the other one: its number is taken for that one's.
    magic = _magic(tmp_path)
    if kind == "NFS":
        monkeypatch.setattr(host, "_NETWORK_FILESYSTEMS", {magic: kind})
    else:
        monkeypatch.setattr(host, "_FUSE", magic)
    if kind == "FUSE of this machine":
        monkeypatch.setattr(host, "_LOCAL_FUSE", {_mount_type(tmp_path)})
        LocalBackend(tmp_path / "state").list()
    else:
        with pytest.raises(JobError, match="network filesystem"):
            LocalBackend(tmp_path / "state")


def _mount_type(path: pathlib.Path) -> str:
    done = subprocess.run(["findmnt", "-nro", "FSTYPE", "-T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _magic(path: pathlib.Path) -> int:
    done = subprocess.run(["stat", "-f", "-c", "%t", path], capture_output=True, text=True, check=True)
    return int(done.stdout, 16)


def test_a_queue_of_another_version_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").mkdir()
    with sqlite3.connect(tmp_path / "state" / "queue.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JobError, match="another version"):
        LocalBackend(tmp_path / "state").list()


def test_a_broken_queue_is_an_error_for_people(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "queue.db").write_bytes(b"no database" * 1000)
    with pytest.raises(JobError, match="cannot be used") as caught:
        LocalBackend(tmp_path / "state").list()
    assert caught.value.suggestion
