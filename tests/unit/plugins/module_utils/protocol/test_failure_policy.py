# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job's ``failurePolicy`` makes of errors; that it holds for every backend, their own tests tell."""

from __future__ import annotations

import datetime
import itertools
import typing as t
from unittest import mock

import hypothesis
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.fields import moment
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import (
    TERMINAL,
    Actor,
    IllegalTransition,
    Phase,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.models import FailureAction, FailureRule
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from hypothesis import strategies as st

NOW = datetime.datetime(2026, 11, 24, 2, 7, tzinfo=datetime.timezone.utc)
FAIL_JOB, RETRY, IGNORE = FailureAction
TRANSIENT, ENVIRONMENT = ErrorClass.TRANSIENT, ErrorClass.ENVIRONMENT


def rule(action: FailureAction, *kinds: ErrorClass, reasons: t.Iterable[str] = ()) -> FailureRule:
    """A rule for errors of these classes and reasons."""
    return FailureRule(classes=list(kinds), reasons=list(reasons), action=action)


def held(before: models.JobStatus | None = None) -> models.JobStatus:
    """The status of a job that a worker has, perhaps again."""
    waits = before
    if waits is None:
        waits = models.JobStatus()
        for phase in (Phase.VALIDATED, Phase.QUEUED):
            waits = status.advance(waits, phase, Actor.CONTROL, NOW)
    return status.record_attempt(waits, "w1", 30, Actor.WORKER, NOW)


def failed(
    policy: RetryPolicy,
    kind: ErrorClass,
    reason: str = "Broken",
    before: models.JobStatus | None = None,
    needs: tuple[str, ...] = (),
) -> models.JobStatus:
    """What becomes of an attempt that fails by such an error."""
    error = JobError(kind, reason, "It broke.", needs=needs)
    return status.fail(held(before), error, Actor.WORKER, NOW, policy=policy)


def many(policy: RetryPolicy, kind: ErrorClass) -> models.JobStatus:
    """What becomes of a job all of whose attempts fail so."""
    now = failed(policy, kind)
    for dummy in range(2 * status.MAX_IGNORED):
        if now.phase is not Phase.QUEUED:
            break
        now = failed(policy, kind, before=now)
    return now


def condition(of: models.JobStatus, kind: str) -> models.Condition:
    return next(one for one in of.conditions if one.type == kind)


# -- the actions -----------------------------------------------------------------------------------------------------


def test_fail_job_ends_what_would_be_tried_again() -> None:
    ended = failed(RetryPolicy(20, (rule(FAIL_JOB, TRANSIENT),)), TRANSIENT)
    assert (ended.phase, len(ended.attempts)) == (Phase.FAILED, 1)
    assert ended.last_error == ended.attempts[0].error
    assert ended.last_error is not None and not ended.last_error.retryable
    assert ended.last_error.rule == models.MatchedRule(index=0, action=FAIL_JOB)
    assert ended.last_error.message == "It broke."
    said = condition(ended, "Failed")
    assert (said.reason, said.message) == ("Broken", "It broke. (matches spec.failurePolicy.rules[0]: FailJob)")


@pytest.mark.parametrize("kind", [kind for kind in ErrorClass if kind is not TRANSIENT])
def test_retry_tries_again_what_would_be_final_within_the_limit(kind: ErrorClass) -> None:
    policy = RetryPolicy(2, (rule(RETRY, kind),))
    waits = failed(policy, kind)
    assert (waits.phase, condition(waits, "Queued").message) == (
        Phase.QUEUED,
        "It broke. (matches spec.failurePolicy.rules[0]: Retry)",
    )
    assert waits.last_error is not None and waits.last_error.retryable
    assert waits.not_before is not None and (moment(waits.not_before) - NOW).total_seconds() == 10
    ended = many(policy, kind)
    assert (ended.phase, len(ended.attempts)) == (Phase.FAILED, 3)
    assert condition(ended, "Failed").message.endswith("rules[0]: Retry); no retry is left")
    assert failed(RetryPolicy(0, policy.rules), kind).phase is Phase.FAILED


def test_ignored_failures_do_not_count_and_wait_longer_each_time() -> None:
    policy = RetryPolicy(0, (rule(IGNORE, reasons=["Flaky"]),))
    now, waits = None, []
    for dummy in range(3):
        now = failed(policy, TRANSIENT, "Flaky", now)
        waits.append((moment(now.not_before or "") - NOW).total_seconds())
    assert now is not None and (now.phase, waits) == (Phase.QUEUED, [10, 20, 40])
    assert (status.failures(now), status.ignored(now)) == (3, 3)
    assert failed(policy, TRANSIENT, "Other", now).phase is Phase.FAILED
    one_more = failed(RetryPolicy(1, policy.rules), TRANSIENT, "Other", now)
    assert one_more.phase is Phase.QUEUED


def test_ignoring_comes_to_an_end() -> None:
    ended = many(RetryPolicy(20, (rule(IGNORE, ENVIRONMENT),)), ENVIRONMENT)
    assert (ended.phase, len(ended.attempts)) == (Phase.FAILED, status.MAX_IGNORED + 1)
    assert condition(ended, "Failed").message.endswith("rules[0]: Ignore); no retry is left")


# -- which rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason", "index"),
    [
        (ENVIRONMENT, "NoSpace", 0),
        (ENVIRONMENT, "NoTool", 2),
        (TRANSIENT, "NoSpace", 1),
        (ErrorClass.INTERNAL, "NoSpace", 1),
        (TRANSIENT, "NoTool", None),
    ],
)
def test_the_first_rule_decides_whose_class_and_reason_match(kind: ErrorClass, reason: str, index: int | None) -> None:
    rules = (
        rule(RETRY, ENVIRONMENT, ErrorClass.INVALID, reasons=["Other", "NoSpace"]),
        rule(IGNORE, reasons=["NoSpace"]),
        rule(FAIL_JOB, ENVIRONMENT),
        rule(RETRY, ENVIRONMENT, reasons=["NoTool"]),
    )
    found = RetryPolicy(2, rules).match(JobError(kind, reason, "x"))
    assert found == (None if index is None else models.MatchedRule(index=index, action=rules[index].action))


