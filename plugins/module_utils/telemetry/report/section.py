# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a report says of one job: its VM, its times, what was changed, how it booted, what went wrong."""

from __future__ import annotations

import base64
import collections.abc as c
import typing as t

from ...protocol import models
from ..units import duration, size
from .batch import Record, Span
from .evidence import Limits, Pictures, clip, screenshot
from .markup import Child, Markup, escape, foreign, join, tag

_CUT = "left out here; the whole is in the job's result document"


def job_section(record: Record, limits: Limits, pictures: Pictures) -> Markup:
    """Return what a report says of ``record``, within ``limits``."""
    return join(
        [
            _error(record, limits),
            _facts(record, limits),
            _list("Warnings", record.warnings, limits),
            _stages(record.spans, limits),
            _attempts(record, limits),
            _boot(record, limits, pictures),
            _changes(record.result.changes, limits),
            _artifacts(record.result, limits),
            _commands(record.result, limits),
        ]
    )


def _error(record: Record, limits: Limits) -> Markup | None:
    error = record.error
    if error is None:
        return None
    where = f" in the stage {error.stage}" if error.stage else " before the first stage"
    todo = error.suggestion or "Nothing is known that would help."
    return tag(
        "div",
        tag("h4", "What went wrong"),
        tag("p", tag("strong", foreign(error.reason)), foreign(where), f" (class {error.error_class.value})"),
        _pre(error.message, limits.text, "message"),
        tag("h4", "What to do"),
        tag("p", _text(todo, limits)),
        class_="note bad",
    )


def _facts(record: Record, limits: Limits) -> Markup:
    result = record.result
    guest, hardware = result.guest or {}, result.hardware or {}
    targets = [disk.target for disk in result.disks if disk.target]
    facts: list[tuple[str, str]] = [
        ("Operation", record.operation),
        ("Source", record.source),
        ("Target", ", ".join(targets)),
        ("Guest", _told(guest, "prettyName")),
        ("Host name", _told(guest, "hostname")),
        ("Firmware", _told(guest, "firmware") or _told(hardware, "firmware")),
        ("CPUs", _told(hardware, "cpus")),
        ("Memory", _memory(hardware)),
        ("Disks", ", ".join(f"{disk.name} {size(min(disk.virtual_size_bytes, 1 << 60))}" for disk in result.disks)),
        ("Read", size(record.bytes_read) if record.bytes_read else ""),
        ("Written", size(record.bytes_written) if record.bytes_written else ""),
        ("Began", record.began.strftime("%Y-%m-%d %H:%M:%S") if record.began else ""),
        ("Time", duration(record.seconds) if record.seconds else ""),
        ("Worker", record.worker),
        ("Waits for", "; ".join(reason.message for reason in record.status.waiting)),
        ("Phase", record.status.phase.value),
    ]
    rows = (tag("div", tag("dt", name), tag("dd", _text(value, limits))) for name, value in facts if value)
    return tag("dl", *rows, class_="facts")


def _told(data: c.Mapping[str, t.Any], key: str) -> str:
    value = data.get(key)
    return str(value) if isinstance(value, (str, int, float)) and value not in ("", None) else ""


def _memory(hardware: c.Mapping[str, t.Any]) -> str:
    value = hardware.get("memoryBytes")
    return size(min(value, 1 << 60)) if isinstance(value, int) and value > 0 else ""


def _list(heading: str, texts: c.Sequence[str], limits: Limits) -> Markup | None:
    if not texts:
        return None
    items = [tag("li", _text(text, limits)) for text in texts[: limits.items]]
    return join([tag("h4", heading), tag("ul", *items), _left_out(len(texts) - len(items), "warnings")])


def _stages(spans: c.Sequence[Span], limits: Limits) -> Markup | None:
    if not spans:
        return None
    shown = spans[: limits.items]
    rows = [
        (
            foreign(span.stage),
            span.began.strftime("%H:%M:%S"),
            "left out" if span.skipped else duration(span.seconds),
            _text(f"failed: {span.detail}" if span.failed else span.detail, limits),
        )
        for span in shown
    ]
    table = _table("Times by stage", ("Stage", "Began", "Took", "What came of it"), rows)
    return join([tag("h4", "Stages"), table, _left_out(len(spans) - len(shown), "stages")])


def _attempts(record: Record, limits: Limits) -> Markup | None:
    attempts = record.status.attempts
    if len(attempts) < 2:
        return None
    shown = attempts[-limits.items :]
    rows = [
        (
            str(attempt.epoch),
            foreign(attempt.worker),
            attempt.started_at,
            attempt.ended_at or "-",
            _text(f"{attempt.error.reason}: {attempt.error.message}" if attempt.error else "-", limits),
        )
        for attempt in shown
    ]
    table = _table("All tries at the job", ("Epoch", "Worker", "From", "To", "Ended by"), rows)
    return join([tag("h4", "Attempts"), table, _left_out(len(attempts) - len(shown), "attempts")])


