# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench.cluster``: thousands of jobs through the operator, beside Kubernetes' own Jobs. Ends with 1 past a
limit.

Both have a real API server with its etcd to themselves. Ours: the operator as it is deployed, 200 node agents that log
in as their pods would, admission policies and all; only the jobs' execution is simulated, which ends at once. The peer:
batch/v1 Jobs by Kubernetes' own controllers and scheduler, their pods on kwok's fake nodes, where they end at once too.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import collections.abc as c
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Absent, Api
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Cache, Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    EVENTS,
    JOBS,
    NAMESPACES,
    NODES,
    Object,
    Resource,
    job_of,
    phase_of,
    status_patch,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.operator import happenings
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import TERMINAL, Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import node_relay
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.config import NODE_LEASE_SECONDS
from prometheus_client.parser import text_string_to_metric_families

from bench.figures import Figure
from bench.processes import cpu_seconds, most_megabytes
from bench.simulated_nodes import Execution, Site
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer, serving
from tests.kube.operators import HOME, Operator, operating, wait_until

FEW, MANY = 300, 3000
NODES_COUNT, SLOTS = 200, 2
#: Jobs a second, where they do not come all at once.
CALM = 20
_CONNECTIONS = 32
_PATIENCE_SECONDS = 1200.0
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE", "APPLY"})

_PODS = Resource("", "v1", "pods", "Pod")
_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_BATCH_JOBS = Resource("batch", "v1", "jobs", "Job")
_TOKENS = Resource("", "v1", "serviceaccounts/hyper2kvm-worker/token", "TokenRequest")


class Seen(t.NamedTuple):
    """What one object tells of a job."""

    job: str
    placed: bool
    """A node was chosen for it."""
    over: bool
    failed: bool = False
    """It is over, and did not end well."""


Look = t.Callable[[Object], Seen]


@dataclasses.dataclass(frozen=True)
class System:
    """One way to have jobs done on a cluster."""

    name: str
    server: ApiServer
    jobs: Resource
    document: t.Callable[[str], Object]
    """The job of that name."""
    looks: dict[Resource, Look]
    """Which objects tell how a job is, and how."""
    counted: frozenset[str]
    """Kinds of objects that are written for a job, by their plural."""
    renewed: frozenset[str]
    """Kinds that are written however many jobs there are."""
    processes: dict[str, int]
    """Whose processor time is told, by name."""
    memory: t.Callable[[], float]
    """The most that the control plane has had so far, API server and etcd apart, in MiB."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What some jobs took."""

    jobs: int
    seconds: float
    """From the first creation until all were seen to be over."""
    assignment: list[float]
    """Seconds from each job's creation until its node was seen; sorted."""
    writes: c.Counter[str]
    """Requests that change something of a job, the creation apart, by ``VERB kind/subresource``."""
    refused: int
    """Writes that the API server did not take."""
    renewals: float
    """Other writes a second: leases, nodes, workers."""
    cpu: dict[str, float]
    """Processor seconds."""
    memory: float
    """MiB, as :attr:`System.memory`."""

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds

    @property
    def writes_a_job(self) -> float:
        """How many of them a job took."""
        return self.writes.total() / self.jobs

    def percentile(self, percent: int) -> float:
        """Of the times of assignment."""
        return statistics.quantiles(self.assignment, n=100)[percent - 1]

    def text(self) -> str:
        """For people: a line for the figures, one for where the processor time went, one for the writes."""
        cpu = ", ".join(f"{name} {seconds / self.jobs * 1000:.1f}" for name, seconds in self.cpu.items())
        writes = ", ".join(f"{name} {count / self.jobs:.2f}" for name, count in sorted(self.writes.items()))
        return (
            f"{self.jobs:>5} jobs in {self.seconds:6.1f} s: {self.rate:6.1f} jobs/s, assigned after"
            f" {self.percentile(50):.2f} s (p50) and {self.percentile(99):.2f} s (p99),"
            f" {self.writes_a_job:.2f} writes a job, {self.memory:.0f} MiB\n"
            f"        processor time a job in ms: {cpu}\n"
            f"        writes a job: {writes}; {self.refused} refused; {self.renewals:.1f} renewals a second"
        )


