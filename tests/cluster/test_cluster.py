# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cluster is a real one: nodes, volumes, faults; and the product's image does its work there, and without it."""

from __future__ import annotations

import collections.abc as c
import functools
import json
import pathlib
import re
import subprocess
import tarfile
import typing as t

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster
from tests.cluster.machine import ClusterError, until
from tests.guests import build

#: What a worker needs of its node to move a guest.
NEEDED = ("root", "loop", "attach", "fs-ext4", "qemu-img", "boot-test")


def pod(name: str, namespace: str, *script: str, claim: str = "", **spec: t.Any) -> dict[str, t.Any]:
    """A pod of the product's image that runs a shell script, with the volume of ``claim`` at ``/volume``."""
    container: dict[str, t.Any] = {"name": "main", "image": images.PRODUCT_IMAGE, "command": ["sh", "-ec", *script]}
    if claim:
        container["volumeMounts"] = [{"name": "volume", "mountPath": "/volume"}]
        spec["volumes"] = [{"name": "volume", "persistentVolumeClaim": {"claimName": claim}}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **spec},
    }


def claim(name: str, namespace: str, mode: str, storage_class: str | None = None) -> dict[str, t.Any]:
    """A claim of one MiB."""
    spec: dict[str, t.Any] = {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def on(node: str) -> dict[str, t.Any]:
    """The part of a pod's spec that puts it on a node."""
    return {"nodeSelector": {"kubernetes.io/hostname": node}}


def succeeded(cluster: Cluster, namespace: str, *names: str) -> None:
    """Wait until these pods have ended, well."""
    for name in names:
        until(functools.partial(ended, cluster, namespace, name), f"pod {name} to end", 180)
        phase = cluster.get("--namespace", namespace, "pod", name)["status"]["phase"]
        assert phase == "Succeeded", cluster.kubectl("--namespace", namespace, "logs", name)


def ended(cluster: Cluster, namespace: str, name: str) -> bool:
    """Whether a pod's containers will not run any more."""
    phase: str = cluster.get("--namespace", namespace, "pod", name)["status"]["phase"]
    return phase in ("Succeeded", "Failed")


def loops(below: str = "/") -> set[tuple[str, str, int]]:
    """The loop devices of files whose names begin so, as whoever attached them saw them: device, disk and inode.

    Others' come and go on this machine; these are known again when the names have gone with their mounts.
    """
    command = ["losetup", "--list", "--json", "--output=NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN"]
    listed = subprocess.run(command, capture_output=True, check=True).stdout or b'{"loopdevices": []}'
    return {
        (one["name"], one["back-maj:min"], one["back-ino"])
        for one in json.loads(listed)["loopdevices"]
        if (one["back-file"] or "").startswith(below)
    }


def until_gone(devices: set[tuple[str, str, int]]) -> None:
    """Wait until none of these loop devices is there any more."""
    until(lambda: not devices & loops(), f"{devices} to go", 60)


def test_its_nodes_are_ready_and_run_the_version_that_was_built(cluster: Cluster) -> None:
    nodes = {node["metadata"]["name"]: node["status"] for node in cluster.get("nodes")["items"]}
    assert {"node1", "node2"} <= nodes.keys()
    version = json.loads(cluster.kubectl("get", "--raw=/version"))["gitVersion"]
    assert nodes["node1"]["nodeInfo"]["kubeletVersion"] == version
    assert re.fullmatch(r"v1\.\d+\.\d+", version)
    addresses = {node["addresses"][0]["address"] for node in nodes.values()}
    assert len(addresses) == len(nodes)


def test_helm_reaches_it(cluster: Cluster) -> None:
    assert json.loads(cluster.helm("list", "--all-namespaces", "--output=json")) == []


def test_pods_reach_the_api_server_at_its_service(cluster: Cluster, namespace: str) -> None:
    ask = """\
import os, ssl, urllib.request
place = "/var/run/secrets/kubernetes.io/serviceaccount/"
token = open(place + "token").read()
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/version"
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
print(urllib.request.urlopen(request, context=ssl.create_default_context(cafile=place + "ca.crt")).read().decode())
"""
    for node in ("node1", "node2"):
        cluster.apply(pod(f"asks-{node}", namespace, 'python3 -c "$0"', ask, **on(node)))
    for node in ("node1", "node2"):
        succeeded(cluster, namespace, f"asks-{node}")
        assert "gitVersion" in cluster.kubectl("--namespace", namespace, "logs", f"asks-{node}")


def test_a_claim_is_a_folder_of_one_node(cluster: Cluster, namespace: str) -> None:
    for node in ("node1", "node2"):
        write = f"hostname > /volume/written-on-{node}"
        cluster.apply(claim(node, namespace, "ReadWriteOnce"), pod(node, namespace, write, claim=node, **on(node)))
    succeeded(cluster, namespace, "node1", "node2")
    seen = {node: cluster.node(node).run("find", "/opt/volumes", "-type", "f") for node in ("node1", "node2")}
    assert "written-on-node1" in seen["node1"] and "written-on-node2" not in seen["node1"]
    assert "written-on-node2" in seen["node2"] and "written-on-node1" not in seen["node2"]

    # Whatever else asks for that claim goes to the same node.
    cluster.apply(pod("later", namespace, "cat /volume/written-on-node2", claim="node2"))
    succeeded(cluster, namespace, "later")
    assert cluster.get("--namespace", namespace, "pod", "later")["spec"]["nodeName"] == "node2"

    volume = cluster.get("--namespace", namespace, "pvc", "node2")["spec"]["volumeName"]
    cluster.kubectl("--namespace", namespace, "delete", "pod/node2", "pod/later", "pvc/node2")
    cluster.kubectl("wait", "--for=delete", f"pv/{volume}", "--timeout=60s")
    assert "written-on-node2" not in cluster.node("node2").run("find", "/opt/volumes", "-type", "f")


def test_a_folder_of_one_node_is_not_shared(cluster: Cluster, namespace: str) -> None:
    cluster.apply(claim("shared", namespace, "ReadWriteMany"), pod("waits", namespace, "true", claim="shared"))

    def refused() -> bool:
        events = cluster.get("--namespace", namespace, "events")["items"]
        return any("ReadWriteMany: a folder of one node cannot be shared" in event["message"] for event in events)

    until(refused, "the claim to be refused", 60)


def test_a_shared_volume_is_the_same_on_all_nodes(cluster: Cluster, namespace: str) -> None:
    cluster.apply(
        claim("all", namespace, "ReadWriteMany", "shared"),
        pod("writes", namespace, "echo it > /volume/file", claim="all", **on("node1")),
    )
    succeeded(cluster, namespace, "writes")
    cluster.apply(pod("reads", namespace, "grep it /volume/file", claim="all", **on("node2")))
    succeeded(cluster, namespace, "reads")


def test_workers_find_what_they_need_on_each_node(cluster: Cluster, namespace: str) -> None:
    labels = {"app": "worker"}
    container = {
        "name": "worker",
        "image": images.PRODUCT_IMAGE,
        "command": ["sh", "-c", "hyper2kvm-worker capabilities --json && exec sleep infinity"],
        "securityContext": {"privileged": True},
        "volumeMounts": [{"name": "dev", "mountPath": "/dev"}, {"name": "state", "mountPath": "/data/output"}],
    }
    volumes = [{"name": "dev", "hostPath": {"path": "/dev"}}, {"name": "state", "emptyDir": {}}]
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1},
    }
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "worker", "namespace": namespace},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
    )
    cluster.kubectl("--namespace", namespace, "rollout", "status", "daemonset/worker", "--timeout=90s")
    pods = cluster.get("--namespace", namespace, "pods")["items"]
    assert {one["spec"]["nodeName"] for one in pods} == {"node1", "node2"}
    for one in pods:
        found = told(cluster, namespace, one["metadata"]["name"])
        assert [(need, found[need]) for need in NEEDED if not found[need]["available"]] == []


