# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Matching and order, as properties over arbitrary jobs and workers."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.scheduling import order
from ansible_collections.hyper2kvm.core.plugins.module_utils.scheduling.matching import (
    Demand,
    Offer,
    explain,
    first_unmet,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.backends.samples import BASICS, job, worker

NAMES = st.sampled_from(["qemu-img", "root", "attach", "boot-test", "kvm", "fs-xfs"])
LABELS = st.dictionaries(st.sampled_from(["site", "rack"]), st.sampled_from(["a", "b"]))
OPERATIONS = st.sampled_from(list(models.Operation))
JOBS = st.builds(
    lambda operation, capabilities, wanted, labels, boot: job(
        operation=operation,
        labels=labels,
        requirements=models.Requirements(capabilities=capabilities, labels=wanted),
        verify=models.VerifySpec(boot=boot or operation is models.Operation.BOOT_TEST),
    ),
    OPERATIONS,
    st.lists(NAMES, unique=True, max_size=3),
    LABELS,
    LABELS,
    st.booleans(),
)
OFFERS = st.builds(
    lambda capabilities, labels, operations, accepted, slots, running: Offer(
        worker(
            capabilities=capabilities,
            labels=labels,
            slots=slots,
            accepts=models.Acceptance(operations=operations, labels=accepted),
        ),
        running,
    ),
    st.lists(NAMES, unique=True),
    LABELS,
    st.lists(OPERATIONS, unique=True),
    LABELS,
    st.integers(1, 3),
    st.integers(0, 3),
)


def _fits(of: models.MigrationJob, offer: Offer) -> bool:
    """Say the same as first_unmet in the plainest words."""
    wanted, has = of.spec.requirements, offer.worker
    boots = of.spec.operation in (models.Operation.REHEARSE, models.Operation.BOOT_TEST) or (
        of.spec.operation in (models.Operation.CONVERT, models.Operation.FIX) and of.spec.verify.boot
    )
    needs = {"qemu-img", "root", "attach", *wanted.capabilities} | ({"boot-test"} if boots else set())
    return (
        of.spec.operation in has.accepts.operations
        and has.accepts.labels.items() <= of.metadata.labels.items()
        and wanted.labels.items() <= has.labels.items()
        and needs <= {name for name, one in has.capabilities.items() if one.available}
        and offer.running < has.slots
    )


@given(JOBS, OFFERS)
def test_match_says_no_exactly_where_something_is_unmet(of: models.MigrationJob, offer: Offer) -> None:
    assert (first_unmet(Demand.of(of), offer) is None) == _fits(of, offer)


@pytest.mark.parametrize("operation", models.Operation)
def test_a_target_on_a_device_takes_a_worker_that_may_write_some(operation: models.Operation) -> None:
    target = models.TargetSpec(format=models.TargetFormat.RAW, devices=["/dev/vg0/web01"])
    demand = Demand.of(job(operation=operation, target=target))
    writes = operation in (models.Operation.CONVERT, models.Operation.FIX)
    unmet = first_unmet(demand, Offer(worker(), 0))
    assert (unmet is None) != writes
    assert unmet is None or (unmet.reason, "target-device (writes targets onto" in unmet.message) == (
        "CapabilityMissing",
        True,
    )
    may = worker(capabilities=[*worker().capabilities, "target-device"])
    assert first_unmet(demand, Offer(may, 0)) is None


@given(JOBS, OFFERS)
def test_a_slot_is_asked_for_last(of: models.MigrationJob, offer: Offer) -> None:
    busy = dataclasses.replace(offer, running=offer.worker.slots)
    unmet = first_unmet(Demand.of(of), busy)
    assert unmet is not None
    idle = first_unmet(Demand.of(of), dataclasses.replace(offer, running=0))
    assert unmet == idle or (idle is None and unmet.reason == "NoFreeSlot")


@given(JOBS, st.lists(OFFERS, max_size=6))
def test_an_explanation_counts_every_worker_once(of: models.MigrationJob, offers: list[Offer]) -> None:
    reasons = explain(Demand.of(of), offers)
    if any(_fits(of, offer) for offer in offers):
        assert reasons == []
    elif not offers:
        assert [reason.reason for reason in reasons] == ["NoWorker"]
    else:
        assert sum(reason.count for reason in reasons) == len(offers)
        assert all(1 <= len(reason.examples) <= 3 for reason in reasons)
        counts = [reason.count for reason in reasons]
        assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("offer", "reason", "words"),
    [
        (worker(capabilities=["qemu-img", "root"]), "CapabilityMissing", "does not know the capability attach"),
        (
            worker(
                capabilities=[],
                accepts=models.Acceptance(operations=[models.Operation.CONVERT]),
            ),
            "OperationNotAccepted",
            "takes no inspect jobs, only convert",
        ),
        (worker(accepts=models.Acceptance(labels={"site": "b"})), "JobLabelMissing", "site=b"),
    ],
)
def test_the_first_unmet_requirement_is_told_in_words(
    offer: models.WorkerRegistration, reason: str, words: str
) -> None:
    unmet = first_unmet(Demand.of(job()), Offer(offer, 0))
    assert unmet is not None
    assert unmet.reason == reason
    assert words in unmet.message