# -- a run ---------------------------------------------------------------------------------------------------------


class _Watched:
    """What becomes of the jobs of one namespace, by the caller's clock."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.placed: dict[str, float] = {}
        self.over: set[str] = set()
        self.failed: set[str] = set()
        self.all_over = asyncio.Event()

    def changed(self, change: Change[Seen]) -> None:
        """Take in an object."""
        seen = change.after
        if seen is None:
            return
        if seen.placed:
            self.placed.setdefault(seen.job, time.monotonic())
        if seen.failed:
            self.failed.add(seen.job)
        if seen.over:
            self.over.add(seen.job)
            if len(self.over) == self._count:
                self.all_over.set()


_NUMBERS = itertools.count(1)


async def measured(system: System, jobs: int, rate: float | None = None) -> Run:
    """Hand in ``jobs`` jobs, ``rate`` of them a second (None: as fast as possible), and wait until all are over."""
    namespace = f"run-{next(_NUMBERS)}"
    names = [f"job-{number:05}" for number in range(jobs)]
    # As somebody whom the API server lets wait his turn, unlike its administrators.
    async with Api.connect(system.server.login("user")) as api:
        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        if system.jobs is _BATCH_JOBS:
            await _until_there(api, _ACCOUNTS, "default", namespace)
        watched = _Watched(jobs)
        caches = [
            Cache(api, resource, look, watched.changed, namespace=namespace) for resource, look in system.looks.items()
        ]
        watching = [asyncio.create_task(cache.run()) for cache in caches]
        for cache in caches:
            await cache.synced.wait()
        before, cpu_before, began = _requests(system), _cpu(system), time.monotonic()
        created: dict[str, float] = {}
        limit = asyncio.Semaphore(_CONNECTIONS)

        async def create(number: int, name: str) -> None:
            if rate is not None:
                await asyncio.sleep(number / rate)
            async with limit:
                created[name] = time.monotonic()
                await api.create(system.jobs, system.document(name), namespace)

        await asyncio.gather(*(create(number, name) for number, name in enumerate(names)))
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await watched.all_over.wait()
        assert not watched.failed, f"{len(watched.failed)} jobs failed: {sorted(watched.failed)[:5]}"
        seconds = time.monotonic() - began
        cpu = {name: taken - cpu_before[name] for name, taken in _cpu(system).items()}
        # Events may be written a moment after what they tell.
        taken = await _settled(system)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    assignment = sorted(watched.placed[name] - created[name] for name in names)
    return _run(system, jobs, seconds, assignment, before, taken, cpu)


def _let_in(server: ApiServer) -> None:
    server.kubectl("create", "clusterrolebinding", "bench", "--clusterrole=cluster-admin", "--user=user")


def _run(
    system: System,
    jobs: int,
    seconds: float,
    assignment: list[float],
    before: dict[_Request, float],
    after: dict[_Request, float],
    cpu: dict[str, float],
) -> Run:
    writes: c.Counter[str] = collections.Counter()
    refused, renewals = 0, 0.0
    for request, total in after.items():
        count = round(total - before.get(request, 0.0))
        if request.kind in system.counted and count:
            writes[request.name] += count
            refused += count if request.code >= 300 else 0
        elif request.kind in system.renewed:
            renewals += count / seconds
    writes.subtract({f"POST {system.jobs.plural}": jobs})
    return Run(jobs, seconds, assignment, +writes, refused, renewals, cpu, system.memory())


async def _until_there(api: Api, resource: Resource, name: str, namespace: str) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(Absent):
                await api.get(resource, name, namespace)
                return
            await asyncio.sleep(0.1)


class _Request(t.NamedTuple):
    verb: str
    kind: str
    subresource: str
    code: int

    @property
    def name(self) -> str:
        return f"{self.verb} {self.kind}{'/' if self.subresource else ''}{self.subresource}"


def _requests(system: System) -> dict[_Request, float]:
    """How many writes the API server has answered, by its own count."""
    found: dict[_Request, float] = collections.defaultdict(float)
    for family in text_string_to_metric_families(system.server.kubectl("get", "--raw", "/metrics")):
        if family.name == "apiserver_request":
            for sample in family.samples:
                told = sample.labels
                if told.get("verb") in _WRITES:
                    request = _Request(told["verb"], told["resource"], told["subresource"], int(told["code"]))
                    found[request] += sample.value
    return dict(found)


async def _settled(system: System) -> dict[_Request, float]:
    """The API server's count, once no more is written for jobs."""

    def of_jobs(found: dict[_Request, float]) -> float:
        return sum(count for request, count in found.items() if request.kind in system.counted)

    before = _requests(system)
    while True:
        await asyncio.sleep(1.0)
        after = _requests(system)
        if of_jobs(after) == of_jobs(before):
            return after
        before = after