def told(cluster: Cluster, namespace: str, name: str) -> dict[str, t.Any]:
    """The document that a pod prints first."""

    def log() -> str:
        return cluster.kubectl("--namespace", namespace, "logs", name)

    until(lambda: log().endswith("\n"), f"{name} to print something")
    return t.cast("dict[str, t.Any]", json.loads(log()))


@pytest.fixture
def data(tmp_path: pathlib.Path) -> c.Iterator[pathlib.Path]:
    """A folder with ``input``, in which there is a job, and ``output``."""
    (tmp_path / "input" / "jobs").mkdir(parents=True)
    (tmp_path / "output").mkdir()
    guest = build("tiny") / "tiny.ova"
    (tmp_path / "input" / "web01.ova").write_bytes(guest.read_bytes())
    job = {
        "apiVersion": "hyper2kvm.io/v1",
        "kind": "MigrationJob",
        "metadata": {"name": "web01-convert"},
        "spec": {"operation": "convert", "source": {"path": "web01.ova"}, "verify": {"boot": False}},
    }
    (tmp_path / "input" / "jobs" / "web01.json").write_text(json.dumps(job), encoding="utf-8")
    yield tmp_path


def test_a_worker_runs_by_itself_as_docker_would_run_it(cluster: Cluster, data: pathlib.Path) -> None:
    node = cluster.node("node1")
    attached: set[tuple[str, str, int]] = set()
    mounts = [
        f"--mount=type=bind,src={data / 'input'},dst=/data/input,options=rbind:ro",
        f"--mount=type=bind,src={data / 'output'},dst=/data/output,options=rbind:rw",
    ]
    ctr = ("ctr", "--namespace=k8s.io")
    run = (*ctr, "run", "--rm", "--privileged", *mounts, f"docker.io/library/{images.PRODUCT_IMAGE}", "alone")
    result = data / "output" / "web01-convert" / "result.json"
    with (data / "log").open("wb") as log:
        worker = subprocess.Popen(node.entering(*run), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:

        def over() -> bool:
            attached.update(loops("/data/"))
            return result.exists() or worker.poll() is not None

        until(over, f"{result}; see {data / 'log'}", 900)
        assert json.loads(result.read_text(encoding="utf-8"))["operation"] == "convert"
        assert len(list(result.parent.glob("*.qcow2"))) == 1
        kind, healthy = image_config(images.product())["Healthcheck"]["Test"]
        assert kind == "CMD-SHELL"
        node.run(*ctr, "tasks", "exec", "--exec-id=health", "alone", "/bin/sh", "-c", healthy)
    finally:
        node.run(*ctr, "tasks", "kill", "--signal=SIGTERM", "alone")
        assert worker.wait(60) == 0, (data / "log").read_text(encoding="utf-8")
    assert attached
    until_gone(attached)


def image_config(archive: pathlib.Path) -> dict[str, t.Any]:
    """What an image says of how it is run."""

    def member(tar: tarfile.TarFile, name: str) -> t.Any:
        file = tar.extractfile(name)
        assert file is not None
        return json.load(file)

    with tarfile.open(archive) as tar:
        (image,) = member(tar, "manifest.json")
        return t.cast("dict[str, t.Any]", member(tar, image["Config"])["config"])


def test_the_operators_image_needs_no_root(cluster: Cluster, namespace: str) -> None:
    archive = images.product("operator")
    assert image_config(archive)["Labels"]["org.opencontainers.image.licenses"] == "GPL-3.0-or-later"
    cluster.load_image(archive)
    one = pod(
        "operator",
        namespace,
        "hyper2kvm-worker --help && ! command -v qemu-img",
        securityContext={"runAsNonRoot": True},
    )
    one["spec"]["containers"][0] |= {
        "image": images.PRODUCT_IMAGES["operator"],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
    }
    cluster.apply(one)
    succeeded(cluster, namespace, "operator")


def test_fake_nodes_run_pods_that_do_nothing(cluster: Cluster, namespace: str) -> None:
    cluster.add_fake_nodes(3)
    anywhere = [{"operator": "Exists"}]
    cluster.apply(pod("pretends", namespace, "false", tolerations=anywhere, **on("fake-3")))
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", "pod/pretends", "--timeout=60s")
    cluster.kubectl("delete", "node", "fake-1", "fake-2", "fake-3")


def test_nobody_answers_while_the_api_server_is_away(cluster: Cluster) -> None:
    with cluster.without_api_server(), pytest.raises(ClusterError, match=r"EOF|reset by peer|refused"):
        cluster.kubectl("get", "nodes", "--request-timeout=5s")
    cluster.kubectl("get", "nodes")


def test_a_node_that_is_cut_off_goes_on_and_comes_back(cluster: Cluster, namespace: str) -> None:
    count = "n=0; while true; do n=$((n + 1)); echo $n > /volume/count; sleep 0.1; done"
    cluster.apply(
        claim("count", namespace, "ReadWriteOnce"), pod("counts", namespace, count, claim="count", **on("node2"))
    )
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", "pod/counts", "--timeout=60s")
    volume = cluster.get("--namespace", namespace, "pvc", "count")["spec"]["volumeName"]

    def counted() -> int:
        return int(cluster.node("node2").run("cat", f"/opt/volumes/{volume}/count") or 0)

    with cluster.cut_off("node2"):
        cluster.until_ready("node2", ready=False)
        seen = counted()
        until(lambda: counted() > seen, "the pod to go on", 30)
    cluster.until_ready("node2")


def test_a_node_that_lost_its_power_comes_back_with_its_disk(cluster: Cluster) -> None:
    node = cluster.node("node2")
    node.run("sh", "-c", "echo it > /opt/kept; sync")
    node.kill()
    assert not node.is_running()
    with pytest.raises(ClusterError, match="does not run"):
        node.run("true")
    cluster.until_ready("node2", ready=False)
    cluster.up(nodes=2)
    assert node.run("cat", "/opt/kept") == "it\n"


def test_nothing_is_left_of_a_cluster() -> None:
    other = Cluster("left-over")
    try:
        other.up(nodes=1)
        # What pods may leave when they are killed: a mounted file, and one that is only attached.
        files = "for n in 1 2; do truncate -s 8M /opt/left-$n; done; mkfs.ext4 -q /opt/left-1"
        leave = "mount -o loop /opt/left-1 /mnt; losetup --find /opt/left-2"
        other.node("node1").run("sh", "-ec", f"{files}; {leave}")
        left = loops("/opt/left-")
        assert len(left) == 2
        assert all(traces(other).values()), traces(other)
    finally:
        other.down()
    assert not any(traces(other).values()), traces(other)
    until_gone(left)


def traces(cluster: Cluster) -> dict[str, list[str]]:
    """What this machine shows of a cluster."""
    name = cluster.root.name
    processes = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, check=True, text=True).stdout
    return {
        "processes": [line for line in processes.splitlines() if name in line],
        "groups": [str(path) for path in pathlib.Path("/sys/fs/cgroup").rglob(name)],
        "folders": [str(path) for path in cluster.root.parent.glob(f"{name}*")],
    }
