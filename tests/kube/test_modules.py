# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules about jobs with the backend ``kubernetes``, on a real API server. The test is operator and worker."""

from __future__ import annotations

import threading
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.modules import migration_job, migration_job_info, worker_info

from tests.kube.api_server import ApiServer
from tests.kube.cluster_by_hand import Cluster, assigned, cancelled, completed, failed, queued, running
from tests.running_modules import run_module

Run = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def run(api_server: ApiServer, namespace: str) -> Run:
    """Run a module against the test's namespace."""

    def call(module: t.Any, **options: t.Any) -> dict[str, t.Any]:
        kubeconfig = str(api_server.kubeconfig())
        return run_module(module, backend="kubernetes", kubeconfig=kubeconfig, namespace=namespace, **options)

    return call


@pytest.fixture
def cluster(api_server: ApiServer, namespace: str) -> Cluster:
    """The rest of the cluster."""
    return Cluster(api_server, namespace)


def wanted(**options: t.Any) -> dict[str, t.Any]:
    """Options of a job that is not waited for."""
    return {"name": "web01", "source": {"path": "web01.ova"}, "wait": False, **options}


def test_a_job_is_handed_in_once(run: Run, namespace: str) -> None:
    first = run(migration_job, **wanted())
    assert first["changed"] and first["job"]["metadata"]["namespace"] == namespace
    assert first["diff"][0]["before"] == "" and first["diff"][0]["after"]["spec"] == {"source": {"path": "web01.ova"}}
    again = run(migration_job, **wanted())
    assert not again["changed"] and again["job"]["metadata"]["uid"] == first["job"]["metadata"]["uid"]
    other = run(migration_job, **wanted(target={"format": "raw"}))
    assert other["failed"] and "spec.target.format" in other["msg"]


def test_check_mode_asks_the_api_server_and_stores_nothing(run: Run) -> None:
    seen = run(migration_job, check=True, **wanted())
    assert seen["changed"] and seen["diff"][0]["after"]["metadata"]["name"] == "web01"
    assert run(migration_job_info)["jobs"] == []
    run(migration_job, **wanted())
    seen = run(migration_job, check=True, **wanted(priority=9))
    assert seen["changed"] and seen["diff"][0]["after"]["spec"]["priority"] == 9
    assert not run(migration_job, check=True, **wanted())["changed"]
    assert run(migration_job_info, name="web01")["jobs"][0]["spec"]["priority"] == 0
    assert run(migration_job, check=True, name="web01", state="absent")["changed"]
    assert run(migration_job_info, name="web01")["jobs"]


def test_a_job_that_is_completed_is_not_done_again(run: Run, cluster: Cluster) -> None:
    run(migration_job, **wanted())
    cluster.turn("web01", queued, assigned, running, completed)
    for force in (False, True):
        again = run(migration_job, **wanted(target={"force": force}))
        assert not again["changed"] and again["job"]["status"]["phase"] == "COMPLETED"
    assert run(migration_job, **wanted(target={"format": "raw"}))["failed"]
    forced = run(migration_job, **wanted(target={"format": "raw", "force": True}))
    assert forced["changed"] and forced["job"]["status"]["phase"] == "CREATED"


def test_waiting_ends_with_the_job(run: Run, cluster: Cluster) -> None:
    run(migration_job, **wanted())
    cluster.turn("web01", queued, assigned, running)
    end = threading.Thread(target=cluster.turn, args=("web01", failed))
    end.start()
    found = run(migration_job, name="web01", wait_timeout=60)
    end.join()
    assert found["failed"] and found["error"]["reason"] == "NoRootDevice" and found["error"]["stage"] == "inspect"
    again = run(migration_job, **wanted())
    assert again["changed"], "a job that failed is tried again"
    late = run(migration_job, name="web01", wait_timeout=1)
    assert late["error"]["reason"] == "WaitTimeout"


def test_a_job_is_held_back_and_let_go(run: Run) -> None:
    run(migration_job, **wanted())
    held = run(migration_job, name="web01", state="suspended", wait=False)
    assert held["changed"] and held["job"]["spec"]["suspend"]
    assert not run(migration_job, name="web01", state="suspended", wait=False)["changed"]
    assert run(migration_job, **wanted())["job"]["spec"]["suspend"] is False