def _cpu(system: System) -> dict[str, float]:
    everything = {
        "API server": system.server.pid("kube-apiserver"),
        "etcd": system.server.pid("etcd"),
        "this": os.getpid(),
    }
    return {name: cpu_seconds(pid) for name, pid in {**system.processes, **everything}.items()}


# -- ours ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ours(folder: pathlib.Path) -> t.Iterator[System]:
    """The operator and the nodes' agents, on an API server of their own."""
    with serving(folder / "api") as server:
        server.install(REPOSITORY / "k8s" / "base")
        _let_in(server)
        tokens = asyncio.run(_tokens(server))
        with operating(server, folder / "operator") as (operator,), _nodes(server, tokens, folder) as nodes:
            wait_until(lambda: operator.metric("hyper2kvm_workers") == NODES_COUNT, "all workers are known")
            yield _ours(server, operator, nodes)


def _ours(server: ApiServer, operator: Operator, nodes: subprocess.Popen[bytes]) -> System:
    def look(found: Object) -> Seen:
        phase = phase_of(found)
        placed = found.get("status", {}).get("epoch", 0) > 0
        return Seen(found["metadata"]["name"], placed, phase in TERMINAL, phase in TERMINAL - {Phase.COMPLETED})

    return System(
        name="MigrationJobs by the operator",
        server=server,
        jobs=JOBS,
        document=_job,
        looks={JOBS: look},
        counted=frozenset({"migrationjobs", "events"}),
        renewed=frozenset({"leases", "migrationworkers"}),
        processes={"operator": operator.pid, f"{NODES_COUNT} node agents": nodes.pid},
        memory=lambda: most_megabytes(operator.pid),
    )


def _job(name: str) -> Object:
    spec = {"source": {"path": f"{name}.ova"}, "target": {"path": name}}
    return {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": {"name": name}, "spec": spec}


async def _tokens(server: ApiServer) -> dict[str, str]:
    """Make nodes and their workers' pods, as objects alone, and return a token as each pod would have it."""
    limit = asyncio.Semaphore(_CONNECTIONS)
    async with Api.connect(server.login()) as api:

        async def token(node: str) -> str:
            container = {"name": "worker", "image": "none"}
            spec = {"serviceAccountName": "hyper2kvm-worker", "nodeName": node, "containers": [container]}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"worker-{node}"}, "spec": spec}
            async with limit:
                await api.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
                made = await api.create(_PODS, pod, HOME)
                metadata = made["metadata"]
                bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
                wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
                found = await api.create(_TOKENS, {**wanted, "spec": {"boundObjectRef": bound}}, HOME)
            return str(found["status"]["token"])

        names = [f"node-{number:03}" for number in range(NODES_COUNT)]
        return dict(zip(names, await asyncio.gather(*map(token, names)), strict=True))


