# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The alerts: each is on when it should be and off when not, and leads to a page that says what to do."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess

import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import METRICS

from dashboards.alerts import ALERTS
from tests.guests.host import REPOSITORY
from tests.monitoring.conftest import RULES
from tests.monitoring.test_dashboard import used

K8S = 'hyper2kvm_build_info{component="worker",backend="kubernetes"}'
AGE = 'hyper2kvm_job_progress_age_seconds{queue="local",job_name="web01",stage="copy",instance="h1"}'
BLOCKED = 'hyper2kvm_blocked_jobs{queue="local",reason="CapabilityMissing"}'
UP = 'up{job="hyper2kvm-worker",instance="h1"}'
FAILED = 'hyper2kvm_job_failures_total{error_class="environment"}'
ENDED = 'hyper2kvm_jobs_ended_total{phase="%s"}'
FREE, SIZE = (f'hyper2kvm_{name}_bytes{{root="output",instance="h1"}}' for name in ("free", "size"))
BOOTS = 'hyper2kvm_boot_tests_total{test="verification",verdict="%s"}'
TERABYTE = 1000**4


@dataclasses.dataclass(frozen=True)
class Case:
    """What an alert is after some minutes, given series with a value a minute (in promtool's notation)."""

    alert: str
    what: str
    minutes: int
    series: dict[str, str]
    on: bool


def failures(failed: str, completed: str) -> dict[str, str]:
    """Jobs that ended."""
    return {FAILED: failed, ENDED % "FAILED": failed, ENDED % "COMPLETED": completed}


