# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the node agent makes of answers that come late. Its work with a real API server is in ``tests/kube``."""

from __future__ import annotations

import asyncio
import pathlib
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.node_agent import Node, NodeAgent

from tests.unit.plugins.module_utils.backends.samples import assigned


def test_a_new_attempt_that_comes_before_the_answer_is_not_forgotten(tmp_path: pathlib.Path) -> None:
    """The operator gives a job back that was just handed back, before the hand-back is answered."""
    first, second = (assigned(epoch=epoch) for epoch in (1, 2))

    class FakeApi:
        """An API server whose watch is faster than its answer: a real one cannot be made to be."""

        async def patch(self, *dummy: t.Any, **dummies: t.Any) -> dict[str, t.Any]:
            agent._changed(Change(first.metadata.key, first, second, {}))
            return {}

    async def hand_back() -> None:
        agent._wake = asyncio.Event()
        agent._changed(Change(first.metadata.key, None, first, {}))
        back = status.advance(first.status, Phase.QUEUED, Actor.WORKER, now())
        await agent._write(first, back.model_copy(update={"assigned_node": None}))

    queue = LocalBackend(tmp_path)
    agent = NodeAgent(t.cast(t.Any, None), Node("node1", "default"), queue, t.cast(t.Any, None))
    agent._api = t.cast(t.Any, FakeApi())
    asyncio.run(hand_back())
    queue.close()
    assert list(agent._assigned.values()) == [second]
