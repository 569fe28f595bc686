# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is measured: one table, from which the instruments, the reference page and the tests are made.

Names obey Prometheus' conventions (prometheus.io/docs/practices/naming): base units, ``_total`` for what only rises.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import enum

from ...protocol.errors import ErrorClass
from ...protocol.lifecycle import TERMINAL, Phase


class Kind(str, enum.Enum):
    """What Prometheus calls a metric's type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Teller(str, enum.Enum):
    """Who tells a metric."""

    QUEUE = "queue"
    """Who decides over a queue: the worker of a host, or the operator of a cluster, never both."""
    WORKER = "worker"
    """Every worker, a cluster's too."""
    OPERATOR = "operator"
    """The operator of a cluster."""


@dataclasses.dataclass(frozen=True)
class Label:
    """A label of metrics."""

    name: str
    values: tuple[str, ...] = ()
    """All that it can have; empty: see ``bound``."""
    bound: str = ""
    """What keeps the values few where they are not listed."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """One metric."""

    name: str
    kind: Kind
    teller: Teller
    help: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, without the infinite one."""

    @property
    def unit(self) -> str:
        """The base unit, as the name has it; empty: it has none."""
        words = self.name.removesuffix("_total").rsplit("_", 1)
        return words[-1] if words[-1] in _UNITS else ""


#: Base units that metrics are in.
_UNITS = ("seconds", "bytes", "ratio")

#: Other causes than these do not come from this code; they are told as the last one.
WAIT_REASONS = (
    *("BackingOff", "CapabilityMissing", "HandedBack", "JobLabelMissing", "JobsAhead", "NoFreeSlot", "NoWorker"),
    *("NodeCordoned", "NodeMissing", "OperationNotAccepted", "ProtocolVersion", "Suspended", "WorkerCordoned"),
    *("WorkerDraining", "WorkerLabelMissing", "Other"),
)
STAGES = ("inspect", "plan", "fix", "rehearse", "copy", "commit", "verify", "publish")
#: What is left behind by a job that died.
MOUNT, DEVICE, FOLDER = "mount", "device", "folder"

_PHASE_OPEN = Label("phase", tuple(phase.value for phase in Phase if phase not in TERMINAL))
_PHASE_ENDED = Label("phase", tuple(phase.value for phase in Phase if phase in TERMINAL))
_ERROR_CLASS = Label("error_class", tuple(one.value for one in ErrorClass))
_REASON = Label("reason", bound="the words that this collection's errors have")
_WAIT_REASON = Label("reason", WAIT_REASONS)
_QUEUE = Label("queue", bound="`local` on a host, the namespaces with jobs on a cluster")
_STAGE = Label("stage", STAGES)
_CAPABILITY = Label("capability", bound="those that `hyper2kvm-worker capabilities` lists")
_ROOT = Label("root", ("scratch", "output"))
_TEST = Label("test", ("rehearsal", "verification"))
_VERDICT = Label("verdict", ("booted", "failed", "not-verified"))
_NODE = Label("node", bound="the cluster's nodes that have, or had, a worker")
#: For gauges alone: a job that is over has none of these any more.
_RUNNING = (_QUEUE, Label("job_name", bound="the jobs that run at this moment"), _STAGE)
_SHORT = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0)
_BOOT = (5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)


def _gauge(name: str, teller: Teller, text: str, *labels: Label) -> Metric:
    return Metric(f"hyper2kvm_{name}", Kind.GAUGE, teller, text, labels)


def _counter(name: str, teller: Teller, text: str, *labels: Label) -> Metric:
    return Metric(f"hyper2kvm_{name}_total", Kind.COUNTER, teller, text, labels)


def _histogram(name: str, teller: Teller, text: str, *labels: Label, buckets: tuple[float, ...] = _SHORT) -> Metric:
    return Metric(f"hyper2kvm_{name}", Kind.HISTOGRAM, teller, text, labels, buckets)


_Q, _W, _O = Teller.QUEUE, Teller.WORKER, Teller.OPERATOR

JOBS = _gauge("jobs", _Q, "Jobs that are not over, by phase.", _PHASE_OPEN)
JOBS_ENDED = _counter("jobs_ended", _Q, "Jobs that are over, by the phase that they ended in.", _PHASE_ENDED)
QUEUED = _gauge("queue_jobs", _Q, "Jobs that wait for a worker, suspended ones apart.", _QUEUE)
OLDEST_WAIT = _gauge(
    "queue_oldest_wait_seconds", _Q, "How long the job has been there that waits longest; 0: none waits.", _QUEUE
)
WAITING = _gauge(
    "waiting_jobs",
    _Q,
    "Waiting jobs by what they wait for; a job that has several reasons counts for each.",
    _QUEUE,
    _WAIT_REASON,
)
BLOCKED = _gauge(
    "blocked_jobs",
    _Q,
    "Waiting jobs that no worker will take unless somebody acts, by the reason that most workers have.",
    _QUEUE,
    _WAIT_REASON,
)
FAILURES = _counter("job_failures", _Q, "Jobs that FAILED, by error class.", _ERROR_CLASS)
FAILURE_REASONS = _counter("job_failure_reasons", _Q, "Jobs that FAILED, by class and reason.", _ERROR_CLASS, _REASON)
RETRIES = _counter("job_retries", _Q, "Attempts that failed and were followed by a wait for another.", _ERROR_CLASS)
TAKEOVERS = _counter(
    "takeovers", _Q, "Jobs taken from a worker that was lost.", Label("reason", ("WorkerLost", "LeaseExpired"))
)
FIRST_CLAIM = _histogram("job_wait_seconds", _Q, "Time from a job's creation to its first claim.")
JOB_SECONDS = _histogram("job_seconds", _Q, "Time from the begin of a job's first stage to its end, of COMPLETED jobs.")
WORKERS = _gauge("workers", _Q, "Workers that are alive.")

