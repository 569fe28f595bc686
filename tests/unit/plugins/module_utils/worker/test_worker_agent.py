# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent with real processes: what jobs do, how they are stopped, and what becomes of them when somebody dies."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import time

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import agent

from tests.tools.machine import alive, descendants, text, wait_for
from tests.unit.plugins.module_utils.worker.conftest import Site


def test_jobs_run_side_by_side_up_to_the_slots(site: Site) -> None:
    for number in range(4):
        site.submit(f"job{number}", seconds="0.5")
    worker = site.start("--once", "--slots", "2", ready=False)
    most = 0
    while worker.poll() is None:
        held = [one for one in site.queue.list() if one.status.claim is not None]
        most = max(most, len(held))
        time.sleep(0.02)
    assert worker.returncode == 0
    assert most == 2
    assert {site.phase(f"job{number}") for number in range(4)} == {Phase.COMPLETED}
    assert list(site.scratch.iterdir()) == []


def test_a_submission_is_noticed_and_does_not_wait_for_the_next_look(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LOOK_SECONDS", "1e9")
    site.start()
    for number in range(3):
        site.submit(f"job{number}")
        site.wait_phase(f"job{number}")


def test_a_log_for_programs_says_which_job_and_attempt(site: Site) -> None:
    site.start("--log-format", "json")
    site.submit("web", crash="yes")
    site.submit("db", fail="transient 1", seconds="0.1")
    site.wait_phase("web")
    site.wait_phase("db")
    entries = [json.loads(line) for line in site.log().splitlines()]
    assert {entry["level"] for entry in entries} >= {"info", "error"}
    assert all(entry["time"].endswith("Z") and entry["message"] and entry["pid"] for entry in entries)
    of_db = [(entry["attempt"], entry["message"]) for entry in entries if entry.get("job") == "db"]
    assert of_db[0] == (1, "job db: attempt 1") and of_db[-1] == (2, "job db: COMPLETED")
    (mistake,) = [entry for entry in entries if "exception" in entry]
    assert mistake["job"] == "web" and mistake["exception"].startswith("Traceback")


def test_all_events_of_the_queue_are_in_one_file(site: Site) -> None:
    worker = site.start("--once", "--event-file-bytes", "100000", "--event-files", "2", ready=False)
    site.submit("web")
    site.submit("db")
    site.wait_phase("web")
    site.wait_phase("db")
    assert worker.wait(60) == 0
    folder = site.output / ".hyper2kvm/events"
    lines = (folder / "_all.jsonl").read_text().splitlines()
    own = {line for name in ("web", "db") for line in (folder / f"{name}.jsonl").read_text().splitlines()}
    assert {line.partition(',"position"')[0] + "}" for line in lines} == own and len(lines) == len(own)


def test_a_cancel_ends_everything_even_a_job_that_does_not_listen(site: Site) -> None:
    site.start()
    site.submit("deaf", seconds="600", deaf="yes", child="yes")
    pid = site.running_pid("deaf")
    child = wait_for(lambda: descendants(pid))
    site.queue.cancel("deaf")
    ended = site.wait_phase("deaf")
    assert ended.status.phase is Phase.CANCELLED
    assert not any(alive(one) for one in [pid, *child])
    wait_for(lambda: list(site.scratch.iterdir()) == [])
    # 5 seconds are promised. How long a busy machine takes beyond the agent's own waiting says nothing about the agent.
    assert agent._LOOK_SECONDS + agent._GRACE_SECONDS + 2 * agent._TURN_SECONDS < 5


def test_a_job_that_listens_is_cancelled_without_a_kill(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GRACE_SECONDS", "1e9")
    site.start()
    site.submit("polite", seconds="600")
    site.running_pid("polite")
    site.queue.cancel("polite")
    assert site.wait_phase("polite").status.phase is Phase.CANCELLED


def test_a_suspended_job_goes_back_and_later_goes_on_where_it_was(site: Site) -> None:
    site.start()
    site.submit("web", stages="inspect,copy", seconds="0.5")
    wait_for(lambda: [one.stage for one in site.trace("web")][-1:] == ["copy"])
    site.queue.suspend("web")
    waiting = site.wait_phase("web", Phase.QUEUED)
    assert [record.name for record in waiting.status.stages] == ["inspect"]
    assert waiting.status.last_error is None
    assert [wait.reason for wait in waiting.status.waiting] == ["Suspended"]
    site.queue.suspend("web", False)
    assert site.wait_phase("web").status.phase is Phase.COMPLETED
    assert [(one.epoch, one.stage, one.what) for one in site.trace("web")] == [
        (1, "inspect", "begin"),
        (1, "inspect", "end"),
        (1, "copy", "begin"),
        (2, "copy", "begin"),
        (2, "copy", "end"),
    ]


def test_a_deadline_ends_a_running_job(site: Site) -> None:
    site.start()
    site.submit("slow", fields={"active_deadline_seconds": 1}, seconds="600")
    error = site.wait_phase("slow").status.last_error
    assert error is not None
    assert error.reason == "DeadlineExceeded"


@pytest.mark.parametrize(
    ("fail", "attempts", "phase"),
    [("transient 1", 2, Phase.COMPLETED), ("transient 9", 3, Phase.FAILED), ("environment 1", 1, Phase.FAILED)],
)
def test_failures_are_retried_by_their_class(site: Site, fail: str, attempts: int, phase: Phase) -> None:
    worker = site.start("--once", ready=False)
    site.submit("job", fail=fail)
    assert worker.wait(120) == 0 or phase is Phase.FAILED
    ended = site.queue.get("job").status
    assert ended.phase is phase
    assert len(ended.attempts) == attempts


@pytest.mark.parametrize(
    ("fail", "action", "limit", "attempts", "phase"),
    [
        ("environment 1", "Retry", 1, 2, Phase.COMPLETED),
        ("environment 9", "Retry", 1, 2, Phase.FAILED),
        ("internal 2", "Ignore", 0, 3, Phase.COMPLETED),
        ("transient 1", "FailJob", 2, 1, Phase.FAILED),
    ],
)
def test_failures_are_retried_as_the_job_says(
    site: Site, fail: str, action: str, limit: int, attempts: int, phase: Phase
) -> None:
    rules = [{"classes": [fail.partition(" ")[0]], "reasons": ["FakeFailure"], "action": action}]
    site.submit("job", fail=fail, fields={"backoff_limit": limit, "failure_policy": {"rules": rules}})
    worker = site.start("--once", ready=False)
    assert worker.wait(120) == (0 if phase is Phase.COMPLETED else 1)
    ended = site.queue.get("job").status
    assert (ended.phase, len(ended.attempts)) == (phase, attempts)
    assert {one.error.rule.action.value for one in ended.attempts if one.error and one.error.rule} == {action}
    shown = subprocess.run(site.command("status", "job"), capture_output=True, text=True, check=True).stdout
    assert (f"(matches spec.failurePolicy.rules[0]: {action})" in shown) == (phase is Phase.FAILED)


def test_no_policy_moves_a_deadline(site: Site) -> None:
    site.start()
    rules = [{"classes": ["environment"], "action": "Ignore"}]
    site.submit("slow", fields={"active_deadline_seconds": 1, "failure_policy": {"rules": rules}}, seconds="600")
    ended = site.wait_phase("slow").status
    assert (ended.phase, len(ended.attempts)) == (Phase.FAILED, 1)
    assert ended.last_error is not None
    # Not later, as a job that waits for its next attempt.
    assert ended.last_error.message.endswith("passed while it ran.")


def _fail_in_the_copy(site: Site, how: str) -> None:
    site.submit("web", stages="inspect,copy", fail=f"{how} 9 copy", fields={"backoff_limit": 0})
    assert site.start("--once", ready=False).wait(120) == 1
    assert site.phase("web") is Phase.FAILED


@pytest.mark.parametrize("how", ["environment", "transient"])
def test_a_failed_job_that_is_submitted_again_goes_on_where_it_was(site: Site, how: str) -> None:
    _fail_in_the_copy(site, how)
    assert len(list(site.scratch.iterdir())) == 1
    site.submit("web", stages="inspect,copy", fields={"backoff_limit": 0})
    assert site.start("--once", ready=False).wait(120) == 0
    assert [one.stage for one in site.trace("web") if one.what == "end"] == ["inspect", "copy"]
    assert list(site.scratch.iterdir()) == []


@pytest.mark.parametrize("how", ["invalid", "unsupported", "internal"])
def test_nothing_is_kept_of_a_job_that_fails_by_its_own_fault(site: Site, how: str) -> None:
    _fail_in_the_copy(site, how)
    assert list(site.scratch.iterdir()) == []


def test_nothing_is_taken_up_for_another_spec(site: Site) -> None:
    _fail_in_the_copy(site, "environment")
    site.submit("web", stages="inspect,copy", fields={"active_deadline_seconds": 600})
    assert site.start("--once", ready=False).wait(120) == 0
    assert [one.stage for one in site.trace("web") if one.what == "end"] == ["inspect", "inspect", "copy"]
    assert list(site.scratch.iterdir()) == []


def test_what_was_kept_goes_with_the_record(site: Site) -> None:
    _fail_in_the_copy(site, "environment")
    site.queue.delete("web")
    assert site.start("--once", ready=False).wait(120) == 0
    assert list(site.scratch.iterdir()) == []


def test_once_says_by_its_status_that_a_job_failed(site: Site) -> None:
    site.submit("bad", fail="invalid 1")
    assert site.start("--once", ready=False).wait(120) == 1


def test_a_mistake_in_the_program_is_told_without_a_traceback(site: Site) -> None:
    site.start()
    site.submit("crash", crash="yes")
    error = site.wait_phase("crash").status.last_error
    assert error is not None
    assert (error.reason, error.error_class.value) == ("InternalError", "internal")
    assert "Traceback" not in error.message
    assert "Traceback" in site.log()


def test_a_job_process_that_dies_without_a_word_is_an_attempt_that_failed(site: Site) -> None:
    site.start()
    site.submit("mute", fields={"backoff_limit": 0}, die="yes")
    error = site.wait_phase("mute").status.last_error
    assert error is not None
    assert (error.reason, error.retryable) == ("JobProcessDied", True)


def test_what_a_job_leaves_attached_goes_with_it(site: Site) -> None:
    site.start()
    site.submit("messy", leave="yes")
    assert site.wait_phase("messy").status.phase is Phase.COMPLETED
    wait_for(lambda: list(site.scratch.iterdir()) == [])
    assert str(site.root) not in _loops()


def test_a_killed_worker_leaves_nothing_and_its_successor_goes_on(site: Site) -> None:
    worker = site.start("--lease-seconds", "600")
    site.submit("web", stages="inspect,copy", seconds="0.6", child="yes", leave="yes")
    wait_for(lambda: [one.stage for one in site.trace("web")][-1:] == ["copy"])
    pid = site.running_pid("web")
    child = descendants(pid)
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(one) for one in [pid, *child]))
    assert site.phase("web") in (Phase.RUNNING, Phase.PROGRESSING)
    site.start("--lease-seconds", "600")
    # Long before the lease of 600 s ends: the worker's death is known.
    ended = site.wait_phase("web").status
    assert ended.phase is Phase.COMPLETED
    assert [one.error.reason for one in ended.attempts if one.error] == ["WorkerLost"]
    assert [(one.epoch, one.stage) for one in site.trace("web") if one.what == "end"] == [(1, "inspect"), (2, "copy")]
    wait_for(lambda: str(site.root) not in _loops())
    sequences = [event.sequence for event in site.queue.events("web")]
    assert sequences == list(range(1, len(sequences) + 1))


