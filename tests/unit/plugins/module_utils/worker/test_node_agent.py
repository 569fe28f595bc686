# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node agent when two things meet: a watch that is faster than an answer, a cancellation that comes with one."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Changed
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import node_agent, node_relay, node_status
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.config import Config, make_roots

from tests.unit.plugins.module_utils.backends.samples import assigned


class SlowApi:
    """Answers a patch as the API server would, after it let something else happen."""

    def __init__(self, meanwhile: c.Callable[[], None], error: Exception | None = None) -> None:
        self._meanwhile = meanwhile
        self._error = error

    async def patch(self, resource: t.Any, name: str, patch: t.Any, *args: t.Any, **fields: t.Any) -> t.Any:
        self._meanwhile()
        if self._error is not None:
            raise self._error
        return {**of_node(1).to_document(), "status": patch[-1]["value"]}


def of_node(epoch: int, **fields: t.Any) -> models.MigrationJob:
    job = assigned(epoch=epoch, **fields)
    job.status.assigned_node = "node-1"
    return job


@pytest.fixture
def agent(tmp_path: pathlib.Path) -> node_agent.NodeAgent:
    (tmp_path / "input").mkdir()
    state = tmp_path / "state"
    roots = make_roots(tmp_path / "input", tmp_path / "output", state_dir=state)
    made = node_agent.NodeAgent(
        Config(roots, state), node_status.Node("node-1", "home"), LocalBackend(state), t.cast(t.Any, None)
    )
    made._wake = asyncio.Event()
    return made


def tell(
    agent: node_agent.NodeAgent,
    before: models.MigrationJob | None,
    after: models.MigrationJob | None,
) -> None:
    agent._changed(Change("team-a/web01", before, after, None))


def write(agent: node_agent.NodeAgent, after: models.JobStatus, api: SlowApi) -> dict[int, models.MigrationJob]:
    """Write the status of the job that the agent has; return what it has then, by epoch."""
    agent._api = t.cast(t.Any, api)
    (job,) = agent._assigned.values()
    asyncio.run(agent._write(job, after))
    return {job.status.epoch: job for job in agent._assigned.values()}


def test_the_next_attempt_may_be_known_before_the_answer_that_the_last_is_over(agent: node_agent.NodeAgent) -> None:
    first, second = of_node(1), of_node(2)
    tell(agent, None, first)

    def meanwhile() -> None:
        tell(agent, first, None)
        tell(agent, None, second)

    back = node_relay.hand_back(first.status, "suspended", now())
    assert list(write(agent, back, SlowApi(meanwhile))) == [2]


def test_old_news_of_an_attempt_that_is_over_are_skipped(agent: node_agent.NodeAgent) -> None:
    first = of_node(1)
    tell(agent, None, first)
    assert write(agent, node_relay.hand_back(first.status, "suspended", now()), SlowApi(lambda: None)) == {}
    tell(agent, first, of_node(1))
    assert agent._assigned == {}
    tell(agent, first, None)
    tell(agent, None, of_node(2))
    assert [job.status.epoch for job in agent._assigned.values()] == [2]


def test_a_job_that_was_taken_back_does_not_come_back_with_an_answer(agent: node_agent.NodeAgent) -> None:
    first = of_node(1)
    tell(agent, None, first)
    running = status.start_stage(first.status, "copy", now())
    assert write(agent, running, SlowApi(lambda: tell(agent, first, None))) == {}


def test_a_wish_that_is_known_before_an_answer_is_kept(agent: node_agent.NodeAgent) -> None:
    first = of_node(1)
    tell(agent, None, first)
    running = status.start_stage(first.status, "copy", now())
    known = write(agent, running, SlowApi(lambda: tell(agent, first, of_node(1, cancel=True))))
    assert known[1].spec.cancel


@pytest.mark.parametrize(("code", "kept"), [(422, []), (409, [1])], ids=["test failed", "conflict"])
def test_only_a_test_that_fails_means_that_the_job_is_gone(
    agent: node_agent.NodeAgent, code: int, kept: list[int]
) -> None:
    first = of_node(1)
    tell(agent, None, first)
    running = status.start_stage(first.status, "copy", now())
    error = Changed(ErrorClass.TRANSIENT, "Changed", "it was changed", code=code)
    try:
        write(agent, running, SlowApi(lambda: None, error))
    except Changed:
        assert code == 409
    assert [job.status.epoch for job in agent._assigned.values()] == kept


def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_agent, "_CANCEL_AGAIN_SECONDS", 0.01)

    async def works() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    async def ends() -> bool:
        task = asyncio.ensure_future(works())
        await asyncio.sleep(0)
        await asyncio.wait_for(node_agent._end([task]), 60)
        return task.cancelled()

    assert asyncio.run(ends())
