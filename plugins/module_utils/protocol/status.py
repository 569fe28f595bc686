# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a job's status changes: pure functions from one status to the next, all of them through the lifecycle's table.

Each takes the instant ``now`` (an aware datetime) and returns a new status; the given one stays as it is. What is
stored, and where, is the backends' affair.
"""

from __future__ import annotations

import datetime
import typing as t

from .errors import ErrorClass, JobError
from .fields import moment, timestamp
from .lifecycle import HELD, TERMINAL, Actor, IllegalTransition, Phase, check_transition
from .models import Attempt, Claim, Condition, ErrorDocument, FailureAction, JobStatus, Progress, StageRecord
from .retries import RetryPolicy

#: Wait after the first failed attempt, in seconds; it doubles with each further one, as with Kubernetes' Jobs.
BACKOFF_SECONDS = 10.0
#: The longest such wait.
MAX_BACKOFF_SECONDS = 360.0

WORKER_LOST = "WorkerLost"
"""Reason of an attempt whose worker is known to be dead."""
LEASE_EXPIRED = "LeaseExpired"
"""Reason of an attempt whose worker was not heard of in time, and may yet live."""
NO_SPACE = "NoSpace"
"""Reason of a failure for want of room on a disk."""
CANCELLED = "Cancelled"
"""Reason of the condition Failed of a job that was cancelled."""

#: So many workers may be lost in a row, with no stage's end between, before the job is taken for their killer.
MAX_LOSSES = 5
#: So many failures of a job may be ignored as its policy says, so that it comes to an end. With the waits between them
#: that takes nine hours: a night's outage of a storage is outlasted.
MAX_IGNORED = 100

_MENDED_OUTSIDE = frozenset({ErrorClass.ENVIRONMENT, ErrorClass.TRANSIENT})
_NOT_THE_JOBS_FAULT = frozenset({WORKER_LOST, LEASE_EXPIRED})


def advance(
    status: JobStatus, phase: Phase, actor: Actor, now: datetime.datetime, *, reason: str = "", message: str = ""
) -> JobStatus:
    """Return ``status`` after the step to ``phase``, with its conditions and times.

    ``reason`` and ``message`` go into the conditions that change; without them the phase's name and the table's words
    do. Leaving a worker closes the running attempt. Steps to ASSIGNED are :func:`record_attempt`'s.

    Raises:
        IllegalTransition: the table has no such step, or ``actor`` may not take it.
    """
    if phase is Phase.ASSIGNED:
        raise IllegalTransition("a job is assigned by a claim, which raises its epoch")
    return _step(status, phase, actor, now, reason, message)


def record_attempt(
    status: JobStatus, worker: str, lease_seconds: float, actor: Actor, now: datetime.datetime
) -> JobStatus:
    """Return ``status`` after ``worker`` claimed the job: ASSIGNED, the epoch raised by one, a new attempt begun.

    Raises:
        IllegalTransition: the job is not QUEUED, or ``actor`` may not assign it.
    """
    epoch = status.epoch + 1
    instant = timestamp(now)
    assigned = _step(status, Phase.ASSIGNED, actor, now, "", f"claimed by {worker}")
    return assigned.model_copy(
        update={
            "epoch": epoch,
            "claim": Claim(worker=worker, epoch=epoch, lease_seconds=lease_seconds, renewed_at=instant),
            "attempts": [*status.attempts, Attempt(epoch=epoch, worker=worker, started_at=instant)],
            "not_before": None,
            "waiting": [],
        }
    )


def start_stage(status: JobStatus, stage: str, now: datetime.datetime) -> JobStatus:
    """Return ``status`` after the worker began ``stage``; the first one makes the job RUNNING.

    Raises:
        IllegalTransition: no worker holds the job.
    """
    _check_held(status)
    if status.phase is Phase.ASSIGNED:
        status = advance(status, Phase.RUNNING, Actor.WORKER, now, message=f"the stage {stage} began")
    return status.model_copy(update={"stage": stage, "progress": None})


def report_progress(status: JobStatus, progress: Progress, now: datetime.datetime) -> JobStatus:
    """Return ``status`` with ``progress``, stamped with ``now``; a RUNNING job becomes PROGRESSING.

    Raises:
        IllegalTransition: no stage runs.
    """
    if status.phase is not Phase.PROGRESSING:
        status = advance(status, Phase.PROGRESSING, Actor.WORKER, now)
    stamped = progress.model_copy(update={"updated_at": timestamp(now)})
    return status.model_copy(update={"stage": progress.stage, "progress": stamped})


def end_stage(status: JobStatus, record: StageRecord) -> JobStatus:
    """Return ``status`` with ``record``, in place of an earlier one of the same stage.

    Raises:
        IllegalTransition: no worker holds the job.
    """
    _check_held(status)
    return status.model_copy(update={"stages": [*(s for s in status.stages if s.name != record.name), record]})


def fail(status: JobStatus, error: JobError, actor: Actor, now: datetime.datetime, *, policy: RetryPolicy) -> JobStatus:
    """Return ``status`` after ``error``: back to the queue with a wait if a retry may help and is left, else FAILED.

    Whether a retry may help, the first rule of ``policy`` says that the error matches; where none does, the error's
    class. Without such a rule against it, the job goes back to the queue as well where it turned out to need what its
    worker lacks: another one may have it.

    An attempt counts against the policy's ``backoff_limit`` if it failed; not if its worker handed the job back or was
    lost, nor if a rule has the failure ignored. After a loss the job goes back at once, but not after
    :data:`MAX_LOSSES` in a row; and no more than :data:`MAX_IGNORED` failures are ignored. A job that no worker holds
    fails for good.

    Raises:
        IllegalTransition: the job has ended, or ``actor`` may not fail it.
    """
    document = ErrorDocument.of(error, policy.match(error))
    attempts = list(status.attempts)
    found = set(error.needs) - set(needs(status))
    if attempts and status.phase in HELD:
        attempts[-1] = attempts[-1].model_copy(update={"error": document})
    failed = status.model_copy(update={"attempts": attempts, "last_error": document})
    held, left = status.phase in HELD, _is_left(failed, document, policy)
    if held and document.retryable and left:
        lost = error.reason in _NOT_THE_JOBS_FAULT
        delay = 0.0 if lost else backoff_seconds(failures(failed))
        queued = advance(failed, Phase.QUEUED, actor, now, reason=error.reason, message=document.told)
        return queued.model_copy(
            update={"not_before": timestamp(now + datetime.timedelta(seconds=delay)) if delay else None}
        )
    if held and found and (document.rule is None or document.retryable):
        return advance(failed, Phase.QUEUED, actor, now, reason=error.reason, message=document.told)
    over = "; no retry is left" if held and document.rule is not None and document.retryable else ""
    return advance(failed, Phase.FAILED, actor, now, reason=error.reason, message=document.told + over)


def _is_left(failed: JobStatus, error: ErrorDocument, policy: RetryPolicy) -> bool:
    """Return whether a job whose last attempt failed by ``error`` may have another one, if that can help."""
    if error.reason in _NOT_THE_JOBS_FAULT:
        return losses(failed) < MAX_LOSSES
    if _is_ignored(error):
        return ignored(failed) <= MAX_IGNORED
    return failures(failed) - ignored(failed) <= policy.backoff_limit


def needs(status: JobStatus) -> tuple[str, ...]:
    """Return the capabilities that the job turned out to need, besides those that its document tells of."""
    found = [name for attempt in status.attempts if attempt.error is not None for name in attempt.error.needs]
    return tuple(dict.fromkeys(found))


def suspended(status: JobStatus, suspend: bool, now: datetime.datetime) -> JobStatus:
    """Return ``status`` with the condition Suspended as ``spec.suspend`` has it; a held job's worker hands it back."""
    conditions = _with_condition(
        status.conditions,
        "Suspended",
        suspend,
        "Suspended" if suspend else "Resumed",
        "the job is not started" if suspend else "the job may be started",
        timestamp(now),
    )
    return status.model_copy(update={"conditions": conditions})


