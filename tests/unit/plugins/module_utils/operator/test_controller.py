# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller where the API misbehaves in ways that a real server cannot be made to; the rest is in tests/kube."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import ApiError, Page
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    LEASES,
    NODES,
    WORKERS,
    Object,
    Resource,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.operator import happenings
from ansible_collections.hyper2kvm.core.plugins.module_utils.operator.controller import Controller
from ansible_collections.hyper2kvm.core.plugins.module_utils.operator.view import read_finished, read_job
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.book import Book

from tests.kube.registrations import registration

HOME = "home"
_PATIENCE_SECONDS = 60.0


def job(**status: t.Any) -> Object:
    """A MigrationJob."""
    return {
        "metadata": {
            "name": "web01",
            "namespace": "ns",
            "uid": "u",
            "generation": 1,
            "resourceVersion": "5",
            "creationTimestamp": "2026-11-24T02:07:00Z",
        },
        "spec": {"source": {"path": "web01.ova"}},
        "status": {"phase": "CREATED", "epoch": 0, **status},
    }


HELD = job(
    phase="RUNNING",
    epoch=1,
    assignedNode="a",
    claim={"worker": "a", "epoch": 1, "leaseSeconds": 60, "renewedAt": "2026-11-24T02:07:00Z"},
    attempts=[{"epoch": 1, "worker": "a", "startedAt": "2026-11-24T02:07:00Z"}],
)


def lease(version: int, seconds: int = 1) -> Object:
    """The Lease of the worker on ``a`` after so many renewals."""
    return {
        "metadata": {"name": "hyper2kvm-a", "namespace": HOME, "resourceVersion": str(version)},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": seconds, "renewTime": f"renewal {version}"},
    }


class DeafApi:
    """An API whose watches never tell anything."""

    def __init__(self, *jobs: Object, worker_lives: bool = True) -> None:
        status = registration("a", 2).to_document()
        self.objects: dict[Resource, list[Object]] = {
            JOBS: list(jobs),
            LEASES: [lease(1)],
            NODES: [{"metadata": {"name": "a", "resourceVersion": "1"}}],
            WORKERS: [{"metadata": {"name": "a", "resourceVersion": "1"}, "status": status}],
        }
        self.asked = 0
        self.patches: list[Object] = []
        self.refusals: list[ApiError] = []
        self.happened = asyncio.Condition()
        self._worker_lives = worker_lives

    async def pages(self, resource: Resource, namespace: str | None = None, **selectors: str) -> c.AsyncIterator[Page]:
        yield Page([] if "status.phase=" in selectors.get("fields", "") else self.objects[resource], "9")

    async def watch(self, *args: t.Any, **selectors: str) -> c.AsyncIterator[t.NoReturn]:
        # It waits for ever, and is a generator all the same.
        if await asyncio.Event().wait():
            yield

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        assert resource is LEASES
        self.asked += 1
        await self._tell()
        return lease(1 + self.asked if self._worker_lives else 1)

    async def patch(self, resource: Resource, name: str, patch: list[Object], *args: t.Any, **more: t.Any) -> Object:
        if self.refusals:
            raise self.refusals.pop()
        self.patches.append(patch[-1]["value"])
        await self._tell()
        found = job(**patch[-1]["value"])
        found["metadata"]["resourceVersion"] = str(5 + len(self.patches))
        return found

    async def create(self, *args: t.Any) -> Object:
        return {}

    async def _tell(self) -> None:
        async with self.happened:
            self.happened.notify_all()

    async def until(self, holds: t.Callable[[], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS), self.happened:
            await self.happened.wait_for(holds)


@contextlib.asynccontextmanager
async def controlling(api: DeafApi) -> c.AsyncIterator[Controller]:
    """A controller that acts on what ``api`` says."""
    controller = Controller(t.cast(t.Any, api), HOME, "me", Book())
    task = asyncio.create_task(controller.run())
    try:
        yield controller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_watch_that_hangs_takes_no_job_from_a_worker_that_lives() -> None:
    async def run() -> None:
        api = DeafApi(HELD)
        async with controlling(api):
            await api.until(lambda: api.asked == 3)
        assert api.patches == []

    asyncio.run(run())


def test_nor_does_it_keep_one_with_a_worker_that_is_dead() -> None:
    async def run() -> None:
        api = DeafApi(HELD, worker_lives=False)
        async with controlling(api):
            await api.until(lambda: bool(api.patches))
        (after,) = api.patches
        assert (after["phase"], after["attempts"][0]["error"]["reason"]) == ("QUEUED", "LeaseExpired")

    asyncio.run(run())


@pytest.mark.parametrize("error_class", [ErrorClass.TRANSIENT, ErrorClass.INVALID])
def test_a_write_that_fails_is_made_again(error_class: ErrorClass) -> None:
    async def run() -> None:
        api = DeafApi(job())
        api.objects[LEASES] = [lease(1, seconds=600)]
        api.refusals = [ApiError(error_class, "Unwilling", "not now", code=code) for code in (429, 500, 503)]
        async with controlling(api) as controller:
            await api.until(lambda: bool(api.patches))
            controller.view()
        assert [after["phase"] for after in api.patches] == ["ASSIGNED"]
        assert api.refusals == []

    asyncio.run(run())


def test_what_is_read_of_a_spec_is_read_once() -> None:
    first = read_job(job(), None)
    assert first is not None
    progressed = job(stage="copy")
    progressed["spec"] = None
    again = read_job(progressed, first)
    assert again is not None and again.demand is first.demand and again.status.stage == "copy"
    changed = job()
    changed["metadata"]["generation"] = 2
    changed["spec"]["priority"] = 5
    new = read_job(changed, first)
    assert new is not None and new.priority == 5
    relabelled = job()
    relabelled["metadata"]["labels"] = {"wave": "2"}
    labelled = read_job(relabelled, first)
    assert labelled is not None and labelled.demand is not None and labelled.demand.job_labels == (("wave", "2"),)


def test_what_a_spec_says_of_retries_is_read_whole_and_an_event_tells_the_rule() -> None:
    policy = job()
    policy["spec"]["failurePolicy"] = {"rules": [{"reasons": ["Hiccup"], "action": "FailJob"}]}
    read = read_job(policy, None)
    assert read is not None
    rule = models.FailureRule(reasons=["Hiccup"], action=models.FailureAction.FAIL_JOB)
    assert read.retries == RetryPolicy(2, (rule,))
    matched = models.MatchedRule(index=0, action=rule.action)
    error = models.ErrorDocument.of(transient("Hiccup", "It hiccupped.", "Look."), matched)
    over = models.JobStatus(phase=Phase.FAILED, last_error=error)
    told = happenings.ended("ns", "web01", "uid", over, "here")["note"]
    assert told == "Hiccup: It hiccupped. (matches spec.failurePolicy.rules[0]: FailJob) Look."


def test_what_cannot_be_read_is_left_alone() -> None:
    for found in (job(phase="DREAMING"), job(startedAt="yesterday")):
        assert read_job(found, None) is None
        assert read_finished(found) is None
    assert read_job(job(phase="FAILED"), None) is None
    invalid = job()
    invalid["spec"]["source"] = {}
    read = read_job(invalid, None)
    assert read is not None and read.problem is not None and read.demand is None