@pytest.mark.parametrize(
    ("spoken", "fits"), [("1.0", False), ("1.1", False), ("1.2", True), ("1.10", True), ("2.2", False)]
)
def test_no_worker_is_given_fields_that_its_protocol_lacks(
    monkeypatch: pytest.MonkeyPatch, spoken: str, fits: bool
) -> None:
    monkeypatch.setitem(validation.FIELDS_SINCE, "spec.source.disks[].digest", "1.1")
    monkeypatch.setitem(validation.FIELDS_SINCE, "spec.limits.bandwidthBytesPerSecond", "1.2")
    old = Offer(worker(protocol_version=spoken), 0)
    plain = explain(Demand.of(job()), [old])
    assert [reason.reason for reason in plain] == ([] if spoken[0] == "1" else ["ProtocolVersion"])
    new = job(limits=models.Limits(bandwidth_bytes_per_second=65536))
    reasons = explain(Demand.of(new), [old])
    assert [reason.reason for reason in reasons] == ([] if fits else ["ProtocolVersion"])
    assert fits or f"speaks version {spoken} of the protocol, and the job takes 1.2" in reasons[0].message


def test_fields_of_a_list_count_for_the_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(validation.FIELDS_SINCE, "spec.source.disks[].digest", "1.1")
    for disk, version in (({"path": "a"}, "1.0"), ({"path": "a", "digest": "sha256:" + "0" * 64}, "1.1")):
        source = models.SourceSpec.model_validate({"disks": [disk]})
        assert validation.protocol_version(models.JobSpec(source=source)) == version


def test_a_failed_probe_is_told_with_its_detail() -> None:
    capabilities = worker().capabilities | {"attach": models.Capability(available=False, detail="no FUSE here")}
    unmet = first_unmet(Demand.of(job()), Offer(worker().model_copy(update={"capabilities": capabilities}), 0))
    assert unmet is not None
    assert "no FUSE here" in unmet.message


def test_isolation_by_a_machine_takes_a_worker_that_has_one() -> None:
    wanted = Demand.of(job(isolation=models.Isolation.VM))
    assert first_unmet(Demand.of(job()), Offer(worker(), 0)) is None
    unmet = first_unmet(wanted, Offer(worker(), 0))
    assert unmet is not None and "microvm" in unmet.message
    assert first_unmet(wanted, Offer(worker(capabilities=(*BASICS, "microvm")), 0)) is None


@pytest.mark.parametrize("operation", [models.Operation.CONVERT, models.Operation.FIX])
@pytest.mark.parametrize(
    ("verify", "boots"),
    [
        ({"boot": True}, True),
        ({"boot": False}, False),
        ({"boot": False, "rehearse": models.RehearsePolicy.ALWAYS}, True),
    ],
)
def test_who_boots_needs_a_worker_that_can(operation: models.Operation, verify: dict[str, object], boots: bool) -> None:
    demand = Demand.of(job(operation=operation, verify=models.VerifySpec.model_validate(verify)))
    assert ("boot-test" in demand.capabilities) == boots


@dataclasses.dataclass(frozen=True)
class Waiting:
    priority: int
    number: int


@given(st.lists(st.builds(Waiting, st.integers(-3, 3), st.integers(1, 50)), unique_by=lambda one: one.number))
def test_order_is_by_priority_then_age(jobs: list[Waiting]) -> None:
    ordered = order.in_order(jobs)
    assert sorted(ordered, key=id) == sorted(jobs, key=id)
    for first, second in itertools.pairwise(ordered):
        assert first.priority > second.priority or (first.priority == second.priority and first.number < second.number)