def test_a_stopped_worker_is_fenced_when_it_wakes(site: Site) -> None:
    stopped = site.start("--lease-seconds", "2")
    site.submit("web", stages="inspect,copy", seconds="0.7", deaf="yes")
    pid = site.running_pid("web")
    for one in (stopped.pid, pid):
        os.kill(one, signal.SIGSTOP)
    site.start("--lease-seconds", "2")
    wait_for(lambda: site.trace("web")[-1].epoch == 2)
    # The successor has made sure of its predecessor's death before it touched the job.
    assert not alive(pid)
    os.kill(stopped.pid, signal.SIGCONT)
    ended = site.wait_phase("web").status
    assert ended.phase is Phase.COMPLETED
    assert [attempt.epoch for attempt in ended.attempts] == [1, 2]
    lines = site.trace("web")
    first_of_second = next(index for index, one in enumerate(lines) if one.epoch == 2)
    assert all(one.epoch == 2 for one in lines[first_of_second:])
    wait_for(lambda: len(site.queue.workers()) == 2)


def test_a_job_ends_itself_before_a_lease_that_its_worker_does_not_renew_ends(site: Site) -> None:
    stopped = site.start("--lease-seconds", "9")
    site.submit("web", seconds="600", deaf="yes", child="yes")
    pid = site.running_pid("web")
    child = wait_for(lambda: descendants(pid))
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_for(lambda: not any(alive(one) for one in [pid, *child]))
    assert site.queue.lost() == []  # Nobody may have taken it over by now.
    wait_for(site.queue.lost)
    os.kill(stopped.pid, signal.SIGCONT)


