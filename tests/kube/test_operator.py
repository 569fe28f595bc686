# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operator as a process, with its service account's rights, on a real API server. Only the work is fake."""

from __future__ import annotations

import asyncio
import collections
import collections.abc as c
import contextlib
import json
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Absent, Api, Changed
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    EVENTS,
    JOBS,
    WORKERS,
    job_of,
    spec_patch,
    status_of,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer, serving
from tests.kube.fake_worker import FakeWorker, Work, at_once, for_ever
from tests.kube.operators import HOME, Operator, operating, wait_until

#: Seconds after which a fake worker that died is taken for lost, where a test waits for that.
SHORT_LEASE = 3
_PATIENCE_SECONDS = 120.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[ApiServer]:
    """An API server of its own, for an operator acts on all namespaces."""
    with serving(tmp_path_factory.mktemp("operated")) as server:
        server.install(REPOSITORY / "k8s" / "base")
        yield server


@pytest.fixture
def clean(cluster: ApiServer) -> t.Iterator[ApiServer]:
    """The API server, empty after the test."""
    yield cluster
    cluster.kubectl("delete", "mj", "--all", "--all-namespaces")
    cluster.kubectl("delete", "mw,nodes", "--all")
    cluster.kubectl("-n", HOME, "delete", "leases", "--all")


@pytest.fixture
def operator(clean: ApiServer, tmp_path: pathlib.Path) -> t.Iterator[Operator]:
    """The one operator that there is."""
    with operating(clean, tmp_path) as (one,):
        yield one


class Bench:
    """What a test does at the API, as an administrator."""

    def __init__(self, server: ApiServer, api: Api) -> None:
        self.server = server
        self.api = api
        self._stack = contextlib.AsyncExitStack()

    async def worker(self, node: str, slots: int = 2, work: Work = at_once, lease_seconds: int = 60) -> FakeWorker:
        """A worker that lives until the test's end."""
        one = FakeWorker(self.api, HOME, node, slots, work, lease_seconds)
        return await self._stack.enter_async_context(one.alive())

    async def submit(self, name: str, **spec: t.Any) -> None:
        """Hand in a job."""
        document = {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.kind,
            "metadata": {"name": name},
            "spec": {"source": {"path": f"{name}.ova"}, **spec},
        }
        await self.api.create(JOBS, document, "default")

    async def change(self, name: str, **fields: t.Any) -> None:
        """Change what may be changed of a job."""
        await self.api.patch(JOBS, name, spec_patch(fields), "default")

    async def job(self, name: str) -> models.MigrationJob:
        """The job as it is."""
        return job_of(await self.api.get(JOBS, name, "default"))

    async def until(
        self, name: str, holds: t.Callable[[models.JobStatus], bool], seconds: float = _PATIENCE_SECONDS
    ) -> models.JobStatus:
        """Wait until a job's status is as wanted, and return it."""
        seen: models.JobStatus | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    seen = status_of(await self.api.get(JOBS, name, "default"))
                    if holds(seen):
                        return seen
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"job {name}, after {seconds:.0f} s: {seen}") from None

    async def until_phase(self, name: str, phase: Phase) -> models.JobStatus:
        """Wait until a job is in ``phase``."""
        return await self.until(name, lambda seen: seen.phase is phase)

    async def events(self, name: str) -> list[str]:
        """The reasons of the Events about a job, sorted; not of an earlier test's job of that name."""
        uid = (await self.job(name)).metadata.uid
        found = await self.api.all(EVENTS, "default")
        return sorted(event["reason"] for event in found if event["regarding"]["uid"] == uid)

    async def until_events(self, name: str, *reasons: str) -> None:
        """Wait until these are the Events about a job."""
        seen: list[str] = []
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while seen != sorted(reasons):
                    seen = await self.events(name)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"job {name}: told {seen}, not {sorted(reasons)}") from None

    def kubectl_get(self, name: str) -> str:
        """What ``kubectl get mj`` says about a job."""
        return self.server.kubectl("get", "mj", name, "--no-headers")

    async def __aenter__(self) -> Bench:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exception: t.Any) -> None:
        await self._stack.__aexit__(*exception)


def run(server: ApiServer, test: t.Callable[[Bench], c.Awaitable[None]]) -> None:
    """Run a test's body."""

    async def whole() -> None:
        async with Api.connect(server.login()) as api, Bench(server, api) as bench:
            await test(bench)

    asyncio.run(whole())


