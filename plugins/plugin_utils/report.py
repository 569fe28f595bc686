# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables at the end of a run: one row a VM, for each kind of operation its own columns."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import typing as t

from ..module_utils.ansible_support.documents import Job, failure, over, printable, result, sentence, status
from ..module_utils.telemetry.units import duration, size

_OK = "COMPLETED"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one host's VM."""

    host: str
    job: Job | None
    changed: bool
    error: c.Mapping[str, t.Any] | None
    """The keys of an error document; None: it went well, or is still going."""
    planned: bool = False
    """Whether this was a check, which did nothing."""
    looked: bool = False
    """Whether the job was only looked at: what has become of it, and nothing was asked of it."""

    @property
    def operation(self) -> str:
        """What was to be done."""
        return str(self.job["spec"]["operation"]) if self.job else "convert"

    @property
    def word(self) -> str:
        """The row's verdict."""
        if self.error is not None:
            return "CANCELLED" if self.error.get("reason") == "Cancelled" else "FAILED"
        if self.planned:
            return "would run" if self.changed else "unchanged"
        phase = str(status(self.job).get("phase", "")) if self.job else "no job"
        return "unchanged" if phase == _OK and not self.changed and not self.looked else phase

    def document(self) -> dict[str, t.Any]:
        """Return the job's document; of a VM without a job, one that says why it has none."""
        job = self.job or {"metadata": {"name": self.host}, "spec": {"operation": self.operation}}
        if self.error is None or (self.job is not None and not over(self.job)):
            # A job that was not waited for to its end is still going, whatever the task said.
            return dict(job)
        cancelled = status(job).get("phase") == "CANCELLED"
        ended = {"phase": "CANCELLED" if cancelled else "FAILED", "lastError": {"retryable": False, **self.error}}
        return {**job, "status": {**status(job), **ended}}

    def to_data(self) -> dict[str, t.Any]:
        """Return what ``set_stats`` hands on."""
        done = result(self.job) if self.job else {}
        data: dict[str, t.Any] = {
            "job": self.job["metadata"]["name"] if self.job else None,
            "phase": status(self.job).get("phase") if self.job and self.error is None else "FAILED",
            "changed": self.changed,
            "verdict": done.get("verdict"),
            "artifacts": [artifact["path"] for artifact in done.get("artifacts") or []],
            "seconds": done.get("seconds"),
            "error": dict(self.error) if self.error is not None else None,
        }
        return data


def outcome(host: str, results: c.Iterable[c.Mapping[str, t.Any]], *, check: bool) -> Outcome | None:
    """Return what the results of a host's tasks, in their order, say of its VM; None if none of them was run."""
    job: Job | None = None
    changed = False
    error: c.Mapping[str, t.Any] | None = None
    ran, looked = False, True
    for found in results:
        if found.get("skipped"):
            continue
        ran = True
        looked = looked and "jobs" in found
        changed = changed or bool(found.get("changed"))
        job = found.get("job") or next(iter(found.get("jobs") or []), job)
        if found.get("failed") or found.get("unreachable"):
            error = found.get("error") or _plain(str(found.get("msg") or "The conversion host cannot be reached."))
    if not ran:
        return None
    if error is None and job is not None:
        error = failure(job)
    return Outcome(host, job, changed, error, planned=check and not looked, looked=looked)


def _plain(message: str) -> dict[str, t.Any]:
    return {"class": "invalid", "stage": "", "reason": "Failed", "message": message, "suggestion": ""}


def report(outcomes: c.Sequence[Outcome]) -> list[str]:
    """Return the lines of the tables, one after another where a batch has several operations."""
    lines: list[str] = []
    for operation in dict.fromkeys(outcome.operation for outcome in outcomes):
        same = [outcome for outcome in outcomes if outcome.operation == operation]
        lines += _TABLES.get(operation, _convert)(same)
    return [printable(line) for line in lines]


def table(header: c.Sequence[str], body: c.Iterable[c.Sequence[str]]) -> list[str]:
    """Return lines with aligned columns."""
    cells = [header, *body]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    rendered = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return [rendered[0], "-" * max(len(line) for line in rendered), *rendered[1:]]


def _convert(outcomes: c.Sequence[Outcome]) -> list[str]:
    lines = table(
        ("VM", "result", "source", "target", "read", "written", "boot test", "time"), map(_convert_row, outcomes)
    )
    for outcome in outcomes:
        lines += _details(outcome)
    return lines


def _convert_row(outcome: Outcome) -> tuple[str, ...]:
    done = result(outcome.job) if outcome.job else {}
    disks = done.get("disks") or []
    first = disks[0] if disks else {}
    boot = done.get("bootTest") or {}
    ran = outcome.error is None and not outcome.planned and bool(done)
    return (
        outcome.host,
        outcome.word,
        first.get("source") or _source(outcome.job),
        first.get("target") or "-",
        size(sum(disk.get("bytesRead", 0) for disk in disks)) if ran else "-",
        size(sum(disk.get("bytesWritten", 0) for disk in disks)) if ran else "-",
        _booted(boot) if ran else "-",
        duration(done.get("seconds") or 0) if ran else "-",
    )


