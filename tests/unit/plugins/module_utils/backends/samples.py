# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs, workers and histories that the queue's tests share."""

from __future__ import annotations

import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boot_id, now
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase

BASICS = ("qemu-img", "root", "attach", "boot-test")


def job(name: str = "web01-inspect", **fields: t.Any) -> models.MigrationJob:
    """Return a valid job; ``fields`` go into its spec, except ``labels`` and ``annotations``."""
    metadata = models.Metadata(name=name, labels=fields.pop("labels", {}), annotations=fields.pop("annotations", {}))
    fields = {"operation": models.Operation.INSPECT, "source": models.SourceSpec(path="web01.ova"), **fields}
    return models.MigrationJob(metadata=metadata, spec=models.JobSpec(**fields))


def worker(name: str = "host-1", capabilities: t.Iterable[str] = BASICS, **fields: t.Any) -> models.WorkerRegistration:
    """Return a worker's registration, by default one that can run every job."""
    return models.WorkerRegistration(
        name=name,
        host="host",
        boot_id=boot_id(),
        pid=1,
        collection_version="1.0.0",
        **{"slots": 2, "capabilities": {n: models.Capability(available=True) for n in capabilities}, **fields},
    )


def stage(name: str) -> models.StageRecord:
    """Return the record of a stage that ended."""
    return models.StageRecord(name=name, started_at="2026-01-01T00:00:00Z", seconds=1.0)


def result(of: models.MigrationJob) -> models.JobResult:
    """Return the result of a job that ended well."""
    return models.JobResult(
        job=of.metadata.name,
        uid=of.metadata.uid or "",
        operation=of.spec.operation,
        verdict="done",
        source_identity="x",
        spec_digest="sha256:" + "0" * 64,
        completed_at="2026-01-01T00:00:00Z",
        seconds=1.0,
    )


def assigned(name: str = "web01", *, epoch: int = 1, node: str = "node-1", **fields: t.Any) -> models.MigrationJob:
    """Return a job of the namespace ``team-a`` as an operator has just assigned it, for the ``epoch``-th time.

    The attempts before were handed back. ``fields`` are as with :func:`job`; ``uid`` is the job's.
    """
    made = job(name, **{key: value for key, value in fields.items() if key != "uid"})
    made.metadata.namespace = "team-a"
    made.metadata.uid = fields.get("uid", "11111111-1111-1111-1111-111111111111")
    made.metadata.creation_timestamp = "2026-01-01T00:00:00Z"
    told = models.JobStatus()
    for phase in (Phase.VALIDATED, Phase.QUEUED):
        told = status.advance(told, phase, Actor.CONTROL, now())
    for dummy in range(epoch):
        if told.phase is not Phase.QUEUED:
            told = status.advance(told, Phase.QUEUED, Actor.WORKER, now())
        told = status.record_attempt(told, node, 60.0, Actor.CONTROL, now())
    made.status = told
    return made
