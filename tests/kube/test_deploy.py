# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks deploy and undeploy, on an API server of their own. No node is there, so nobody waits for pods."""

from __future__ import annotations

import json
import pathlib
import subprocess
import typing as t

import pytest

from tests.e2e.playbooks import Played, ansible_playbook
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer, programs, serving_nothing_of_ours
from tests.kube.test_chart import tool

Play = t.Callable[..., Played]
KEPT = ["hyper2kvm-input", "hyper2kvm-output"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[ApiServer]:
    """An API server with the controllers that deletion takes, and without our definitions."""
    folder = tmp_path_factory.mktemp("deploy")
    with serving_nothing_of_ours(folder / "server") as found:
        command = [programs() / "kube-controller-manager", f"--kubeconfig={found.kubeconfig()}", "--secure-port=0"]
        # The last one writes to admission policies as soon as they are there.
        needed = (
            *("garbage-collector-controller", "persistentvolumeclaim-protection-controller"),
            "validatingadmissionpolicy-status-controller",
        )
        only = [f"--controllers={','.join(needed)}", "--leader-elect=false"]
        with (folder / "controllers.log").open("wb") as log:
            controllers = subprocess.Popen([*command, *only], stdout=log, stderr=log)
        try:
            yield found
        finally:
            controllers.kill()
            controllers.wait()


@pytest.fixture
def play(tmp_path: pathlib.Path, server: ApiServer) -> Play:
    """Run a playbook."""

    def call(playbook: str, *arguments: str, **extra: t.Any) -> Played:
        given = {
            "hyper2kvm_kubernetes_kubeconfig": str(server.kubeconfig()),
            "hyper2kvm_helm": tool("helm"),
            "hyper2kvm_ready_timeout": 0,
            "hyper2kvm_image_tag": "test",
            **extra,
        }
        settings = {"ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
        with (tmp_path / "ansible.log").open("w", encoding="utf-8") as log:
            arguments = (f"hyper2kvm.core.{playbook}", *arguments)
            return ansible_playbook(*arguments, folder=tmp_path, log=log, extra=given, settings=settings)

    return call


def names(server: ApiServer, kind: str) -> list[str]:
    """Our objects of a kind, in the release's namespace."""
    found = server.kubectl("get", kind, "--namespace", "hyper2kvm-workers", "--output", "json")
    return sorted(one["metadata"]["name"] for one in json.loads(found)["items"])


def versions(server: ApiServer) -> dict[str, int]:
    """How often what runs was described anew, by name."""
    found = server.kubectl("get", "deployments,daemonsets", "--namespace", "hyper2kvm-workers", "--output", "json")
    return {one["metadata"]["name"]: one["metadata"]["generation"] for one in json.loads(found)["items"]}


def test_what_is_described_is_there_and_then_not_any_more(play: Play, server: ApiServer) -> None:
    looked = play("deploy", "--check", "--diff")
    assert looked.status == 0 and looked.recap("localhost")["changed"] == 2, looked.output
    assert names(server, "deployments") == []

    first = play("deploy")
    assert first.status == 0, first.output
    assert names(server, "deployments") == ["hyper2kvm-operator"] and names(server, "daemonsets") == [
        "hyper2kvm-worker"
    ]

    again = play("deploy")
    assert again.status == 0 and again.recap("localhost")["changed"] == 0, again.output

    before = versions(server)
    looked = play("deploy", "--check", "--diff", hyper2kvm_values={"worker": {"slots": 3}})
    assert looked.recap("localhost")["changed"] == 1 and "--slots=3" in looked.output, looked.output
    looked = play("undeploy", "--check")
    assert looked.status == 0 and looked.recap("localhost")["changed"] == 1, looked.output
    assert versions(server) == before, "check mode changed nothing"

    away = play("undeploy", hyper2kvm_ready_timeout=60)
    assert away.status == 0, away.output
    for kind in ("deployments", "daemonsets", "services", "networkpolicies", "roles"):
        assert names(server, kind) == [], kind
    assert names(server, "persistentvolumeclaims") == KEPT
    assert "migrationjobs.hyper2kvm.io" in server.kubectl("get", "crds", "--output", "name")
    again = play("undeploy", hyper2kvm_ready_timeout=60)
    assert again.status == 0 and again.recap("localhost")["changed"] == 0, again.output


def test_what_is_not_described_any_more_goes(play: Play, server: ApiServer) -> None:
    assert play("deploy").status == 0
    # As from a cluster whose monitoring was removed, with the definitions of its kinds.
    record = "configmap/hyper2kvm-objects", "--namespace", "hyper2kvm-workers"
    kept = server.kubectl("get", *record, "--output", "jsonpath={.data.objects}")
    gone = {"data": {"objects": f"{kept}, monitoring.coreos.com/v1 ServiceMonitor hyper2kvm"}}
    server.kubectl("patch", *record, "--type=merge", "--patch", json.dumps(gone))
    own = {"hyper2kvm_values": {"worker": {"nodes": ["node1"]}, "monitoring": {"metrics": {"enabled": False}}}}
    moved = play("deploy", **own)
    assert moved.status == 0 and moved.recap("localhost")["changed"] == 2, moved.output
    again = play("deploy", **own)
    assert again.recap("localhost")["changed"] == 0, again.output
    assert names(server, "daemonsets") == ["hyper2kvm-worker-node1"] and names(server, "services") == []
    away = play("undeploy", hyper2kvm_ready_timeout=60)
    assert away.status == 0, away.output
    for kind in ("deployments", "daemonsets"):
        assert names(server, kind) == [], kind


def test_nodes_are_labelled_and_let_go(play: Play, server: ApiServer) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}
    server.kubectl("create", "-f", "-", stdin=json.dumps(node))

    def read() -> tuple[bool, bool]:
        found = json.loads(server.kubectl("get", "node", "node1", "--output", "json"))
        labelled = found["metadata"].get("labels", {}).get("hyper2kvm.io/worker-enabled") == "true"
        return labelled, any(one["key"] == "privileged" for one in found["spec"].get("taints", []))

    settings = {"hyper2kvm_worker_nodes": "node1", "hyper2kvm_worker_dedicated": True}
    assert play("deploy", "--check", **settings).status == 0 and read() == (False, False)
    assert play("deploy", **settings).status == 0 and read() == (True, True)
    again = play("deploy", **settings)
    assert again.recap("localhost")["changed"] == 0, again.output
    away = play("undeploy", hyper2kvm_ready_timeout=60, **settings)
    assert away.status == 0 and read() == (False, False), away.output


def test_a_cluster_out_of_reach_fails_in_words(play: Play) -> None:
    found = play("deploy", hyper2kvm_kubernetes_host="https://127.0.0.1:1", hyper2kvm_kubernetes_kubeconfig="")
    assert found.status == 2
