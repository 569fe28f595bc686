# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the operator decides: properties that hold for any jobs and workers, and the cases that people know by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import typing as t

import hypothesis
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.operator.decide import (
    CORDONED,
    DRAINING,
    EXPLAIN_SECONDS,
    Decision,
    Job,
    Worker,
    decide,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import crd, models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError, invalid, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.fields import moment
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import HELD, TERMINAL, Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from ansible_collections.hyper2kvm.core.plugins.module_utils.scheduling.matching import Demand
from hypothesis import strategies as st

from tests.kube.registrations import registration

NOW = datetime.datetime(2026, 11, 24, 2, 7, tzinfo=datetime.timezone.utc)
SECOND = datetime.timedelta(seconds=1)
NODES = ("a", "b", "c")


def demand(capability: str = "") -> Demand:
    """The demand of a conversion, perhaps with one more capability."""
    needs = ("qemu-img", "root", "attach", "boot-test")
    return Demand("convert", (*needs, capability) if capability else needs, (), (), "1.0")


def job(name: str = "web01", state: models.JobStatus | None = None, **fields: t.Any) -> Job:
    """A job, a minute old."""
    given: dict[str, t.Any] = {"demand": demand(), "retries": RetryPolicy(2), "created": NOW - 60 * SECOND, **fields}
    return Job("ns", name, f"uid-{name}", 1, "7", status=state or models.JobStatus(), **given)


def queued() -> models.JobStatus:
    """The status of a job that waits."""
    valid = status.advance(models.JobStatus(), Phase.VALIDATED, Actor.CONTROL, NOW - 50 * SECOND)
    return status.advance(valid, Phase.QUEUED, Actor.CONTROL, NOW - 50 * SECOND)


def held(node: str, phase: Phase = Phase.ASSIGNED, before: models.JobStatus | None = None) -> models.JobStatus:
    """The status of a job that a node has."""
    state = status.record_attempt(before or queued(), node, 60.0, Actor.CONTROL, NOW - 40 * SECOND)
    state = state.model_copy(update={"assigned_node": node})
    if phase is not Phase.ASSIGNED:
        state = status.start_stage(state, "copy", NOW - 30 * SECOND)
    if phase is Phase.PROGRESSING:
        state = status.report_progress(state, models.Progress(stage="copy"), NOW - 20 * SECOND)
    return state


def backing_off(seconds: float, *rules: models.FailureRule) -> models.JobStatus:
    """The status of a job whose attempt on ``a`` failed, and that is tried again in ``seconds``."""
    error = transient("Lost", "the disk went away")
    failed = status.fail(held("a"), error, Actor.WORKER, NOW + (seconds - 10) * SECOND, policy=RetryPolicy(9, rules))
    return failed.model_copy(update={"assigned_node": None})


def worker(node: str, slots: int = 2, **fields: t.Any) -> Worker:
    """A worker that can do everything."""
    return Worker(registration(node, slots), **fields)


def decisions(
    jobs: list[Job],
    workers: dict[str, Worker] | None = None,
    gone: t.Container[str] = (),
    told: dict[str, datetime.datetime] | None = None,
    now: datetime.datetime = NOW,
) -> dict[str, models.JobStatus]:
    """What is decided, by the jobs' names."""
    return {one.job.name: one.after for one in decide(jobs, workers or {}, gone, told or {}, now)}


# -- for any jobs and workers ----------------------------------------------------------------------------------------


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Job], dict[str, Worker], set[str]]:
    """Jobs in all phases, workers in all moods, and nodes that are gone."""
    workers = {
        node: worker(node, draw(st.integers(1, 3)), closed=draw(st.sampled_from([None, None, CORDONED, DRAINING])))
        for node in NODES
        if draw(st.booleans())
    }
    gone = {node for node in (*NODES, "d") if node not in workers and draw(st.booleans())}
    places = [*NODES, "d"]
    states = st.one_of(
        st.builds(models.JobStatus),
        st.builds(queued),
        st.builds(held, st.sampled_from(places), st.sampled_from(sorted(HELD))),
        st.builds(backing_off, st.sampled_from([-5.0, 5.0])),
    )
    jobs = [
        job(
            f"job-{number}",
            draw(states),
            priority=draw(st.integers(-1, 1)),
            created=NOW - draw(st.integers(1, 3)) * SECOND,
            suspend=draw(st.booleans()) and draw(st.booleans()),
            cancel=draw(st.booleans()) and draw(st.booleans()),
            deadline=draw(st.sampled_from([None, None, NOW - SECOND, NOW + SECOND])),
            demand=demand(draw(st.sampled_from(["", "", "nbd"]))),
            settled=draw(st.booleans()) and draw(st.booleans()),
            deleting=draw(st.booleans()) and draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 12)))
    ]
    return jobs, workers, gone


