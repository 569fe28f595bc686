# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What people ask of a cluster, asked of a real API server. What operator and workers would write, the test writes."""

from __future__ import annotations

import collections.abc as c
import contextlib
import pathlib
import threading
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Conflict, NotFound, Outcome
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube import resources
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api, Login
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.client import KubernetesBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import JOBS
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase

from tests.kube.api_server import ApiServer, serving
from tests.kube.cluster_by_hand import Cluster, Step, assigned, cancelled, completed, failed, now, queued, running


def job(name: str = "web01", **spec: t.Any) -> models.MigrationJob:
    """A job of the simplest kind."""
    labels = spec.pop("labels", {})
    document = {"metadata": {"name": name, "labels": labels}, "spec": {"source": {"path": "web01.ova"}, **spec}}
    return validation.parse_job(document)


@pytest.fixture
def backend(api_server: ApiServer, namespace: str) -> c.Iterator[KubernetesBackend]:
    """The people's side of a namespace."""
    with contextlib.closing(KubernetesBackend(api_server.login(), namespace)) as found:
        yield found


@pytest.fixture
def cluster(api_server: ApiServer, namespace: str) -> Cluster:
    """The rest of that namespace's cluster."""
    return Cluster(api_server, namespace)


def test_submitting_is_done_once(backend: KubernetesBackend) -> None:
    first = backend.submit(job(labels={"wave": "1"}))
    assert first.outcome is Outcome.CREATED and first.job.metadata.uid
    again = backend.submit(job(labels={"wave": "1"}))
    assert again.outcome is Outcome.UNCHANGED and again.job.metadata.uid == first.job.metadata.uid
    assert [found.metadata.name for found in backend.list({"wave": "1"})] == ["web01"]
    assert backend.list({"wave": "2"}) == []


def test_what_may_change_is_changed_and_the_rest_is_a_conflict(backend: KubernetesBackend) -> None:
    backend.submit(job())
    changed = backend.submit(job(priority=7, labels={"wave": "2"}))
    assert changed.outcome is Outcome.UPDATED
    assert changed.job.spec.priority == 7 and changed.job.metadata.labels == {"wave": "2"}
    with pytest.raises(Conflict, match=r"spec\.target\.format"):
        backend.submit(job(target={"format": "raw"}))


def test_a_dry_run_asks_the_api_server_and_stores_nothing(backend: KubernetesBackend, cluster: Cluster) -> None:
    assert backend.submit(job(), dry_run=True).outcome is Outcome.CREATED
    assert backend.list() == []
    backend.submit(job())
    assert backend.submit(job(priority=5), dry_run=True).job.spec.priority == 5
    assert backend.get("web01").spec.priority == 0
    cluster.turn("web01", queued, assigned, running, failed)
    again = backend.submit(job(target={"format": "raw"}), dry_run=True)
    assert again.outcome is Outcome.RETRIED and again.job.metadata.name == "web01"
    assert backend.get("web01").status.phase is Phase.FAILED


@pytest.mark.parametrize(("end", "phase"), [(failed, Phase.FAILED), (cancelled, Phase.CANCELLED)])
def test_a_job_that_did_not_end_well_gives_way_to_a_new_one(
    backend: KubernetesBackend, cluster: Cluster, end: Step, phase: Phase
) -> None:
    first = backend.submit(job()).job
    cluster.turn("web01", queued, assigned, running, end)
    assert backend.get("web01").status.phase is phase
    again = backend.submit(job())
    assert again.outcome is Outcome.RETRIED and again.before is not None and again.before.status.phase is phase
    assert again.job.metadata.uid != first.metadata.uid and again.job.status.phase is Phase.CREATED


def test_force_stops_a_running_job_that_is_another(backend: KubernetesBackend, cluster: Cluster) -> None:
    backend.submit(job())
    cluster.turn("web01", queued, assigned, running)
    with pytest.raises(JobError) as error:
        backend.submit(job(target={"format": "raw"}), force=True, patience=0.0)
    assert error.value.reason == "JobStillRunning" and backend.get("web01").spec.cancel
    stopped = threading.Thread(target=cluster.turn, args=("web01", cancelled))
    stopped.start()
    again = backend.submit(job(target={"format": "raw"}), force=True)
    stopped.join()
    assert again.outcome is Outcome.RETRIED and again.job.spec.target.format is models.TargetFormat.RAW


