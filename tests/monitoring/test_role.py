# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role observability: on a host with a real Prometheus, and on a real API server that knows the kinds."""

from __future__ import annotations

import json
import pathlib
import sys
import typing as t

import pytest
import yaml

from dashboards.alerts import ALERTS
from tests.e2e.playbooks import Played, ansible_playbook
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer
from tests.kube.test_chart import tool
from tests.monitoring.prometheus import Prometheus, read
from tests.tools.machine import wait_for

SETTINGS = {"ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
WEBHOOK = "https://hooks.example.org/services/T0000SECRET"
KINDS = {
    "ServiceMonitor": "v1",
    "PrometheusRule": "v1",
    "AlertmanagerConfig": "v1alpha1",
}
NAMESPACE = "hyper2kvm-workers"


class Host:
    """A host with Prometheus and Grafana's folders."""

    def __init__(self, folder: pathlib.Path, text: str) -> None:
        self.folder = folder
        self.prometheus = Prometheus(folder / "prometheus", {})
        self.prometheus.settings.write_text(text, encoding="utf-8")
        self.providers = folder / "grafana/provisioning/dashboards"
        self.providers.mkdir(parents=True)
        self.board = folder / "grafana/dashboards/hyper2kvm.json"

    def play(self, *arguments: str, **extra: t.Any) -> Played:
        """Run the playbook here."""
        inventory = self.folder / "hosts.yml"
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {
            "monitoring_hosts": {"hosts": {"mon1": here}},
            "conversion_hosts": {
                "hosts": {"conv1": {"ansible_host": "127.0.0.1"}, "conv2": {"hyper2kvm_metrics_port": ""}},
                "vars": {"hyper2kvm_metrics_port": 9464},
            },
        }
        inventory.write_text(json.dumps({"all": {"children": hosts}}), encoding="utf-8")
        given = {
            "hyper2kvm_prometheus_config": str(self.prometheus.settings),
            "hyper2kvm_prometheus_reload_url": f"{self.prometheus.url}/-/reload",
            "hyper2kvm_grafana_provisioning_dir": str(self.providers),
            "hyper2kvm_grafana_dashboards_dir": str(self.board.parent),
            **extra,
        }
        with (self.folder / "ansible.log").open("a", encoding="utf-8") as log:
            arguments = ("-i", str(inventory), "hyper2kvm.core.observability", *arguments)
            return ansible_playbook(*arguments, folder=self.folder, log=log, extra=given, settings=SETTINGS)

    def files(self) -> dict[str, str]:
        """What there is of the settings."""
        found = [*self.prometheus.folder.rglob("*.yml"), *(self.folder / "grafana").rglob("*.*")]
        return {str(path): path.read_text(encoding="utf-8") for path in found if "data" not in path.parts}


PLAIN = "scrape_configs:\n  - job_name: itself\n    static_configs:\n      - targets: ['127.0.0.1:1']\n"
#: As other people indent, and with rules of their own.
WITH_RULES = """\
global:
  scrape_interval: 15s
rule_files:
# - commented.yml
- none/*.yml
scrape_configs:
# Prometheus itself.
- job_name: itself
  static_configs:
  - targets: ['127.0.0.1:1']
"""


@pytest.mark.parametrize("text", [PLAIN, WITH_RULES], ids=["plain", "with-rules"])
def test_prometheus_and_grafana_get_all_and_lose_it_again(text: str, tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, text)
    before = host.files()
    with host.prometheus.running() as prometheus:

        def watched() -> set[str]:
            found = prometheus.get("targets?state=active")["activeTargets"]
            return {one["discoveredLabels"]["__address__"] for one in found}

        def alerts() -> set[str]:
            return {rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]}

        looked = host.play("--check", "--diff")
        assert looked.status == 0 and looked.recap("mon1")["changed"] > 0, looked.output
        assert host.files() == before and "job_name: hyper2kvm-worker" in looked.output

        first = host.play()
        assert first.status == 0, first.output
        wait_for(lambda: watched() == {"127.0.0.1:1", "127.0.0.1:9464"})
        assert alerts() == {alert.name for alert in ALERTS}
        board = (REPOSITORY / "dashboards/hyper2kvm.json").read_text(encoding="utf-8")
        assert host.board.read_text(encoding="utf-8") == board
        (provider,) = yaml.safe_load((host.providers / "hyper2kvm.yml").read_text())["providers"]
        assert provider["options"]["path"] == str(host.board.parent)

        again = host.play()
        assert again.status == 0 and again.recap("mon1")["changed"] == 0, again.output

        moved = host.play(hyper2kvm_prometheus_targets="conv7:9000, conv8:9000")
        assert moved.status == 0, moved.output
        wait_for(lambda: watched() == {"127.0.0.1:1", "conv7:9000", "conv8:9000"})

        away = host.play(hyper2kvm_state="absent")
        assert away.status == 0, away.output
        wait_for(lambda: watched() == {"127.0.0.1:1"} and not alerts())
        assert host.files() == before
        again = host.play(hyper2kvm_state="absent")
        assert again.recap("mon1")["changed"] == 0, again.output
        assert read(f"{prometheus.url}/-/healthy")


