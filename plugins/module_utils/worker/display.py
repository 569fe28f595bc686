# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the command line shows jobs to people: tables, lines and explanations, without what a terminal would obey."""

from __future__ import annotations

import collections
import collections.abc as c
import typing as t

from ..protocol import models
from ..protocol.lifecycle import Phase
from ..telemetry.batch_progress import BatchProgress, JobProgress
from ..telemetry.units import rough_duration, size

if t.TYPE_CHECKING:
    import pathlib

    from ..scheduling.capacity import Capacity
    from ..telemetry.report.batch import Record
    from .recovery import Findings


def plain(text: str) -> str:
    """Return ``text`` on one line and without control characters: guests and users chose some of it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def table(rows: c.Sequence[c.Sequence[str]]) -> str:
    """Return rows, the first of them the heading, as columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def progress(told: models.Progress) -> str:
    """Return ``42.0 % of 1.3 GiB, 120.5 MiB/s, 6 s left``, as far as it is known."""
    parts = []
    if told.bytes_total:
        parts.append(f"{told.percent:.0f} % of {size(told.bytes_total)}")
    elif told.percent:
        parts.append(f"{told.percent:.0f} %")
    if told.rate_per_second:
        parts.append(f"{size(told.rate_per_second)}/s")
    if told.eta_seconds is not None:
        parts.append(f"{rough_duration(told.eta_seconds)} left")
    if told.message:
        parts.append(plain(told.message))
    return ", ".join(parts)


def situation(job: models.MigrationJob) -> str:
    """Return in a few words what a job does, waits for or died of."""
    status = job.status
    if status.phase is Phase.QUEUED:
        return "; ".join(plain(wait.message) for wait in status.waiting[:2])
    if status.phase is Phase.FAILED and status.last_error is not None:
        return plain(f"{status.last_error.reason}: {status.last_error.told}")
    if status.phase is Phase.COMPLETED:
        verdict = (status.result or {}).get("verdict", "")
        return str(verdict)
    return progress(status.progress) if status.progress is not None else ""


def assessment(records: c.Sequence[Record]) -> str:
    """Return the table of ``assess``, and a line with the sums."""
    rows = [("VM", "RESULT", "GUEST", "WHY")]
    for record in sorted(records, key=lambda one: one.source):
        guest = record.result.guest or {}
        error = record.error
        why = f"{error.reason}: {error.message}" if error is not None else "; ".join(record.warnings)
        name = plain(str(guest.get("prettyName") or "-"))
        rows.append((plain(record.source), record.outcome.value.label, name, plain(why) or "-"))
    counts = collections.Counter(record.outcome.value.label for record in records)
    sums = ", ".join(f"{count} {label}" for label, count in counts.most_common())
    return f"{table(rows)}\n\n{len(records)} VMs: {sums}"


def jobs_table(jobs: c.Sequence[models.MigrationJob]) -> str:
    """Return the table of ``status``."""
    rows = [("NAME", "OPERATION", "PHASE", "STAGE", "WORKER", "SITUATION")]
    for job in jobs:
        status = job.status
        worker = status.claim.worker if status.claim is not None else ""
        rows.append(
            (
                job.metadata.key,
                job.spec.operation.value,
                status.phase.value,
                status.stage or "",
                worker,
                situation(job),
            )
        )
    return table(rows)


def whole(jobs: c.Sequence[models.MigrationJob], now: float) -> str:
    """Return how far all jobs together are at ``now`` (seconds since the epoch)."""
    known = [JobProgress.of(job.status.to_document()) for job in jobs]
    return plain(str(BatchProgress.of(known, now)))


def job_details(job: models.MigrationJob) -> str:
    """Return everything about one job that a person may want to know at a glance."""
    status = job.status
    lines = [f"{job.metadata.key} ({job.spec.operation.value}): {status.phase.value}"]
    if status.claim is not None:
        lines.append(f"  worker: {status.claim.worker}, attempt {status.epoch}")
    if status.stage is not None:
        told = progress(status.progress) if status.progress is not None else ""
        lines.append(f"  stage: {status.stage}" + (f" ({told})" if told else ""))
    lines += [f"  waits: {plain(wait.message)}" for wait in status.waiting]
    lines += [
        f"  {stage.name}: {'skipped' if stage.skipped else rough_duration(stage.seconds)}"
        + (f", {plain(stage.detail)}" if stage.detail else "")
        for stage in status.stages
    ]
    lines += [f"  artifact: {plain(one.path)} ({size(one.size_bytes)})" for one in status.artifacts]
    if status.last_error is not None and status.phase is not Phase.COMPLETED:
        error = status.last_error
        where = f" in {error.stage}" if error.stage else ""
        lines.append(f"  failed{where}: {error.reason}: {plain(error.told)}")
        if error.suggestion:
            lines.append(f"  what to do: {plain(error.suggestion)}")
    return "\n".join(lines)