@pytest.mark.parametrize("kind", ErrorClass)
def test_where_no_rule_matches_the_class_decides(kind: ErrorClass) -> None:
    policy = RetryPolicy(2, (rule(FAIL_JOB, reasons=["Other"]), rule(RETRY, reasons=["Another"])))
    assert failed(policy, kind) == failed(RetryPolicy(2), kind)
    told = failed(policy, kind).last_error
    assert told is not None and "rule" not in told.to_document() and told.told == told.message


# -- beyond any policy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", FailureAction)
@pytest.mark.parametrize("loses", [status.WORKER_LOST, status.LEASE_EXPIRED])
def test_a_lost_worker_is_no_failure_of_the_job(action: FailureAction, loses: str) -> None:
    policy = RetryPolicy(2, (rule(action, *ErrorClass),))
    assert failed(policy, TRANSIENT, loses) == failed(RetryPolicy(2), TRANSIENT, loses)
    now = None
    for dummy in range(status.MAX_LOSSES):
        now = failed(policy, TRANSIENT, loses, now)
    assert now is not None and now.phase is Phase.FAILED


@pytest.mark.parametrize("action", [RETRY, IGNORE])
@pytest.mark.parametrize(
    ("kind", "reason"), [(ENVIRONMENT, "DeadlineExceeded"), (ErrorClass.INVALID, "InvalidDocument")]
)
def test_deadline_and_invalid_documents_are_final(action: FailureAction, kind: ErrorClass, reason: str) -> None:
    ended = failed(RetryPolicy(20, (rule(action, *ErrorClass),)), kind, reason)
    assert ended.phase is Phase.FAILED
    assert ended.last_error is not None and ended.last_error.rule is None


def test_what_is_beyond_is_called_as_where_it_comes_up() -> None:
    assert {status.WORKER_LOST, status.LEASE_EXPIRED, status.CANCELLED} <= models.BEYOND_POLICY


def test_only_a_rule_keeps_a_job_from_a_worker_that_has_what_it_needs() -> None:
    def phase(*rules: FailureRule) -> Phase:
        return failed(RetryPolicy(0, rules), ENVIRONMENT, needs=("guest-volumes",)).phase

    assert phase() is Phase.QUEUED
    assert phase(rule(RETRY, ENVIRONMENT)) is Phase.QUEUED
    assert phase(rule(FAIL_JOB, ENVIRONMENT)) is Phase.FAILED


# -- for any policy --------------------------------------------------------------------------------------------------