def test_a_job_that_need_not_wait_takes_four_writes(clean: ApiServer, operator: Operator) -> None:
    names = [f"job-{number}" for number in range(5)]

    async def test(bench: Bench) -> None:
        workers = [await bench.worker("a", 3), await bench.worker("b", 2)]
        wait_until(lambda: operator.metric("hyper2kvm_operator_slots") == 5, "both workers are known")
        for name in names:
            await bench.submit(name)
        for name in names:
            ended = await bench.until_phase(name, Phase.COMPLETED)
            assert [one.epoch for one in ended.attempts] == [1]
            assert {one.type: one.status for one in ended.conditions} == {
                "Validated": "True",
                "Queued": "False",
                "Assigned": "False",
                "Progressing": "False",
                "Complete": "True",
            }
            await bench.until_events(name, "Assigned", "Complete")
        assert sorted(job for one in workers for job in one.done) == [(f"default/{name}", 1) for name in names]

    run(clean, test)
    # The fourth is the worker's: it tells the end.
    assert operator.metric('hyper2kvm_operator_writes_total{kind="status",outcome="written"}') == 5
    assert operator.metric('hyper2kvm_operator_writes_total{kind="event",outcome="written"}') == 10
    assert operator.metric("hyper2kvm_operator_assignments_total") == 5
    assert operator.metric('hyper2kvm_jobs_ended_total{phase="COMPLETED"}') == 5
    assert (operator.read("/healthz"), operator.read("/readyz")) == ("ok\n", "ok\n")
    assert operator.stop() == 0