def test_what_prometheus_would_not_take_is_not_put_in_place(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path, "scrape_configs:\n  - job_name: hyper2kvm-worker\n")
    before = host.prometheus.settings.read_text()
    found = host.play()
    assert found.status == 2 and "found multiple scrape configs with job name" in found.output, found.output
    # The rules came before; nobody reads them yet.
    assert "job_name: hyper2kvm-worker\n  static" not in host.prometheus.settings.read_text()
    assert before in host.prometheus.settings.read_text()


@pytest.mark.parametrize(
    ("text", "extra", "told"),
    [
        ("scrape_configs: []\n", {}, "has no list scrape_configs"),
        (PLAIN, {"hyper2kvm_metrics_port": ""}, "No worker tells metrics"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(
    text: str, extra: dict[str, t.Any], told: str, tmp_path: pathlib.Path
) -> None:
    host = Host(tmp_path, text)
    before = host.files()
    found = host.play(**extra)
    assert found.status == 2 and told in " ".join(found.output.split()), found.output
    assert host.files() == before


# -- on a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kinds(cluster: ApiServer) -> t.Iterator[ApiServer]:
    """An API server that knows the names of the kinds of Prometheus' operator, and takes whatever is in them."""
    names = []
    for kind, version in KINDS.items():
        plural = f"{kind.lower()}s"
        names.append(f"{plural}.monitoring.coreos.com")
        anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        spec = {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}],
        }
        document = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": names[-1]},
            "spec": spec,
        }
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in names))
    yield cluster
    cluster.kubectl("delete", "crd", *names)


def play(server: ApiServer, folder: pathlib.Path, *arguments: str, **extra: t.Any) -> Played:
    """Run the playbook for a cluster."""
    given = {
        "hyper2kvm_targets": "localhost",
        "hyper2kvm_backend": "kubernetes",
        "hyper2kvm_kubernetes_kubeconfig": str(server.kubeconfig()),
        "hyper2kvm_helm": tool("helm"),
        **extra,
    }
    with (folder / "ansible.log").open("a", encoding="utf-8") as log:
        arguments = ("hyper2kvm.core.observability", *arguments)
        return ansible_playbook(*arguments, folder=folder, log=log, extra=given, settings=SETTINGS)


def there(server: ApiServer) -> set[tuple[str, str]]:
    """What there is of ours, by kind and name."""
    kinds = ",".join(["configmaps", "secrets", *(f"{kind.lower()}s" for kind in KINDS)])
    chosen = ["--selector", "app.kubernetes.io/name=hyper2kvm", "--output", "json"]
    found = json.loads(server.kubectl("get", kinds, "--namespace", NAMESPACE, *chosen))
    return {(one["kind"], one["metadata"]["name"]) for one in found["items"]}


def test_a_cluster_gets_all_and_loses_it_again(kinds: ApiServer, tmp_path: pathlib.Path) -> None:
    settings = {"hyper2kvm_values": {"alerting": {"slack": {"webhook": WEBHOOK}}}}
    looked = play(kinds, tmp_path, "--check", "--diff", "-vvv", **settings)
    assert looked.status == 0 and looked.recap("localhost")["changed"] > 0, looked.output
    assert there(kinds) == set()
    first = play(kinds, tmp_path, "--diff", "-vvv", **settings)
    assert first.status == 0, first.output
    for played in (looked, first):
        # On the command line of the test itself it stands, as an extra variable.
        assert "T0000SECRET" not in played.output.replace(json.dumps(settings), "")
    assert there(kinds) == {
        ("ServiceMonitor", "hyper2kvm"),
        ("PrometheusRule", "hyper2kvm"),
        ("AlertmanagerConfig", "hyper2kvm"),
        ("ConfigMap", "hyper2kvm-dashboards"),
        ("Secret", "hyper2kvm-slack"),
    }
    again = play(kinds, tmp_path, **settings)
    assert again.status == 0 and again.recap("localhost")["changed"] == 0, again.output
    away = play(kinds, tmp_path, hyper2kvm_state="absent", **settings)
    assert away.status == 0 and there(kinds) == set(), away.output
    again = play(kinds, tmp_path, hyper2kvm_state="absent", **settings)
    assert again.recap("localhost")["changed"] == 0, again.output


def test_a_cluster_without_prometheus_operator_is_told_so(cluster: ApiServer, tmp_path: pathlib.Path) -> None:
    found = play(cluster, tmp_path)
    assert found.status == 2 and "Install Prometheus' operator first" in " ".join(found.output.split()), found.output
