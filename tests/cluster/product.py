# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The product on a cluster: the chart as it is installed there, jobs, and what must hold after whatever happened."""

from __future__ import annotations

import collections.abc as c
import contextlib
import json
import pathlib
import subprocess
import typing as t

from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.cluster import Cluster
from tests.cluster.machine import execute, until
from tests.guests import build

REPOSITORY = pathlib.Path(__file__).parents[2]
CHART = REPOSITORY / "helm/hyper2kvm-worker"
NAMESPACE = "hyper2kvm-workers"
RELEASE = "hyper2kvm"
#: Where nodes have their own volumes; other folders of theirs are the host's or their programs'.
_OWN = "/var/lib/hyper2kvm"
_NODES = ("node1", "node2")
_OVER = {"COMPLETED", "FAILED", "CANCELLED"}
#: A job's limit in seconds, on a machine whose cores have other things to do as well.
PATIENCE = 400.0

Object = dict[str, t.Any]


def _at(mebibytes: float) -> Object:
    return {"limits": {"bandwidthBytesPerSecond": int(mebibytes * 1024**2)}, "target": {"contents": "all"}}


#: Fields of jobs that are so slow that a test can do something while they copy the 39 MiB of the tiny guest: for some
#: 20 seconds, and for nearly a minute.
SLOW, SLOWER = _at(2), _at(0.7)


