# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cluster is to know of a job, by what the queue of its node knows. Pure.

The queue's record tells of one attempt on this node; the cluster's status has the whole life. So nothing is copied
over: the status goes on by the same steps, of :mod:`..protocol.status`, that the attempt took.
"""

from __future__ import annotations

import datetime
import json
import typing as t

from ..backends.local_grants import Given
from ..protocol import models, status
from ..protocol.errors import JobError
from ..protocol.fields import moment
from ..protocol.lifecycle import Actor, Phase
from ..protocol.retries import RetryPolicy

#: The longest result document that a status holds, as JSON. Bytes.
MAX_RESULT_BYTES = 64 * 1024
#: What is left out of a result that is longer, one after the other: what people look for last goes first.
_DISPENSABLE = (
    "rehearsal.facts",
    "bootTest.facts",
    "hardware",
    "rehearsal.consoleTail",
    "bootTest.consoleTail",
    "changes",
    "guest",
    "stages",
    "artifacts",
    "warnings",
    "notCarried",
    "disks",
)

Document = dict[str, t.Any]


def relay(
    told: models.JobStatus, given: Given, now: datetime.datetime, result: Document | None = None
) -> models.JobStatus:
    """Return the status that follows ``told``, which is of the same attempt, by what became of the job here.

    Once the attempt is spent, the job is nobody's: FAILED, COMPLETED or CANCELLED, or QUEUED for another attempt.
    ``result`` is its result document then, as far as it got.
    """
    here = given.job.status
    known = {record.name: record for record in told.stages}
    for record in here.stages:
        if known.get(record.name) != record:
            told = status.end_stage(told, record)
    return _ended(told, given, result, now) if given.spent else _going_on(told, here, now)


def _going_on(told: models.JobStatus, here: models.JobStatus, now: datetime.datetime) -> models.JobStatus:
    if here.stage is not None and (here.stage != told.stage or told.phase is Phase.ASSIGNED):
        told = status.start_stage(told, here.stage, now)
    if here.phase is Phase.PROGRESSING and here.progress is not None:
        said = here.progress.updated_at
        if told.progress is None or told.progress.updated_at != said:
            told = status.report_progress(told, here.progress, now if said is None else moment(said))
    elif here.phase is Phase.RUNNING and told.phase is Phase.PROGRESSING:
        told = status.advance(told, Phase.RUNNING, Actor.WORKER, now)
    return told


def _ended(told: models.JobStatus, given: Given, result: Document | None, now: datetime.datetime) -> models.JobStatus:
    here = given.job.status
    if told.phase is Phase.ASSIGNED and here.started_at is not None:
        told = status.advance(told, Phase.RUNNING, Actor.WORKER, moment(here.started_at))
    told = told.model_copy(update={"stage": here.stage or told.stage, "assigned_node": None})
    if result is not None:
        told = told.model_copy(update={"result": bounded(result)})
    attempt = here.attempts[-1] if here.attempts and here.attempts[-1].epoch == given.epoch else None
    if here.phase is Phase.COMPLETED:
        if told.phase is Phase.ASSIGNED:
            told = status.advance(told, Phase.RUNNING, Actor.WORKER, now)
        told = told.model_copy(update={"artifacts": here.artifacts, "stages": here.stages})
        return status.advance(told, Phase.COMPLETED, Actor.WORKER, now)
    if here.phase is Phase.CANCELLED:
        return status.advance(told, Phase.CANCELLED, Actor.WORKER, now, message=_said(here, "Failed"))
    if attempt is not None and attempt.error is not None:
        return status.fail(told, _raised(attempt.error), Actor.WORKER, now, policy=RetryPolicy.of(given.job.spec))
    return hand_back(told, _said(here, "Queued"), now)


def hand_back(told: models.JobStatus, why: str, now: datetime.datetime) -> models.JobStatus:
    """Return the status of a job that its node gives back, resumable and without counting the attempt."""
    queued = status.advance(told, Phase.QUEUED, Actor.WORKER, now, reason="HandedBack", message=why)
    return queued.model_copy(update={"assigned_node": None})


def cancelled(told: models.JobStatus, now: datetime.datetime) -> models.JobStatus:
    """Return the status of a job that was cancelled before its node did anything."""
    over = status.advance(told, Phase.CANCELLED, Actor.WORKER, now)
    return over.model_copy(update={"assigned_node": None})


def failed(told: models.JobStatus, error: JobError, policy: RetryPolicy, now: datetime.datetime) -> models.JobStatus:
    """Return the status of a job whose attempt failed by ``error``, of which the queue knows nothing."""
    after = status.fail(told, error, Actor.WORKER, now, policy=policy)
    return after.model_copy(update={"assigned_node": None})


def bounded(result: Document) -> Document:
    """Return a result document as a status holds it: without the diffs of files, and no longer than 64 KiB."""
    changes = [{key: value for key, value in one.items() if key != "diff"} for one in result.get("changes", [])]
    made = {**result, "changes": changes}
    left_out = []
    for path in _DISPENSABLE:
        if _size(made) <= MAX_RESULT_BYTES:
            break
        made = _without(made, path.split("."))
        left_out.append(path)
        made["warnings"] = [*_short(made), f"Too long for the status: {', '.join(left_out)}; see the result document."]
    return made


def _short(made: Document) -> list[str]:
    return [text for text in made.get("warnings", []) if not text.startswith("Too long for the status: ")]


def _without(document: Document, path: list[str]) -> Document:
    key, rest = path[0], path[1:]
    if not rest or not isinstance(document.get(key), dict):
        return {name: value for name, value in document.items() if name != key or rest}
    return {**document, key: _without(document[key], rest)}


def _size(document: Document) -> int:
    return len(json.dumps(document, ensure_ascii=False).encode())


def _said(here: models.JobStatus, condition: str) -> str:
    return next((one.message for one in here.conditions if one.type == condition), "")


def _raised(error: models.ErrorDocument) -> JobError:
    told = (error.error_class, error.reason, error.message, error.suggestion, error.stage)
    return JobError(*told, needs=tuple(error.needs))
