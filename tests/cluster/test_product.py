# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real guests moved on a real cluster, by the chart's operator and workers, whatever breaks meanwhile."""

from __future__ import annotations

import collections.abc as c
import json
import os
import pathlib
import re
import subprocess
import time

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.machine import ClusterError, until
from tests.cluster.product import CHART, NAMESPACE, PATIENCE, RELEASE, REPOSITORY, SLOW, SLOWER, Product, job
from tests.e2e.migration import link_or_copy
from tests.guests import build

#: A worker tells the API server each so many seconds that it lives, and stops its jobs when it was silent for so many.
_BETWEEN_RENEWALS, _STOPS_AFTER = 10.0, 40.0


@pytest.fixture(scope="module")
def installed(cluster: Cluster) -> c.Iterator[Product]:
    """The release, on two nodes; uninstalled after the last test."""
    product = Product(cluster)
    product.install()
    yield product
    cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=3m")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", timeout=150)
    cluster.kubectl("delete", "crd", "migrationjobs.hyper2kvm.io", "migrationworkers.hyper2kvm.io")


@pytest.fixture
def product(installed: Product, namespace: str) -> c.Iterator[Product]:
    """The release with both workers ready and the tiny guest uploaded; at the end nothing of any job may be left."""
    installed.until_ready()
    installed.upload(namespace)
    yield installed
    installed.check_nothing_left()


def events(cluster: Cluster, namespace: str, name: str) -> list[str]:
    """The reasons of the Events about a job, each as often as it was written."""
    found = cluster.get("--namespace", namespace, "events")["items"]
    return sorted(one["reason"] for one in found if one["involvedObject"]["name"] == name)


def test_two_workers_share_ten_jobs_each_done_once(cluster: Cluster, product: Product, namespace: str) -> None:
    names = [f"vm{number}" for number in range(10)]
    workers = [product.worker(node) for node in ("node1", "node2")]
    ended = product.metric([product.leader()], "jobs_ended_total", phase="COMPLETED")
    copied = product.metric(workers, "stage_seconds_count", stage="copy")
    log = cluster.kubeconfig.with_name("watch.log")
    watch = ["kubectl", "--namespace", namespace, "get", "mj", "--watch"]
    with log.open("wb") as file, subprocess.Popen(watch, stdout=file, env=environment(cluster)) as watching:
        cluster.apply(*(job(namespace, name) for name in names[1:]), job(namespace, "vm0", verify={"boot": True}))
        statuses = product.until_over(namespace, *names)
        watching.terminate()
    assert {status["phase"] for status in statuses.values()} == {"COMPLETED"}, statuses
    assert {len(status["attempts"]) for status in statuses.values()} == {1}
    assert {status["attempts"][0]["worker"] for status in statuses.values()} == {"node1", "node2"}
    assert statuses["vm0"]["result"]["verdict"] == "boots"
    for name in names:
        assert events(cluster, namespace, name) == ["Assigned", "Complete"]
        product.completed(namespace, name)
    # So it is told to Prometheus, by the operator that leads and by the workers.
    assert product.metric([product.leader()], "jobs_ended_total", phase="COMPLETED") == ended + len(names)
    assert product.metric(workers, "stage_seconds_count", stage="copy") == copied + len(names)
    # A person sees where each job is, on its way.
    seen = log.read_text(encoding="utf-8")
    assert re.search(r"^vm0 +PROGRESSING +(copy|verify|rehearse) +\d+ .* node[12] ", seen, re.M), seen
    assert re.search(r"^vm\d +QUEUED .*has all 2 slots in use", seen, re.M), seen


def test_a_queued_job_says_why_it_waits(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "waits", requirements={"labels": {"site": "mars"}})

    def told() -> bool:
        return "is not labelled site=mars" in cluster.kubectl("--namespace", namespace, "get", "mj", "waits")

    until(told, "the reason")
    make = ["make", "--no-print-directory", "-C", str(REPOSITORY / "k8s"), f"NAMESPACE={namespace}"]
    done = subprocess.run([*make, "explain", "JOB=waits"], capture_output=True, check=True, env=environment(cluster))
    assert b"is not labelled site=mars" in done.stdout and b"node1" in done.stdout
    subprocess.run([*make, "cancel", "JOB=waits"], capture_output=True, check=True, env=environment(cluster))
    assert product.until_over(namespace, "waits")["waits"]["phase"] == "CANCELLED"