def test_a_worker_that_is_told_to_leave_hands_its_jobs_back(site: Site) -> None:
    worker = site.start()
    site.submit("web", stages="inspect,copy", seconds="0.5")
    wait_for(lambda: [one.stage for one in site.trace("web")][-1:] == ["copy"])
    worker.terminate()
    assert worker.wait(120) == 0
    status = site.queue.get("web").status
    assert status.phase is Phase.QUEUED
    assert status.last_error is None
    assert site.queue.workers() == []
    site.start("--once", ready=False).wait(120)
    assert site.phase("web") is Phase.COMPLETED


def test_an_idle_worker_ends_but_waits_for_a_retry(site: Site) -> None:
    site.submit("job", fail="transient 1")
    worker = site.start("--idle-seconds", "0.3", ready=False)
    assert worker.wait(120) == 0
    assert site.phase("job") is Phase.COMPLETED


def test_a_start_sweeps_what_is_its_own_and_over(site: Site) -> None:
    held = "11111111-1111-1111-1111-111111111111"
    for name in ("over." + held, "foreign." + held, "no-job"):
        (site.scratch / name).mkdir(parents=True)
        (site.scratch / name / "file").write_text("x")
    (site.scratch / ("over." + held) / ".owner").write_text(str(site.output / ".hyper2kvm"))
    (site.scratch / ("foreign." + held) / ".owner").write_text("/another/queue")
    partial = site.output / "vm.qcow2.1.partial"
    others = site.output / "other.qcow2.1.partial"
    outside = site.root / "outside.partial"
    for file in (partial, others, outside):
        file.write_text("x")
    recorded = f'{{"partials": {{"disk0": ["{partial}"], "disk1": ["{outside}", "/etc/hostname"]}}}}'
    (site.scratch / ("over." + held) / "state.json").write_text(recorded)
    site.start()
    wait_for(lambda: not (site.scratch / ("over." + held)).exists())
    assert sorted(one.name for one in site.scratch.iterdir()) == ["foreign." + held, "no-job"]
    assert not partial.exists()
    assert others.exists()
    assert outside.exists()


