# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker may write, tried with tokens as its pod would have them: attempts that must be refused are refused."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import json
import ssl
import typing as t
import urllib.request

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api, Refused
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.client import KubernetesBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    LEASES,
    WORKERS,
    Object,
    Resource,
    spec_patch,
    worker_lease,
    worker_object,
    worker_status_patch,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer
from tests.kube.registrations import registration
from tests.tools.machine import wait_for

HOME = "hyper2kvm-workers"
SECRETS = Resource("", "v1", "secrets", "Secret")
PODS = Resource("", "v1", "pods", "Pod")


@pytest.fixture(scope="module")
def tokens(api_server: ApiServer) -> dict[str, str]:
    """Tokens of the workers on the nodes ``a`` and ``b``, and one that is of no node (``""``)."""
    api_server.install(REPOSITORY / "k8s" / "base")
    tokens = {"": api_server.kubectl("-n", HOME, "create", "token", "hyper2kvm-worker").strip()}
    for node in ("a", "b"):
        tokens[node] = token_of_worker(api_server, node)
    return tokens


def token_of_worker(server: ApiServer, node: str) -> str:
    """Make a node and the pod of its worker, as objects alone, and return a token as that pod would have it."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"worker-{node}", "namespace": HOME},
        "spec": {
            "serviceAccountName": "hyper2kvm-worker",
            "nodeName": node,
            "containers": [{"name": "worker", "image": "none"}],
        },
    }
    made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    for document in (made, pod):
        server.kubectl("create", "-f", "-", stdin=json.dumps(document))
    uid = server.kubectl("-n", HOME, "get", "pod", f"worker-{node}", "-o", "jsonpath={.metadata.uid}")
    bound = ["--bound-object-kind=Pod", f"--bound-object-name=worker-{node}", f"--bound-object-uid={uid}"]
    return server.kubectl("-n", HOME, "create", "token", "hyper2kvm-worker", *bound).strip()


@pytest.fixture(scope="module", autouse=True)
def _no_worker_stays(api_server: ApiServer) -> c.Iterator[None]:
    """Other tests with the same API server are not to find workers."""
    yield
    api_server.kubectl("-n", HOME, "delete", "leases", "--all")
    api_server.kubectl("delete", "mw", "--all")


@pytest.fixture
def job(api_server: ApiServer, namespace: str) -> tuple[str, str]:
    """Namespace and name of a job that runs on the node ``a``."""
    document = {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": "web01"},
        "spec": {"source": {"path": "web01.ova"}},
    }
    api_server.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(document))
    for phase in ("ASSIGNED", "RUNNING"):
        status = {"phase": phase, "epoch": 1, "assignedNode": "a"}
        patch = json.dumps({"status": status})
        api_server.kubectl("-n", namespace, "patch", "mj", "web01", "--subresource=status", "--type=merge", "-p", patch)
    return namespace, "web01"


def attempt(server: ApiServer, token: str, write: c.Callable[[Api], c.Awaitable[object]]) -> str:
    """What the API server says when the owner of a token writes; empty where it does as it is told."""

    async def run() -> str:
        async with Api.connect(server.login_with(token)) as api:
            try:
                await write(api)
            except Refused as error:
                return error.message
            return ""

    return asyncio.run(run())


def changing(job: tuple[str, str], **status: t.Any) -> c.Callable[[Api], c.Awaitable[object]]:
    """A write of fields (None: removed) into a job's status."""
    return lambda api: api.patch(JOBS, job[1], {"status": status}, job[0], subresource="status")


@pytest.mark.parametrize(
    ("node", "status", "refusal"),
    [
        ("a", {"stage": "copy"}, ""),
        ("a", {"phase": "COMPLETED"}, ""),
        ("a", {"phase": "QUEUED", "assignedNode": None}, ""),
        ("b", {"stage": "copy"}, "assigned to its own node"),
        ("b", {"assignedNode": "b"}, "assigned to its own node"),
        ("", {"stage": "copy"}, "assigned to its own node"),
        ("a", {"assignedNode": "b"}, "never to another node"),
        ("a", {"epoch": 2}, "only the control plane raises"),
        ("a", {"assignedNode": None}, "no node has any more is not held"),
    ],
)
def test_a_worker_writes_the_status_of_its_own_jobs_alone(
    api_server: ApiServer,
    tokens: dict[str, str],
    job: tuple[str, str],
    node: str,
    status: Object,
    refusal: str,
) -> None:
    said = attempt(api_server, tokens[node], changing(job, **status))
    assert refusal in said if refusal else said == ""


def test_a_job_that_nobody_has_is_nobodys_to_write(
    api_server: ApiServer, tokens: dict[str, str], job: tuple[str, str]
) -> None:
    assert attempt(api_server, tokens["a"], changing(job, phase="QUEUED", assignedNode=None)) == ""
    for node in ("a", "b", ""):
        said = attempt(api_server, tokens[node], changing(job, phase="ASSIGNED", assignedNode=node, epoch=2))
        assert "assigned to its own node" in said