SLOTS = _gauge("slots", _W, "Jobs that the worker runs side by side.")
SLOTS_USED = _gauge("slots_used", _W, "Slots in use.")
CAPABILITY = _gauge("capability", _W, "Whether the worker has a capability (1) or lacks it (0).", _CAPABILITY)
LEASE_AGE = _gauge("lease_age_seconds", _W, "How long ago the worker renewed its lease.")
FENCES = _counter(
    "fences", _W, "Attempts that the worker stopped because the job was no longer, or not surely, its own."
)
LEFTOVERS = _counter(
    "leftovers_cleaned", _W, "What dead jobs left and the worker cleared.", Label("kind", (MOUNT, DEVICE, FOLDER))
)
STAGE_SECONDS = _histogram("stage_seconds", _W, "How long stages took that ended well and had something to do.", _STAGE)
STAGE_BYTES = _counter("stage_processed_bytes", _W, "Bytes that stages have worked through, while they do.", _STAGE)
READ_BYTES = _counter("source_read_bytes", _W, "Bytes read of sources' files to copy them, of COMPLETED jobs.")
WRITTEN_BYTES = _counter("target_written_bytes", _W, "Bytes of data written to targets, of COMPLETED jobs.")
ALLOCATED_BYTES = _counter(
    "source_allocated_bytes",
    _W,
    "Bytes that the copied disks held according to their images, of COMPLETED jobs. "
    "`hyper2kvm_target_written_bytes_total` divided by this is the copy ratio.",
)
RATE = _gauge("transfer_bytes_per_second", _W, "How fast the running jobs work through bytes, all together.", _STAGE)
RATE_LIMIT = _gauge(
    "transfer_limit_bytes_per_second",
    _W,
    "The limits of the running jobs (`spec.limits.bandwidthBytesPerSecond`), all together; none: one has no limit.",
)
BOOT_TESTS = _counter("boot_tests", _W, "Boot tests of jobs that are over, by verdict.", _TEST, _VERDICT)
BOOT_SECONDS = _histogram(
    "boot_test_seconds", _W, "From power-on to the proof of a boot, of jobs that are over.", _TEST, buckets=_BOOT
)
FREE = _gauge("free_bytes", _W, "Free space below the worker's roots.", _ROOT)
SIZE = _gauge("size_bytes", _W, "Size of the filesystems that hold the worker's roots.", _ROOT)
PROGRESS = _gauge("job_progress_ratio", _W, "How far the running stage of a job is, 0 to 1.", *_RUNNING)
SILENCE = _gauge("job_progress_age_seconds", _W, "How long a running job has not told of any progress.", *_RUNNING)
REMAINING = _gauge(
    "job_remaining_seconds", _W, "What the running stage of a job is expected to take yet; none: not known.", *_RUNNING
)
BUILD = Metric(
    "hyper2kvm_build_info",
    Kind.GAUGE,
    _W,
    "1, with what runs in the labels. The operator tells it too.",
    (
        Label("component", ("worker", "operator")),
        Label("version", bound="one for each process"),
        Label("backend", ("local", "kubernetes")),
    ),
)

LEADING = _gauge("operator_leading", _O, "Whether this operator acts (1) or stands by (0).")
RECONCILE = _histogram(
    "operator_reconcile_seconds",
    _O,
    "Time to look at all jobs and decide.",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)
PENDING = _gauge("operator_pending_writes", _O, "Decisions that are being written to the API server.")
OPERATOR_SLOTS = _gauge("operator_slots", _O, "Slots of the workers that are alive.")
ASSIGNMENTS = _counter("operator_assignments", _O, "Jobs given to a worker.")
WRITES = _counter(
    "operator_writes",
    _O,
    "Writes to the API server, by what was written and how it went.",
    Label("kind", ("status", "event")),
    Label("outcome", bound="`written`, and the names of the errors of the API"),
)
NODE_LEASE_AGE = _gauge(
    "operator_worker_lease_age_seconds",
    _O,
    "How long ago the operator saw the Lease of a node's worker change.",
    _NODE,
)

METRICS: tuple[Metric, ...] = (
    *(JOBS, JOBS_ENDED, QUEUED, OLDEST_WAIT, WAITING, BLOCKED, FAILURES, FAILURE_REASONS, RETRIES, TAKEOVERS),
    *(FIRST_CLAIM, JOB_SECONDS, WORKERS),
    *(SLOTS, SLOTS_USED, CAPABILITY, LEASE_AGE, FENCES, LEFTOVERS, STAGE_SECONDS, STAGE_BYTES, READ_BYTES),
    *(WRITTEN_BYTES, ALLOCATED_BYTES, RATE, RATE_LIMIT, BOOT_TESTS, BOOT_SECONDS, FREE, SIZE, PROGRESS, SILENCE),
    *(REMAINING, BUILD),
    *(LEADING, RECONCILE, PENDING, OPERATOR_SLOTS, ASSIGNMENTS, WRITES, NODE_LEASE_AGE),
)


def told_by(*tellers: Teller) -> tuple[Metric, ...]:
    """Return the metrics of these tellers."""
    return tuple(metric for metric in METRICS if metric.teller in tellers)


def known_reasons(counts: c.Mapping[str, int]) -> dict[str, int]:
    """Return jobs by the reason that they wait for, all reasons that there are; unknown ones are one."""
    found = dict.fromkeys(WAIT_REASONS, 0)
    for reason, count in counts.items():
        found[reason if reason in found else WAIT_REASONS[-1]] += count
    return found