CASES = (
    Case("Hyper2kvmJobStuck", "silent for half an hour", 30, {AGE: "0+60x60"}, True),
    Case("Hyper2kvmJobStuck", "silent for ten minutes, but not for five more", 14, {AGE: "0+60x60"}, False),
    Case("Hyper2kvmJobStuck", "tells of progress", 30, {AGE: "30+0x60"}, False),
    Case("Hyper2kvmQueueBlocked", "blocked for a while", 12, {BLOCKED: "2+0x30"}, True),
    Case("Hyper2kvmQueueBlocked", "blocked for a moment", 12, {BLOCKED: "0+0x4 1+0x4 0+0x30"}, False),
    Case("Hyper2kvmQueueBlocked", "nothing is blocked", 12, {BLOCKED: "0+0x30"}, False),
    Case("Hyper2kvmWorkerLost", "nobody at the port", 5, {UP: "1 0+0x30"}, True),
    Case("Hyper2kvmWorkerLost", "restarted", 5, {UP: "1 0 1+0x30"}, False),
    Case(
        "Hyper2kvmWorkerLost",
        "its Lease ended",
        5,
        {'hyper2kvm_operator_worker_lease_age_seconds{node="n1"}': "0+60x30"},
        True,
    ),
    Case(
        "Hyper2kvmWorkerLost",
        "its Lease is renewed",
        5,
        {'hyper2kvm_operator_worker_lease_age_seconds{node="n1"}': "10+0x30"},
        False,
    ),
    Case(
        "Hyper2kvmWorkerLost",
        "its file is old",
        6,
        {'node_textfile_mtime_seconds{file="/c/hyper2kvm.prom"}': "0+0x30"},
        True,
    ),
    Case(
        "Hyper2kvmWorkerLost",
        "its file is new, and another's is old",
        6,
        {
            'node_textfile_mtime_seconds{file="/c/hyper2kvm.prom"}': "0+60x30",
            'node_textfile_mtime_seconds{file="/c/raid.prom"}': "0+0x30",
        },
        False,
    ),
    Case("Hyper2kvmFailureRate", "five of ten", 20, failures("0+1x5 5+0x60", "0+1x5 5+0x60"), True),
    Case("Hyper2kvmFailureRate", "five of a hundred", 20, failures("0+1x5 5+0x60", "0+19x5 95+0x60"), False),
    Case("Hyper2kvmFailureRate", "two of two", 20, failures("0+1x2 2+0x60", "0+0x60"), False),
    Case("Hyper2kvmFailureRate", "five of ten, long ago", 90, failures("0+1x5 5+0x90", "0+1x5 5+0x90"), False),
    Case(
        "Hyper2kvmDiskSpace",
        "4 of 100 are free",
        8,
        {FREE: f"{TERABYTE // 25}+0x60", SIZE: f"{TERABYTE}+0x60"},
        True,
    ),
    Case(
        "Hyper2kvmDiskSpace",
        "it will be full within the hour",
        40,
        {FREE: f"{TERABYTE // 10}-{TERABYTE // 1000}x60", SIZE: f"{TERABYTE}+0x60"},
        True,
    ),
    Case(
        "Hyper2kvmDiskSpace",
        "it fills, but not tonight",
        40,
        {FREE: f"{TERABYTE // 2}-{TERABYTE // 10000}x60", SIZE: f"{TERABYTE}+0x60"},
        False,
    ),
    Case(
        "Hyper2kvmLeaseLost", "a takeover", 7, {'hyper2kvm_takeovers_total{reason="WorkerLost"}': "0+0x5 1+0x60"}, True
    ),
    Case("Hyper2kvmLeaseLost", "a fence", 7, {'hyper2kvm_fences_total{instance="h1"}': "3+0x5 4+0x60"}, True),
    Case("Hyper2kvmLeaseLost", "an old fence", 40, {'hyper2kvm_fences_total{instance="h1"}': "3+0x5 4+0x60"}, False),
    Case(
        "Hyper2kvmLeaseLost",
        "none",
        7,
        {'hyper2kvm_takeovers_total{reason="WorkerLost"}': "2+0x60", "hyper2kvm_fences_total": "0+0x60"},
        False,
    ),
    Case(
        "Hyper2kvmOperatorWithoutLeader",
        "both stand by",
        5,
        {K8S: "1+0x30", **{f'hyper2kvm_operator_leading{{pod="{pod}"}}': "0+0x30" for pod in "ab"}},
        True,
    ),
    Case("Hyper2kvmOperatorWithoutLeader", "workers, and no operator", 5, {K8S: "1+0x30"}, True),
    Case(
        "Hyper2kvmOperatorWithoutLeader",
        "one of two leads",
        5,
        {
            K8S: "1+0x30",
            'hyper2kvm_operator_leading{pod="a"}': "0+0x30",
            'hyper2kvm_operator_leading{pod="b"}': "1+0x30",
        },
        False,
    ),
    Case(
        "Hyper2kvmOperatorWithoutLeader",
        "there is no cluster",
        5,
        {'hyper2kvm_build_info{component="worker",backend="local"}': "1+0x30"},
        False,
    ),
    Case(
        "Hyper2kvmBootTestsFailing",
        "five of ten",
        20,
        {BOOTS % "failed": "0+1x5 5+0x60", BOOTS % "booted": "0+1x5 5+0x60"},
        True,
    ),
    Case(
        "Hyper2kvmBootTestsFailing",
        "five of a hundred",
        20,
        {BOOTS % "failed": "0+1x5 5+0x60", BOOTS % "booted": "0+19x5 95+0x60"},
        False,
    ),
    Case(
        "Hyper2kvmBootTestsFailing",
        "two of two",
        20,
        {BOOTS % "failed": "0+1x2 2+0x60", BOOTS % "booted": "0+0x60"},
        False,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}: {case.what}")
def test_an_alert_is_on_when_it_should_be(case: Case, tmp_path: pathlib.Path) -> None:
    on = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) > bool 0 or vector(0)'
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {"expr": on, "eval_time": f"{case.minutes}m", "exp_samples": [{"labels": "{}", "value": int(case.on)}]}
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case_in_which_it_is_on_and_one_in_which_it_is_not() -> None:
    tried = {(case.alert, case.on) for case in CASES}
    assert tried == {(alert.name, on) for alert in ALERTS for on in (True, False)}


def test_alerts_name_metrics_that_there_are() -> None:
    named = set().union(*(used(alert.expr) for alert in ALERTS))
    assert named and named <= {metric.name for metric in METRICS}


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    folder = REPOSITORY / "docs/runbooks"
    assert {path.stem for path in folder.glob("*.md")} == {"README", *(alert.name for alert in ALERTS)}
    repository = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text(encoding="utf-8"))["repository"]
    for alert in ALERTS:
        page = (folder / f"{alert.name}.md").read_text(encoding="utf-8")
        assert page.startswith(f"# {alert.name}\n") and "## What to do\n" in page
        assert alert.runbook == f"{repository}/blob/main/docs/runbooks/{alert.name}.md"
