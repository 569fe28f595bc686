# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Amounts by metric and labels: what was counted, and how it becomes samples. Pure.

A book is the same whether it was kept in memory (the operator's) or added up in the queue's database (a worker's).
"""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import itertools
import json
import typing as t

from .table import Kind, Metric

#: Of a histogram's observations: their sum, beside the count of each bucket.
_SUM = "sum"
_INFINITE = "+Inf"


@dataclasses.dataclass(frozen=True)
class Tally:
    """Something that happened: a counter rises by ``amount``, or a histogram gets it as an observation."""

    metric: Metric
    labels: tuple[str, ...] = ()
    """One value for each label of the metric, in its order."""
    amount: float = 1.0

    def rows(self) -> c.Iterator[Row]:
        """Yield what is to be added where."""
        labels = json.dumps(self.labels)
        if self.metric.kind is not Kind.HISTOGRAM:
            yield Row(self.metric.name, labels, "", self.amount)
            return
        bound = next((bound for bound in self.metric.buckets if self.amount <= bound), None)
        yield Row(self.metric.name, labels, _INFINITE if bound is None else repr(bound), 1.0)
        yield Row(self.metric.name, labels, _SUM, self.amount)


class Row(t.NamedTuple):
    """An amount in the form in which it is stored: rows of the same key add up."""

    metric: str
    labels: str
    """A JSON array of the labels' values."""
    part: str
    """Of a histogram the upper bound of one bucket (which counts what is above the next lower bound) or ``sum``."""
    amount: float


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is told of one metric for one set of labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: float
    """Of a histogram: the sum of what was observed."""
    buckets: tuple[tuple[str, float], ...] = ()
    """Of a histogram: the count of observations up to each bound, as text, the infinite one last."""


class Book:
    """Amounts that were counted."""

    def __init__(self, rows: c.Iterable[Row] = ()) -> None:
        """Begin with ``rows``; those of metrics that are no more are left out."""
        self._amounts: collections.defaultdict[tuple[str, str], collections.defaultdict[str, float]]
        self._amounts = collections.defaultdict(lambda: collections.defaultdict(float))
        for row in rows:
            self._add(row)

    def add(self, *tallies: Tally) -> None:
        """Count."""
        for tally in tallies:
            for row in tally.rows():
                self._add(row)

    def _add(self, row: Row) -> None:
        self._amounts[row.metric, row.labels][row.part] += row.amount

    def samples(self, metrics: c.Iterable[Metric]) -> c.Iterator[Sample]:
        """Yield what is known of the counters and histograms among ``metrics``.

        What was never counted is 0 where all values of the labels are known: Prometheus sees a counter rise only from
        a value that it knows.
        """
        kept: dict[str, dict[tuple[str, ...], c.Mapping[str, float]]] = collections.defaultdict(dict)
        for (name, text), amounts in self._amounts.items():
            kept[name][tuple(json.loads(text))] = amounts
        for metric in metrics:
            if metric.kind is Kind.GAUGE:
                continue
            known = kept[metric.name]
            if all(label.values for label in metric.labels):
                for labels in itertools.product(*(label.values for label in metric.labels)):
                    known.setdefault(labels, {})
            for labels, parts in sorted(known.items()):
                if len(labels) == len(metric.labels):
                    yield _sample(metric, labels, parts)


def _sample(metric: Metric, labels: tuple[str, ...], parts: c.Mapping[str, float]) -> Sample:
    if metric.kind is Kind.COUNTER:
        return Sample(metric, labels, parts.get("", 0.0))
    # A version before this one may have had other bounds: what it counted up to one of them is below the next of ours.
    counts = [(float(part), count) for part, count in parts.items() if part not in ("", _SUM)]
    bounds = [*((repr(bound), bound) for bound in metric.buckets), (_INFINITE, float("inf"))]
    buckets = tuple((text, sum(count for at, count in counts if at <= bound)) for text, bound in bounds)
    return Sample(metric, labels, parts.get(_SUM, 0.0), buckets)