def test_the_most_urgent_goes_first_and_the_others_say_why_they_wait(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        await bench.submit("alone")
        await bench.until("alone", lambda seen: [one.reason for one in seen.waiting] == ["NoWorker"])
        assert "no worker is alive; start one" in bench.kubectl_get("alone")
        worker = await bench.worker("a", 1, for_ever)
        await bench.until_phase("alone", Phase.ASSIGNED)
        await bench.submit("later")
        await bench.until_phase("later", Phase.QUEUED)
        await bench.submit("urgent", priority=5)
        seen = await bench.until_phase("urgent", Phase.QUEUED)
        assert [(one.reason, one.count, one.examples) for one in seen.waiting] == [("NoFreeSlot", 1, ["a"])]
        assert "has all 1 slots in use" in bench.kubectl_get("urgent")
        # Nothing is free, so it is the place in the queue that another waits for.
        later = await bench.until("later", lambda seen: len(seen.waiting) == 2)
        assert later.waiting[1].message == "1 waiting jobs go first: urgent"
        await bench.change("later", priority=6)
        for name in ("alone", "later", "urgent"):
            await bench.until_phase(name, Phase.ASSIGNED)
            await worker.finish(await bench.job(name))
            await bench.until_phase(name, Phase.COMPLETED)

    run(clean, test)


def test_a_lost_workers_job_goes_on_elsewhere_and_the_old_worker_is_refused(
    clean: ApiServer, operator: Operator
) -> None:
    async def test(bench: Bench) -> None:
        lost = FakeWorker(bench.api, HOME, "a", 1, for_ever, SHORT_LEASE)
        async with lost.alive():
            await bench.submit("web01")
            await bench.until_phase("web01", Phase.ASSIGNED)
            old = await bench.job("web01")
        waits = await bench.until_phase("web01", Phase.QUEUED)
        assert (waits.epoch, waits.assigned_node, waits.claim) == (1, None, None)
        assert waits.attempts[0].error is not None and waits.attempts[0].error.reason == status.LEASE_EXPIRED
        with pytest.raises(Changed):
            await lost.finish(old)
        await bench.worker("b", 1, for_ever)
        taken = await bench.until_phase("web01", Phase.ASSIGNED)
        assert (taken.epoch, taken.assigned_node) == (2, "b")
        with pytest.raises(Changed):
            await lost.finish(old)
        await bench.until_events("web01", "Assigned", "Assigned")

    run(clean, test)


def test_a_worker_that_is_late_by_less_than_its_lease_keeps_its_jobs(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        late = FakeWorker(bench.api, HOME, "a", 1, for_ever, SHORT_LEASE * 4)
        async with late.alive():
            await bench.submit("web01")
            await bench.until_phase("web01", Phase.ASSIGNED)
        other = FakeWorker(bench.api, HOME, "b", 1, at_once)
        async with other.alive():
            # Somebody who finds a free slot meanwhile gets other work.
            await bench.submit("web02")
            await bench.until_phase("web02", Phase.COMPLETED)
            async with late.alive():
                assert (await bench.job("web01")).status.epoch == 1

    run(clean, test)


def test_a_cordoned_node_gets_nothing_and_gives_back_what_it_has_not_begun(
    clean: ApiServer, operator: Operator
) -> None:
    async def test(bench: Bench) -> None:
        await bench.worker("a", 2, for_ever)
        await bench.submit("web01")
        await bench.until_phase("web01", Phase.ASSIGNED)
        clean.kubectl("cordon", "a")
        await bench.until("web01", lambda seen: [one.reason for one in seen.waiting] == ["NodeCordoned"])
        assert "its node is cordoned" in bench.kubectl_get("web01")
        await bench.worker("b", 2, for_ever)
        moved = await bench.until_phase("web01", Phase.ASSIGNED)
        assert (moved.assigned_node, moved.epoch) == ("b", 2)
        clean.kubectl("cordon", "b")
        clean.kubectl("uncordon", "a")
        back = await bench.until("web01", lambda seen: seen.epoch == 3)
        assert back.assigned_node == "a"

    run(clean, test)


def test_cancelling(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        await bench.submit("waits")
        await bench.until_phase("waits", Phase.QUEUED)
        await bench.change("waits", cancel=True)
        await bench.until_phase("waits", Phase.CANCELLED)
        await bench.until_events("waits", "Cancelled")
        lost = FakeWorker(bench.api, HOME, "a", 2, for_ever, SHORT_LEASE)
        async with lost.alive():
            for name in ("runs", "orphan"):
                await bench.submit(name)
                await bench.until_phase(name, Phase.ASSIGNED)
            await bench.change("runs", cancel=True)
            await bench.until_phase("runs", Phase.CANCELLED)
        await bench.change("orphan", cancel=True)
        ended = await bench.until_phase("orphan", Phase.CANCELLED)
        assert ended.assigned_node is None

    run(clean, test)


def test_suspending(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        await bench.worker("a", 2, for_ever)
        await bench.submit("web01", suspend=True)
        await bench.until("web01", lambda seen: [one.reason for one in seen.waiting] == ["Suspended"])
        await bench.change("web01", suspend=False)
        await bench.until_phase("web01", Phase.ASSIGNED)
        await bench.change("web01", suspend=True)
        held_back = await bench.until(
            "web01",
            lambda seen: any(one.type == "Suspended" and one.status == "True" for one in seen.conditions),
        )
        assert held_back.phase is Phase.QUEUED
        await bench.change("web01", suspend=False)
        again = await bench.until_phase("web01", Phase.ASSIGNED)
        assert again.epoch == 2

    run(clean, test)


def test_deadlines_and_times_to_live(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        await bench.submit("late", activeDeadlineSeconds=1)
        await bench.submit("kept", activeDeadlineSeconds=1)
        await bench.submit("short", activeDeadlineSeconds=1, ttlSecondsAfterFinished=1)
        failed = await bench.until_phase("late", Phase.FAILED)
        assert failed.last_error is not None and failed.last_error.reason == "DeadlineExceeded"
        await bench.until_events("late", "Failed")
        await gone(bench, "short")
        await bench.until_phase("kept", Phase.FAILED)

    run(clean, test)
    assert operator.metric('hyper2kvm_job_failures_total{error_class="environment"}') == 3


def test_a_new_operator_removes_what_ended_before_it(clean: ApiServer, tmp_path: pathlib.Path) -> None:
    async def test(bench: Bench) -> None:
        for name, fields in (("short", {"ttlSecondsAfterFinished": 1}), ("kept", {})):
            await bench.submit(name, **fields)
            patch = {"status": {"phase": "CANCELLED", "finishedAt": "2026-11-24T02:07:00.000Z"}}
            await bench.api.patch(JOBS, name, patch, "default", subresource="status")
        with operating(clean, tmp_path):
            await gone(bench, "short")
            await bench.job("kept")

    run(clean, test)


async def gone(bench: Bench, name: str) -> None:
    """Wait until there is no such job."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        with contextlib.suppress(Absent):
            while True:
                await bench.job(name)
                await asyncio.sleep(0.1)


def test_a_document_that_only_the_models_refuse_fails_with_its_problems(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        await bench.submit("web01", guest={"sshKeys": [{"keys": ["ssh-rsa A\u0007"]}]})
        failed = await bench.until_phase("web01", Phase.FAILED)
        assert failed.last_error is not None
        assert (failed.last_error.error_class.value, failed.last_error.reason) == ("invalid", "InvalidDocument")
        assert failed.result is not None
        assert failed.result["problems"][0]["field"] == "spec.guest.sshKeys[0].keys"
        assert "a key is one line" in bench.kubectl_get("web01")

    run(clean, test)


def test_a_failed_attempt_is_made_again_on_the_same_node_after_a_while(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        tries: list[str] = []

        async def fail_once(job: models.MigrationJob) -> None:
            tries.append(job.metadata.name)
            if len(tries) == 1:
                raise transient("Flaky", "the disk went away")

        await bench.worker("a", 1, fail_once)
        await bench.submit("web01")
        backs_off = await bench.until("web01", lambda seen: [one.reason for one in seen.waiting] == ["BackingOff"])
        assert backs_off.not_before is not None
        await bench.worker("b", 8)
        ended = await bench.until_phase("web01", Phase.COMPLETED)
        assert [one.worker for one in ended.attempts] == ["a", "a"]

    run(clean, test)


def test_a_worker_whose_node_is_gone_is_forgotten(clean: ApiServer, operator: Operator) -> None:
    async def test(bench: Bench) -> None:
        async with FakeWorker(bench.api, HOME, "a", lease_seconds=SHORT_LEASE).alive():
            wait_until(lambda: operator.metric("hyper2kvm_workers") == 1, "the worker is known")
            clean.kubectl("delete", "node", "a")
            await bench.submit("web01")
            await bench.until("web01", lambda seen: [one.reason for one in seen.waiting] == ["NodeMissing"])
            # As long as it lives, it is somebody's mistake, and not garbage.
            await bench.api.get(WORKERS, "a")
        async with asyncio.timeout(_PATIENCE_SECONDS):
            with contextlib.suppress(Absent):
                while True:
                    await bench.api.get(WORKERS, "a")
                    await asyncio.sleep(0.1)

    run(clean, test)


def test_the_lease_of_the_election_goes_with_the_operators_rights(clean: ApiServer, operator: Operator) -> None:
    owners = ("-n", HOME, "get", "lease", "operator.hyper2kvm.io", "-o", "jsonpath={.metadata.ownerReferences[*].uid}")
    role = clean.kubectl("-n", HOME, "get", "role", "hyper2kvm-operator", "-o", "jsonpath={.metadata.uid}")
    wait_until(lambda: clean.kubectl(*owners) == role, "the Lease has its owner")


# -- when things break -----------------------------------------------------------------------------------------------


def test_killing_the_leader_loses_and_doubles_nothing(clean: ApiServer, tmp_path: pathlib.Path) -> None:
    names = [f"job-{number}" for number in range(60)]

    async def short(job: models.MigrationJob) -> None:
        await asyncio.sleep(0.2)

    async def test(bench: Bench) -> None:
        with operating(clean, tmp_path, replicas=2) as operators:
            workers = [await bench.worker(node, 2, short) for node in "abc"]
            for name in names:
                await bench.submit(name)
            leader = _leader(operators)
            while sum(len(one.done) for one in workers) < 10:
                await asyncio.sleep(0.05)
            leader.kill()
            for name in names:
                await bench.until_phase(name, Phase.COMPLETED)
            done = collections.Counter(job for one in workers for job in one.done)
            assert done == {(f"default/{name}", 1): 1 for name in names}
            assert [one.refused for one in workers] == [[], [], []]
            for name in names:
                await bench.until_events(name, "Assigned", "Complete")

    run(clean, test)


def test_a_leader_that_is_told_to_stop_hands_over_at_once(clean: ApiServer, tmp_path: pathlib.Path) -> None:
    with operating(clean, tmp_path, replicas=2) as operators:
        leader = _leader(operators)
        (other,) = (one for one in operators if one is not leader)
        assert leader.stop() == 0
        # Else it would take the 30 s that the Lease lasts.
        wait_until(lambda: other.leads, "the other one leads", 20.0)


def test_a_leader_that_loses_its_lease_ends(clean: ApiServer, operator: Operator) -> None:
    stolen = json.dumps({"spec": {"holderIdentity": "somebody else"}})
    clean.kubectl("-n", HOME, "patch", "lease", "operator.hyper2kvm.io", "--type=merge", "-p", stolen)
    wait_until(lambda: "is not ours any more" in operator.log, "the operator notices")
    wait_until(lambda: operator.log.count("standing by as") == 2, "it was started anew")
    clean.kubectl("-n", HOME, "delete", "lease", "operator.hyper2kvm.io")
    wait_until(lambda: operator.leads, "it leads again")


def test_half_a_minute_without_the_api_server(clean: ApiServer, tmp_path: pathlib.Path) -> None:
    names = [f"job-{number}" for number in range(30)]

    async def some(job: models.MigrationJob) -> None:
        await asyncio.sleep(1.0)

    async def test(bench: Bench) -> None:
        with operating(clean, tmp_path, replicas=2):
            workers = [await bench.worker(node, 2, some) for node in "ab"]
            for name in names:
                await bench.submit(name)
            while sum(len(one.done) for one in workers) < 6:
                await asyncio.sleep(0.05)
            clean.stop()
            await asyncio.sleep(30.0)
            # Not in another thread: the kernel would end it together with that.
            clean.start()
            for name in names:
                ended = await bench.until_phase(name, Phase.COMPLETED)
                assert ended.epoch == 1
            # A write whose answer was lost with the server may have been done, and is then refused the second time.
            done = collections.Counter(job for one in workers for job, dummy in one.done)
            assert max(done.values()) == 1
            unsure = {f"default/{name}" for name in names} - done.keys()
            assert unsure <= {job for one in workers for job in one.refused}

    run(clean, test)


def _leader(operators: list[Operator]) -> Operator:
    (leader,) = (one for one in operators if one.leads)
    return leader
