# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the protocol is called at the Kubernetes API, and API objects from and to its documents. Pure."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import typing as t

from ...protocol import _pydantic as p
from ...protocol import models, validation
from ...protocol.crd import GROUP, VERSION
from ...protocol.errors import invalid
from ...protocol.lifecycle import TERMINAL, Phase

Object = dict[str, t.Any]
"""An API object as JSON data."""


@dataclasses.dataclass(frozen=True)
class Resource:
    """A kind of API objects."""

    group: str
    """Empty: the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What an object's ``apiVersion`` says."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the path of the API for one object, or for all of ``namespace`` (None: of the cluster)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        return "/" + "/".join([*parts, self.plural, *(part for part in (name, subresource) if part)])


JOBS = Resource(GROUP, VERSION, "migrationjobs", "MigrationJob")
WORKERS = Resource(GROUP, VERSION, "migrationworkers", "MigrationWorker", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)

#: Selects the jobs that are not over.
OPEN_JOBS = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase in TERMINAL)
_METADATA = ("name", "namespace", "uid", "creationTimestamp", "labels", "annotations")


def worker_lease(node: str) -> str:
    """Return the name of the Lease that the worker of ``node`` keeps alive, in the release's namespace."""
    return f"hyper2kvm-{node}"


def assigned_to(node: str) -> str:
    """Return the field selector of the jobs that the worker of ``node`` has."""
    return f"status.assignedNode={node}"


def job_key(job: Object) -> str:
    """Return ``<namespace>/<name>``: what an API object's job is called within the whole cluster."""
    return f"{job['metadata']['namespace']}/{job['metadata']['name']}"


def phase_of(job: Object) -> Phase:
    """Return the phase of an API object of kind MigrationJob, without reading the rest."""
    return Phase(job.get("status", {}).get("phase", Phase.CREATED.value))


def job_of(found: Object) -> models.MigrationJob:
    """Return the job that an API object holds.

    Raises:
        JobError: (invalid, ``InvalidDocument``) it breaks the protocol, as objects may that were created under an older
            or a weaker definition; or its status does, and then nobody but an administrator can help.
    """
    metadata = {key: found["metadata"][key] for key in _METADATA if key in found["metadata"]}
    document = {"apiVersion": JOBS.api_version, "kind": JOBS.kind, "metadata": metadata, "spec": found.get("spec")}
    try:
        status = status_of(found)
    except p.ValidationError as error:
        raise invalid(
            "InvalidStatus",
            f"The status of job {job_key(found)} cannot be read: {error.errors(include_url=False)[0]['msg']}.",
            "Delete the job, and see who may write its status.",
        ) from None
    try:
        job = models.MigrationJob.model_validate(document)
    except p.ValidationError:
        # Once more, for messages that people understand.
        job = validation.parse_job(document)
    job.status = status
    return job


def status_of(found: Object) -> models.JobStatus:
    """Return the status that an API object holds. Raises pydantic's ValidationError where it is none."""
    return models.JobStatus.model_validate(found.get("status", {}))


def object_of(job: models.MigrationJob) -> Object:
    """Return the API object that creates ``job``; what the API server gives (uid, status …) is left out."""
    document = job.to_document()
    document.pop("status", None)
    for key in ("uid", "creationTimestamp"):
        document["metadata"].pop(key, None)
    return document


def status_patch(before: models.JobStatus, after: models.JobStatus, resource_version: str = "") -> list[Object]:
    """Return the JSON Patch that replaces a job's status, if the one who has the job is still the one of ``before``.

    Args:
        resource_version: where it is given, nothing of the object may have changed since; for writers that do not hold
            the job.
    """
    unchanged: list[Object] = [
        {"op": "test", "path": "/status/epoch", "value": before.epoch},
        {"op": "test", "path": "/status/assignedNode", "value": before.assigned_node},
    ]
    if resource_version:
        # By replacing it, the API server itself compares, and says Conflict.
        unchanged.insert(0, {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version})
    return [*unchanged, {"op": "replace", "path": "/status", "value": after.to_document()}]


def worker_of(found: Object) -> models.WorkerStatus | None:
    """Return what a MigrationWorker's worker told of itself; None: nothing that can be read, yet."""
    try:
        return models.WorkerStatus.model_validate(found.get("status", {}))
    except p.ValidationError:
        return None


def worker_object(node: str) -> Object:
    """Return the MigrationWorker that a node's worker creates, once; all that it tells is in its status."""
    return {"apiVersion": WORKERS.api_version, "kind": WORKERS.kind, "metadata": {"name": node}}


def worker_status_patch(status: models.WorkerStatus) -> list[Object]:
    """Return the JSON Patch that replaces a MigrationWorker's status."""
    document = status.to_document()
    for key in ("apiVersion", "kind"):
        del document[key]
    # "add" replaces as well, and the first time there is nothing to replace.
    return [{"op": "add", "path": "/status", "value": document}]


def spec_patch(fields: c.Mapping[str, t.Any]) -> Object:
    """Return the merge patch that changes mutable fields (camelCase) of a job's spec."""
    return {"spec": dict(fields)}