def failures(status: JobStatus) -> int:
    """Return how many attempts failed by the job's own fault."""
    return sum(1 for a in status.attempts if a.error is not None and a.error.reason not in _NOT_THE_JOBS_FAULT)


def ignored(status: JobStatus) -> int:
    """Return how many of these failures do not count against ``backoffLimit``, because the job's policy says so."""
    return sum(1 for a in status.attempts if a.error is not None and _is_ignored(a.error))


def losses(status: JobStatus) -> int:
    """Return how many workers were lost in a row, up to the last attempt, with no stage's end since."""
    count = 0
    for attempt in reversed(status.attempts):
        lost = attempt.error is not None and attempt.error.reason in _NOT_THE_JOBS_FAULT
        if not lost or any(moment(stage.started_at) >= moment(attempt.started_at) for stage in status.stages):
            break
        count += 1
    return count


def may_be_taken_up(status: JobStatus) -> bool:
    """Return whether what the job's attempts did so far may yet be built on, and so must be kept.

    That is so until it is over, and after a failure that is neither the document's nor the source's fault: whoever
    submits it again has mended the host meanwhile. A full disk is an exception, for what is kept would keep it full.
    """
    if status.phase is not Phase.FAILED:
        return status.phase not in TERMINAL
    error = status.last_error
    return error is not None and error.error_class in _MENDED_OUTSIDE and error.reason != NO_SPACE


