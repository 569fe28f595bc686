# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The alerts: one table, from which the rules file, the PrometheusRule and the runbooks' index are made.

Prometheus' jobs are called ``hyper2kvm-worker`` and ``hyper2kvm-operator``, as the chart's Services and the role
``observability`` call them.
"""

from __future__ import annotations

import dataclasses
import enum

RUNBOOKS = "https://github.com/hyper2kvm/core/blob/main/docs/runbooks"


class Severity(str, enum.Enum):
    """How soon somebody has to look."""

    CRITICAL = "critical"
    """Now: no job can go on."""
    WARNING = "warning"
    """Tonight: some jobs will not end well, or not in time."""


@dataclasses.dataclass(frozen=True)
class Alert:
    """One alert."""

    name: str
    expr: str
    """When it is on, in PromQL."""
    wait: str
    """For how long that must have been so, in Prometheus' form."""
    severity: Severity
    summary: str
    """What is wrong, with the labels of the series that tell where."""
    todo: str
    """What to do, in a sentence or two; the runbook has more."""

    @property
    def runbook(self) -> str:
        """Where the runbook is."""
        return f"{RUNBOOKS}/{self.name}.md"


ALERTS: tuple[Alert, ...] = (
    Alert(
        name="Hyper2kvmJobStuck",
        expr="max by (queue, job_name, stage, instance) (hyper2kvm_job_progress_age_seconds) > 600",
        wait="5m",
        severity=Severity.WARNING,
        summary="Job {{ $labels.job_name }} has told of no progress for {{ $value | humanizeDuration }} "
        "(stage {{ $labels.stage }}, worker {{ $labels.instance }}).",
        todo="See its events and whether its storage hangs; suspend and resume it to begin anew after the last stage.",
    ),
    Alert(
        name="Hyper2kvmQueueBlocked",
        expr="sum by (queue, reason) (hyper2kvm_blocked_jobs) > 0",
        wait="10m",
        severity=Severity.WARNING,
        summary="{{ $value }} jobs of the queue {{ $labels.queue }} will wait for ever: {{ $labels.reason }}.",
        todo="Ask why (hyper2kvm-worker explain, or kubectl describe), then give a worker what it lacks.",
    ),
    Alert(
        name="Hyper2kvmWorkerLost",
        expr='up{job="hyper2kvm-worker"} == 0\n'
        "or max by (node) (hyper2kvm_operator_worker_lease_age_seconds) > 90\n"
        'or time() - node_textfile_mtime_seconds{file=~".*hyper2kvm.*"} > 120',
        wait="2m",
        severity=Severity.CRITICAL,
        summary="The worker {{ $labels.node }}{{ $labels.instance }} is not heard of.",
        todo="See whether the host is up, and the worker's log. Its jobs go on elsewhere, or when it is back.",
    ),
    Alert(
        name="Hyper2kvmFailureRate",
        expr="sum by (error_class) (increase(hyper2kvm_job_failures_total[1h])) > 2.5\n"
        "and sum by (error_class) (increase(hyper2kvm_job_failures_total[1h]))\n"
        "> on () group_left () (0.2 * sum(increase(hyper2kvm_jobs_ended_total[1h])))",
        wait="0m",
        severity=Severity.WARNING,
        summary='{{ $value | printf "%.0f" }} jobs FAILED within an hour with errors of class {{ $labels.error_class }}'
        ", more than a fifth of those that ended.",
        todo="Look at the reasons (dashboard, Failures); suspend what waits if they have one in common.",
    ),
    Alert(
        name="Hyper2kvmDiskSpace",
        expr="hyper2kvm_free_bytes / hyper2kvm_size_bytes < 0.05\n"
        "or predict_linear(hyper2kvm_free_bytes[30m], 7200) < 0",
        wait="5m",
        severity=Severity.CRITICAL,
        summary="The {{ $labels.root }} root of the worker {{ $labels.instance }} is full, or will be in two hours.",
        todo="Make room, or suspend jobs that copy; a job that meets a full disk fails and keeps nothing.",
    ),
    Alert(
        name="Hyper2kvmLeaseLost",
        expr="sum by (instance) (increase(hyper2kvm_fences_total[15m])) > 0\n"
        "or sum by (reason) (increase(hyper2kvm_takeovers_total[15m])) > 0",
        wait="0m",
        severity=Severity.WARNING,
        summary="Jobs were taken from a worker that was silent for too long, or it stopped them itself "
        "({{ $labels.instance }}{{ $labels.reason }}).",
        todo="Nothing is lost. See what kept the worker from renewing: a dead host, a slow disk, an API server away.",
    ),
    Alert(
        name="Hyper2kvmOperatorWithoutLeader",
        expr='(count(hyper2kvm_build_info{backend="kubernetes"}) > 0)\n'
        "unless on () (sum(hyper2kvm_operator_leading) > 0)",
        wait="2m",
        severity=Severity.CRITICAL,
        summary="No operator leads: jobs are neither queued nor assigned. Those that run go on.",
        todo="See whether the operator's pods are there and what they log; see the Lease operator.hyper2kvm.io.",
    ),
    Alert(
        name="Hyper2kvmBootTestsFailing",
        expr='sum(increase(hyper2kvm_boot_tests_total{verdict="failed"}[1h])) > 2.5\n'
        'and sum(increase(hyper2kvm_boot_tests_total{verdict="failed"}[1h]))\n'
        "> 0.2 * sum(increase(hyper2kvm_boot_tests_total[1h]))",
        wait="0m",
        severity=Severity.WARNING,
        summary='{{ $value | printf "%.0f" }} guests did not boot within an hour, more than a fifth of those tried.',
        todo="Look at one console in the report; guests of one template fail alike. Suspend what waits meanwhile.",
    ),
)
