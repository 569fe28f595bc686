# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cluster is told of an attempt, by what the queue of its node went through."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Hold
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import environment, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import node_relay

from tests.unit.plugins.module_utils.backends.samples import assigned, result, stage, worker

HICCUP = transient("Hiccup", "the disk hiccupped", "Look at it.")


class Attempt:
    """One attempt in a queue, and the cluster's status of the job, told from time to time."""

    def __init__(self, folder: pathlib.Path, **fields: t.Any) -> None:
        self.queue = LocalBackend(folder / "state")
        self.queue.register(worker("host-1"), "", 30.0)
        job = assigned(epoch=2, **fields)
        self.queue.give(job, "node-1")
        self.told = job.status.model_copy(update={"assigned_node": "node-1", "observed_generation": 7})
        self.hold = Hold(job.metadata.uid or "", 2)

    def tell(self) -> models.JobStatus:
        (given,), dummy = self.queue.given({})
        self.told = node_relay.relay(self.told, given, now(), self.queue.result(given.uid))
        # Telling the same twice tells nothing.
        assert given.spent or node_relay.relay(self.told, given, now()) == self.told
        return self.told


@pytest.fixture
def attempt(tmp_path: pathlib.Path) -> t.Iterator[Attempt]:
    made = Attempt(tmp_path)
    yield made
    made.queue.close()


def condition(of: models.JobStatus, kind: str) -> models.Condition | None:
    return next((one for one in of.conditions if one.type == kind), None)


def progress(done: int) -> models.Progress:
    return models.Progress(stage="copy", bytes_done=done, bytes_total=100, percent=done)


def test_nothing_is_told_before_anything_happened(attempt: Attempt) -> None:
    before = attempt.told
    assert attempt.tell() == before
    attempt.queue.claim("host-1")
    assert attempt.tell() == before


def test_stages_and_progress_are_told_as_they_were(attempt: Attempt) -> None:
    attempt.queue.claim("host-1")
    attempt.queue.stage_started(attempt.hold, "inspect")
    running = attempt.tell()
    assert (running.phase, running.stage) == (Phase.RUNNING, "inspect")
    attempt.queue.stage_ended(attempt.hold, stage("inspect"))
    attempt.queue.stage_started(attempt.hold, "copy")
    attempt.queue.progress(attempt.hold, progress(40))
    moving = attempt.tell()
    assert (moving.phase, moving.stage, moving.stages) == (Phase.PROGRESSING, "copy", [stage("inspect")])
    assert moving.progress is not None
    assert moving.progress.bytes_done == 40
    assert (moving.epoch, moving.assigned_node, moving.observed_generation) == (2, "node-1", 7)
    # Those before, and this one, as the control plane wrote them.
    assert [(one.epoch, one.worker) for one in moving.attempts] == [(1, "node-1"), (2, "node-1")]


def test_an_end_that_nothing_was_told_before_is_told_at_once(attempt: Attempt) -> None:
    attempt.queue.claim("host-1")
    attempt.queue.stage_started(attempt.hold, "inspect")
    made = result(assigned())
    made.stages = [stage("inspect"), stage("publish")]
    made.artifacts = [models.Artifact(path="web01/inspect.json", kind="result", size_bytes=1)]
    attempt.queue.complete(attempt.hold, made)
    done = attempt.tell()
    assert (done.phase, done.assigned_node, done.claim, done.stage) == (Phase.COMPLETED, None, None, None)
    assert done.started_at is not None
    assert (done.stages, done.artifacts) == (made.stages, made.artifacts)
    assert models.JobResult.model_validate(done.result) == made
    assert done.attempts[-1].ended_at is not None
    complete = condition(done, "Complete")
    assert complete is not None
    assert complete.status == "True"


def test_a_failure_backs_off_by_the_whole_lifes_failures(attempt: Attempt) -> None:
    error = models.ErrorDocument.of(HICCUP)
    attempt.told.attempts[0].error = error
    attempt.queue.claim("host-1")
    attempt.queue.stage_started(attempt.hold, "copy")
    attempt.queue.fail(attempt.hold, HICCUP)
    waits = attempt.tell()
    assert (waits.phase, waits.assigned_node, waits.claim) == (Phase.QUEUED, None, None)
    assert waits.last_error == error
    assert [one.error for one in waits.attempts] == [error, error]
    assert status.failures(waits) == 2
    assert waits.not_before is not None


def test_a_failure_for_good_says_where_and_how_far(attempt: Attempt) -> None:
    attempt.queue.claim("host-1")
    attempt.queue.stage_started(attempt.hold, "copy")
    problem = environment("NoSpace", "the disk is full", "Make room.")
    problem.stage, problem.details = "copy", {"job": "web01"}
    attempt.queue.fail(attempt.hold, problem)
    failed = attempt.tell()
    assert (failed.phase, failed.stage, failed.assigned_node) == (Phase.FAILED, "copy", None)
    assert failed.last_error == models.ErrorDocument.of(problem)
    assert failed.result == {"job": "web01", "changes": []}


def test_the_cluster_decides_how_many_retries_are_left(tmp_path: pathlib.Path) -> None:
    attempt = Attempt(tmp_path, backoff_limit=0)
    attempt.queue.claim("host-1")
    attempt.queue.fail(attempt.hold, HICCUP)
    assert attempt.tell().phase is Phase.FAILED
    attempt.queue.close()


