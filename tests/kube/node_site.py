# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A node as a cluster's worker sees it: its folders, its pod's main process, and a test in the operator's place."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Absent, Api
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    LEASES,
    NODES,
    WORKERS,
    Object,
    Resource,
    job_of,
    object_of,
    status_patch,
    worker_lease,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase

from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer
from tests.tools.machine import alive, wait_for
from tests.unit.plugins.module_utils.backends.samples import job
from tests.unit.plugins.module_utils.worker.conftest import FAKE_WORKER

T = t.TypeVar("T")
OPERATOR = REPOSITORY / "scripts" / "hyper2kvm-operator"
ENGINE = REPOSITORY / "scripts" / "hyper2kvm-worker"


@dataclasses.dataclass
class NodeSite:
    """One node, the namespace that a test's jobs (and the Lease) are in, and what the test starts there."""

    root: pathlib.Path
    server: ApiServer
    namespace: str
    account: dict[str, str] = dataclasses.field(default_factory=dict)
    """Variables by which the pod logs in; empty: as an administrator, with its Lease in the test's namespace."""
    processes: list[subprocess.Popen[bytes]] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in (self.sources, self.output, self.scratch):
            folder.mkdir(parents=True)

    # -- the node ------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The node's name."""
        return f"node-of-{self.namespace}"

    @property
    def sources(self) -> pathlib.Path:
        """The input root, as the test's jobs have it."""
        return self.root / "input" / self.namespace

    @property
    def output(self) -> pathlib.Path:
        return self.root / "output"

    @property
    def targets(self) -> pathlib.Path:
        """The output root, as the test's jobs have it."""
        return self.output / self.namespace

    @property
    def scratch(self) -> pathlib.Path:
        return self.root / "scratch"

    def folders(self) -> list[str]:
        """The options that name the folders."""
        return [
            *("--input-root", str(self.root / "input"), "--output-root", str(self.output)),
            *("--state-dir", str(self.root / "state"), "--scratch", str(self.scratch)),
        ]

    def start(self, *options: str, program: pathlib.Path = FAKE_WORKER, ready: bool = True) -> subprocess.Popen[bytes]:
        """Start a pod, and wait until the cluster knows that it is at work."""
        # As in a container, its processes are not those of its predecessor's PID namespace.
        pod = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = [*pod, sys.executable, str(program), "run", "--kubernetes", "--node-name", self.name]
        administrator = {
            "K8S_AUTH_KUBECONFIG": str(self.server.kubeconfig()),
            "HYPER2KVM_NAMESPACE": self.namespace,
        }
        environment = {**os.environ, **(self.account or administrator)}
        before = self.worker()
        with open(self.root / "worker.log", "ab") as log:
            process = subprocess.Popen(
                [*command, *self.folders(), *options], stderr=log, env=environment, start_new_session=True
            )
        self.processes.append(process)
        if ready:
            wait_for(lambda: self._is_new(before))
        return process

    def start_operator(self) -> subprocess.Popen[bytes]:
        """Start a control plane, which assigns the jobs of the whole API server to nodes that there are."""
        node = {"apiVersion": NODES.api_version, "kind": NODES.kind, "metadata": {"name": self.name}}
        self.ask(lambda api: api.create(NODES, node))
        options = ["--namespace", self.namespace, "--kubeconfig", str(self.server.kubeconfig())]
        command = [sys.executable, str(OPERATOR), *options, "--host", "127.0.0.1", "--port", "0"]
        with open(self.root / "operator.log", "ab") as log:
            process = subprocess.Popen(command, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def _is_new(self, before: models.WorkerStatus | None) -> bool:
        worker = self.worker()
        return worker is not None and worker.schedulable and (before is None or _began(worker) != _began(before))

    def main(self, pod: subprocess.Popen[bytes]) -> int:
        """The PID of the pod's main process, the node agent."""
        return _child(pod.pid)

    def agent(self, pod: subprocess.Popen[bytes]) -> int:
        """The PID of the agent that it has as a child."""
        return _child(self.main(pod))

    def job_process(self, pod: subprocess.Popen[bytes]) -> int:
        """Wait until a stage of a job runs, and return the job's process."""
        return _child(self.agent(pod))

    def trace(self, name: str) -> list[str]:
        """What the pretended pipeline told of a job: ``<epoch> <stage> <begin|end>``."""
        path = self.targets / f"{name}.trace"
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.root / "worker.log").read_text()

    def close(self) -> None:
        """Kill what was started; nothing of it may be left, and no other test may find a worker of this node."""
        for process in self.processes:
            process.kill()
            process.wait()
        with contextlib.suppress(Absent):
            self.ask(lambda api: api.delete(WORKERS, self.name))
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self.leftovers())
        assert self.leftovers() == []

    def leftovers(self) -> list[str]:
        """Processes, mounts and loop devices that this node's jobs left."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (
                    str(self.root) in (entry / "cwd").readlink().as_posix()
                    or str(self.root).encode() in (entry / "cmdline").read_bytes()
                ):
                    found.append(f"process {entry.name}")
        for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if str(self.root) in backing.read_text():
                    found.append(str(backing))
        if str(self.root) in pathlib.Path("/proc/self/mountinfo").read_text():
            found.append("mounts")
        return found

    # -- the cluster ---------------------------------------------------------------------------------------------------

    def ask(self, work: c.Callable[[Api], c.Awaitable[T]]) -> T:
        """Do something at the API server, as an administrator."""

        async def connected() -> T:
            async with Api.connect(self.server.login()) as api:
                return await work(api)

        return asyncio.run(connected())

    def worker(self) -> models.WorkerStatus | None:
        """What the node's MigrationWorker says; None: there is none, or it says nothing."""
        try:
            found = self.ask(lambda api: api.get(WORKERS, self.name))
        except Absent:
            return None
        return models.WorkerStatus.model_validate(found["status"]) if "status" in found else None

    def renewed(self) -> str:
        """When the node's Lease was last renewed, as the API has it."""
        lease = self.ask(lambda api: api.get(LEASES, worker_lease(self.name), self.namespace))
        return t.cast(str, lease["spec"]["renewTime"])

    def owners(self, resource: Resource, name: str, namespace: str | None = None) -> list[tuple[str, str]]:
        """Kind and name of each object together with which this one goes."""
        found = self.ask(lambda api: api.get(resource, name, namespace))
        return [(one["kind"], one["name"]) for one in found["metadata"].get("ownerReferences", [])]

    def submit(self, name: str = "web01", *, fields: dict[str, t.Any] | None = None, **annotations: str) -> None:
        """Create a job; ``annotations`` are for the pretended pipeline, ``fields`` go into its spec."""
        made = job(name, annotations=annotations, **(fields or {}))
        self.ask(lambda api: api.create(JOBS, object_of(made), self.namespace))

    def get(self, name: str = "web01") -> models.MigrationJob:
        """The job as the API has it."""
        return job_of(self.ask(lambda api: api.get(JOBS, name, self.namespace)))

    def version(self, name: str = "web01") -> str:
        """The job's resource version."""
        found = self.ask(lambda api: api.get(JOBS, name, self.namespace))
        return t.cast(str, found["metadata"]["resourceVersion"])

    def watch(self, name: str = "web01") -> c.Callable[[], list[str]]:
        """Watch a job from now on; the function returned tells the resource versions that were seen."""
        seen: list[str] = []

        async def follow() -> None:
            async with Api.connect(self.server.login()) as api:
                seen.append((await api.get(JOBS, name, self.namespace))["metadata"]["resourceVersion"])
                async for notice in api.watch(JOBS, seen[0], self.namespace, fields=f"metadata.name={name}"):
                    if notice.type != "BOOKMARK":
                        seen.append(notice.object["metadata"]["resourceVersion"])

        def run() -> None:
            # It goes on until the server ends.
            with contextlib.suppress(JobError):
                asyncio.run(follow())

        threading.Thread(target=run, daemon=True).start()
        wait_for(lambda: seen)
        return lambda: seen

    def assign(self, name: str = "web01", node: str = "") -> int:
        """Give the job to a node, as the operator does; return the attempt's epoch."""
        node = node or self.name
        before = self.get(name).status
        after = before
        for phase in (Phase.VALIDATED, Phase.QUEUED):
            if after.phase is Phase.CREATED or (after.phase is Phase.VALIDATED and phase is Phase.QUEUED):
                after = status.advance(after, phase, Actor.CONTROL, now())
        after = status.record_attempt(after, node, 60.0, Actor.CONTROL, now())
        self.write(name, before, after.model_copy(update={"assigned_node": node}))
        return after.epoch

    def take_back(self, name: str = "web01") -> None:
        """Take the job from its worker, as the operator does when a lease ended."""
        before = self.get(name).status
        after = status.advance(before, Phase.QUEUED, Actor.CONTROL, now(), reason="LeaseExpired")
        self.write(name, before, after.model_copy(update={"assigned_node": None}))

    def write(self, name: str, before: models.JobStatus, after: models.JobStatus) -> None:
        """Write a job's status."""
        patch = [one for one in status_patch(before, after) if one.get("value") is not None or one["op"] != "test"]
        self.ask(lambda api: api.patch(JOBS, name, patch, self.namespace, subresource="status"))

    def wish(self, name: str = "web01", **fields: t.Any) -> None:
        """Change what may be changed of a spec."""
        self.ask(lambda api: api.patch(JOBS, name, t.cast(Object, {"spec": fields}), self.namespace))

    def delete(self, name: str = "web01") -> None:
        """Delete the job."""
        self.ask(lambda api: api.delete(JOBS, name, self.namespace))

    def wait_phase(self, *phases: Phase, name: str = "web01") -> models.JobStatus:
        """Wait until the job is in one of these phases, and return its status."""
        wait_for(lambda: self.get(name).status.phase in phases)
        return self.get(name).status


def _began(worker: models.WorkerStatus) -> str:
    """When a worker became what it is; each life of it tells this anew."""
    return worker.conditions[0].last_transition_time


def _child(pid: int) -> int:
    """Wait for a process to have a child, and return its first."""
    listed = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_for(lambda: listed.read_text().split())[0])


__all__ = ["ENGINE", "NodeSite", "alive", "wait_for"]
