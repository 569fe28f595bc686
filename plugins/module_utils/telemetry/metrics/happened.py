# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is counted when something becomes of a job. Pure: from what was and what is, to tallies.

The queue of a host calls these in the very transaction that tells of the change, so that nothing is counted twice or
not at all; the operator when it sees a change.
"""

from __future__ import annotations

import collections.abc as c
import re
import typing as t

from ...protocol import _pydantic as p
from ...protocol import models, status
from ...protocol.fields import moment
from ...protocol.lifecycle import TERMINAL, Phase
from . import table
from .book import Tally

#: As every reason of this code is.
_WORD = re.compile(r"[A-Z][A-Za-z0-9]{1,59}")
_LOSSES = (status.WORKER_LOST, status.LEASE_EXPIRED)


def changed(before: models.JobStatus, after: models.JobStatus, created: str) -> c.Iterator[Tally]:
    """Yield what a job's change from one status to a later one counts for; ``created`` is when it was made."""
    errors = list(_new_errors(before, after))
    ended = after.phase in TERMINAL and before.phase not in TERMINAL
    failed = after.last_error if ended and after.phase is Phase.FAILED else None
    if before.epoch == 0 and after.attempts:
        yield Tally(table.FIRST_CLAIM, (), _seconds(created, after.attempts[0].started_at))
    for error in errors:
        if error.reason in _LOSSES:
            yield Tally(table.TAKEOVERS, (error.reason,))
    # The error that ended the job was followed by no other attempt.
    for error in errors[:-1] if failed is not None and errors else errors:
        yield Tally(table.RETRIES, (error.error_class.value,))
    if not ended:
        return
    yield Tally(table.JOBS_ENDED, (after.phase.value,))
    if failed is not None:
        kind = failed.error_class.value
        yield Tally(table.FAILURES, (kind,))
        yield Tally(table.FAILURE_REASONS, (kind, failed.reason if _WORD.fullmatch(failed.reason) else "Other"))
    if after.phase is Phase.COMPLETED and after.started_at and after.finished_at:
        yield Tally(table.JOB_SECONDS, (), _seconds(after.started_at, after.finished_at))


def stage_ended(before: models.JobStatus, stage: models.StageRecord) -> c.Iterator[Tally]:
    """Yield what a stage's end counts for; ``before`` is the job's status until then."""
    if stage.name not in table.STAGES or stage.skipped:
        return
    yield Tally(table.STAGE_SECONDS, (stage.name,), stage.seconds)
    told = before.progress
    if told is not None and told.stage == stage.name and told.bytes_total > told.bytes_done:
        # The last that it did was not worth a report.
        yield Tally(table.STAGE_BYTES, (stage.name,), told.bytes_total - told.bytes_done)


def progressed(before: models.JobStatus, after: models.JobStatus) -> c.Iterator[Tally]:
    """Yield what a report of progress counts for."""
    now, then = after.progress, before.progress
    if now is None or now.stage not in table.STAGES:
        return
    if then is None or then.stage != now.stage:
        # What a later attempt tells first includes what an earlier one did.
        done = now.bytes_done if len(after.attempts) == 1 else 0
    else:
        done = now.bytes_done - then.bytes_done
    if done > 0:
        yield Tally(table.STAGE_BYTES, (now.stage,), done)


def completed(result: models.JobResult) -> c.Iterator[Tally]:
    """Yield what the result of a COMPLETED job counts for."""
    for disk in result.disks:
        yield Tally(table.READ_BYTES, (), disk.bytes_read)
        yield Tally(table.WRITTEN_BYTES, (), disk.bytes_written)
        yield Tally(table.ALLOCATED_BYTES, (), disk.allocated_bytes)
    yield from _boot_tests({"rehearsal": result.rehearsal, "verification": result.boot_test})


def failed(details: c.Mapping[str, t.Any] | None) -> c.Iterator[Tally]:
    """Yield what the result of a FAILED job counts for; ``details`` is its document, as far as the job got."""
    told = details or {}
    yield from _boot_tests(
        {"rehearsal": _boot_test(told.get("rehearsal")), "verification": _boot_test(told.get("bootTest"))}
    )


def _boot_tests(tests: c.Mapping[str, models.BootTestResult | None]) -> c.Iterator[Tally]:
    for kind, test in tests.items():
        if test is not None:
            yield Tally(table.BOOT_TESTS, (kind, test.verdict))
            if test.verdict == "booted":
                yield Tally(table.BOOT_SECONDS, (kind,), test.seconds)


def _boot_test(document: t.Any) -> models.BootTestResult | None:
    try:
        return None if document is None else models.BootTestResult.model_validate(document)
    except p.ValidationError:
        return None


def _new_errors(before: models.JobStatus, after: models.JobStatus) -> c.Iterator[models.ErrorDocument]:
    known = {attempt.epoch for attempt in before.attempts if attempt.error is not None}
    for attempt in after.attempts:
        if attempt.error is not None and attempt.epoch not in known:
            yield attempt.error


def _seconds(begin: str, end: str) -> float:
    # Two machines' clocks may have told them.
    return max(0.0, (moment(end) - moment(begin)).total_seconds())