def _booted(boot: c.Mapping[str, t.Any]) -> str:
    if boot.get("verdict") == "booted":
        return f"booted in {duration(boot['seconds'])}"
    return str(boot.get("verdict") or "not verified").replace("-", " ")


def _details(outcome: Outcome) -> list[str]:
    """Return what a row has no room for."""
    lines: list[str] = []
    if outcome.error is not None:
        lines.append(f"{outcome.host}: {outcome.error.get('reason')}: {sentence(outcome.error)}")
    if outcome.job is None:
        return lines
    done = result(outcome.job)
    if outcome.planned:
        files = len({change["path"] for change in done.get("changes") or []})
        if outcome.changed:
            lines.append(f"{outcome.host}: {files} files of the guest would change")
        return lines + _warnings(outcome.host, done)
    stages = [f"{stage['name']} {duration(stage['seconds'])}" for stage in done.get("stages") or []]
    if outcome.error is None and stages:
        lines.append(f"{outcome.host}: {', '.join(stages)}")
    lines += _warnings(outcome.host, done)
    artifacts = [a["path"] for a in done.get("artifacts") or [] if a["kind"] in ("disk", "libvirt", "kubevirt")]
    if artifacts and outcome.error is None:
        # A disk on a block device has its absolute path, and lies not where the others do.
        folders = [path.rpartition("/")[0] for path in artifacts if not path.startswith("/")]
        results = [f"{folder}/result.json" for folder in folders[:1]]
        lines.append(f"{outcome.host}: artifacts {', '.join([*artifacts, *results])}")
    commands = (("libvirtCommand", "start it with libvirt and KVM"), ("startCommand", "start it with QEMU alone"))
    if outcome.error is None:
        lines += [f"{outcome.host}: {what}: {done[field]}" for field, what in commands if done.get(field)]
    return lines


def _warnings(host: str, done: c.Mapping[str, t.Any]) -> list[str]:
    return [f"{host}: warning: {text}" for text in [*(done.get("warnings") or []), *(done.get("notCarried") or [])]]


def _rehearse(outcomes: c.Sequence[Outcome]) -> list[str]:
    return table(("VM", "verdict", "why", "what to do"), map(_rehearse_row, outcomes))


def _rehearse_row(outcome: Outcome) -> tuple[str, ...]:
    done = result(outcome.job) if outcome.job else {}
    error = outcome.error
    if error is not None:
        verdict = "will not boot" if done.get("verdict") == "will-not-boot" else "cannot tell"
        return (
            outcome.host,
            verdict,
            _line(f"{error.get('reason')}: {error['message']}"),
            _line(error.get("suggestion")),
        )
    if outcome.planned or not done:
        return outcome.host, outcome.word, "-", "-"
    boot = done.get("rehearsal") or {}
    warnings = [*(done.get("warnings") or []), *(boot.get("warnings") or [])]
    why = _booted(boot) + (": " + "; ".join(dict.fromkeys(warnings)) if warnings else "")
    return outcome.host, str(done.get("verdict", "")).replace("-", " "), _line(why), _line(boot.get("suggestion"))


def _inspect(outcomes: c.Sequence[Outcome]) -> list[str]:
    return table(
        ("VM", "result", "guest", "firmware", "CPUs", "memory", "disks", "network cards"), map(_inspect_row, outcomes)
    )


def _inspect_row(outcome: Outcome) -> tuple[str, ...]:
    done = result(outcome.job) if outcome.job else {}
    guest, hardware = done.get("guest") or {}, done.get("hardware") or {}
    if outcome.error is not None:
        why = _line(f"{outcome.error.get('reason')}: {outcome.error['message']}")
        return outcome.host, outcome.word, why, "-", "-", "-", "-", "-"
    disks = [size(disk["virtualSizeBytes"]) for disk in done.get("disks") or []]
    return (
        outcome.host,
        outcome.word,
        str(guest.get("prettyName") or "-"),
        str(guest.get("firmware") or hardware.get("firmware") or "-"),
        str(hardware.get("cpus") or "-"),
        size(hardware["memoryBytes"]) if hardware.get("memoryBytes") else "-",
        " + ".join(disks) or "-",
        str(len(hardware["nics"])) if "nics" in hardware else "-",
    )


def _source(job: Job | None) -> str:
    if job is None:
        return "-"
    source = job["spec"]["source"]
    return str(source.get("path") or ", ".join(disk["path"] for disk in source.get("disks") or []) or "-")


def _line(text: str | None) -> str:
    """Return the first line of a text, which may go on with a console's last ones."""
    return (text or "").partition("\n")[0] or "-"


_TABLES: dict[str, c.Callable[[c.Sequence[Outcome]], list[str]]] = {"rehearse": _rehearse, "inspect": _inspect}
