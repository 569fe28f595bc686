# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One fleet for all tests of a run, a Prometheus that watches it, and an Alertmanager that tells a local receiver."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing as t

import pytest
import yaml

from tests.guests.host import REPOSITORY, run
from tests.kube.api_server import ApiServer, serving
from tests.kube.operators import Operator, operating
from tests.kube.test_chart import tool
from tests.monitoring.fleet import Cluster, Host, folder_of
from tests.monitoring.prometheus import Prometheus, Receiver, free_port, read, running
from tests.tools.machine import wait_for

#: What is in Slack's URL, and must be nowhere else.
SECRET = "T0000SECRET"
RULES = REPOSITORY / "dashboards/hyper2kvm.rules.yml"


@dataclasses.dataclass(frozen=True)
class Watched:
    """The fleet, and who watches it."""

    prometheus: Prometheus
    receiver: Receiver
    alertmanager: str
    """Its URL."""
    host: Host
    metrics: str
    """Where the host's worker tells them."""
    operator: Operator
    logs: tuple[pathlib.Path, ...]
    """Of everybody who might have seen the webhook."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[ApiServer]:
    """An API server with our definitions, accounts and rights."""
    with serving(tmp_path_factory.mktemp("monitored")) as server:
        server.install(REPOSITORY / "k8s" / "base")
        yield server


def alertmanager_settings(webhook: str) -> dict[str, t.Any]:
    """What Prometheus' operator makes of the chart's AlertmanagerConfig, as far as ours takes it.

    Its fields are Alertmanager's in camelCase; a reference to a Secret becomes what that holds, and the namespace of
    the object a matcher.
    """
    settings = ["--set", "alerting.enabled=true", "--set", "alerting.slack.existingSecret=mine"]
    chart = [REPOSITORY / "helm/hyper2kvm-worker", "--show-only", "templates/alerting.yaml"]
    rendered = run(
        [tool("helm"), "template", "test", *chart, *settings, "--api-versions", "monitoring.coreos.com/v1alpha1"]
    )
    (config,) = (one for one in yaml.safe_load_all(rendered) if one and one["kind"] == "AlertmanagerConfig")
    route, (receiver,) = config["spec"]["route"], config["spec"]["receivers"]
    (slack,) = receiver["slackConfigs"]
    assert slack.pop("apiURL") == {"name": "mine", "key": "webhook"}
    matchers = [f'{one["name"]}{one["matchType"]}"{one["value"]}"' for one in route.pop("matchers")]
    told = {_snake(key): value for key, value in slack.items()}
    routes = {**{_snake(key): value for key, value in route.items()}, "matchers": matchers, "group_wait": "1s"}
    return {
        "route": {"receiver": "nobody", "routes": [routes]},
        "receivers": [{"name": "nobody"}, {"name": receiver["name"], "slack_configs": [{"api_url": webhook, **told}]}],
    }


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


@pytest.fixture(scope="session")
def watched(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Watched]:
    """A fleet of which some time has passed: what there is to be seen has happened, and was seen."""
    folder = tmp_path_factory.mktemp("watched")
    host = Host(folder_of(folder / "host"))
    port = free_port()
    with operating(cluster, folder / "operator") as (operator,), host.working() as metrics, Receiver() as receiver:
        settings = folder / "alertmanager.yml"
        told = alertmanager_settings(f"{receiver.url}/services/{SECRET}")
        settings.write_text(yaml.safe_dump(told), encoding="utf-8")
        prometheus = Prometheus(
            folder / "prometheus",
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(RULES)],
                "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]},
                "scrape_configs": [
                    {"job_name": "hyper2kvm-worker", "static_configs": [{"targets": [metrics]}]},
                    {"job_name": "hyper2kvm-operator", "static_configs": [{"targets": [operator.address]}]},
                ],
            },
        )
        command: list[str | pathlib.Path] = [
            "prometheus-alertmanager",
            f"--config.file={settings}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        url, log = f"http://127.0.0.1:{port}", folder / "alertmanager.log"
        with running(command, log, f"{url}/-/ready"), prometheus.running(), Cluster(cluster):
            # Counters are seen at zero before they rise.
            wait_for(lambda: prometheus.value('count(up{job=~"hyper2kvm-.*"} == 1)') == 2)
            host.begin()
            wait_for(lambda: host.jobs()["done"]["status"]["phase"] in ("COMPLETED", "FAILED"), 1500)
            assert host.jobs()["done"]["status"]["phase"] == "COMPLETED", json.dumps(host.jobs()["done"])
            wait_for(lambda: prometheus.query("hyper2kvm_job_remaining_seconds"))
            wait_for(lambda: prometheus.value('hyper2kvm_jobs_ended_total{job="hyper2kvm-worker",phase="COMPLETED"}'))
            wait_for(lambda: prometheus.value("hyper2kvm_job_retries_total{job='hyper2kvm-operator'} > 0"))
            logs = (log, folder / "prometheus/prometheus.log", host.output.parent / "worker.log")
            wait_for(lambda: prometheus.value('max(increase(hyper2kvm_stage_processed_bytes_total{stage="copy"}[2m]))'))
            yield Watched(prometheus, receiver, url, host, f"http://{metrics}", operator, logs)


__all__ = ["RULES", "SECRET", "Watched", "read"]