def test_a_bad_document_is_refused_with_what_is_wrong(cluster: Cluster, installed: Product, namespace: str) -> None:
    for spec, words in (
        ({"operation": "covert"}, "Unsupported value"),
        ({"sauce": 1}, 'unknown field "spec.sauce"'),
        ({"source": {}}, "path"),
    ):
        document = job(namespace, "bad")
        document["spec"] |= spec
        with pytest.raises(ClusterError, match=re.escape(words)):
            cluster.kubectl("create", "--filename", "-", text=json.dumps(document))


@pytest.mark.parametrize("victim", ["worker", "operator"])
def test_what_is_killed_is_taken_up_again(cluster: Cluster, product: Product, namespace: str, victim: str) -> None:
    product.submit(namespace, "vm", **SLOW)
    node = product.until_copying(namespace, "vm")
    if victim == "worker":
        kill(cluster, product.worker(node))
    else:
        leader = product.leader()
        kill(cluster, leader)
        until(lambda: product.leader() not in ("", leader), "another leader")
    status = product.completed(namespace, "vm")
    attempts = [(one["worker"], one.get("error", {}).get("reason")) for one in status["attempts"]]
    # A worker that comes back goes on where it was.
    assert attempts == ([(node, "WorkerLost"), (node, None)] if victim == "worker" else [(node, None)])
    assert [name for name in events(cluster, namespace, "vm") if name == "Complete"] == ["Complete"]


def test_the_api_servers_absence_stops_nothing(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "vm", **SLOWER)
    product.until_copying(namespace, "vm")
    began = time.monotonic()
    with cluster.without_api_server():
        # It is the time that is tested: longer than any request waits, shorter than two thirds of a lease.
        time.sleep(29)
    silent = time.monotonic() - began + _BETWEEN_RENEWALS
    attempts = product.completed(namespace, "vm")["attempts"]
    assert [one for one in attempts if "error" in one] == []
    # Where the API server takes longer to come back, the worker has stopped in time, and the job goes on afterwards.
    assert len(attempts) == 1 or silent > _STOPS_AFTER


def test_an_evicted_worker_hands_its_jobs_back(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "vm", **SLOW)
    node = product.until_copying(namespace, "vm")
    pod = product.worker(node)
    wanted = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": NAMESPACE},
    }
    place = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
    cluster.kubectl("create", "--raw", place, "--filename", "-", text=json.dumps(wanted))
    status = product.completed(namespace, "vm")
    assert len(status["attempts"]) == 2
    assert [one for one in status["attempts"] if "error" in one] == []


def test_a_drained_node_ends_what_it_has_or_hands_it_on(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "vm", **SLOWER)
    node = product.until_copying(namespace, "vm")
    other = "node1" if node == "node2" else "node2"
    try:
        cluster.kubectl("drain", node, "--ignore-daemonsets", "--timeout=120s", timeout=150)
        # Nobody stops a DaemonSet's pod for that, and so no job; but the node gets no other one.
        assert product.jobs(namespace)["vm"]["assignedNode"] == node
        product.submit(namespace, "next")
        until(lambda: bool(product.jobs(namespace)["next"].get("attempts")), "the next job's node")
        assert product.jobs(namespace)["next"]["attempts"][0]["worker"] == other
        assert product.jobs(namespace)["vm"]["assignedNode"] == node
        # What comes next is the node's shutdown, which stops the pod.
        cluster.kubectl("--namespace", NAMESPACE, "delete", "pod", product.worker(node), "--timeout=90s", timeout=120)
        status = product.completed(namespace, "vm")
        assert [(one["worker"], one.get("error")) for one in status["attempts"]] == [(node, None), (other, None)]
        product.completed(namespace, "next")
    finally:
        cluster.kubectl("uncordon", node)