def _applied(jobs: list[Job], made: list[Decision]) -> list[Job]:
    after = {one.job.name: one.after for one in made}
    whole = [dataclasses.replace(one, status=after.get(one.name, one.status)) for one in jobs]
    return [one for one in whole if one.status.phase not in TERMINAL]


@hypothesis.given(clusters())
def test_whatever_there_is(cluster: tuple[list[Job], dict[str, Worker], set[str]]) -> None:
    jobs, workers, gone = cluster
    made = list(decide(jobs, workers, gone, {}, NOW))
    used = collections.Counter(one.status.assigned_node for one in jobs if one.status.phase in HELD)
    for one in made:
        before, after = one.job.status, one.after
        assert not one.job.settled and not one.job.deleting
        # Each is one write that the API server takes.
        assert after.phase is before.phase or after.phase in crd.successors(before.phase)
        assert (after.assigned_node is not None) == (after.phase in HELD) == (after.claim is not None)
        assert after.epoch - before.epoch == (1 if after.phase is Phase.ASSIGNED else 0)
        assert after.observed_generation == one.job.generation
        assert len(after.waiting) <= 10
        if before.phase in HELD:
            # Nobody takes a job away from a worker that is alive and has begun it.
            there = workers.get(before.assigned_node or "")
            assert before.assigned_node in gone or (
                before.phase is Phase.ASSIGNED and there is not None and there.closed == CORDONED
            )
            used[before.assigned_node] -= 1
        if after.phase is Phase.ASSIGNED:
            used[after.assigned_node] += 1
            assert workers[after.assigned_node or ""].closed is None
            assert not one.job.suspend and not one.job.cancel
            assert "nbd" not in (one.job.demand or demand()).capabilities
            assert before.not_before is None or moment(before.not_before) <= NOW
    assigned = collections.Counter(one.after.assigned_node for one in made if one.after.phase in HELD)
    for node in assigned:
        assert used[node] <= workers[node or ""].status.slots
    # The order in which jobs are seen decides nothing, and what was done is not done again.
    other_way = {one.job.name: one.after for one in decide(jobs[::-1], workers, gone, {}, NOW)}
    assert other_way == {one.job.name: one.after for one in made}
    assert list(decide(_applied(jobs, made), workers, gone, {}, NOW)) == []


@hypothesis.given(clusters())
def test_no_slot_stays_free_that_a_waiting_job_could_have(
    cluster: tuple[list[Job], dict[str, Worker], set[str]],
) -> None:
    jobs, workers, gone = cluster
    made = list(decide(jobs, workers, gone, {}, NOW))
    after = _applied(jobs, made)
    used = collections.Counter(one.status.assigned_node for one in after if one.status.phase in HELD)
    free = any(used[node] < one.status.slots for node, one in workers.items() if one.closed is None)
    ready = [
        one
        for one in after
        if one.status.phase is Phase.QUEUED
        and not (one.settled or one.deleting or one.suspend)
        and "nbd" not in (one.demand or demand()).capabilities
        and (one.status.not_before is None or moment(one.status.not_before) <= NOW)
    ]
    assert not (free and ready)
    # Nor does a job go before one that is more urgent, or as urgent and older.
    winners = [one.job for one in made if one.after.phase is Phase.ASSIGNED]
    for winner in winners:
        for loser in ready:
            assert (-winner.priority, winner.created) <= (-loser.priority, loser.created)


# -- the cases that people know --------------------------------------------------------------------------------------


