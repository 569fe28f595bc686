# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The dashboard: up to date, and every query of every panel answered by a Prometheus that watches a real fleet."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import METRICS, Kind, Teller

from tests.guests.host import REPOSITORY
from tests.monitoring.conftest import Watched
from tests.monitoring.prometheus import read

BOARD = json.loads((REPOSITORY / "dashboards/hyper2kvm.json").read_text(encoding="utf-8"))
#: What Grafana puts in.
VARIABLES = {"$__rate_interval": "2m", "$__range": "30m", "$queue": ".*"}
SUFFIXES = ("_bucket", "_sum", "_count")
NAMES = {metric.name: metric for metric in METRICS}


def queries() -> t.Iterator[tuple[str, str]]:
    """Title and expression of each query."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def used(text: str) -> set[str]:
    """The metrics of ours that an expression names."""
    found = set(re.findall(r"hyper2kvm_[a-z_]+", text))
    return {
        next((name.removesuffix(end) for end in SUFFIXES if name.removesuffix(end) in NAMES), name) for name in found
    }


def test_what_is_made_of_the_code_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashboards", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_panel_is_explained_and_has_its_own_place() -> None:
    panels = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    assert len(panels) > 30


def test_all_that_is_told_is_shown() -> None:
    shown = set().union(*(used(expr) for dummy, expr in queries()))
    assert shown == set(NAMES)


@pytest.mark.parametrize(("title", "expr"), list(queries()))
def test_every_query_returns_data(watched: Watched, title: str, expr: str) -> None:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    found = watched.prometheus.query(expr)
    assert any(math.isfinite(float(series["value"][1])) for series in found), f"{title}: {expr}: {found}"


def test_prometheus_knows_each_metric_by_its_type_and_meaning(watched: Watched) -> None:
    known = watched.prometheus.get("metadata")
    for metric in METRICS:
        # In OpenMetrics a counter is called without what its samples end in.
        (told,) = known[metric.name.removesuffix("_total")]
        assert told == {"type": metric.kind.value, "help": metric.help, "unit": metric.unit}, metric.name


def test_who_lints_metrics_finds_nothing(watched: Watched) -> None:
    for text in (read(f"{watched.metrics}/metrics"), watched.operator.read("/metrics")):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stderr == "", done.stderr


def test_the_figures_are_those_of_the_fleet(watched: Watched) -> None:
    value = watched.prometheus.value
    assert value('hyper2kvm_job_failures_total{job="hyper2kvm-worker",error_class="invalid"}') == 4
    assert value('hyper2kvm_blocked_jobs{queue="local",reason="CapabilityMissing"}') == 1
    assert value('hyper2kvm_blocked_jobs{queue="default",reason="CapabilityMissing"}') == 1
    assert value('hyper2kvm_jobs_ended_total{job="hyper2kvm-operator",phase="COMPLETED"}') == 3
    assert value('hyper2kvm_job_retries_total{job="hyper2kvm-operator",error_class="transient"}') == 1
    assert value('hyper2kvm_job_failure_reasons_total{job="hyper2kvm-operator",reason="NoSpace"}') == 1
    assert value('hyper2kvm_boot_tests_total{test="rehearsal",verdict="booted"}') == 1
    assert value('hyper2kvm_boot_tests_total{test="verification",verdict="booted"}') == 1
    assert value("hyper2kvm_transfer_limit_bytes_per_second") == 65536
    status = watched.host.job("done")["status"]
    (disk,) = status["result"]["disks"]
    assert value("hyper2kvm_source_read_bytes_total") == disk["bytesRead"] > 0
    assert value("hyper2kvm_target_written_bytes_total") == disk["bytesWritten"] > 0
    assert value("hyper2kvm_source_allocated_bytes_total") == disk["allocatedBytes"] >= disk["bytesWritten"]
    copy = next(stage["seconds"] for stage in status["stages"] if stage["name"] == "copy")
    assert value('hyper2kvm_stage_seconds_sum{stage="copy"}') == pytest.approx(copy)


def test_the_operator_tells_all_that_is_the_queues_and_its_own(watched: Watched) -> None:
    told = used(watched.operator.read("/metrics"))
    wanted = {metric.name for metric in METRICS if metric.teller in (Teller.QUEUE, Teller.OPERATOR)}
    assert told == wanted | {"hyper2kvm_build_info"}
    assert all(NAMES[name].kind in Kind for name in told)
