# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a cluster is told of a node: the status of its MigrationWorker."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import dataclasses
import logging
import os
import typing as t

from ..backends.base import WorkerState
from ..backends.host import boot_id, now
from ..backends.kube.api import Absent, Api, Exists, Login
from ..backends.kube.release import WORKERS_RIGHTS, tie
from ..backends.kube.resources import LEASES, WORKERS, worker_lease, worker_object, worker_status_patch
from ..protocol import fields, models
from ..protocol.errors import JobError
from ..scheduling.matching import ALWAYS_NEEDED
from ..telemetry.version import collection_version

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0
#: Free space is told anew when it has changed by so much, in bytes.
_SPACE_STEP = 1024**3
_MOST_RUNNING_TOLD = 256


@dataclasses.dataclass(frozen=True)
class Node:
    """Who this is in the cluster."""

    name: str
    """The node's name, and that of its MigrationWorker."""
    namespace: str
    """Where its Lease is."""
    output_shared: bool = False
    """Whether other nodes see the same output root."""
    output_storage: str | None = None
    """The claim, or the folder of the node, that the output root is on; None: not known."""


def describe(
    node: Node,
    state: WorkerState,
    running: c.Iterable[str],
    *,
    schedulable: bool,
    before: models.WorkerStatus | None,
) -> models.WorkerStatus:
    """Return what is to be told of a worker.

    Args:
        state: the worker as its queue sees it.
        running: the jobs that it has, by ``namespace/name``.
        before: what was told last; a condition that stays as it was keeps its time.
    """
    registration = state.registration
    lacking = [
        f"{name} ({one.detail or 'its probe failed'})"
        for name, one in registration.capabilities.items()
        if name in ALWAYS_NEEDED and not one.available
    ]
    if lacking:
        ready = _ready(False, "CapabilityMissing", f"The node lacks what every job needs: {', '.join(lacking)}.")
    else:
        ready = _ready(True, "Ready", "The worker has what every job needs.")
    return models.WorkerStatus(
        **{**registration.to_document(), **_identity(node)},
        free_scratch_bytes=state.free_scratch_bytes,
        free_output_bytes=state.free_output_bytes,
        running=sorted(running)[:_MOST_RUNNING_TOLD],
        schedulable=schedulable,
        output_shared=node.output_shared,
        output_storage=node.output_storage,
        conditions=[_since(ready, before)],
    )


def tell_unfit(node: Node, error: JobError, login: Login | None = None) -> None:
    """Say in the node's MigrationWorker why no worker starts there; where that cannot be said, the log has it."""

    async def tell() -> None:
        condition = _ready(False, error.reason, f"{error.message} {error.suggestion}".strip())
        told = models.WorkerStatus(**_identity(node), slots=1, schedulable=False, conditions=[condition])
        async with Api.connect(login) as api:
            await asyncio.wait_for(write(api, node, told), _REQUEST_SECONDS)
            await asyncio.wait_for(tie_to_release(api, node), _REQUEST_SECONDS)

    try:
        asyncio.run(tell())
    except (JobError, asyncio.TimeoutError) as problem:
        log.warning("the cluster cannot be told: %s", problem)


def located(node: Node, after: models.JobStatus) -> models.JobStatus:
    """Return a job's status with the storage on which its artifacts are, where that is this node's alone."""
    if node.output_shared or node.output_storage is None:
        return after
    artifacts = [one.model_copy(update={"storage": node.output_storage}) for one in after.artifacts]
    return after.model_copy(update={"artifacts": artifacts})


def differs(told: models.WorkerStatus, before: models.WorkerStatus) -> bool:
    """Whether there is news worth a write: free space changes with each block that is copied."""
    space = ("free_scratch_bytes", "free_output_bytes")
    if any(abs(getattr(told, name) - getattr(before, name)) >= _SPACE_STEP for name in space):
        return True
    return told != before.model_copy(update={name: getattr(told, name) for name in space})


async def write(api: Api, node: Node, told: models.WorkerStatus) -> None:
    """Write the status of the node's MigrationWorker, which is made where there is none."""
    patch = worker_status_patch(told)
    try:
        await api.patch(WORKERS, node.name, patch, subresource="status")
        return
    except Absent:
        pass
    with contextlib.suppress(Exists):
        await api.create(WORKERS, worker_object(node.name))
    await api.patch(WORKERS, node.name, patch, subresource="status")


async def tie_to_release(api: Api, node: Node) -> None:
    """Let the node's MigrationWorker and its Lease go when the release is removed.

    Raises:
        JobError: the API server cannot be reached.
    """
    await tie(api, WORKERS_RIGHTS, WORKERS, node.name)
    await tie(api, WORKERS_RIGHTS, LEASES, worker_lease(node.name), node.namespace)


def _identity(node: Node) -> dict[str, t.Any]:
    return {
        "name": node.name,
        "host": node.name,
        "bootId": boot_id(),
        "pid": os.getpid(),
        "collectionVersion": collection_version(),
    }


def _ready(ready: bool, reason: str, message: str) -> models.Condition:
    word: t.Literal["True", "False"] = "True" if ready else "False"
    instant = fields.timestamp(now())
    return models.Condition(type="Ready", status=word, reason=reason, message=message, last_transition_time=instant)


def _since(condition: models.Condition, before: models.WorkerStatus | None) -> models.Condition:
    """Return a condition with the time at which it became what it is."""
    for known in before.conditions if before is not None else ():
        if (known.type, known.status) == (condition.type, condition.status):
            return condition.model_copy(update={"last_transition_time": known.last_transition_time})
    return condition