def test_a_worker_has_no_other_rights(api_server: ApiServer, tokens: dict[str, str], job: tuple[str, str]) -> None:
    namespace, name = job
    other = {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": "mine"},
        "spec": {"source": {"path": "/etc/shadow"}},
    }
    attempts: list[c.Callable[[Api], c.Awaitable[object]]] = [
        lambda api: api.create(JOBS, other, namespace),
        lambda api: api.delete(JOBS, name, namespace),
        lambda api: api.patch(JOBS, name, spec_patch({"priority": 1000}), namespace),
        lambda api: api.get(SECRETS, "any", HOME),
        lambda api: api.all(SECRETS),
        lambda api: api.all(PODS, HOME),
        lambda api: api.delete(WORKERS, "a"),
        lambda api: api.all(WORKERS),
        lambda api: api.delete(LEASES, worker_lease("a"), HOME),
        lambda api: api.hold_lease(namespace, worker_lease("a"), "a", 60),
    ]
    for number, write in enumerate(attempts):
        said = attempt(api_server, tokens["a"], write)
        assert "forbidden" in said, f"attempt {number}: {said or 'was let through'}"
    assert attempt(api_server, tokens["a"], lambda api: api.get(JOBS, name, namespace)) == ""


@pytest.mark.parametrize(
    ("node", "refusal"), [("a", ""), ("b", "of its own node alone"), ("", "of its own node alone")]
)
def test_a_worker_tells_of_itself_alone(api_server: ApiServer, tokens: dict[str, str], node: str, refusal: str) -> None:
    async def register(api: Api) -> None:
        await api.create(WORKERS, worker_object("a"))

    async def tell(api: Api) -> None:
        await api.patch(WORKERS, "a", worker_status_patch(registration("a", 2)), subresource="status")

    for write in (register, tell) if node == "a" else (tell, register):
        said = attempt(api_server, tokens[node], write)
        assert refusal in said if refusal else said == ""


def test_a_worker_does_not_tell_under_anothers_name(api_server: ApiServer, tokens: dict[str, str]) -> None:
    async def register_and_lie(api: Api) -> None:
        await api.create(WORKERS, worker_object("b"))
        await api.patch(WORKERS, "b", worker_status_patch(registration("a", 2)), subresource="status")

    assert "under its own node's name" in attempt(api_server, tokens["b"], register_and_lie)


def test_leases_do_not_wait_among_all_other_requests(api_server: ApiServer, tokens: dict[str, str]) -> None:
    assert attempt(api_server, tokens["a"], lambda api: api.hold_lease(HOME, worker_lease("a"), "a", 60)) == ""
    login = api_server.login_with(tokens["a"])
    url = f"{login.host}{LEASES.path(HOME, worker_lease('a'))}"
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {login.api_key}"})
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=login.ca_cert)),
    )
    with opener.open(asked) as answer:
        taken = answer.headers["X-Kubernetes-PF-FlowSchema-UID"]
    ours = api_server.kubectl("get", "flowschema", "hyper2kvm-leases", "-o", "jsonpath={.metadata.uid}")
    assert taken == ours


@pytest.mark.parametrize("name", [worker_lease("b"), "operator.hyper2kvm.io", "anything"])
def test_a_worker_renews_its_own_lease_alone(api_server: ApiServer, tokens: dict[str, str], name: str) -> None:
    for dummy in ("created", "renewed"):
        own = attempt(api_server, tokens["a"], lambda api: api.hold_lease(HOME, worker_lease("a"), "a", 60))
        assert own == ""
        for node in ("a", ""):
            said = attempt(api_server, tokens[node], lambda api: api.hold_lease(HOME, name, "a", 60))
            assert "its own node's Lease alone" in said
        lease = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": name}}
        api_server.kubectl("-n", HOME, "apply", "-f", "-", stdin=json.dumps(lease))


@pytest.mark.usefixtures("tokens")
def test_a_team_sees_its_jobs_and_workers_if_it_may(api_server: ApiServer, job: tuple[str, str]) -> None:
    namespace, name = job
    api_server.kubectl("-n", namespace, "create", "serviceaccount", "person")
    account = f"{namespace}:person"
    bound = ["create", "rolebinding", "person", "--clusterrole=hyper2kvm-view", f"--serviceaccount={account}"]
    api_server.kubectl("-n", namespace, *bound)
    token = api_server.kubectl("-n", namespace, "create", "token", "person").strip()
    with contextlib.closing(KubernetesBackend(api_server.login_with(token), namespace)) as backend:
        assert backend.get(name).status.assigned_node == "a"
        with pytest.raises(JobError, match="hyper2kvm-workers-view"):
            backend.workers()
        sees = ["create", "clusterrolebinding", account.replace(":", "-"), "--clusterrole=hyper2kvm-workers-view"]
        api_server.kubectl(*sees, f"--serviceaccount={account}")
        wait_for(lambda: sees_workers(backend))


def sees_workers(backend: KubernetesBackend) -> bool:
    """Whether the API server knows by now that this login may."""
    with contextlib.suppress(JobError):
        backend.workers()
        return True
    return False
