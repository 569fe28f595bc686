# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report's drawings: when each stage of each job ran, and how fast was copied."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import datetime

from ..units import duration, size
from .batch import Batch, Rates, Record, Span
from .markup import Markup, escape, foreign, join, tag

#: The stages in their order; each has a colour of its own in the style sheet.
STAGES = ("inspect", "plan", "fix", "rehearse", "copy", "commit", "verify", "publish")
#: Parts of the chart of rates.
PARTS = 120

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
_MOST_TICKS = 8
#: Percent of the drawing's width: a shorter bar would not be seen, and in one shorter than that no word is legible.
_MIN_BAR, _MIN_WORD = 0.25, 3.0
_WIDTH, _HEIGHT = 1000, 160


@dataclasses.dataclass(frozen=True)
class _Axis:
    """A piece of time as a width of 100 percent."""

    began: datetime.datetime
    seconds: float

    def at(self, moment: datetime.datetime) -> float:
        """Return where ``moment`` is, in percent."""
        return min(100.0, max(0.0, self.share((moment - self.began).total_seconds())))

    def share(self, seconds: float) -> float:
        """Return how wide a time is, in percent."""
        return 100.0 * seconds / self.seconds

    def ticks(self) -> list[tuple[float, str]]:
        """Return where clock times are written, in percent, and the times."""
        days = -(-self.seconds // (86400 * _MOST_TICKS)) * 86400
        step = next((step for step in _STEPS if self.seconds / step <= _MOST_TICKS), days)
        form = "%m-%d %H:%M" if self.seconds > 86400 else "%H:%M:%S" if step < 60 else "%H:%M"
        first = -(-self.began.timestamp() // step) * step
        found = []
        while first <= self.began.timestamp() + self.seconds:
            moment = datetime.datetime.fromtimestamp(first, datetime.timezone.utc)
            found.append((self.at(moment), moment.strftime(form)))
            first += step
        return found


def _axis(batch: Batch) -> _Axis | None:
    return None if batch.began is None or not batch.wall_seconds else _Axis(batch.began, batch.wall_seconds)


def timeline(batch: Batch, ids: c.Mapping[Record, str]) -> Markup | None:
    """Return a table with a bar for each stage of each job; None: no time is known.

    Args:
        batch: the jobs.
        ids: the id of each job's section.
    """
    axis = _axis(batch)
    if axis is None:
        return None
    ticks = axis.ticks()
    grid = join(tag("line", x1=_percent(x), x2=_percent(x), y1="0", y2="100%", class_="grid") for x, dummy in ticks)
    words = join(tag("text", word, x=_percent(x), y="13", class_="tick", text_anchor=_anchor(x)) for x, word in ticks)
    head = tag(
        "tr",
        tag("th", "VM", scope="col"),
        tag(
            "th",
            tag("span", "Stages, by UTC", class_="hidden"),
            tag("svg", words, class_="axis", aria_hidden="true"),
            scope="col",
        ),
        tag("th", "took", scope="col", class_="number"),
    )
    rows = join(_row(record, axis, grid, ids[record]) for record in batch.records)
    return tag(
        "table",
        tag("caption", "When each stage of each VM ran. Times of every stage are in the VM's own section below."),
        tag("thead", head),
        tag("tbody", rows),
        class_="timeline",
    )


def _row(record: Record, axis: _Axis, grid: Markup, anchor: str) -> Markup:
    kind = record.outcome.value
    bars = join(_bar(span, axis) for span in record.spans if not span.skipped)
    told = ", ".join(_told(span) for span in record.spans if not span.skipped) or "no stage"
    mark = tag("span", kind.sign, class_=f"sign {kind.tone.value}", title=kind.label)
    return tag(
        "tr",
        tag("th", mark, " ", tag("a", foreign(record.name), href=f"#{anchor}"), scope="row"),
        tag("td", tag("svg", grid, bars, class_="bars", role="img", aria_label=told)),
        tag("td", duration(record.seconds) if record.spans else "-", class_="number"),
        data_job=anchor,
    )


def _bar(span: Span, axis: _Axis) -> Markup:
    left = axis.at(span.began)
    width = min(max(axis.share(span.seconds), _MIN_BAR), 100.0 - min(left, 100.0 - _MIN_BAR))
    word = f"✗ {span.stage}" if span.failed else span.stage
    kind = "failed" if span.failed else span.stage if span.stage in STAGES else "other"
    return tag(
        "svg",
        tag("title", _told(span)),
        tag("rect", width="100%", height="100%", class_=f"bar {kind}"),
        tag("text", word, x="3", y="12") if width >= _MIN_WORD or span.failed else None,
        x=_percent(min(left, 100.0 - _MIN_BAR)),
        y="1",
        width=_percent(width),
        height="16",
    )


def _told(span: Span) -> str:
    return f"{span.stage} {'failed after ' if span.failed else ''}{duration(span.seconds)}"


def legend() -> Markup:
    """Return what the bars' colours mean; each bar that is wide enough has its word in it, too."""
    keys = (
        tag("li", tag("svg", tag("rect", width="12", height="12", class_=f"bar {name}"), width="12", height="12"), word)
        for name, word in [*((name, name) for name in STAGES), ("failed", "failed (✗)")]
    )
    return tag("ul", *keys, class_="legend", aria_label="Colours of the stages")


def throughput(batch: Batch) -> Markup | None:
    """Return a chart of the copies' rates; None: nothing was copied."""
    rates = batch.rates(PARTS)
    axis = _axis(batch)
    if rates is None or axis is None:
        return None
    top = max([*rates.read, *rates.written]) or 1.0
    told = (
        f"All copies together: at most {_rate(max(rates.read))} read and {_rate(max(rates.written))} written. "
        "Documents tell a copy's bytes, beginning and end alone, so each copy is drawn as if it had been even."
    )
    picture = tag(
        "svg",
        tag("path", d=_steps(rates, rates.read, top, area=True), class_="read"),
        tag("path", d=_steps(rates, rates.written, top, area=False), class_="written"),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=told,
    )
    ticks = join(
        tag("text", word, x=_percent(x), y="13", class_="tick", text_anchor=_anchor(x)) for x, word in axis.ticks()
    )
    keys = tag(
        "ul",
        tag("li", tag("span", class_="key read"), "read (area)"),
        tag("li", tag("span", class_="key written"), "written (dashed line)"),
        class_="legend",
    )
    scale = tag("p", tag("span", _rate(top)), tag("span", _rate(top / 2)), tag("span", "0"), class_="scale")
    return tag(
        "figure",
        keys,
        tag("div", scale, tag("div", picture, tag("svg", ticks, class_="axis", aria_hidden="true")), class_="chart"),
        tag("figcaption", told),
    )


def _steps(rates: Rates, values: c.Sequence[float], top: float, *, area: bool) -> str:
    width = _WIDTH / len(rates.read)
    points = []
    for part, value in enumerate(values):
        y = _HEIGHT * (1.0 - value / top)
        points += [f"{part * width:.1f},{y:.1f}", f"{(part + 1) * width:.1f},{y:.1f}"]
    if area:
        points = [f"0,{_HEIGHT}", *points, f"{_WIDTH},{_HEIGHT}"]
    return "M" + " L".join(points) + (" Z" if area else "")


def _rate(bytes_per_second: float) -> str:
    return f"{size(bytes_per_second)}/s"


def _percent(number: float) -> Markup:
    return escape(f"{number:.2f}%")


def _anchor(percent: float) -> str:
    return "start" if percent < 4 else "end" if percent > 96 else "middle"