def test_a_new_job_that_finds_a_worker_takes_one_write() -> None:
    after = decisions([job()], {"a": worker("a")})["web01"]
    assert (after.phase, after.epoch, after.assigned_node) == (Phase.ASSIGNED, 1, "a")
    assert after.claim is not None and after.claim.worker == "a"
    assert [(one.type, one.status) for one in after.conditions] == [
        ("Validated", "True"),
        ("Queued", "False"),
        ("Assigned", "True"),
        ("Progressing", "False"),
    ]


def test_it_goes_to_the_node_of_its_last_attempt_and_else_to_the_emptiest() -> None:
    workers = {"a": worker("a", 2), "b": worker("b", 4)}
    again = backing_off(-1)
    assert decisions([job(state=again)], workers)["web01"].assigned_node == "a"
    many = [job(f"job-{number}") for number in range(6)]
    spread = collections.Counter(one.assigned_node for one in decisions(many, workers).values())
    assert spread == {"a": 2, "b": 4}
    assert [decisions(many[:1], workers)["job-0"].assigned_node] == ["b"]


def test_a_waiting_job_says_why() -> None:
    workers = {"a": worker("a", 1), "b": worker("b", closed=CORDONED)}
    jobs = [job("now", held("a")), job("next", created=NOW), job("later", created=NOW + SECOND)]
    after = decisions(jobs, workers)
    assert after.keys() == {"next", "later"}
    assert [one.reason for one in after["next"].waiting] == ["NoFreeSlot", "NodeCordoned"]
    assert [one.reason for one in after["later"].waiting] == ["NoFreeSlot", "NodeCordoned", "JobsAhead"]
    assert after["later"].waiting[-1].message == "1 waiting jobs go first: next"
    assert decisions([job()])["web01"].waiting[0].reason == "NoWorker"
    assert decisions([job(suspend=True)], workers)["web01"].waiting[0].reason == "Suspended"


def test_reasons_are_written_when_other_kinds_come_up_and_not_too_often() -> None:
    waiting = decisions([job()])["web01"]
    assert decisions([job(state=waiting)]) == {}
    full = {"a": worker("a", 1)}
    jobs = [job("now", held("a")), job(state=waiting)]
    assert decisions(jobs, full, told={"ns/web01": NOW - SECOND}) == {}
    told = {"ns/web01": NOW - EXPLAIN_SECONDS * SECOND}
    assert decisions(jobs, full, told=told)["web01"].waiting[0].reason == "NoFreeSlot"


def test_backoff_is_waited_for() -> None:
    workers = {"a": worker("a")}
    after = decisions([job(state=backing_off(5))], workers)["web01"]
    assert (after.phase, after.waiting[0].reason) == (Phase.QUEUED, "BackingOff")
    assert "the disk went away" in after.waiting[0].message
    ignored = backing_off(5, models.FailureRule(reasons=["Lost"], action=models.FailureAction.IGNORE))
    waits = decisions([job(state=ignored)], workers)["web01"].waiting[0].message
    assert waits.endswith("the disk went away (matches spec.failurePolicy.rules[0]: Ignore)")
    assert decisions([job(state=after)], workers, now=NOW + 6 * SECOND)["web01"].phase is Phase.ASSIGNED


@pytest.mark.parametrize("phase", sorted(HELD))
def test_a_lost_workers_job_goes_to_another_in_one_write(phase: Phase) -> None:
    after = decisions([job(state=held("a", phase))], {"b": worker("b")}, {"a"})["web01"]
    assert (after.phase, after.epoch, after.assigned_node) == (Phase.ASSIGNED, 2, "b")
    assert after.attempts[0].error is not None and after.attempts[0].error.reason == status.LEASE_EXPIRED
    assert after.attempts[0].ended_at is not None
    alone = decisions([job(state=held("a", phase))], {}, {"a"})["web01"]
    assert (alone.phase, alone.epoch, alone.assigned_node, alone.claim) == (Phase.QUEUED, 1, None, None)
    assert decisions([job(state=held("a", phase))]) == {}


