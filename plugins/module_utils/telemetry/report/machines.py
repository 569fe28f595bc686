# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report for programs: a table as CSV, and the batch as JUnit XML, which CI servers show."""

from __future__ import annotations

import csv
import io
import typing as t

from ..units import duration
from .batch import Batch, Record
from .charts import STAGES
from .evidence import Limits, clip
from .markup import Markup, tag, visible

#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Cell: t.TypeAlias = "str | int | float | None"


def csv_text(batch: Batch) -> str:
    """Return a line for each job below a line with the columns' names (RFC 4180). Numbers are in bytes and seconds."""
    written = io.StringIO()
    lines = [_cells(record) for record in batch.records]
    table = csv.DictWriter(written, lines[0] if lines else ())
    table.writeheader()
    table.writerows({key: _plain(value) for key, value in line.items()} for line in lines)
    return written.getvalue()


def _cells(record: Record) -> dict[str, Cell]:
    result, error, boot = record.result, record.error, record.boot
    spans = {span.stage: span.seconds for span in record.spans if not span.skipped}
    return {
        "job": record.name,
        "uid": record.uid,
        "operation": record.operation,
        "outcome": record.outcome.value.label,
        "phase": record.status.phase.value,
        "verdict": result.verdict if record.outcome.value.junit != "skipped" else None,
        "source": record.source,
        "target": ", ".join(disk.target for disk in result.disks if disk.target),
        "virtual_size_bytes": record.virtual_size,
        "bytes_read": record.bytes_read,
        "bytes_written": record.bytes_written,
        "began": record.began.isoformat() if record.began else None,
        "ended": record.ended.isoformat() if record.ended else None,
        "seconds": round(record.seconds, 3),
        **{f"{stage}_seconds": round(spans[stage], 3) if stage in spans else None for stage in STAGES},
        "boot_verdict": boot.verdict if boot else None,
        "boot_seconds": round(boot.seconds, 3) if boot else None,
        "attempts": len(record.status.attempts),
        "changed_files": len({change.path for change in result.changes}),
        "warnings": len(record.warnings),
        "stage": error.stage if error else None,
        "class": error.error_class.value if error else None,
        "reason": error.reason if error else None,
        "message": error.message if error else None,
        "suggestion": error.suggestion if error else None,
        "worker": record.worker,
    }


def _plain(value: Cell) -> Cell:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def junit_text(batch: Batch) -> str:
    """Return the batch as one test suite with a test case a job.

    ``failure`` is a VM that will not boot, ``error`` a job that failed or was refused, ``skipped`` one that was
    cancelled or is not finished.
    """
    limits = Limits.for_jobs(len(batch.records))
    counts = {
        "tests": str(len(batch.records)),
        **{f"{kind}s": str(_count(batch, kind)) for kind in ("failure", "error")},
    }
    began = batch.began.strftime("%Y-%m-%dT%H:%M:%S") if batch.began else None
    suite = tag(
        "testsuite",
        *(_case(record, limits) for record in batch.records),
        name=batch.title,
        **counts,
        skipped=str(_count(batch, "skipped")),
        time=f"{batch.wall_seconds:.3f}",
        timestamp=began,
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tag("testsuites", suite, name=batch.title, **counts)}\n'


def _count(batch: Batch, kind: str) -> int:
    return sum(1 for record in batch.records if record.outcome.value.junit == kind)


def _case(record: Record, limits: Limits) -> Markup:
    kind = record.outcome.value
    return tag(
        "testcase",
        _trouble(record, limits) if kind.junit else None,
        tag("system-out", clip(_said(record), limits.console)[0]),
        name=record.name,
        classname=f"hyper2kvm.{record.operation}",
        time=f"{record.seconds:.3f}",
    )


def _trouble(record: Record, limits: Limits) -> Markup:
    kind, error = record.outcome.value, record.error
    if error is None:
        return tag(kind.junit, message=f"{record.outcome.value.label}: {record.status.phase.value}")
    todo = f"\nWhat to do: {error.suggestion}" if error.suggestion else ""
    text = clip(error.message, limits.text)[0] + clip(todo, limits.text)[0]
    return tag(kind.junit, text, type=error.reason, message=clip(error.message.partition("\n")[0], limits.text)[0])


def _said(record: Record) -> str:
    boot = record.boot
    lines = [f"{record.outcome.value.label}: {record.source}"]
    lines += [f"{span.stage}: {duration(span.seconds)} {span.detail}".rstrip() for span in record.spans]
    lines += [f"warning: {text}" for text in record.warnings]
    if boot is not None and boot.console_tail:
        lines += ["The console's last lines:", *boot.console_tail]
    return "\n".join(lines)