def test_absent_stops_a_running_job_first(run: Run, cluster: Cluster) -> None:
    run(migration_job, **wanted())
    cluster.turn("web01", queued, assigned, running)
    end = threading.Thread(target=cluster.obey_cancel, args=("web01", cancelled))
    end.start()
    assert run(migration_job, name="web01", state="absent")["changed"]
    end.join()
    assert run(migration_job_info, name="web01")["jobs"] == []
    assert not run(migration_job, name="web01", state="absent")["changed"]
    refused = run(migration_job, name="web01", state="absent", remove_target=True)
    assert refused["failed"] and refused["error"]["class"] == "unsupported"


def test_the_definition_may_name_the_namespace(api_server: ApiServer, namespace: str) -> None:
    definition = {"metadata": {"name": "web01", "namespace": namespace}, "spec": {"source": {"path": "web01.ova"}}}
    options = {"backend": "kubernetes", "kubeconfig": str(api_server.kubeconfig()), "wait": False}
    assert run_module(migration_job, definition=definition, **options)["changed"]
    refused = run_module(migration_job, definition=definition, namespace="elsewhere", **options)
    assert refused["failed"] and "elsewhere" in refused["msg"]


def test_info_waits_for_a_change(run: Run, cluster: Cluster) -> None:
    run(migration_job, **wanted())
    cluster.turn("web01", queued, assigned)
    change = threading.Thread(target=cluster.turn, args=("web01", running))
    change.start()
    found = run(migration_job_info, name="web01", wait_timeout=60, wait_while="ASSIGNED/")
    change.join()
    assert found["jobs"][0]["status"]["phase"] == "RUNNING"
    events = run(migration_job_info, name="web01", events=True)
    assert events["failed"] and events["error"]["reason"] == "EventsOnNode"


def test_info_tells_the_whole_of_why_a_job_waits(run: Run, cluster: Cluster) -> None:
    run(migration_job, **wanted())
    cluster.turn("web01", queued)
    nodes = [f"site{number}-node{node}" for number in range(11) for node in (1, 2)]
    try:
        for node in nodes:
            lacking = models.Capability(available=False, detail=f"as all of {node.partition('-')[0]}")
            cluster.worker(node, capabilities={"qemu-img": lacking})
        found = run(migration_job_info, name="web01", explain=True)
    finally:
        cluster.forget(*nodes)
    # One more than a status holds.
    assert [(one["reason"], one["count"]) for one in found["waiting"]] == [("CapabilityMissing", 2)] * 11
    assert run(migration_job_info, explain=True)["error"]["reason"] == "MissingName"
    assert run(migration_job_info, name="nothing", explain=True)["waiting"] == []


def test_an_earlier_releases_workers_hide_nobody(
    run: Run, cluster: Cluster, api_server: ApiServer, namespace: str
) -> None:
    """Workers are the cluster's, and their Leases in their release's namespace: it left both behind."""
    earlier = Cluster(api_server, f"{namespace}-earlier")
    api_server.kubectl("create", "namespace", earlier.namespace)
    earlier.worker("node0")
    cluster.worker("node9")
    try:
        told = {worker["registration"]["name"] for worker in run(worker_info)["workers"]}
    finally:
        cluster.forget("node0", "node9")
    assert {"node0", "node9"} <= told


def test_workers_are_told(run: Run, cluster: Cluster) -> None:
    cluster.worker("node9")
    try:
        (found,) = run(worker_info)["workers"]
    finally:
        cluster.forget("node9")
    assert found["registration"]["name"] == "node9" and found["running"] == {}


@pytest.mark.parametrize(
    "options",
    [
        {"host": "https://127.0.0.1:1", "api_key": "x"},
        {"kubeconfig": "/nowhere/kubeconfig"},
        {"context": "nowhere"},
    ],
)
def test_a_cluster_that_is_not_there_is_an_error_for_people(options: dict[str, str], api_server: ApiServer) -> None:
    given = {"kubeconfig": str(api_server.kubeconfig()), **options} if "context" in options else options
    for module, more in ((migration_job, wanted()), (migration_job_info, {}), (worker_info, {})):
        found = run_module(module, backend="kubernetes", **given, **more)
        assert found["failed"] and found["error"]["suggestion"] and "exception" not in found, found