@contextlib.contextmanager
def _nodes(server: ApiServer, tokens: dict[str, str], folder: pathlib.Path) -> t.Iterator[subprocess.Popen[bytes]]:
    site = Site(server.url, str(server.path("pki/apiserver.crt")), HOME, SLOTS, tokens)
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "bench.simulated_nodes"]
    with (folder / "nodes.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=log)
    try:
        assert process.stdin is not None
        with process.stdin as wanted:
            wanted.write(json.dumps(dataclasses.asdict(site)).encode())
        yield process
        assert process.poll() is None, (folder / "nodes.log").read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()


# -- the least that it can take ---------------------------------------------------------------------------------------


async def bare(server: ApiServer, jobs: int) -> str:
    """What the writes of ``jobs`` jobs take where one client makes them, without watching or deciding anything."""
    execution, limit = Execution(), asyncio.Semaphore(_CONNECTIONS)
    namespace, node, reporter = "bare", "node-000", "bench"
    async with Api.connect(server.login()) as api:

        async def write(job: models.MigrationJob, after: models.JobStatus) -> models.MigrationJob:
            # A test for a field that is not there yet would fail.
            patch = [one for one in status_patch(job.status, after) if one.get("value") is not None]
            name = job.metadata.name
            return job_of(await api.patch(JOBS, name, patch, namespace, subresource="status"))

        async def live(number: int) -> None:
            async with limit:
                name = f"job-{number:05}"
                job = job_of(await api.create(JOBS, _job(name), namespace))
                uid, after = job.metadata.uid or "", job.status
                for phase in (Phase.VALIDATED, Phase.QUEUED):
                    after = status.advance(after, phase, Actor.CONTROL, now())
                after = status.record_attempt(after, node, NODE_LEASE_SECONDS, Actor.CONTROL, now())
                job = await write(job, after.model_copy(update={"assigned_node": node}))
                await api.create(EVENTS, happenings.assigned(namespace, name, uid, job.status, reporter), namespace)
                over = node_relay.relay(job.status, execution.of(job), now(), execution.result(uid))
                await write(job, over)
                await api.create(EVENTS, happenings.ended(namespace, name, uid, over, reporter), namespace)

        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        cpu, began = cpu_seconds(server.pid("kube-apiserver")), time.monotonic()
        await asyncio.gather(*map(live, range(jobs)))
        seconds = time.monotonic() - began
        cpu = cpu_seconds(server.pid("kube-apiserver")) - cpu
    return (
        f"The same writes by one client that does nothing else: {jobs / seconds:.1f} jobs/s,"
        f" {cpu / jobs * 1000:.1f} ms of the API server's processor time a job"
    )


# -- the peer ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def peer(folder: pathlib.Path) -> t.Iterator[System]:
    """Kubernetes' own controllers and scheduler with kwok's nodes, on an API server of their own."""
    from tests.cluster import programs

    with serving(folder / "api") as server:
        _let_in(server)
        login = f"--kubeconfig={server.kubeconfig()}"
        # As they are, they hold themselves back to 20 and 50 requests a second.
        unbounded = ("--kube-api-qps=5000", "--kube-api-burst=10000", "--leader-elect=false", "--secure-port=0")
        key = f"--service-account-private-key-file={server.path('sa.key')}"
        server.run_program("kube-controller-manager", login, *unbounded, key)
        server.run_program("kube-scheduler", login, *unbounded)
        stages = f"--config={programs.kwok_stages()}"
        server.run_program("kwok", login, stages, "--manage-all-nodes=true", program=programs.tool("kwok"))
        names = [f"node-{number:03}" for number in range(NODES_COUNT)]
        documents = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}} for name in names]
        server.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
        server.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")
        yield _peer(server)