def test_another_node_does_what_a_lost_one_had(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "vm", **SLOW)
    node = product.until_copying(namespace, "vm")
    other = "node1" if node == "node2" else "node2"
    cluster.node(node).kill()
    status = product.until_over(namespace, "vm")["vm"]
    assert status["phase"] == "COMPLETED", status
    attempts = [(one["worker"], one.get("error", {}).get("reason")) for one in status["attempts"]]
    assert attempts == [(node, "LeaseExpired"), (other, None)]
    cluster.up()
    product.until_ready()
    product.completed(namespace, "vm")


def test_a_worker_that_is_cut_off_stops_before_another_begins(
    cluster: Cluster, product: Product, namespace: str
) -> None:
    product.submit(namespace, "vm", **SLOWER)
    node = product.until_copying(namespace, "vm")
    other = "node1" if node == "node2" else "node2"
    with cluster.cut_off(node):
        until(lambda: product.at_work(node) == [], "the worker to stop by itself", PATIENCE)
        assert len(product.jobs(namespace)["vm"]["attempts"]) == 1
        until(lambda: len(product.jobs(namespace)["vm"]["attempts"]) == 2, "another attempt", PATIENCE)
    status = product.completed(namespace, "vm")
    attempts = [(one["worker"], one.get("error", {}).get("reason")) for one in status["attempts"]]
    assert attempts == [(node, "LeaseExpired"), (other, None)]
    until(lambda: product.at_work(node) == [], "nothing to be left")


def test_a_namespace_goes_with_its_running_jobs(cluster: Cluster, product: Product, namespace: str) -> None:
    product.submit(namespace, "vm", **SLOW)
    product.until_copying(namespace, "vm")
    place = product.output(namespace)
    cluster.kubectl("delete", "namespace", namespace, "--timeout=60s", timeout=90)
    until(lambda: [str(path) for path in place.rglob("*.partial")] == [], "the half of a target to go")


def test_helm_tests_itself(cluster: Cluster, product: Product) -> None:
    assert "Succeeded" in cluster.helm("test", RELEASE, f"--namespace={NAMESPACE}", "--timeout=5m", timeout=330)


def test_the_page_for_kubernetes_does_what_it_says(cluster: Cluster, product: Product, tmp_path: pathlib.Path) -> None:
    page = (REPOSITORY / "docs/howto/kubernetes.md").read_text(encoding="utf-8").partition("\n## 2.")[2]
    page = page.partition("\n## 3.")[0]
    (name, document), *others = re.findall(r"```yaml\n# (\S+)\n(.*?)```", page, re.S)
    assert not others
    (tmp_path / name).write_text(document, encoding="utf-8")
    (tmp_path / "k8s").symlink_to(REPOSITORY / "k8s")
    link_or_copy(build("tiny") / "tiny.ova", tmp_path / "web01.ova")
    # It is the page's commands that are tested; other tests see guests boot here.
    hosts = {"web01": {"hyper2kvm_source_path": "web01.ova", "hyper2kvm_verify_boot": False}}
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": hosts}}), encoding="utf-8")
    settings = {**environment(cluster), "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
    commands = re.findall(r"^\$ (.*)$", page, re.M)

    def say(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    try:
        said = {command: say(command) for command in commands}
        (play,) = [command for command in commands if "ansible-playbook" in command]
        assert re.search(r"web01 .*web01\.ova", said[play]), said
        assert "COMPLETED" in said[commands[-1]], said
        assert re.search(r"web01 .*changed=0", say(play))
    finally:
        cluster.kubectl("delete", "namespace", "migrations", "--ignore-not-found", "--timeout=120s", timeout=150)


def test_the_chart_asks_for_nothing_that_it_does_not_say(cluster: Cluster) -> None:
    cluster.helm("lint", str(CHART), "--strict")


def environment(cluster: Cluster) -> dict[str, str]:
    """This process's environment, in which kubectl finds the cluster."""
    return {**os.environ, **cluster.environment()}


def kill(cluster: Cluster, pod: str) -> None:
    """SIGKILL a pod's first process, from its node: nobody inside may kill that."""
    found = cluster.get("--namespace", NAMESPACE, "pod", pod)
    container = found["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    machine = cluster.node(found["spec"]["nodeName"])
    tasks = machine.run("ctr", "--namespace=k8s.io", "tasks", "list")
    (pid,) = [line.split()[1] for line in tasks.splitlines() if line.startswith(container)]
    machine.run("sh", "-c", f"kill -KILL {pid}")