class Product:
    """The chart's release, and its jobs."""

    def __init__(self, cluster: Cluster) -> None:
        """Speak of the release on ``cluster``; see :meth:`install`."""
        self.cluster = cluster

    def values(self) -> dict[str, t.Any]:
        """State and scratch are each node's own; sources and targets are shared."""
        shared = {"size": "1Gi", "storageClass": "shared", "accessModes": ["ReadWriteMany"]}
        own = {name: {"hostPath": f"{_OWN}/{name}"} for name in ("state", "events", "temp")}
        return {"worker": {"image": {"tag": "test"}}, "storage": {**own, "input": shared, "output": shared}}

    def install(self, *arguments: str, chart: pathlib.Path = CHART) -> None:
        """Install or upgrade the release, and wait until all of it is ready."""
        with self._values_file() as values:
            self.cluster.helm(
                *("upgrade", "--install", RELEASE, str(chart), f"--namespace={NAMESPACE}", "--create-namespace"),
                *(f"--values={values}", "--wait", "--timeout=5m", *arguments),
            )
        self.until_ready()

    @contextlib.contextmanager
    def _values_file(self) -> t.Iterator[pathlib.Path]:
        path = self.cluster.kubeconfig.with_name("values.json")
        path.write_text(json.dumps(self.values()), encoding="utf-8")
        yield path

    def until_ready(self) -> None:
        """Wait until every worker may be given jobs."""
        until(
            lambda: all(self.schedulable().values()) and len(self.schedulable()) == 2, "both workers to be ready", 300
        )

    def schedulable(self) -> dict[str, bool]:
        """Which workers may be given jobs, by their node."""
        found = self.cluster.get("migrationworkers")["items"]
        return {one["metadata"]["name"]: one["status"].get("schedulable", False) for one in found}

    def upload(self, namespace: str) -> None:
        """Put the tiny guest's OVA where jobs of ``namespace`` find it, as people do."""
        ova = build("tiny") / "tiny.ova"
        command = [str(REPOSITORY / "k8s/upload"), NAMESPACE, str(ova), namespace]
        execute(command, environment=self.cluster.environment(), timeout=120)

    def submit(self, namespace: str, name: str, **spec: t.Any) -> None:
        """Hand in a job that converts the tiny guest, unless ``spec`` says otherwise."""
        self.cluster.apply(job(namespace, name, **spec))

    def workers(self) -> set[str]:
        """The uids of the workers' pods."""
        found = self.cluster.get("--namespace", NAMESPACE, "pods", "--selector=app.kubernetes.io/component=worker")
        return {one["metadata"]["uid"] for one in found["items"]}

    def job(self, namespace: str, name: str) -> Object:
        return self.cluster.get("--namespace", namespace, "migrationjob", name)

    def jobs(self, namespace: str) -> dict[str, Object]:
        """All jobs' statuses, by name."""
        found = self.cluster.get("--namespace", namespace, "migrationjobs")["items"]
        return {one["metadata"]["name"]: one.get("status", {}) for one in found}

    def until_copying(self, namespace: str, name: str) -> str:
        """Wait until the job's copy goes on, and return its node."""
        found: list[str] = []

        def copies() -> bool:
            status = self.jobs(namespace)[name]
            assert status.get("phase") not in _OVER, status
            if status.get("stage") == "copy":
                found.append(status["assignedNode"])
            return bool(found)

        until(copies, f"{name} to be copied", PATIENCE)
        return found[0]

    def until_over(self, namespace: str, *names: str) -> dict[str, Object]:
        """Wait until these jobs are over, and return their statuses."""

        def over() -> bool:
            statuses = self.jobs(namespace)
            return all(statuses[name].get("phase") in _OVER for name in names)

        until(over, f"{', '.join(names)} to end", PATIENCE)
        return {name: status for name, status in self.jobs(namespace).items() if name in names}

    def completed(self, namespace: str, name: str) -> Object:
        """Wait until the job is over, check that it ended well, its target there once, and return its status."""
        status = self.until_over(namespace, name)[name]
        assert status["phase"] == "COMPLETED", status
        output = self.output(namespace)
        targets = [path for path in output.rglob("*.qcow2") if path.parent.name == name]
        assert len(targets) == 1
        subprocess.run(["qemu-img", "check", "-q", targets[0]], check=True)
        assert [str(path) for path in output.rglob("*.partial")] == []
        return status

    def output(self, namespace: str) -> pathlib.Path:
        """The folder of the namespace's targets, as the host sees it."""
        claim = self.cluster.get("--namespace", NAMESPACE, "pvc", "hyper2kvm-output")
        volume = self.cluster.get("pv", claim["spec"]["volumeName"])
        # Every node sees the folder at the same place, by a mount of the cluster's own.
        first = self.cluster.node("node1").first_process()
        return pathlib.Path(f"/proc/{first}/root{volume['spec']['hostPath']['path']}", namespace)

    def worker(self, node: str) -> str:
        """The name of the worker's pod on a node."""
        selector = "--selector=app.kubernetes.io/component=worker"
        pods = self.cluster.get("--namespace", NAMESPACE, "pods", selector)["items"]
        (found,) = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
        ]
        return str(found)

    def leader(self) -> str:
        """The name of the operator's pod that leads."""
        lease = self.cluster.get("--namespace", NAMESPACE, "lease", "operator.hyper2kvm.io")
        return str(lease["spec"]["holderIdentity"]).rpartition("-")[0]

    def metric(self, pods: c.Iterable[str], name: str, **labels: str) -> float:
        """A metric's value, asked of these pods from a node as Prometheus would, and added up."""
        total = 0.0
        for pod in pods:
            address = self.cluster.get("--namespace", NAMESPACE, "pod", pod)["status"]["podIP"]
            ask = f"import urllib.request as r; print(r.urlopen('http://{address}:8080/metrics').read().decode())"
            text = self.cluster.node("node1").run("python3", "-c", ask)
            total += sum(
                sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name == f"hyper2kvm_{name}" and labels.items() <= sample.labels.items()
            )
        return total

    def check_nothing_left(self) -> None:
        """Nothing of any job is left on a node: no device, mount, process or file of work."""

        def left() -> list[str]:
            work = [path for node in _NODES for path in self.cluster.node(node).run("ls", f"{_OWN}/temp").split()]
            return [*self.at_work(*_NODES), *work]

        until(lambda: left() == [], f"nothing to be left of jobs, and not {left()}", 120)

    def check_nothing_works(self) -> None:
        """The same, but for the files by which a job that was handed back goes on."""
        until(lambda: not self.at_work(*_NODES), f"nothing to be left at work, and not {self.at_work(*_NODES)}", 120)

    def at_work(self, *nodes: str) -> list[str]:
        """What jobs have open on these nodes: devices (of any node), mounts, processes."""
        found = [f"loop device {one}" for one in _loops(_OWN)]
        for node in nodes:
            machine = self.cluster.node(node)
            mounts = machine.run("cat", "/proc/self/mountinfo").splitlines()
            found += [f"{node}: mount {line}" for line in mounts if f"{_OWN}/temp/" in line]
            names = machine.run("ps", "-A", "-o", "comm=").splitlines()
            found += [f"{node}: {name}" for name in names if name.startswith(("h2k:", "qemu-"))]
        return found


def job(namespace: str, name: str, **spec: t.Any) -> Object:
    """A job that converts the tiny guest to a folder of its name, unless ``spec`` says otherwise."""
    target = {"path": name, **spec.pop("target", {})}
    return {
        "apiVersion": "hyper2kvm.io/v1",
        "kind": "MigrationJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"source": {"path": "tiny.ova"}, "target": target, "verify": {"boot": False}, **spec},
    }


def _loops(folder: str) -> list[str]:
    files = pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
    found = []
    for file in files:
        with contextlib.suppress(OSError):
            if folder in file.read_text(encoding="utf-8"):
                found.append(file.parents[1].name)
    return found