def test_the_api_server_refuses_with_the_fields_name(backend: KubernetesBackend) -> None:
    wrong = job()
    # Past our own checks, as a program of another version might be.
    wrong.spec.priority = 5000
    with pytest.raises(JobError, match=r"spec\.priority") as error:
        backend.submit(wrong)
    assert error.value.error_class is ErrorClass.INVALID


def test_a_field_that_the_cluster_does_not_know_is_refused(
    backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = resources.object_of

    def newer(wanted: models.MigrationJob) -> resources.Object:
        document = real(wanted)
        document["spec"]["target"]["inventedLater"] = True
        return document

    monkeypatch.setattr(resources, "object_of", newer)
    with pytest.raises(JobError, match=r"spec\.target\.inventedLater") as error:
        backend.submit(job())
    assert error.value.error_class is ErrorClass.INVALID


def test_a_job_for_another_namespace_is_refused(backend: KubernetesBackend) -> None:
    other = validation.parse_job(
        {"metadata": {"name": "web01", "namespace": "elsewhere"}, "spec": {"source": {"path": "web01.ova"}}}
    )
    with pytest.raises(Conflict, match="elsewhere"):
        backend.submit(other)


def test_a_watch_shows_each_change_until_the_end(backend: KubernetesBackend, cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        list(backend.watch(["web01"]))
    backend.submit(job())
    backend.submit(job("db01"))
    seen = []
    for found in backend.watch(["web01", "db01"], timeout=60):
        seen.append((found.metadata.name, found.status.phase))
        if seen == [("web01", Phase.CREATED), ("db01", Phase.CREATED)]:
            cluster.turn("web01", queued, assigned)
        elif seen[-1] == ("web01", Phase.ASSIGNED):
            cluster.turn("web01", running)
        elif seen[-1] == ("web01", Phase.RUNNING):
            cluster.turn("web01", completed)
        elif seen[-1] == ("web01", Phase.COMPLETED):
            cluster.do(lambda api: api.delete(JOBS, "db01", cluster.namespace))
    assert [phase for name, phase in seen if name == "web01"] == [
        Phase.CREATED,
        Phase.QUEUED,
        Phase.ASSIGNED,
        Phase.RUNNING,
        Phase.COMPLETED,
    ]


def test_a_watch_ends_in_time(backend: KubernetesBackend) -> None:
    backend.submit(job())
    assert [found.metadata.name for found in backend.watch(["web01"], timeout=0.5)] == ["web01"]


def test_a_watch_bears_an_api_server_that_goes_and_comes_back(tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "server"))
        backend = stack.enter_context(contextlib.closing(KubernetesBackend(server.login(), "default")))
        backend.submit(job())
        cluster = Cluster(server, "default")
        seen = []
        for found in backend.watch(["web01"], timeout=240):
            seen.append(found.status.phase)
            if len(seen) == 1:
                server.stop()
                server.start()
                cluster.turn("web01", queued)
            elif len(seen) == 2:
                cluster.turn("web01", assigned, running, completed)
        assert (seen[0], seen[1], seen[-1]) == (Phase.CREATED, Phase.QUEUED, Phase.COMPLETED)


def test_orders_are_passed_on(backend: KubernetesBackend, cluster: Cluster) -> None:
    backend.submit(job())
    assert backend.suspend("web01").spec.suspend
    assert not backend.suspend("web01", False).spec.suspend
    assert backend.set_priority("web01", 9).spec.priority == 9
    assert backend.cancel("web01").spec.cancel
    cluster.turn("web01", queued, lambda s: status.advance(s, Phase.CANCELLED, Actor.CONTROL, now()))
    assert backend.set_priority("web01", 1).spec.priority == 9, "a job that is over stays as it is"
    for unknown in (backend.cancel, backend.get, backend.delete, backend.explain):
        with pytest.raises(NotFound):
            unknown("nobody")


def test_a_job_is_deleted_unless_a_worker_has_it(backend: KubernetesBackend, cluster: Cluster) -> None:
    backend.submit(job())
    cluster.turn("web01", queued, assigned)
    with pytest.raises(Conflict, match="ASSIGNED"):
        backend.delete("web01")
    cluster.turn("web01", running, completed)
    backend.delete("web01")
    assert backend.list() == []


def test_waiting_is_explained_by_what_workers_tell(backend: KubernetesBackend, cluster: Cluster) -> None:
    backend.submit(job())
    cluster.turn("web01", queued)
    assert [reason.reason for reason in backend.explain("web01")] == ["NoWorker"]
    lacking = {"boot-test": models.Capability(available=False, detail="no QEMU")}
    cluster.worker("node1", capabilities={**dict.fromkeys(("qemu-img", "root", "attach"), lacking["boot-test"])})
    cluster.worker("node2", running=["other/a", f"{cluster.namespace}/web02"])
    cluster.worker("node3", schedulable=False)
    cluster.worker("node4", lease=False)
    try:
        reasons = {reason.reason: reason for reason in backend.explain("web01")}
        assert set(reasons) == {"CapabilityMissing", "NoFreeSlot", "WorkerDraining"}
        assert reasons["CapabilityMissing"].examples == ["node1"] and reasons["NoFreeSlot"].examples == ["node2"]
        found = {one.registration.name: one for one in backend.workers()}
        assert set(found) == {"node1", "node2", "node3"}, "node4 has no Lease"
        assert found["node2"].running == {"other/a": "", "web02": ""}
        assert found["node2"].seconds_since_heartbeat < 60 and found["node2"].free_output_bytes == 1 << 30
        backend.suspend("web01")
        assert [reason.reason for reason in backend.explain("web01")] == ["Suspended"]
        backend.suspend("web01", False)
        cluster.worker("node2")
        assert backend.explain("web01") == []
    finally:
        cluster.forget("node1", "node2", "node3", "node4")


def test_events_are_on_the_node_and_it_says_which(backend: KubernetesBackend, cluster: Cluster) -> None:
    backend.submit(job())
    cluster.turn("web01", queued, assigned)
    with pytest.raises(JobError, match="node1") as error:
        backend.events("web01")
    assert error.value.reason == "EventsOnNode"


def test_a_login_that_may_not_is_told_so(api_server: ApiServer, namespace: str) -> None:
    with contextlib.closing(KubernetesBackend(api_server.login("user"), namespace)) as backend:
        with pytest.raises(JobError, match="migrationjobs") as error:
            backend.submit(job())
        assert error.value.reason == "Forbidden" and error.value.error_class is ErrorClass.ENVIRONMENT


def test_the_namespace_is_the_contexts(api_server: ApiServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("KUBECONFIG", "K8S_AUTH_KUBECONFIG"):
        monkeypatch.setenv(variable, str(api_server.kubeconfig(namespace=namespace)))
        with contextlib.closing(KubernetesBackend()) as backend:
            assert backend.namespace == namespace and backend.list() == []
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("login", "reason"),
    [
        (Login(host="https://127.0.0.1:1", api_key="x"), "ApiUnreachable"),
        (Login(kubeconfig="/nowhere/kubeconfig"), "NoLogin"),
    ],
)
def test_a_cluster_that_is_not_there(login: Login, reason: str) -> None:
    with pytest.raises(JobError) as error, contextlib.closing(KubernetesBackend(login)) as backend:
        backend.list()
    assert error.value.reason == reason and error.value.suggestion


def test_a_cluster_without_our_resources(api_server: ApiServer) -> None:
    foreign = resources.Resource("example.org", "v1", "migrationjobs", "MigrationJob")

    async def asked(api: Api) -> None:
        await api.all(foreign, "default")

    with pytest.raises(JobError, match="Install hyper2kvm"):
        Cluster(api_server, "default").do(asked)