def test_a_job_that_kills_its_workers_fails() -> None:
    state = queued()
    for dummy in range(status.MAX_LOSSES):
        state = decisions([job(state=held("a", before=state))], {}, {"a"})["web01"]
    assert (state.phase, state.assigned_node) == (Phase.FAILED, None)


@pytest.mark.parametrize("action", models.FailureAction)
def test_no_policy_changes_what_follows_a_loss_or_a_deadline(action: models.FailureAction) -> None:
    rule = models.FailureRule(classes=["environment", "transient"], action=action)
    mine = {"retries": RetryPolicy(2, (rule,))}
    lost = decisions([job(state=held("a", Phase.RUNNING), **mine)], {}, {"a"})["web01"]
    assert (lost.phase, status.failures(lost)) == (Phase.QUEUED, 0)
    assert lost.last_error is not None and (lost.last_error.reason, lost.last_error.rule) == ("LeaseExpired", None)
    for state, gone in ((held("a", Phase.RUNNING), {"a"}), (queued(), set[str]())):
        late = decisions([job(state=state, deadline=NOW - SECOND, **mine)], {}, gone)["web01"]
        assert late.phase is Phase.FAILED
        assert late.last_error is not None and (late.last_error.reason, late.last_error.rule) == (
            "DeadlineExceeded",
            None,
        )


def test_a_lost_workers_job_that_was_to_be_cancelled_is() -> None:
    after = decisions([job(state=held("a", Phase.RUNNING), cancel=True)], {"b": worker("b")}, {"a"})["web01"]
    assert (after.phase, after.assigned_node) == (Phase.CANCELLED, None)
    assert decisions([job(state=held("a", Phase.RUNNING), cancel=True)], {"a": worker("a")}) == {}


def test_a_job_that_is_too_late_fails_unless_a_worker_has_it() -> None:
    late = {"deadline": NOW - SECOND}
    for state in (models.JobStatus(), queued(), backing_off(5)):
        after = decisions([job(state=state, **late)], {"a": worker("a")})["web01"]
        assert after.phase is Phase.FAILED
        assert after.last_error is not None and after.last_error.reason == "DeadlineExceeded"
    running = job(state=held("a", Phase.RUNNING), **late)
    assert decisions([running], {"a": worker("a")}) == {}
    assert decisions([running], {}, {"a"})["web01"].phase is Phase.FAILED


def test_a_cordoned_node_gives_back_what_it_has_not_begun() -> None:
    workers = {"a": worker("a", closed=CORDONED), "b": worker("b")}
    jobs = [job("waits", held("a")), job("runs", held("a", Phase.RUNNING))]
    after = decisions(jobs, workers)
    assert {name: (one.assigned_node, one.epoch) for name, one in after.items()} == {"waits": ("b", 2)}
    assert after["waits"].attempts[0].error is None
    # What ends it anyway is its worker's to do.
    for fields in ({"cancel": True}, {"deadline": NOW - SECOND}):
        assert decisions([job("waits", held("a"), **fields)], workers) == {}


def test_suspending_and_cancelling_what_waits() -> None:
    workers = {"a": worker("a")}
    after = decisions([job(suspend=True)], workers)["web01"]
    assert after.phase is Phase.QUEUED
    assert ("Suspended", "True") in {(one.type, one.status) for one in after.conditions}
    resumed = decisions([job(state=after)], workers)["web01"]
    assert resumed.phase is Phase.ASSIGNED
    assert ("Suspended", "False") in {(one.type, one.status) for one in resumed.conditions}
    for state in (models.JobStatus(), queued(), after):
        assert decisions([job(state=state, cancel=True)], workers)["web01"].phase is Phase.CANCELLED


@pytest.mark.parametrize("state", [models.JobStatus(), queued()], ids=["new", "waiting"])
def test_a_document_that_breaks_the_protocol_fails(state: models.JobStatus) -> None:
    problem: JobError = invalid("InvalidDocument", "The job document is not valid: spec: no.")
    problem.details = {"problems": [{"field": "spec", "message": "no"}]}
    after = decisions([job(state=state, demand=None, problem=problem)], {"a": worker("a")})["web01"]
    assert after.phase is Phase.FAILED
    assert after.last_error is not None and after.last_error.error_class.value == "invalid"
    assert after.result == problem.details
