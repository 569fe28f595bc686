# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Progress of a run's jobs: what is told, and which of Ansible's processes tells it.

Ansible runs a task for each host in a process of its own, and none knows of the others. The jobs that a run handed in
are therefore kept as small files in the run's temporary folder, and whichever waiting process holds a lock there speaks
for the whole batch.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import sys
import time
import typing as t

from ansible import constants
from ansible.utils.display import Display

from ..module_utils.ansible_support.documents import Job, failure, over, printable, result, status, waiting, where
from ..module_utils.telemetry.batch_progress import RUNNING, BatchProgress, JobProgress
from ..module_utils.telemetry.units import duration

#: Tasks run in processes that are cut off from the terminal; this file is loaded before they are forked.
TERMINAL = sys.stdout.isatty()

_LIVE_SECONDS = 3.0
_QUIET_SECONDS = 60.0
_MAX_ROWS = 8
#: Ansible prints results from a process that knows of no live lines: so many fit in until they are drawn again.
_GAP = 3

Summary = dict[str, t.Any]


class Batch:
    """The jobs that this run of Ansible handed to one queue."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Use ``folder``, and make it if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock: int | None = None

    @classmethod
    def of_run(cls, queue: str) -> Batch:
        """Return the batch of the present run for the queue of that name."""
        key = hashlib.sha256(queue.encode()).hexdigest()[:16]
        return cls(pathlib.Path(constants.DEFAULT_LOCAL_TMP) / "hyper2kvm" / key)

    def note(self, job: Job, host: str | None = None) -> None:
        """Keep how a job is. ``host`` is the inventory's name for it, given once."""
        path = self._folder / f"{job['metadata']['name']}.json"
        known = _read(path)
        summary = summarize(job)
        summary["host"] = host or known.get("host") or job["metadata"]["name"]
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(summary), encoding="utf-8")
        temporary.replace(path)

    def summaries(self) -> dict[str, Summary]:
        """Return how the jobs are, by name."""
        return {path.stem: _read(path) for path in sorted(self._folder.glob("*.json"))}

    def lead(self) -> bool:
        """Whether this process speaks for the batch."""
        if self._lock is None:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def resign(self) -> None:
        """Let another process speak."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def spoke(self) -> float:
        """When the batch's last line was printed, in seconds since the epoch."""
        return (self._folder / "lock").stat().st_mtime

    def speak(self) -> None:
        """Note that the batch's line was printed now."""
        os.utime(self._folder / "lock")


class Progress:
    """Shows one job's progress, and the batch's where no other process does. A context manager."""

    def __init__(self, host: str, batch: Batch, interval: float, *, terminal: bool = TERMINAL) -> None:
        """Show the job of ``host``; ``interval`` is in seconds, between two lines where there is no terminal."""
        self._host = host
        self._batch = batch
        self._interval = interval
        self._terminal = terminal
        self._display = Display()
        self._seen = ""
        self._drawn = False

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave a clean line, and the word to another process."""
        if self._drawn:
            self._draw([])
        self._batch.resign()

    def show(self, job: Job, others: c.Iterable[Job] = ()) -> None:
        """Tell how the job is, and what was learned of others."""
        self._batch.note(job, self._host)
        for other in others:
            self._batch.note(other)
        if not self._terminal and where(job) != self._seen:
            self._display.display(f"[{self._host}] {news(job)}")
        self._seen = where(job)
        if not self._batch.lead():
            return
        if self._terminal:
            self._draw(rows(self._batch.summaries(), self._display.columns))
        elif self._due() <= 0:
            self._batch.speak()
            self._display.display(batch_line(self._batch.summaries()))

    def patience(self) -> float:
        """How many seconds the next look may take."""
        if not self._batch.lead():
            return _QUIET_SECONDS
        return _LIVE_SECONDS if self._terminal else max(1.0, self._due())

    def others(self) -> list[str]:
        """Return the names of the jobs that the next look has to ask about for the batch's sake."""
        if not self._batch.lead():
            return []
        return [name for name, summary in self._batch.summaries().items() if not summary.get("over")]

    def _due(self) -> float:
        return self._batch.spoke + self._interval - time.time()

    def _draw(self, lines: list[str]) -> None:
        """Put lines below the cursor, which stays above the empty lines where the next results are printed."""
        text = "\r\x1b[J"
        if lines:
            text += "\n" * _GAP + "\n".join(lines) + f"\x1b[{_GAP + len(lines) - 1}A\r"
        self._display.display(text, newline=False, screen_only=True)
        self._drawn = bool(lines)


