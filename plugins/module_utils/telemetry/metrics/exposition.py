# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Samples in the form that Prometheus reads, by its own client library."""

from __future__ import annotations

import collections.abc as c
import importlib.util
import itertools
import typing as t

from ...protocol.errors import environment
from .book import Sample
from .table import METRICS, Kind, Metric

_LIBRARY = "prometheus_client"
_ORDER = {metric.name: index for index, metric in enumerate(METRICS)}


def check_library() -> None:
    """Make sure that there is what metrics are told with, without loading it.

    Raises:
        JobError: (environment) it is missing.
    """
    if importlib.util.find_spec(_LIBRARY) is None:
        raise environment(
            "MissingLibrary",
            f"Metrics are told through {_LIBRARY}, which this Python lacks.",
            "Install the package prometheus-client, or do not ask for metrics.",
        )


class Exposition:
    """What a process tells: asked for anew each time."""

    def __init__(self, read: c.Callable[[], c.Iterable[Sample]]) -> None:
        """Tell what ``read`` returns.

        Raises:
            JobError: (environment) ``prometheus_client`` is missing.
        """
        check_library()
        # Not above: whoever is not asked for metrics need not have it, nor wait for it.
        import prometheus_client
        from prometheus_client import core

        self._read = read
        self._core = core
        self._client = prometheus_client
        self.registry = prometheus_client.CollectorRegistry()
        self.registry.register(t.cast("t.Any", self))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return self._client.generate_latest(self.registry)

    def answer(self, accept: str) -> tuple[str, bytes]:
        """Return everything, with its media type, in the format that a request's header ``Accept`` asks for."""
        encode, media_type = self._client.exposition.choose_encoder(accept)
        return media_type, encode(self.registry)

    def describe(self) -> c.Iterable[t.Any]:
        """Return nothing: the client need not ask for everything to learn the names."""
        return ()

    def collect(self) -> c.Iterator[t.Any]:
        """Yield a family for each metric; called by the client."""
        samples = sorted(self._read(), key=lambda sample: _ORDER[sample.metric.name])
        for metric, group in itertools.groupby(samples, key=lambda sample: sample.metric):
            family = self._family(metric)
            for sample in group:
                if metric.kind is Kind.HISTOGRAM:
                    family.add_metric(sample.labels, sample.buckets, sample.value)
                else:
                    family.add_metric(sample.labels, sample.value)
            yield family

    def _family(self, metric: Metric) -> t.Any:
        kinds = {
            Kind.COUNTER: self._core.CounterMetricFamily,
            Kind.GAUGE: self._core.GaugeMetricFamily,
            Kind.HISTOGRAM: self._core.HistogramMetricFamily,
        }
        labels = [label.name for label in metric.labels]
        return kinds[metric.kind](metric.name, metric.help, labels=labels, unit=metric.unit)