def backoff_seconds(failed: int) -> float:
    """Return the wait in seconds after the attempt that was the ``failed``-th (1, 2 …) to fail."""
    # Past this power the limit holds anyway, and a float would overflow.
    return min(BACKOFF_SECONDS * 2.0 ** min(failed - 1, 16), MAX_BACKOFF_SECONDS)


def _is_ignored(error: ErrorDocument) -> bool:
    return error.rule is not None and error.rule.action is FailureAction.IGNORE


def _check_held(status: JobStatus) -> None:
    if status.phase not in HELD:
        raise IllegalTransition(f"no worker holds the job: it is {status.phase.value}")


def _step(
    status: JobStatus, phase: Phase, actor: Actor, now: datetime.datetime, reason: str, message: str
) -> JobStatus:
    transition = check_transition(status.phase, phase, actor)
    instant = timestamp(now)
    update: dict[str, t.Any] = {"phase": phase}
    if phase is Phase.RUNNING and status.started_at is None:
        update["started_at"] = instant
    if status.phase in HELD and phase not in HELD:
        update |= {"claim": None, "progress": None}
        if phase in (Phase.QUEUED, Phase.COMPLETED):
            update["stage"] = None
        if status.attempts:
            update["attempts"] = [*status.attempts[:-1], status.attempts[-1].model_copy(update={"ended_at": instant})]
    if phase in TERMINAL:
        update |= {"finished_at": instant, "not_before": None, "waiting": []}
    words = reason or phase.value.capitalize(), message or transition.when
    update["conditions"] = _conditions(status, phase, words, instant)
    return status.model_copy(update=update)


def _conditions(status: JobStatus, phase: Phase, words: tuple[str, str], instant: str) -> list[Condition]:
    holds = {
        "Queued": phase is Phase.QUEUED,
        "Assigned": phase in HELD,
        "Progressing": phase is Phase.PROGRESSING,
    }
    if phase is Phase.VALIDATED:
        holds = {"Validated": True}
    elif status.phase is Phase.CREATED and phase is Phase.FAILED:
        holds = {"Validated": False}
    if phase is Phase.COMPLETED:
        holds["Complete"] = True
    elif phase is Phase.FAILED:
        holds["Failed"] = True
    elif phase is Phase.CANCELLED:
        holds["Failed"] = True
        words = CANCELLED, words[1]
    conditions = status.conditions
    for kind, value in holds.items():
        conditions = _with_condition(conditions, kind, value, *words, instant)
    return conditions


def _with_condition(
    conditions: list[Condition], kind: str, value: bool, reason: str, message: str, instant: str
) -> list[Condition]:
    """Return ``conditions`` with one set; reason, message and time change only with its status."""
    status: t.Literal["True", "False"] = "True" if value else "False"
    if any(c.type == kind and c.status == status for c in conditions):
        return conditions
    made = Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=instant)
    if any(c.type == kind for c in conditions):
        return [made if c.type == kind else c for c in conditions]
    return [*conditions, made]