REASONS = ["Broken", "Flaky"]
RULES = st.builds(
    FailureRule,
    classes=st.lists(st.sampled_from(ErrorClass), min_size=1, max_size=5, unique=True),
    reasons=st.lists(st.sampled_from(REASONS), max_size=2, unique=True),
    action=st.sampled_from(FailureAction),
)
POLICIES = st.builds(RetryPolicy, st.integers(0, 4), st.lists(RULES, max_size=4).map(tuple))
ERRORS = st.builds(
    JobError,
    st.sampled_from(ErrorClass),
    st.sampled_from([*REASONS, *sorted(models.BEYOND_POLICY)]),
    st.just("It broke."),
)


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(POLICIES, st.lists(ERRORS, min_size=1, max_size=6))
def test_attempts_are_bounded_and_the_end_is_the_end(policy: RetryPolicy, errors: list[JobError]) -> None:
    """Whatever the attempts fail by, again and again."""
    most = 3
    with mock.patch.object(status, "MAX_IGNORED", most):
        now = held()
        for number, error in enumerate(itertools.cycle(errors)):
            # Each of its own failures is one of those that count or are ignored, with some losses before it.
            assert number < (policy.backoff_limit + 1 + most + 1) * status.MAX_LOSSES
            now = status.fail(now, error, Actor.CONTROL, NOW, policy=policy)
            if now.phase in TERMINAL:
                break
            assert now.phase is Phase.QUEUED
            assert now.last_error is not None and now.last_error.retryable
            now = held(now)
        assert now.phase is Phase.FAILED
        assert status.failures(now) <= policy.backoff_limit + 1 + most
        for ended, actor in itertools.product([now, _completed(), _cancelled()], Actor):
            for error in errors:
                with pytest.raises(IllegalTransition):
                    status.fail(ended, error, actor, NOW, policy=policy)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(POLICIES, ERRORS)
def test_what_no_worker_has_fails_for_good(policy: RetryPolicy, error: JobError) -> None:
    waits = status.advance(held(), Phase.QUEUED, Actor.WORKER, NOW)
    assert status.fail(waits, error, Actor.CONTROL, NOW, policy=policy).phase is Phase.FAILED


def _completed() -> models.JobStatus:
    return status.advance(status.start_stage(held(), "copy", NOW), Phase.COMPLETED, Actor.WORKER, NOW)


def _cancelled() -> models.JobStatus:
    return status.advance(held(), Phase.CANCELLED, Actor.WORKER, NOW)


# -- as a document ---------------------------------------------------------------------------------------------------


def document(*rules: t.Any) -> dict[str, t.Any]:
    """A job with these rules."""
    return {"metadata": {"name": "a"}, "spec": {"source": {"path": "a.ova"}, "failurePolicy": {"rules": list(rules)}}}


def test_a_document_is_read_in_either_spelling_and_from_a_store() -> None:
    wanted = {"classes": ["transient"], "reasons": ["CopyDiffers"], "action": "FailJob"}
    camel = document(wanted)
    snake = document(wanted)
    snake["spec"]["failure_policy"] = snake["spec"].pop("failurePolicy")
    parsed = validation.parse_job(camel).spec
    assert validation.parse_job(snake).spec == parsed
    policy = RetryPolicy(2, (rule(FAIL_JOB, TRANSIENT, reasons=["CopyDiffers"]),))
    assert RetryPolicy.of(parsed) == policy == RetryPolicy.read(parsed.to_document())
    # As a queue has it from before there were policies.
    assert RetryPolicy.read({"backoffLimit": 3}) == RetryPolicy(3)


@pytest.mark.parametrize(
    ("rules", "field", "words"),
    [
        ([{"action": "Retry"}], "rules[0]", "give classes, reasons or both"),
        ([{"classes": ["transient"]}], "rules[0].action", "is missing"),
        (
            [{"classes": ["transient"], "action": "Restart"}],
            "rules[0].action",
            "must be 'FailJob', 'Retry' or 'Ignore'",
        ),
        ([{"classes": ["passing"], "action": "Retry"}], "rules[0].classes[0]", "must be 'invalid', 'unsupported'"),
        ([{"classes": ["invalid"] * 2, "action": "Retry"}], "rules[0]", "named twice in classes: invalid"),
        ([{"reasons": ["A", "A"], "action": "Retry"}], "rules[0]", "named twice in reasons: A"),
        ([{"reasons": ["no space"], "action": "Retry"}], "rules[0].reasons[0]", "must be the reason of an error"),
        (
            [{"reasons": ["NoSpace", "WorkerLost", "DeadlineExceeded"], "action": "Retry"}],
            "rules[0]",
            "no policy changes what follows DeadlineExceeded, WorkerLost; leave it out of reasons",
        ),
        ([{"classes": ["invalid"], "action": "Retry"}] * 21, "rules", "20"),
        ([{"classes": ["invalid"], "action": "Retry", "onExitCodes": 1}], "rules[0].onExitCodes", "unknown field"),
    ],
)
def test_what_cannot_be_honoured_is_refused(rules: list[t.Any], field: str, words: str) -> None:
    (problem,) = validation.find_problems(document(*rules))
    assert problem.field == f"spec.failurePolicy.{field}"
    assert words in problem.message