def test_workers_that_race_and_die_lose_no_job_and_run_none_twice(site: Site) -> None:
    names = [f"job{number:02}" for number in range(24)]
    for name in names:
        site.submit(name, stages="a,b,c", seconds="0.02")
    workers = [site.start("--slots", "2", ready=False) for dummy in range(4)]
    for dummy in range(6):
        done = sum(1 for one in site.queue.list() if one.status.phase is Phase.COMPLETED)
        wait_for(lambda done=done: _completed(site) > min(done + 1, len(names) - 1))
        victim = workers.pop(0)
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        workers.append(site.start("--slots", "2", ready=False))
    wait_for(lambda: _completed(site) == len(names))
    for name in names:
        ends = [(one.stage, one.epoch) for one in site.trace(name) if one.what == "end"]
        epochs = [one.epoch for one in site.trace(name)]
        assert epochs == sorted(epochs), f"{name}: an old attempt went on beside a new one"
        recorded = [record.name for record in site.queue.get(name).status.stages]
        assert recorded == ["a", "b", "c"]
        # A stage may be done again only where its worker died between its end and its record.
        assert len(ends) <= 3 + len(site.queue.get(name).status.attempts) - 1
        sequences = [event.sequence for event in site.queue.events(name)]
        assert sequences == list(range(1, len(sequences) + 1))


def _completed(site: Site) -> int:
    return sum(1 for one in site.queue.list() if one.status.phase is Phase.COMPLETED)


def _loops() -> str:
    """Return the files of all loop devices; losetup would ask each device, and wait for one that hangs."""
    return "".join(text(entry) for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"))