def _peer(server: ApiServer) -> System:
    def document(name: str) -> Object:
        container = {"name": "works", "image": "none"}
        template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
        metadata = {"name": name}
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}

    def look_at_job(found: Object) -> Seen:
        conditions = found.get("status", {}).get("conditions", [])
        over = any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)
        return Seen(found["metadata"]["name"], False, over)

    def look_at_pod(found: Object) -> Seen:
        return Seen(found["metadata"]["labels"]["batch.kubernetes.io/job-name"], "nodeName" in found["spec"], False)

    programs = {"controllers": "kube-controller-manager", "scheduler": "kube-scheduler"}
    pids = {name: server.pid(program) for name, program in programs.items()}
    return System(
        name="batch/v1 Jobs by Kubernetes' own controllers",
        server=server,
        jobs=_BATCH_JOBS,
        document=document,
        looks={_BATCH_JOBS: look_at_job, _PODS: look_at_pod},
        counted=frozenset({"jobs", "pods", "events"}),
        renewed=frozenset({"leases", "nodes"}),
        processes={**pids, "kwok": server.pid("kwok")},
        memory=lambda: sum(most_megabytes(pid) for pid in pids.values()),
    )


# -- all of it -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Runs:
    """What was measured of one system, in this order."""

    few: Run
    many: Run
    few_after: Run
    """As many as at first, when all of these are there, and over."""
    calm: Run


def runs(system: System, few: int, many: int) -> Runs:
    """Measure a system, and print what was found."""
    print(f"{system.name}; {NODES_COUNT} nodes", flush=True)

    def one(jobs: int, rate: float | None = None) -> Run:
        found = asyncio.run(measured(system, jobs, rate))
        print(f"  {found.text()}", flush=True)
        return found

    done = Runs(one(few), one(many), one(few), one(few, CALM))
    print()
    return done


def figures(our: Runs, their: Runs | None) -> list[Figure]:
    """What is to be told in a few numbers."""
    found = [
        Figure("jobs a second, through the whole life", our.many.rate),
        Figure("the same ÷ with a tenth of the jobs", our.many.rate / our.few.rate),
        Figure("writes a job, creation and progress apart", our.calm.writes_a_job, limit=4),
        Figure("the same, where jobs wait for slots and are told why", our.many.writes_a_job),
        Figure("memory of the operator", our.calm.memory, " MiB", limit=200),
        Figure("growth of it, with ten times the jobs", our.many.memory - our.few.memory, " MiB"),
        Figure("operator's processor time with many finished jobs ÷ with none", _operator(our), limit=1.25),
        Figure("assignment where slots are free, p50", our.calm.percentile(50), " s"),
        Figure("assignment where slots are free, p99", our.calm.percentile(99), " s"),
    ]
    if their is not None:
        found += [
            Figure("jobs a second ÷ peer", our.many.rate / their.many.rate),
            Figure("writes a job ÷ peer", our.calm.writes_a_job / their.calm.writes_a_job),
            Figure("memory of the control plane ÷ peer", our.calm.memory / their.calm.memory),
            Figure("assignment where slots are free, p99 ÷ peer", our.calm.percentile(99) / their.calm.percentile(99)),
        ]
    return found


def _operator(our: Runs) -> float:
    return our.few_after.cpu["operator"] / our.few.cpu["operator"]


def main() -> int:
    """Print what was measured, then a line a figure."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=__doc__)
    parser.add_argument("--few", type=int, default=FEW, metavar="JOBS")
    parser.add_argument("--many", type=int, default=MANY, metavar="JOBS")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        with serving(folder / "bare") as server:
            print(asyncio.run(bare(server, options.few)), end="\n\n", flush=True)
        with ours(folder / "ours") as system:
            our = runs(system, options.few, options.many)
        their = None
        if not options.no_peer:
            with peer(folder / "peer") as system:
                their = runs(system, options.few, options.many)
    found = figures(our, their)
    width = max(len(figure.what) for figure in found)
    for figure in found:
        print(f"{figure.what:<{width}}  {figure.text}")
    return 1 if any(figure.missed for figure in found) else 0


if __name__ == "__main__":
    sys.exit(main())