def summarize(job: Job) -> Summary:
    """Return what a line about a job needs."""
    now = status(job)
    progress = now.get("progress") or {}
    return {
        "phase": now.get("phase", ""),
        "stage": now.get("stage") or "",
        "over": over(job),
        "percent": progress.get("percent"),
        "rate": progress.get("ratePerSecond") or 0.0,
        "eta": progress.get("etaSeconds"),
        "message": printable(progress.get("message") or ""),
        "job": dataclasses.asdict(JobProgress.of(now)),
    }


def rows(summaries: c.Mapping[str, Summary], columns: int) -> list[str]:
    """Return the live display: a line for each running job, then one for the batch."""
    running = [summary for summary in summaries.values() if summary.get("phase") in RUNNING]
    width = max([len("batch"), *(len(summary["host"]) for summary in running)])
    shown = [(summary["host"], _bar(summary["percent"]), activity(summary)) for summary in running[:_MAX_ROWS]]
    lines = [f"{host:<{width}}  {drawn}  {doing}" for host, drawn, doing in shown]
    if len(running) > _MAX_ROWS:
        lines.append(f"… and {len(running) - _MAX_ROWS} more")
    batch = _batch(summaries)
    lines.append(f"{'batch':<{width}}  {_bar(100 * batch.share)}  {_words(batch)}")
    return [line[: max(20, columns - 1)] for line in lines]


def batch_line(summaries: c.Mapping[str, Summary]) -> str:
    """Return one line about the whole batch."""
    running = [summary for summary in summaries.values() if summary.get("phase") in RUNNING]
    doing = "; ".join(f"{summary['host']} {activity(summary)}" for summary in running[:_MAX_ROWS])
    more = f"; and {len(running) - _MAX_ROWS} more" if len(running) > _MAX_ROWS else ""
    return f"hyper2kvm: {_words(_batch(summaries))}" + (f" | {doing}{more}" if doing else "")


def _batch(summaries: c.Mapping[str, Summary]) -> BatchProgress:
    return BatchProgress.of([JobProgress(**summary["job"]) for summary in summaries.values() if summary], time.time())


def _words(batch: BatchProgress) -> str:
    # A reason is a name that the protocol gives, or that a newer side made up.
    return printable(str(batch))


def activity(summary: Summary) -> str:
    """Return what a running job does: stage, percent, MiB/s and time left, as far as they are known."""
    parts = [summary["stage"] or "starting"]
    if summary["percent"]:
        parts[0] += f" {summary['percent']:.0f} %"
    if summary["rate"]:
        parts.append(f"{summary['rate'] / 2**20:.0f} MiB/s")
    if summary["eta"] is not None:
        parts.append(f"{duration(summary['eta'])} left")
    if summary["message"] and len(parts) == 1:
        parts.append(summary["message"])
    return ", ".join(parts)


def news(job: Job) -> str:
    """Return the line for a job that has come somewhere else."""
    now = status(job)
    phase = now.get("phase", "")
    if phase == "COMPLETED":
        done = result(job)
        boot = done.get("bootTest") or done.get("rehearsal") or {}
        booted = f", booted in {duration(boot['seconds'])}" if boot.get("verdict") == "booted" else ""
        return f"COMPLETED in {duration(done.get('seconds') or 0)}{booted}"
    error = failure(job)
    if error is not None:
        stage = f" in {error['stage']}" if error.get("stage") else ""
        return f"{phase}{stage}: {error['reason']}"
    if now.get("stage"):
        return str(now["stage"])
    reasons = waiting(job)
    return f"waiting: {reasons}" if reasons else str(phase).lower()


def _bar(percent: float | None, width: int = 20) -> str:
    if not percent:
        return " " * (width + 2)
    full = round(width * min(100.0, percent) / 100)
    return "[" + "#" * full + "." * (width - full) + "]"


def _read(path: pathlib.Path) -> Summary:
    try:
        found: Summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found