def _boot(record: Record, limits: Limits, pictures: Pictures) -> Markup | None:
    boot = record.boot
    if boot is None:
        return None
    which = "of the target" if record.result.boot_test else "before the copy (rehearsal)"
    how = f" with {boot.accelerator.upper()}" if boot.accelerator else ""
    verdict = {
        "booted": f"The guest came up in {duration(boot.seconds)}{how}.",
        "failed": f"The guest did not come up; given up after {duration(boot.seconds)}{how}.",
        "not-verified": "The guest was not booted.",
    }[boot.verdict]
    tail, cut = _end("\n".join(boot.console_tail), limits.console)
    return join(
        [
            tag("h4", f"Boot test {which}"),
            tag("p", verdict, " ", _text(boot.message, limits)),
            tag("p", "Proof: ", tag("code", foreign(clip(boot.marker, limits.text)[0]))) if boot.marker else None,
            _picture(record, limits, pictures),
            tag("h5", "End of the console") if tail else None,
            tag("p", f"{cut} characters before it are {_CUT}.", class_="cut") if cut else None,
            (
                tag("pre", tail, class_="console", tabindex="0", role="group", aria_label="End of the console")
                if tail
                else None
            ),
        ]
    )


def _picture(record: Record, limits: Limits, pictures: Pictures) -> Markup | None:
    path = screenshot(record.result)
    if path is None:
        return None
    data = pictures.picture(path, limits.picture)
    if data is None:
        return tag(
            "p", "The screen at the end of the test is not in this report: ", tag("code", foreign(path)), class_="cut"
        )
    return tag(
        "figure",
        tag(
            "img",
            src=f"data:image/png;base64,{base64.b64encode(data).decode()}",
            alt="The guest's screen; the console below says the same as text.",
            loading="lazy",
        ),
        tag("figcaption", "The screen at the end of the boot test"),
        class_="screen",
    )


# -- changes -----------------------------------------------------------------------------------------------------------


def _changes(changes: c.Sequence[models.FileChange], limits: Limits) -> Markup | None:
    if not changes:
        return None
    left = limits.diff
    shown = []
    for change in changes[: limits.items]:
        diff, cut = clip(change.diff, left)
        left = max(0, left - len(diff))
        note = tag("p", f"{cut} characters of this diff are {_CUT}.", class_="cut") if cut else None
        shown.append(
            tag(
                "li",
                tag("p", tag("code", foreign(clip(change.path, limits.text)[0])), f" · {change.kind}", class_="path"),
                tag("p", _text(change.why, limits), " ", tag("span", "(", foreign(change.fixer), ")", class_="by")),
                _diff(diff) if diff else None,
                note,
            )
        )
    files = len({change.path for change in changes})
    return join(
        [
            tag("h4", f"Changes in the guest ({len(changes)} in {files} files)"),
            tag("ol", *shown, class_="changes"),
            _left_out(len(changes) - len(shown), "changes"),
        ]
    )


def _diff(text: str) -> Markup:
    """Return a diff whose added and removed lines are elements of their own; their signs stay in the text."""
    parts: list[Child] = []
    kind, lines = "", list[str]()
    for line in [*text.splitlines(keepends=True), ""]:
        now = _kind(line)
        if (now != kind or not line) and lines:
            parts.append(tag(kind, "".join(lines)) if kind else escape("".join(lines)))
            lines = []
        kind = now
        lines.append(line)
    return tag("pre", *parts, class_="diff", tabindex="0", role="group", aria_label="Diff")


def _kind(line: str) -> str:
    if line.startswith(("+++", "---")):
        return ""
    return {"+": "ins", "-": "del"}.get(line[:1], "")


# -- the rest ----------------------------------------------------------------------------------------------------------


def _artifacts(result: models.JobResult, limits: Limits) -> Markup | None:
    artifacts = result.artifacts
    if not artifacts:
        return None
    shown = artifacts[: limits.items]
    rows = [
        (
            tag("code", foreign(clip(one.path, limits.text)[0])),
            one.kind if one.format is None else join([one.kind, ", ", foreign(one.format)]),
            size(min(one.size_bytes, 1 << 60)),
            tag("code", one.digest or "-"),
        )
        for one in shown
    ]
    table = _table("Files below the output root", ("File", "Kind", "Size", "Digest"), rows)
    return join([tag("h4", "Artifacts"), table, _left_out(len(artifacts) - len(shown), "artifacts")])


def _commands(result: models.JobResult, limits: Limits) -> Markup | None:
    commands = [("by libvirt", result.libvirt_command), ("by QEMU alone", result.start_command)]
    shown = [
        join([tag("h5", f"Start it {how}"), _pre(command, limits.text, "command")])
        for how, command in commands
        if command
    ]
    return join([tag("h4", "Commands"), *shown]) if shown else None


def _table(caption: str, heads: c.Iterable[str], rows: c.Iterable[c.Sequence[Child]]) -> Markup:
    head = tag("tr", *(tag("th", name, scope="col") for name in heads))
    body = (tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest)) for first, *rest in rows)
    return tag(
        "div",
        tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body)),
        class_="scrolled",
        tabindex="0",
        role="group",
        aria_label=caption,
    )


def _text(text: str, limits: Limits) -> Markup:
    kept, cut = clip(text, limits.text)
    return join([foreign(kept), f" … ({cut} characters {_CUT})" if cut else None])


def _pre(text: str, limit: int, kind: str) -> Markup:
    kept, cut = clip(text, limit)
    note = tag("p", f"{cut} characters are {_CUT}.", class_="cut") if cut else None
    return join([tag("pre", kept, class_=kind, tabindex="0", role="group", aria_label=kind.capitalize()), note])


def _end(text: str, limit: int) -> tuple[str, int]:
    """Return the end of ``text``, and how many characters before it were cut off."""
    return text[-limit:], max(0, len(text) - limit)


def _left_out(count: int, what: str) -> Markup | None:
    return tag("p", f"{count} {what} are {_CUT}.", class_="cut") if count > 0 else None