def policy(action: str, kind: str) -> models.FailurePolicy:
    return models.FailurePolicy.model_validate({"rules": [{"classes": [kind], "action": action}]})


@pytest.mark.parametrize(
    ("action", "kind", "limit", "phase"),
    [
        ("Retry", "environment", 1, Phase.QUEUED),
        ("Retry", "environment", 0, Phase.FAILED),
        ("Ignore", "environment", 0, Phase.QUEUED),
        ("FailJob", "transient", 2, Phase.FAILED),
        ("FailJob", "environment", 2, Phase.FAILED),
        ("Retry", "internal", 2, Phase.FAILED),
    ],
)
def test_the_jobs_policy_decides_for_the_cluster(
    tmp_path: pathlib.Path, action: str, kind: str, limit: int, phase: Phase
) -> None:
    attempt = Attempt(tmp_path, backoff_limit=limit, failure_policy=policy(action, kind))
    attempt.queue.claim("host-1")
    attempt.queue.fail(attempt.hold, HICCUP if kind == "transient" else environment("NoSpace", "the disk is full"))
    after = attempt.tell()
    assert (after.phase, after.assigned_node) == (phase, None)
    rule = after.last_error.rule if after.last_error is not None else None
    assert rule == (None if kind == "internal" else models.MatchedRule(index=0, action=models.FailureAction(action)))
    attempt.queue.close()


def test_what_was_ignored_on_another_node_does_not_count_here(tmp_path: pathlib.Path) -> None:
    attempt = Attempt(tmp_path, backoff_limit=0, failure_policy=policy("Ignore", "environment"))
    before = models.ErrorDocument.of(
        environment("NoSpace", "the disk is full"),
        models.MatchedRule(index=0, action=models.FailureAction.IGNORE),
    )
    attempt.told.attempts[0].error = before
    attempt.queue.claim("host-1")
    attempt.queue.fail(attempt.hold, environment("NoSpace", "the disk is full"))
    waits = attempt.tell()
    assert (waits.phase, status.ignored(waits)) == (Phase.QUEUED, 2)
    attempt.queue.close()


@pytest.mark.parametrize("action", ["FailJob", "Ignore"])
def test_no_policy_counts_a_job_that_its_node_forgot(action: str) -> None:
    retries = RetryPolicy(0, tuple(policy(action, "transient").rules))
    told = status.start_stage(assigned().status.model_copy(update={"assigned_node": "node-1"}), "copy", now())
    back = node_relay.failed(told, transient(status.WORKER_LOST, "it forgot"), retries, now())
    assert (back.phase, back.assigned_node, status.failures(back)) == (Phase.QUEUED, None, 0)


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "handed back"])
def test_what_is_handed_back_does_not_count(attempt: Attempt, lost: bool) -> None:
    attempt.queue.claim("host-1")
    attempt.queue.stage_started(attempt.hold, "copy")
    if lost:
        attempt.queue.bury_workers()
    else:
        attempt.queue.release(attempt.hold, "the worker ends")
    back = attempt.tell()
    assert (back.phase, back.assigned_node, back.not_before) == (Phase.QUEUED, None, None)
    assert status.failures(back) == 0
    assert (back.last_error is not None) == lost
    queued = condition(back, "Queued")
    assert queued is not None
    assert (queued.reason, "the worker ends" in queued.message) == (
        (status.WORKER_LOST, False) if lost else ("HandedBack", True)
    )


@pytest.mark.parametrize("begun", [True, False])
def test_a_cancel_is_told(attempt: Attempt, begun: bool) -> None:
    if begun:
        attempt.queue.claim("host-1")
        attempt.queue.stage_started(attempt.hold, "copy")
    attempt.queue.cancel("team-a/web01")
    if begun:
        attempt.queue.cancelled(attempt.hold)
    over = attempt.tell()
    assert (over.phase, over.assigned_node, over.last_error) == (Phase.CANCELLED, None, None)


def test_a_result_has_no_diffs_and_stays_within_its_limit() -> None:
    change = {"path": "/etc/fstab", "kind": "write", "fixer": "fstab", "why": "devices", "diff": "x" * 1000}
    small = {"job": "web01", "changes": [change], "warnings": ["beware"]}
    assert node_relay.bounded(small) == {
        "job": "web01",
        "changes": [{key: value for key, value in change.items() if key != "diff"}],
        "warnings": ["beware"],
    }
    long = ["x" * 200] * 1000
    for big in (
        {**small, "bootTest": {"verdict": "booted", "consoleTail": long}},
        {**small, "changes": [change] * 5000},
        {
            **small,
            "warnings": long,
            "rehearsal": None,
            "guest": {"facts": long},
            "disks": [{"name": text} for text in long],
        },
    ):
        made = node_relay.bounded(big)
        assert len(json.dumps(made).encode()) <= node_relay.MAX_RESULT_BYTES
        assert made["job"] == "web01"
        assert [text for text in made["warnings"] if text.startswith("Too long for the status")]
    assert node_relay.bounded({**small, "bootTest": {"verdict": "booted", "consoleTail": long}})["bootTest"] == {
        "verdict": "booted"
    }
