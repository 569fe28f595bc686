# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator's metrics, as Prometheus reads them."""

from __future__ import annotations

from ..protocol.errors import ErrorClass, environment
from ..protocol.lifecycle import TERMINAL, Phase


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at zero.

        Raises:
            JobError: (environment) ``prometheus_client`` is missing.
        """
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise environment(
                "MissingLibrary",
                "The operator tells its metrics through prometheus_client, which this Python lacks.",
                "Install the package prometheus-client.",
            ) from None
        self._text = prometheus.generate_latest
        self.registry = prometheus.CollectorRegistry()
        self.leading = prometheus.Gauge(
            "hyper2kvm_operator_leading", "Whether this operator acts (1) or stands by (0)", registry=self.registry
        )
        self.reconcile_seconds = prometheus.Histogram(
            "hyper2kvm_operator_reconcile_seconds",
            "Time to look at all jobs and decide",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
            registry=self.registry,
        )
        self.jobs = prometheus.Gauge(
            "hyper2kvm_operator_jobs", "Jobs that are not over, by phase", ["phase"], registry=self.registry
        )
        self.workers = prometheus.Gauge("hyper2kvm_operator_workers", "Workers that are alive", registry=self.registry)
        self.slots = prometheus.Gauge("hyper2kvm_operator_slots", "Slots of these workers", registry=self.registry)
        self.assignments = prometheus.Counter(
            "hyper2kvm_operator_assignments", "Jobs given to a worker", registry=self.registry
        )
        self.wait_seconds = prometheus.Histogram(
            "hyper2kvm_operator_first_assignment_seconds",
            "Time from a job's creation to its first assignment",
            buckets=(0.1, 0.3, 1, 3, 10, 60, 600, 3600, 36000),
            registry=self.registry,
        )
        self.ended = prometheus.Counter(
            "hyper2kvm_operator_jobs_ended", "Jobs that are over, by phase", ["phase"], registry=self.registry
        )
        self.failures = prometheus.Counter(
            "hyper2kvm_operator_failures", "Jobs that FAILED, by error class", ["error_class"], registry=self.registry
        )
        self.writes = prometheus.Counter(
            "hyper2kvm_operator_writes",
            "Writes to the API, by kind and outcome",
            ["kind", "outcome"],
            registry=self.registry,
        )
        for phase in Phase:
            if phase in TERMINAL:
                self.ended.labels(phase.value)
            else:
                self.jobs.labels(phase.value)
        for error_class in ErrorClass:
            self.failures.labels(error_class.value)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return self._text(self.registry)
