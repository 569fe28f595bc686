# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who can run what: a two-sided match of jobs and workers, which explains itself. Pure.

A job demands capabilities and labels of a worker; a worker accepts some operations and jobs, and has slots. What an
operation needs implicitly (a conversion cannot do without ``qemu-img``) is stated here and nowhere else.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses

from ..protocol import models, status
from ..protocol.validation import protocol_version, version_parts

#: What every operation needs: it reads images and looks into the guest's filesystems.
ALWAYS_NEEDED = ("qemu-img", "root", "attach")
_BOOT_TEST = "boot-test"
#: What a worker has that may write onto block devices, whichever these are.
TARGET_DEVICE = "target-device"
#: What a job needs that wants no guest's filesystem in the worker's kernel.
MICROVM = "microvm"
#: What a guest turns out to need that has volumes.
VOLUMES = "guest-volumes"
#: What a capability is for, and what to do where it is missing; shown to people.
_MEANING = {
    "qemu-img": "reads and writes disk images",
    "root": "attaches disks and mounts a guest's filesystems",
    "attach": "makes an image's partitions visible (kernel NBD, or a FUSE export and loop devices)",
    "boot-test": "boots guests to prove them",
    MICROVM: "looks into guests in a machine of its own",
    VOLUMES: "opens a guest's LVM, LUKS and RAID, by its kernel or in a micro-VM",
    TARGET_DEVICE: "writes targets onto block devices",
}


@dataclasses.dataclass(frozen=True)
class Demand:
    """A job's side of the match, small enough to be kept beside a thousand waiting jobs."""

    operation: str
    capabilities: tuple[str, ...]
    """Explicit and implicit ones, each once; the order in which they are checked."""
    labels: tuple[tuple[str, str], ...]
    """Labels that the worker must have."""
    job_labels: tuple[tuple[str, str], ...]
    """The job's own labels, which a worker may ask for."""
    protocol: str
    """The oldest version of the protocol that has every field that the job makes use of."""

    @classmethod
    def of(cls, job: models.MigrationJob) -> Demand:
        """Return what ``job`` demands of a worker."""
        spec = job.spec
        needs = [*ALWAYS_NEEDED, *spec.requirements.capabilities, *status.needs(job.status)]
        if spec.isolation is models.Isolation.VM:
            needs.insert(len(ALWAYS_NEEDED), MICROVM)
        if _boots(spec):
            needs.insert(len(ALWAYS_NEEDED), _BOOT_TEST)
        if spec.target.devices and spec.operation in models.WRITES_TARGET:
            needs.insert(len(ALWAYS_NEEDED), TARGET_DEVICE)
        return cls(
            operation=spec.operation.value,
            capabilities=tuple(dict.fromkeys(needs)),
            labels=tuple(sorted(spec.requirements.labels.items())),
            job_labels=tuple(sorted(job.metadata.labels.items())),
            protocol=protocol_version(spec),
        )


def _boots(spec: models.JobSpec) -> bool:
    if spec.operation in (models.Operation.REHEARSE, models.Operation.BOOT_TEST):
        return True
    if spec.operation in (models.Operation.CONVERT, models.Operation.FIX):
        return spec.verify.boot or spec.verify.rehearse is models.RehearsePolicy.ALWAYS
    return False


@dataclasses.dataclass(frozen=True)
class Offer:
    """A worker's side of the match."""

    worker: models.WorkerRegistration
    running: int
    """Slots in use."""
    closed: Unmet | None = None
    """Why it takes no job at all for the time being; None: it does."""


@dataclasses.dataclass(frozen=True)
class Unmet:
    """The first requirement that a worker does not meet: a CamelCase reason, a sentence without the worker's name."""

    reason: str
    message: str


def first_unmet(demand: Demand, offer: Offer) -> Unmet | None:
    """Return why the worker cannot take the job now, or None if it can.

    What never changes comes before what may (a free slot), so that nobody waits for a slot that would not help.
    """
    worker = offer.worker
    if not _understands(worker.protocol_version, demand.protocol):
        return Unmet(
            "ProtocolVersion",
            f"speaks version {worker.protocol_version} of the protocol, and the job takes {demand.protocol}",
        )
    accepted = [operation.value for operation in worker.accepts.operations]
    if demand.operation not in accepted:
        return Unmet("OperationNotAccepted", f"takes no {demand.operation} jobs, only {', '.join(accepted) or 'none'}")
    job_labels = dict(demand.job_labels)
    for key, value in sorted(worker.accepts.labels.items()):
        if job_labels.get(key) != value:
            return Unmet("JobLabelMissing", f"takes only jobs labelled {key}={value}")
    for key, value in demand.labels:
        if worker.labels.get(key) != value:
            return Unmet("WorkerLabelMissing", f"is not labelled {key}={value}")
    for name in demand.capabilities:
        capability = worker.capabilities.get(name)
        if capability is None or not capability.available:
            return Unmet("CapabilityMissing", _missing(name, capability))
    if offer.closed is not None:
        return offer.closed
    if offer.running >= worker.slots:
        return Unmet("NoFreeSlot", f"has all {worker.slots} slots in use")
    return None


def _understands(spoken: str, needed: str) -> bool:
    """Whether a worker that speaks one version understands jobs of another: minor versions only add."""
    (major, minor), (needed_major, needed_minor) = version_parts(spoken), version_parts(needed)
    return major == needed_major and minor >= needed_minor


def _missing(name: str, capability: models.Capability | None) -> str:
    what = f" ({_MEANING[name]})" if name in _MEANING else ""
    if capability is None:
        return f"does not know the capability {name}{what}"
    return f"lacks {name}{what}: {capability.detail or 'its probe failed'}"


def explain(demand: Demand, offers: c.Iterable[Offer]) -> list[models.WaitReason]:
    """Return why no worker takes the job: reasons with how many workers share each, the commonest first.

    The list is empty where a worker could take it now, and holds one entry ``NoWorker`` where there is no worker.
    """
    groups: dict[Unmet, list[str]] = {}
    seen = False
    for offer in offers:
        seen = True
        unmet = first_unmet(demand, offer)
        if unmet is None:
            return []
        groups.setdefault(unmet, []).append(offer.worker.name)
    if not seen:
        return [models.WaitReason(reason="NoWorker", message="no worker is alive; start one", count=0)]
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].reason, item[0].message))
    return [
        models.WaitReason(reason=unmet.reason, message=unmet.message, count=len(names), examples=sorted(names)[:3])
        for unmet, names in ordered
    ]
