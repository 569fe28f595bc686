# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many nodes in one process: the product's node agents on queues whose jobs end at once. Nothing else is simulated.

``python -m bench.simulated_nodes`` reads what :class:`Site` holds as JSON, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import collections.abc as c
import dataclasses
import json
import logging
import pathlib
import signal
import sys
import tempfile
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import WorkerState
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boot_id, now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Login
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local_grants import Given
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import node_agent
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.config import NODE_LEASE_SECONDS, Config
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.node_agent import NodeAgent
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.node_status import Node
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.node_worker import Worker

from tests.kube.registrations import CAPABILITIES
from tests.tools import sample_jobs

_GIB = 1024**3


@dataclasses.dataclass(frozen=True)
class Site:
    """Where the nodes are, and who they are."""

    host: str
    """URL of the API server."""
    ca_cert: str
    namespace: str
    """Where the workers' Leases are."""
    slots: int
    """Of each."""
    tokens: dict[str, str]
    """The login of each node's worker, by the node's name."""


class Execution:
    """What takes the place of a job's execution: it is over at once, with all that a recorded one told."""

    def __init__(self) -> None:
        recorded = sample_jobs.recorded()["web01-convert"]["status"]
        self._result: dict[str, t.Any] = recorded["result"]
        self._stages = [models.StageRecord.model_validate(one) for one in recorded["stages"]]
        self._artifacts = [models.Artifact.model_validate(one) for one in recorded["artifacts"]]

    def of(self, job: models.MigrationJob, version: int = 1) -> Given:
        """The job, assigned a moment ago, as its node's queue has it afterwards."""
        began = status.start_stage(job.status, "inspect", now())
        done = began.model_copy(update={"stages": self._stages, "artifacts": self._artifacts})
        over = status.advance(done, Phase.COMPLETED, Actor.WORKER, now())
        return Given(job.model_copy(update={"status": over}), job.status.epoch, spent=True, version=version)

    def result(self, uid: str) -> dict[str, t.Any]:
        """Its result document."""
        return {**self._result, "uid": uid}


class _Queue:
    """What a node agent asks of a node's queue."""

    def __init__(self, name: str, slots: int, pid: int, execution: Execution) -> None:
        self._execution = execution
        self._given: dict[str, Given] = {}
        self._version = 0
        capabilities = {one: models.Capability(available=True) for one in CAPABILITIES}
        self._registration = models.WorkerRegistration(
            name=name,
            host=name,
            boot_id=boot_id(),
            pid=pid,
            collection_version="1.0.0",
            slots=slots,
            capabilities=capabilities,
        )

    def bury_workers(self) -> None:
        """There were none."""

    def data_version(self) -> tuple[int, int]:
        return 0, self._version

    def workers(self) -> list[WorkerState]:
        return [WorkerState(self._registration, {}, 0.0, _GIB, _GIB)]

    def give(self, job: models.MigrationJob, node: str, deadline_seconds: float | None = None) -> None:
        self._version += 1
        self._given[job.metadata.uid or ""] = self._execution.of(job, self._version)

    def given(self, known: c.Mapping[str, int]) -> tuple[list[Given], set[str]]:
        return [one for uid, one in self._given.items() if known.get(uid) != one.version], set(self._given)

    def result(self, uid: str) -> dict[str, t.Any]:
        return self._execution.result(uid)

    def drop(self, uid: str) -> None:
        self._version += 1
        del self._given[uid]


class _Worker:
    """Stands for the process that would run the jobs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def begin(self) -> None:
        """It always works."""

    def signal(self, number: signal.Signals) -> None:
        raise AssertionError(f"no worker is to be ended here ({number})")

    async def wait(self) -> int:
        await asyncio.Event().wait()
        return 0


def _agent(site: Site, name: str, number: int, folder: pathlib.Path, execution: Execution) -> NodeAgent:
    place = folder / name
    place.mkdir()
    roots = Roots(input=place, output=place, scratch=place)
    config = Config(roots=roots, state_dir=place, slots=site.slots, lease_seconds=NODE_LEASE_SECONDS)
    queue, worker = _Queue(name, site.slots, number, execution), _Worker(number)
    return NodeAgent(config, Node(name, site.namespace), t.cast(LocalBackend, queue), t.cast(Worker, worker))


async def _run(site: Site, folder: pathlib.Path) -> None:
    execution = Execution()
    agents = {name: _agent(site, name, number, folder, execution) for number, name in enumerate(site.tokens, 1)}
    logins = {name: Login(host=site.host, api_key=token, ca_cert=site.ca_cert) for name, token in site.tokens.items()}
    await asyncio.gather(*(agent.run(logins[name]) for name, agent in agents.items()))


def main() -> None:
    """See above."""
    # Nothing changes in these queues but by what is given to them. To ask so many of them more often would only take
    # processors from the API server, which shares them with this process.
    node_agent._TURN_SECONDS = 1.0
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    site = Site(**json.load(sys.stdin))
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_run(site, pathlib.Path(folder)))


if __name__ == "__main__":
    main()
