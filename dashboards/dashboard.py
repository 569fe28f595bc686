# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dashboard: what a person who watches a migration night wants to see, from the whole to the details."""

from __future__ import annotations

import dataclasses
import json
import typing as t

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as style
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as query_model
from grafana_foundation_sdk.models import units

UID = "hyper2kvm"
#: The width of a dashboard, in Grafana's units.
_WIDTH = 24
_HELD = 'phase=~"ASSIGNED|RUNNING|PROGRESSING"'
_OPEN = "sum(hyper2kvm_jobs)"
_ENDED = "sum(increase(hyper2kvm_jobs_ended_total[$__range]))"
_ENDED_PER_SECOND = "sum(rate(hyper2kvm_jobs_ended_total[1h]))"
_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_GREEN, _YELLOW, _RED = "green", "yellow", "red"

Panel = stat.Panel | timeseries.Panel | table.Panel | bargauge.Panel
P = t.TypeVar("P", stat.Panel, timeseries.Panel, table.Panel, bargauge.Panel)


@dataclasses.dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus."""

    expr: str
    legend: str = ""
    """Of each series, with its labels in double braces."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """From which values on a figure is yellow, and red."""

    yellow: float
    red: float


def dashboard() -> str:
    """Return the dashboard as JSON."""
    made = (
        build.Dashboard("hyper2kvm")
        .uid(UID)
        .description("Virtual machines on their way to KVM: what runs, how fast, what waits and why, what failed.")
        .tags(["hyper2kvm", "migration"])
        .time("now-6h", "now")
        .timezone("browser")
        .refresh("30s")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            build.QueryVariable("queue")
            .label("Queue")
            .datasource(_SOURCE)
            .query("label_values(hyper2kvm_queue_jobs, queue)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
            .current(model.VariableOption(text="All", value="$__all"))
        )
    )
    for title, panels in _rows():
        made = made.with_row(build.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _rows() -> t.Iterator[tuple[str, list[Panel]]]:
    yield "Fleet", _fleet()
    yield "This night", _night()
    yield "Queues", _queues()
    yield "Workers", _workers()
    yield "Throughput", _throughput()
    yield "Failures", _failures()
    yield "Boot tests", _boot_tests()
    yield "Operator", _operator()


def _fleet() -> list[Panel]:
    return [
        _stat("Running", f"sum(hyper2kvm_jobs{{{_HELD}}})", "Jobs that a worker has."),
        _stat("Waiting", "sum(hyper2kvm_queue_jobs)", "Jobs that wait for a worker, suspended ones apart."),
        _stat("Blocked", "sum(hyper2kvm_blocked_jobs)", "Will wait for ever unless somebody acts.", steps=Steps(1, 1)),
        _stat(
            "Completed",
            'sum(increase(hyper2kvm_jobs_ended_total{phase="COMPLETED"}[$__range]))',
            "In the time that is shown.",
            decimals=0,
        ),
        _stat(
            "Failed",
            'sum(increase(hyper2kvm_jobs_ended_total{phase="FAILED"}[$__range]))',
            "In the time that is shown.",
            steps=Steps(0.5, 0.5),
            decimals=0,
        ),
        _stat("Workers", "sum(hyper2kvm_workers)", "Workers that are alive."),
        _stat("Slots in use", "sum(hyper2kvm_slots_used) / sum(hyper2kvm_slots)", "Of all.", units.PercentUnit),
        _stat("Reading at", "sum(hyper2kvm_transfer_bytes_per_second)", "All running jobs.", units.BytesPerSecondIEC),
    ]


def _night() -> list[Panel]:
    left = f"{_OPEN} / ({_ENDED_PER_SECOND} > 0)"
    running = "max by (queue, job_name, stage, instance)"
    return [
        _stat(
            "Done",
            f"{_ENDED} / ({_ENDED} + {_OPEN})",
            "Jobs that ended in the time that is shown, of these and those that are open.",
            units.PercentUnit,
            width=4,
            height=8,
        ),
        _stat(
            "Time left",
            left,
            "If as many jobs end in an hour as did in the last one. Of no use before some have ended.",
            units.DurationSeconds,
            width=4,
            height=8,
        ),
        _stat(
            "Expected end", f"(time() + {left}) * 1000", "The same as a time.", units.DatetimeLocal, width=4, height=8
        ),
        _series(
            "Jobs",
            [Query("sum by (phase) (hyper2kvm_jobs)", "{{phase}}")],
            "Open jobs by phase.",
            width=12,
            stacked=True,
        ),
        _series(
            "Ended in an hour",
            [Query("sum by (phase) (increase(hyper2kvm_jobs_ended_total[1h]))", "{{phase}}")],
            "Jobs that ended in the hour before.",
            width=8,
        ),
        _table(
            "What runs",
            {
                "Done": f"{running} (hyper2kvm_job_progress_ratio)",
                "Silent for": f"{running} (hyper2kvm_job_progress_age_seconds)",
                "Stage ends in": f"{running} (hyper2kvm_job_remaining_seconds)",
            },
            "Running jobs with the progress of their stage. One that was silent for minutes is stuck.",
            {"Done": units.PercentUnit, "Silent for": units.Seconds, "Stage ends in": units.Seconds},
            width=16,
        ),
    ]


def _queues() -> list[Panel]:
    queue = '{queue=~"$queue"}'
    return [
        _series(
            "Waiting jobs",
            [Query(f"sum by (queue) (hyper2kvm_queue_jobs{queue})", "{{queue}}")],
            "By queue: a namespace, or local.",
            stacked=True,
        ),
        _series(
            "Oldest wait",
            [Query(f"max by (queue) (hyper2kvm_queue_oldest_wait_seconds{queue})", "{{queue}}")],
            "How long the job has been there that waits longest.",
            units.Seconds,
        ),
        _series(
            "Time to the first claim",
            _quantiles("hyper2kvm_job_wait_seconds", ""),
            "From a job's creation on.",
            units.Seconds,
        ),
        _bars(
            "Why jobs wait",
            f"sum by (reason) (hyper2kvm_waiting_jobs{queue})",
            "{{reason}}",
            "A job that waits for several things counts for each.",
        ),
        _bars(
            "Blocked",
            f"sum by (reason) (hyper2kvm_blocked_jobs{queue})",
            "{{reason}}",
            "Jobs that no worker will take unless somebody acts, by what most workers lack.",
        ),
    ]


def _workers() -> list[Panel]:
    return [
        _series(
            "Slots in use",
            [
                Query("sum by (instance) (hyper2kvm_slots_used)", "{{instance}}"),
                Query("sum(hyper2kvm_slots)", "all slots"),
                Query("sum(hyper2kvm_operator_slots)", "all slots, as the operator sees them"),
            ],
            "By worker.",
        ),
        _series(
            "Lease age",
            [
                Query("max by (instance) (hyper2kvm_lease_age_seconds)", "{{instance}}"),
                Query("max by (node) (hyper2kvm_operator_worker_lease_age_seconds)", "{{node}}, seen by the operator"),
            ],
            "Since the last renewal. A worker renews it six times in the time that it lasts.",
            units.Seconds,
        ),
        _series(
            "Free space",
            [Query("hyper2kvm_free_bytes / hyper2kvm_size_bytes", "{{instance}} {{root}}")],
            "Below the scratch and output roots.",
            units.PercentUnit,
            top=1.0,
        ),
        _bars(
            "Workers that have a capability",
            "sum by (capability) (hyper2kvm_capability)",
            "{{capability}}",
            "Found by trying, at each worker's start.",
        ),
        _series(
            "Retries, takeovers, fences, leftovers",
            [
                Query("sum by (error_class) (increase(hyper2kvm_job_retries_total[15m]))", "retry: {{error_class}}"),
                Query("sum by (reason) (increase(hyper2kvm_takeovers_total[15m]))", "takeover: {{reason}}"),
                Query("sum(increase(hyper2kvm_fences_total[15m]))", "fence"),
                Query("sum by (kind) (increase(hyper2kvm_leftovers_cleaned_total[15m]))", "leftover: {{kind}}"),
            ],
            "In 15 minutes each. Takeovers and fences mean that a worker was silent for too long.",
        ),
        _table(
            "Versions",
            {"Count": "count by (component, version, backend) (hyper2kvm_build_info)"},
            "What runs.",
            {},
            width=8,
        ),
    ]


def _throughput() -> list[Panel]:
    return [
        _series(
            "Rate by stage, and the limit",
            [
                Query("sum by (stage) (hyper2kvm_transfer_bytes_per_second) > 0", "{{stage}}"),
                Query("sum(hyper2kvm_transfer_limit_bytes_per_second)", "limit of the running jobs"),
            ],
            "As the running jobs tell. The limit is there while each running job has one.",
            units.BytesPerSecondIEC,
            stacked=False,
            width=12,
        ),
        _series(
            "Worked through",
            [Query("sum by (stage) (rate(hyper2kvm_stage_processed_bytes_total[$__rate_interval])) > 0", "{{stage}}")],
            "Bytes of disks' data, by stage.",
            units.BytesPerSecondIEC,
            width=12,
        ),
        _series(
            "Time of stages, 95 of 100 are shorter",
            [
                Query(
                    "histogram_quantile(0.95, sum by (le, stage)"
                    " (increase(hyper2kvm_stage_seconds_bucket[$__range])) > 0)",
                    "{{stage}}",
                )
            ],
            "Of those that ended in the time that is shown.",
            units.Seconds,
        ),
        _series(
            "Time of jobs",
            _quantiles("hyper2kvm_job_seconds", ""),
            "COMPLETED ones, from the first stage's begin.",
            units.Seconds,
        ),
        _stat(
            "Copy ratio",
            "sum(hyper2kvm_target_written_bytes_total) / (sum(hyper2kvm_source_allocated_bytes_total) > 0)",
            "Bytes written to targets, of those that the sources' images held: what deleted data and zeros saved.",
            units.PercentUnit,
            width=4,
            height=8,
        ),
        _stat("Read", "sum(hyper2kvm_source_read_bytes_total)", "Of sources, ever.", units.BytesIEC, width=2, height=8),
        _stat("Written", "sum(hyper2kvm_target_written_bytes_total)", "Ever.", units.BytesIEC, width=2, height=8),
    ]


def _failures() -> list[Panel]:
    reasons = "sum by (error_class, reason)"
    name = "hyper2kvm_job_failure_reasons_total"
    return [
        _series(
            "Failed in an hour, by class",
            [Query("sum by (error_class) (increase(hyper2kvm_job_failures_total[1h]))", "{{error_class}}")],
            "The class decides whether trying again can help.",
            width=12,
        ),
        # increase() would miss the first one of its kind, before which there is no such series.
        _table(
            "Reasons",
            {
                "Jobs": f"({reasons} (last_over_time({name}[$__range]))"
                f" - ({reasons} ({name} offset $__range) or 0 * {reasons} (last_over_time({name}[$__range])))) > 0"
            },
            "Jobs that FAILED in the time that is shown.",
            {},
            width=12,
        ),
    ]


def _boot_tests() -> list[Panel]:
    return [
        _stat(
            "Booted",
            'sum(increase(hyper2kvm_boot_tests_total{verdict="booted"}[$__range]))'
            " / (sum(increase(hyper2kvm_boot_tests_total[$__range])) > 0)",
            "Of the boot tests in the time that is shown.",
            units.PercentUnit,
            width=4,
            height=8,
        ),
        _series(
            "Boot tests in an hour",
            [Query("sum by (test, verdict) (increase(hyper2kvm_boot_tests_total[1h])) > 0", "{{test}}: {{verdict}}")],
            "A rehearsal boots what is fixed before it is copied; a verification boots the target.",
            width=10,
        ),
        _series(
            "Time to boot",
            _quantiles("hyper2kvm_boot_test_seconds", "test"),
            "From power-on to the proof.",
            units.Seconds,
            width=10,
        ),
    ]


def _operator() -> list[Panel]:
    return [
        _stat("Leading", "sum(hyper2kvm_operator_leading)", "1: one of them acts.", width=4, height=8),
        _series(
            "Time to decide",
            _quantiles("hyper2kvm_operator_reconcile_seconds", ""),
            "To look at all jobs, and say what is to be written.",
            units.Seconds,
            width=7,
        ),
        _series(
            "Decisions being written",
            [Query("sum(hyper2kvm_operator_pending_writes)", "pending")],
            "At most 32 at once.",
            width=6,
        ),
        _series(
            "Writes and assignments",
            [
                Query(
                    "sum by (kind, outcome) (rate(hyper2kvm_operator_writes_total[$__rate_interval]))",
                    "{{kind}}: {{outcome}}",
                ),
                Query("sum(rate(hyper2kvm_operator_assignments_total[$__rate_interval]))", "assignments"),
            ],
            "In a second.",
            width=7,
        ),
    ]


# -- kinds of panels ---------------------------------------------------------------------------------------------------


def _quantiles(name: str, label: str) -> list[Query]:
    """Return queries for the median of a histogram, and for what nearly all are below."""
    by, legend = (f"le, {label}", f" {{{{{label}}}}}") if label else ("le", "")
    return [
        Query(f"histogram_quantile({part}, sum by ({by}) (increase({name}_bucket[$__range])) > 0)", f"{words}{legend}")
        for part, words in ((0.5, "median"), (0.95, "95 of 100"))
    ]


def _stat(
    title: str,
    expr: str,
    description: str,
    unit: str = units.Short,
    *,
    steps: Steps | None = None,
    decimals: int | None = None,
    width: int = 3,
    height: int = 4,
) -> Panel:
    panel = (
        _panel(stat.Panel(), title, description, unit, width, height)
        .with_target(_target(Query(expr), instant=True))
        .graph_mode(style.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("-")
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    marks = [model.Threshold(value=None, color=_GREEN)]
    if steps is not None:
        marks += [model.Threshold(steps.yellow, _YELLOW), model.Threshold(steps.red, _RED)]
    return panel.thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(marks))


def _series(
    title: str,
    queries: t.Sequence[Query],
    description: str,
    unit: str = units.Short,
    *,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    top: float | None = None,
) -> Panel:
    panel = _panel(timeseries.Panel(), title, description, unit, width, height).min(0).line_width(1).fill_opacity(10)
    panel = panel.show_points(style.VisibilityMode.NEVER).tooltip(
        common.VizTooltipOptions().mode(style.TooltipDisplayMode.MULTI).sort(style.SortOrder.DESCENDING)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(style.StackingMode.NORMAL)).fill_opacity(40)
    if top is not None:
        panel = panel.max(top)
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, instant=False, number=number))
    return panel


def _bars(title: str, expr: str, legend: str, description: str) -> Panel:
    return (
        _panel(bargauge.Panel(), title, description, units.Short, 8, 8)
        .with_target(_target(Query(f"{expr} > 0", legend), instant=True))
        .orientation(style.VizOrientation.HORIZONTAL)
        .display_mode(style.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .min(0)
        .no_value("none")
    )


def _table(title: str, columns: t.Mapping[str, str], description: str, shown: t.Mapping[str, str], width: int) -> Panel:
    """Return a table with a column for each query, and one for each label of its series."""
    panel = _panel(table.Panel(), title, description, units.Short, width, 8)
    names: dict[str, str] = {}
    for number, (name, expr) in enumerate(columns.items()):
        target = _target(Query(expr), instant=True, number=number).format(query_model.PromQueryFormat.TABLE)
        panel = panel.with_target(target)
        # What Grafana calls the value of a query: by its letter where there are several.
        names["Value" if len(columns) == 1 else f"Value #{_letter(number)}"] = name
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    panel = panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": names, "indexByName": {}}
        )
    )
    for name, unit in shown.items():
        panel = panel.override_by_name(name, [model.DynamicConfigValue(id_val="unit", value=unit)])
    return panel


def _panel(panel: P, title: str, description: str, unit: str, width: int, height: int) -> P:
    return panel.title(title).description(description).unit(unit).span(width).height(height).datasource(_SOURCE)


def _target(query: Query, *, instant: bool, number: int = 0) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(_letter(number))
    target = target.instant() if instant else target.range()
    return target.legend_format(query.legend) if query.legend else target


def _letter(number: int) -> str:
    return chr(ord("A") + number)
