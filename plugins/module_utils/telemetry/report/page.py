# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report for people: one HTML file that needs nothing else, no network and no program but a browser."""

from __future__ import annotations

import base64
import collections.abc as c
import hashlib

from ..units import duration, size
from .batch import Batch, Outcome, Record, Tone
from .charts import legend, throughput, timeline
from .evidence import Limits, Pictures
from .markup import Child, Markup, escape, foreign, join, tag
from .script import SCRIPT
from .section import job_section
from .style import STYLE

#: From so many jobs on the sections are closed at first.
_MANY = 6

#: The table's columns: heading, whether it holds numbers.
_COLUMNS = (
    ("VM", False),
    ("Outcome", False),
    ("Operation", False),
    ("Source", False),
    ("Disks", True),
    ("Read", True),
    ("Written", True),
    ("Boot", True),
    ("Time", True),
    ("Warnings", True),
)


def page(batch: Batch, pictures: Pictures) -> str:
    """Return the report. The same batch and pictures give the same text."""
    limits = Limits.for_jobs(len(batch.records))
    ids = {record: f"vm-{number}" for number, record in enumerate(batch.records, 1)}
    sections = [
        ("summary", "Summary", _summary(batch)),
        ("timeline", "Timeline", _timeline(batch, ids)),
        ("throughput", "Throughput", throughput(batch)),
        ("table", "All VMs", _table(batch, ids)),
        ("vms", "Each VM", _vms(batch, ids, limits, pictures)),
    ]
    shown = [(anchor, heading, body) for anchor, heading, body in sections if body]
    document = tag("html", _head(batch.title), _body(batch, shown), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def _head(title: str) -> Markup:
    # Nothing is loaded, and nothing is run but what this program wrote: whatever a guest smuggled in stays dead.
    policy = (
        f"default-src 'none'; style-src {_hash(STYLE)}; script-src {_hash(SCRIPT)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        # Without it a browser would ask its server for one.
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _body(batch: Batch, sections: c.Sequence[tuple[str, str, Markup | None]]) -> Markup:
    links = (tag("li", tag("a", heading, href=f"#{anchor}")) for anchor, heading, dummy in sections)
    return tag(
        "body",
        tag("a", "Skip to the summary", href="#summary", class_="skip"),
        tag(
            "header",
            tag("h1", foreign(batch.title)),
            tag("p", _when(batch), class_="when"),
            tag("nav", tag("ul", *links), aria_label="Parts of the report"),
        ),
        tag(
            "main",
            *(
                tag(
                    "section",
                    tag("h2", heading, id=f"{anchor}-heading"),
                    body,
                    id=anchor,
                    aria_labelledby=f"{anchor}-heading",
                    tabindex="-1",
                )
                for anchor, heading, body in sections
            ),
        ),
        tag("footer", tag("p", "Written by hyper2kvm from the documents of these jobs. All times are UTC.")),
        tag("script", Markup(SCRIPT)),
    )


def _when(batch: Batch) -> str:
    jobs = f"{len(batch.records)} job{'' if len(batch.records) == 1 else 's'}"
    if batch.began is None or batch.ended is None:
        return jobs
    same_day = batch.began.date() == batch.ended.date()
    until = batch.ended.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M")
    return f"{jobs}, {batch.began.strftime('%Y-%m-%d %H:%M')} to {until} UTC"


# -- summary -----------------------------------------------------------------------------------------------------------


def _summary(batch: Batch) -> Markup:
    tiles = (
        tag(
            "li",
            tag("span", outcome.value.sign, class_="sign", aria_hidden="true"),
            tag("strong", str(count)),
            tag("span", outcome.value.label),
            class_=f"tile {outcome.value.tone.value}",
            title=outcome.value.meaning,
        )
        for outcome, count in batch.counts.items()
    )
    warned = sum(1 for record in batch.records if record.warnings)
    wall, seconds = batch.wall_seconds, sum(record.seconds for record in batch.records)
    facts = [
        ("Read", size(batch.bytes_read)),
        ("Written", size(batch.bytes_written)),
        ("Time from first to last", duration(wall)),
        ("Work of all jobs", duration(seconds)),
        ("Read per second of that time", f"{size(batch.bytes_read / wall)}/s" if wall and batch.bytes_read else "-"),
        ("VMs with something to look at", str(warned)),
    ]
    return join([tag("ul", *tiles, class_="tiles"), _facts(facts), _trouble(batch), _unreadable(batch)])


def _facts(facts: c.Iterable[tuple[str, str]]) -> Markup:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")


def _trouble(batch: Batch) -> Markup | None:
    """Return how many jobs failed for each reason, the most frequent first."""
    reasons: dict[tuple[str, str], int] = {}
    for record in batch.records:
        if record.error is not None:
            key = record.error.reason, record.error.stage
            reasons[key] = reasons.get(key, 0) + 1
    if not reasons:
        return None
    rows = (
        tag(
            "tr",
            tag("th", foreign(reason), scope="row"),
            tag("td", foreign(stage or "before the first stage")),
            tag("td", str(count), class_="number"),
        )
        for (reason, stage), count in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    )
    head = tag(
        "tr", tag("th", "Reason", scope="col"), tag("th", "Stage", scope="col"), tag("th", "VMs", class_="number")
    )
    return tag("table", tag("caption", "Why VMs were not moved"), tag("thead", head), tag("tbody", *rows))


def _unreadable(batch: Batch) -> Markup | None:
    if not batch.unreadable:
        return None
    items = (tag("li", tag("code", foreign(one.where)), ": ", foreign(one.why)) for one in batch.unreadable)
    return tag(
        "div",
        tag("p", tag("strong", f"{len(batch.unreadable)} documents could not be read and are not in this report:")),
        tag("ul", *items),
        class_="note bad",
    )


# -- timeline, table, sections -----------------------------------------------------------------------------------------


def _timeline(batch: Batch, ids: c.Mapping[Record, str]) -> Markup | None:
    table = timeline(batch, ids)
    return None if table is None else join([legend(), _scrolled(table, "Timeline")])


def _scrolled(table: Markup, name: str) -> Markup:
    # In the order of the Tab key, so that it can be scrolled without a mouse.
    return tag("div", table, class_="scrolled", tabindex="0", role="group", aria_label=name)


def _table(batch: Batch, ids: c.Mapping[Record, str]) -> Markup:
    heads = (tag("th", name, scope="col", class_="number" if number else None) for name, number in _COLUMNS)
    outcomes = (
        tag(
            "label",
            tag("input", type="checkbox", value=outcome.name, checked=True),
            f" {outcome.value.sign} {outcome.value.label} ({count})",
        )
        for outcome, count in batch.counts.items()
    )
    # Hidden until the script, which alone can make it work, is there.
    controls = tag(
        "form",
        tag("label", "Find ", tag("input", type="search", id="find", autocomplete="off"), class_="find"),
        tag("fieldset", tag("legend", "Outcomes"), *outcomes),
        tag("p", "", role="status", id="shown"),
        id="controls",
        hidden=True,
    )
    table = tag(
        "table",
        tag("caption", "All VMs of the batch; the filter works on the timeline and on the VMs' sections, too."),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *(_row(record, ids[record]) for record in batch.records)),
        class_="jobs",
        id="jobs",
    )
    return join([controls, _scrolled(table, "All VMs")])


def _row(record: Record, anchor: str) -> Markup:
    boot = record.boot
    booted = boot is not None and boot.verdict == "booted"
    cells: list[tuple[Child, float | None]] = [
        (tag("a", foreign(record.name), href=f"#{anchor}"), None),
        (badge(record.outcome), None),
        (foreign(record.operation), None),
        (foreign(record.source or "-"), None),
        _sized(record.virtual_size),
        _sized(record.bytes_read),
        _sized(record.bytes_written),
        (duration(boot.seconds) if booted and boot else "-", boot.seconds if booted and boot else -1.0),
        (duration(record.seconds) if record.seconds else "-", record.seconds),
        (str(len(record.warnings)), len(record.warnings)),
    ]
    first, *others = (_cell(child, value, first=not index) for index, (child, value) in enumerate(cells))
    return tag("tr", first, *others, data_job=anchor, data_outcome=record.outcome.name)


def _cell(child: Child, value: float | None, *, first: bool) -> Markup:
    return tag(
        "th" if first else "td",
        child,
        scope="row" if first else None,
        class_=None if value is None else "number",
        data_value=None if value is None else round(value, 3),
    )


def _sized(count: int) -> tuple[Child, float | None]:
    return (size(count) if count else "-"), float(count)


def badge(outcome: Outcome) -> Markup:
    """Return an outcome as a sign and a word; the colour tells nothing more."""
    kind = outcome.value
    return tag("span", tag("span", kind.sign, aria_hidden="true"), f" {kind.label}", class_=f"badge {kind.tone.value}")


def _vms(batch: Batch, ids: c.Mapping[Record, str], limits: Limits, pictures: Pictures) -> Markup:
    few = len(batch.records) < _MANY
    sections = (
        tag(
            "article",
            tag(
                "details",
                tag("summary", tag("h3", foreign(record.name)), " ", badge(record.outcome), " ", _hint(record)),
                tag("div", job_section(record, limits, pictures), id=ids[record], class_="job", tabindex="-1"),
                open=few or None,
            ),
            data_job=ids[record],
        )
        for record in batch.records
    )
    return join([tag("p", "", id="folding"), *sections])


def _hint(record: Record) -> Markup:
    """Return what a person wants to know of a closed section."""
    error = record.error
    if error is not None:
        return tag("span", foreign(error.reason), class_="hint")
    if record.outcome.value.tone is Tone.OPEN:
        return tag("span", record.status.phase.value, class_="hint")
    return tag("span", escape(duration(record.seconds)), class_="hint")