def explanation(job: models.MigrationJob, reasons: c.Sequence[models.WaitReason]) -> str:
    """Return why a job is not running."""
    name = job.metadata.key
    if job.status.phase is not Phase.QUEUED:
        return f"{name} does not wait: it is {job.status.phase.value}"
    if not reasons:
        return f"{name}: nothing hinders it; a worker will take it at once"
    lines = [f"{name} waits:"]
    for reason in reasons:
        who = ""
        if reason.count:
            more = ", …" if reason.count > len(reason.examples) else ""
            who = f"{reason.count} worker{'s' if reason.count > 1 else ''} ({', '.join(reason.examples)}{more}) "
        lines.append(f"  {reason.reason}: {who}{plain(reason.message)}")
    return "\n".join(lines)


def event_line(event: models.Event) -> str:
    """Return one event as a line."""
    kind = event.type.rpartition(".")[2]
    data = event.data
    if kind == "phase":
        text = f"{data.get('from', '')} → {data['to']}".removeprefix(" → ") + f": {data.get('why', '')}".rstrip(": ")
    elif kind == "progress":
        text = f"{data['stage']}: {progress(models.Progress.model_validate(data))}"
    elif kind == "stagestarted":
        text = f"{data['stage']} begins"
    elif kind == "stageended":
        text = f"{data['name']} ended after {rough_duration(data['seconds'])}" + (
            f": {data['detail']}" if data.get("detail") else ""
        )
    elif kind == "warning":
        text = f"warning: {data['message']}"
    else:
        text = ", ".join(f"{key}: {value}" for key, value in data.items())
    return f"{event.time}  {event.subject}  {plain(text)}"


def capabilities_table(found: c.Mapping[str, models.Capability]) -> str:
    """Return what a worker can do as a table."""
    rows = [("CAPABILITY", "", "DETAIL")]
    rows += [(name, "yes" if one.available else "no", plain(one.detail)) for name, one in found.items()]
    return table(rows)


def findings(found: Findings, output: pathlib.Path) -> str:
    """Return what an output root tells, for whoever lost its queue."""
    lines = []
    if found.done:
        rows = [("NAME", "OPERATION", "VERDICT", "ENDED")]
        rows += [
            (plain(one.name), one.operation, one.result.verdict, one.result.completed_at)
            for one in sorted(found.done, key=lambda one: one.result.completed_at)
        ]
        lines += [table(rows), ""]
    lines += [f"{plain(one.where)} is no result document: {plain(one.why)}" for one in found.unreadable]
    lines += [f"{plain(name)}: {plain(', '.join(gone))} gone" for name, gone in sorted(found.gone.items())]
    partials = [(path, path.stat().st_blocks * 512) for path in found.orphans]
    lines += [f"{plain(str(path.relative_to(output)))}: partial, of no job, {size(used)}" for path, used in partials]
    lines += [f"{plain(str(path.relative_to(output)))}: a disk without a result document" for path in found.unfinished]
    kept = size(sum(used for dummy, used in partials))
    lines.append(
        f"{len(found.done)} jobs are done, {len(partials)} partial targets ({kept}) are of no job, "
        f"{len(found.unfinished)} disks have no result document."
    )
    return "\n".join(lines)


def capacity(answer: Capacity, slots: int) -> str:
    """Return how many workers do it, how long they take, and what keeps more from being faster."""
    took = rough_duration(answer.seconds)
    if not answer.workers:
        return f"No number of workers does it in the window: {took} at best, because of the {answer.bound_by}."
    workers = f"{answer.workers} workers" if answer.workers > 1 else "1 worker"
    return f"{workers} of {slots} slots each: {took}, bound by the {answer.bound_by}."
