# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the operator keeps of the API's objects. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import logging

from ..backends.kube.resources import Object, job_key, job_of, phase_of, status_of, worker_lease
from ..protocol import _pydantic as p
from ..protocol import models
from ..protocol.errors import JobError
from ..protocol.fields import moment
from ..protocol.lifecycle import TERMINAL
from ..protocol.retries import RetryPolicy
from ..scheduling.matching import Demand
from ..telemetry.logs import JobLog
from .decide import Job

log = logging.getLogger(__name__)

_LEASE_PREFIX = worker_lease("")


@dataclasses.dataclass(frozen=True)
class LeaseView:
    """What tells one renewal of a worker's Lease from another."""

    holder: str
    renewed: str
    seconds: float
    """How long it lasts."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """What is left to do for a job that is over: tell it, and remove it in time."""

    namespace: str
    name: str
    uid: str
    created: str
    status: models.JobStatus
    remove_after: datetime.datetime | None
    """When its time to live ends; None: it has none."""


def read_job(found: Object, earlier: Job | None) -> Job | None:
    """Return a job of kind MigrationJob; None where it is over, or its status cannot be read.

    What was read of its spec is taken from ``earlier`` where that has not changed since.
    """
    metadata = found["metadata"]
    try:
        if phase_of(found) in TERMINAL:
            return None
        status = status_of(found)
    except (p.ValidationError, ValueError) as error:
        JobLog(log, job_key(found)).error("its status cannot be read, so nothing is done about it: %s", error)
        return None
    changing = {
        "resource_version": metadata["resourceVersion"],
        "status": status,
        "deleting": "deletionTimestamp" in metadata,
    }
    known = earlier is not None and earlier.uid == metadata["uid"] and earlier.generation == metadata["generation"]
    labels = tuple(sorted(metadata.get("labels", {}).items()))
    if earlier is not None and known and earlier.demand is not None and earlier.demand.job_labels == labels:
        return dataclasses.replace(earlier, **changing)
    created = moment(metadata["creationTimestamp"])
    job = Job(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata["generation"],
        created=created,
        cancel=bool(found.get("spec", {}).get("cancel")),
        **changing,
    )
    try:
        spec = (document := job_of(found)).spec
    except JobError as error:
        return dataclasses.replace(job, problem=error)
    limit = spec.active_deadline_seconds
    return dataclasses.replace(
        job,
        demand=Demand.of(document),
        priority=spec.priority,
        suspend=spec.suspend,
        cancel=spec.cancel,
        retries=RetryPolicy.of(spec),
        deadline=None if limit is None else created + datetime.timedelta(seconds=limit),
    )


def read_finished(found: Object) -> Finished | None:
    """Return what is left to do for a job; None where it is not over, or cannot be read."""
    try:
        if phase_of(found) not in TERMINAL:
            return None
        status = status_of(found)
    except (p.ValidationError, ValueError):
        return None
    metadata = found["metadata"]
    keep = found.get("spec", {}).get("ttlSecondsAfterFinished")
    end = status.finished_at
    due = None if keep is None or end is None else moment(end) + datetime.timedelta(seconds=keep)
    identity = (metadata["namespace"], metadata["name"], metadata["uid"], metadata["creationTimestamp"])
    return Finished(*identity, status, due)


def read_cordoned(found: Object) -> bool:
    """Return whether a node is cordoned."""
    return bool(found.get("spec", {}).get("unschedulable"))


def read_lease(found: Object) -> LeaseView | None:
    """Return a worker's Lease; None where it is another's."""
    if not found["metadata"]["name"].startswith(_LEASE_PREFIX):
        return None
    spec = found.get("spec", {})
    return LeaseView(
        holder=spec.get("holderIdentity") or "",
        renewed=spec.get("renewTime") or "",
        seconds=float(spec.get("leaseDurationSeconds") or 0),
    )


def node_of_lease(name: str) -> str:
    """Return the node whose worker keeps the Lease of that name alive."""
    return name.removeprefix(_LEASE_PREFIX)
