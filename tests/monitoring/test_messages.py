# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a job that fails to a message in Slack's place, by Prometheus and Alertmanager; and no secret told."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from dashboards.alerts import ALERTS
from tests.kube.test_chart import objects, of_kind, rendered
from tests.monitoring.conftest import SECRET, Watched
from tests.monitoring.prometheus import read
from tests.tools.machine import wait_for

ALERT = "Hyper2kvmFailureRate"
KNOWN = ("--api-versions", "monitoring.coreos.com/v1alpha1")
WEBHOOK = "https://hooks.example.org/services/" + SECRET


def test_a_message_says_what_is_wrong_and_where_to_read_on(watched: Watched) -> None:
    def told() -> dict[str, str]:
        found = [post["attachments"][0] for path, post in watched.receiver.posts if path == f"/services/{SECRET}"]
        return next((one for one in found if ALERT in one["title"]), {})

    message = wait_for(told)
    (alert,) = (one for one in ALERTS if one.name == ALERT)
    assert message["title"] == f"FIRING: {ALERT} (1)"
    assert message["title_link"] == alert.runbook
    # It may have been on before the last of them failed.
    assert re.search(r"\*[34] jobs FAILED within an hour with errors of class invalid", message["text"])
    assert alert.todo in message["text"]
    assert message["color"] == "danger"


def test_nobody_tells_the_webhook(watched: Watched) -> None:
    wait_for(lambda: watched.receiver.posts)
    for log in watched.logs:
        assert log.stat().st_size and SECRET not in log.read_text(encoding="utf-8"), log
    for url in (
        f"{watched.alertmanager}/api/v2/status",
        f"{watched.alertmanager}/metrics",
        f"{watched.prometheus.url}/api/v1/status/config",
        f"{watched.prometheus.url}/api/v1/alertmanagers",
        f"{watched.metrics}/metrics",
    ):
        told = read(url)
        assert told and SECRET not in told, url
    assert SECRET not in watched.operator.log + watched.operator.read("/metrics")


def test_the_webhook_is_in_a_secret_alone() -> None:
    settings = ["--set", "alerting.enabled=true", "--set", f"alerting.slack.webhook={WEBHOOK}", *KNOWN]
    found = objects(*settings)
    assert [one["kind"] for one in found if SECRET in json.dumps(one)] == ["Secret"]
    (config,) = of_kind(found, "AlertmanagerConfig")
    (receiver,) = config["spec"]["receivers"]
    (secret,) = (one for one in of_kind(found, "Secret") if SECRET in json.dumps(one))
    assert receiver["slackConfigs"][0]["apiURL"] == {"name": secret["metadata"]["name"], "key": "webhook"}
    settings += ["--set", "alerting.slack.existingSecret=mine"]
    assert SECRET not in rendered(*settings)


@pytest.mark.parametrize(
    ("setting", "arguments", "made"),
    [("auto", KNOWN, True), ("auto", (), False), ("always", (), True), ("never", KNOWN, False)],
)
def test_an_alertmanager_config_is_made_where_its_kind_is_known(
    setting: str, arguments: tuple[str, ...], made: bool
) -> None:
    settings = ["--set", "alerting.enabled=true", "--set", "alerting.slack.existingSecret=mine"]
    found = objects(*settings, "--set", f"alerting.slack.alertmanagerConfig={setting}", *arguments)
    assert bool(of_kind(found, "AlertmanagerConfig")) == made


def test_an_alertmanager_config_sees_the_alerts_of_its_namespace() -> None:
    found = objects("--set", "alerting.enabled=true", "--set", "alerting.labels.release=prom")
    (rule,) = of_kind(found, "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prom"
    rules = rule["spec"]["groups"][0]["rules"]
    assert {one["alert"] for one in rules} == {alert.name for alert in ALERTS}
    # Prometheus' operator lets it see no other; and no series may have a label that this would hide.
    assert {one["labels"]["namespace"] for one in rules} == {rule["metadata"]["namespace"]}
    exprs = yaml.safe_dump([one["expr"] for one in rules])
    assert "namespace" not in exprs
