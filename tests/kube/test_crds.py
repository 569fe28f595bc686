# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the API server makes of the definitions: good documents are taken, bad ones refused in words for people."""

from __future__ import annotations

import asyncio
import json
import pathlib
import typing as t

import hypothesis
import pydantic
import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api, Changed, Refused
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    WORKERS,
    Object,
    job_of,
    object_of,
    spec_patch,
    status_patch,
    worker_object,
    worker_of,
    worker_status_patch,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import crd, lifecycle, models, schema
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from tests.guests.host import REPOSITORY, BuildError
from tests.kube.api_server import ApiServer
from tests.kube.registrations import registration
from tests.test_worker_protocol import from_schema

EXAMPLES = sorted(path for path in (REPOSITORY / "k8s" / "examples").iterdir())
MAC = "52:54:00:00:00:01"
DISK = {"path": "a"}
ONTO: Object = {"format": "raw", "devices": ["/dev/a"]}


def document(name: str = "web01", **spec: t.Any) -> Object:
    """A job, minimal but for ``spec``."""
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": name},
        "spec": {"source": {"path": "web01.ova"}, **spec},
    }


def guest(**fields: t.Any) -> Object:
    """A job with these fields in ``spec.guest``."""
    return document(guest=fields)


def network(**fields: t.Any) -> Object:
    """A job with these fields in ``spec.guest.network``."""
    return guest(network=fields)


def policy(**rule: t.Any) -> Object:
    """A job whose failure policy is this one rule."""
    return document(failurePolicy={"rules": [rule]})


def tried(server: ApiServer, namespace: str, wanted: Object) -> str:
    """What the API server says to a job; empty where it would take it."""

    async def run() -> str:
        async with Api.connect(server.login()) as api:
            try:
                await api.create(JOBS, wanted, namespace, dry_run=True)
            except Refused as error:
                return error.message
            return ""

    return asyncio.run(run())


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_examples_are_taken(api_server: ApiServer, namespace: str, path: pathlib.Path) -> None:
    wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert tried(api_server, namespace, wanted) == ""


def test_as_many_rules_of_a_failure_policy_are_taken_as_there_may_be(api_server: ApiServer, namespace: str) -> None:
    kinds = ["invalid", "unsupported", "environment", "transient", "internal"]
    rule = {"classes": kinds, "reasons": [f"{'R' * 58}{number}" for number in range(10, 30)], "action": "Ignore"}
    assert tried(api_server, namespace, document(failurePolicy={"rules": [rule] * 20})) == ""


def test_a_disk_for_each_device_is_taken(api_server: ApiServer, namespace: str) -> None:
    assert tried(api_server, namespace, document(target=ONTO | {"devices": ["/dev/a", "/dev/b"]})) == ""


@pytest.mark.parametrize(
    ("wanted", "field", "words"),
    [
        (document("Web-01"), "metadata.name", "lowercase RFC 1123"),
        (document("web01.example"), "", "a job's name must be a DNS label"),
        (document("w" * 64), "", "a job's name must be a DNS label"),
        ({**document(), "spec": {}}, "spec.source", "Required value"),
        (document(operation="move"), "spec.operation", 'supported values: "convert"'),
        (document(source={}), "spec.source", "give either path"),
        (document(source={"path": "a", "disks": [DISK]}), "spec.source", "give either path"),
        (document(source={"path": "a\nb"}), "spec.source.path", "must be a path without control characters"),
        (document(source={"path": "a/../../etc/shadow"}), "spec.source.path", "must stay below the worker's root"),
        (document(source={"path": "a", "digest": "md5:0"}), "spec.source.digest", "must be sha256: and 64"),
        (document(source={"disks": [DISK, DISK]}), "spec.source", "one file cannot be two disks"),
        (document(source={"type": "ova", "disks": [DISK]}), "spec.source", "takes path, not disks"),
        (document(source={"disks": [{"path": "../a"}]}), "spec.source.disks[0].path", "below the worker's root"),
        (document(target={"path": "../etc"}), "spec.target.path", "must stay below the worker's root"),
        (document(target={"format": "raw", "compression": "zstd"}), "spec.target", "needs format qcow2"),
        (document(target={"allocation": "preallocated", "compression": "zlib"}), "spec.target", "exclude each other"),
        (document(target={"devices": ["/dev/a"]}), "spec.target", "devices need format raw"),
        (document(target=ONTO | {"allocation": "preallocated"}), "spec.target", "a device has its room already"),
        (document(target=ONTO | {"devices": ["/dev/a"] * 2}), "spec.target", "one device cannot be two disks"),
        (document(target=ONTO | {"devices": ["/dev/../etc"]}), "spec.target.devices", "below the worker's root"),
        (document(target={"definitions": ["libvirt"] * 2}), "spec.target.definitions[1]", "Duplicate value"),
        (network(macs=[MAC], macMap=[{"source": MAC, "target": MAC}]), "spec.guest.network", "give one of them"),
        (network(macs=[MAC, MAC.upper()]), "spec.guest.network", "two cards of macs with one address"),
        (network(macs=["01:00:5e:00:00:01"]), "spec.guest.network.macs[0]", "must be the MAC address of one card"),
        (network(map=[{"source": "a"}]), "spec.guest.network.map[0]", "it says no place"),
        (network(map=[{"network": "a", "bridge": "b"}]), "spec.guest.network.map[0]", "give network or bridge"),
        (network(map=[{"multus": "a", "pod": True}]), "spec.guest.network.map[0]", "give multus or pod"),
        (network(map=[{"bridge": "a"}, {"bridge": "b"}]), "spec.guest.network", "two entries of map"),
        (guest(sshKeys=[{"user": "root"}]), "spec.guest.sshKeys[0]", "give keys, keysFrom or both"),
        (guest(sshKeys=[{"keys": ["-----BEGIN PRIVATE KEY-----"]}]), "spec.guest.sshKeys[0].keys", "a key is one line"),
        (guest(sshKeys=[{"keys": ["a b"]}] * 2), "spec.guest", "two entries of sshKeys for one user"),
        (guest(fixers={"only": ["a"], "skip": ["a"]}), "spec.guest.fixers", "in only and in skip"),
        (guest(enabled=False, hostname="a"), "spec.guest", "enabled false leaves the guest as it is"),
        (guest(hostname="a", fixers={"skip": ["hostname"]}), "spec.guest", "hostname is done by the fixer hostname"),
        (guest(resetMachineId=True, fixers={"only": ["grub"]}), "spec.guest", "done by the fixer machine-id"),
        (document(requirements={"labels": {"a b": "c"}}), "spec.requirements.labels", "must be a label's key"),
        (document(requirements={"labels": {"a": "b c"}}), "spec.requirements.labels[a]", "must be a label's value"),
        (document(verify={"timeoutSeconds": 9}), "spec.verify.timeoutSeconds", "greater than or equal to 10"),
        (document(operation="rehearse", verify={"rehearse": "never"}), "spec", "rehearse cannot be done"),
        (document(operation="boot-test", verify={"boot": False}), "spec", "boot-test cannot be done"),
        (document(operation="boot-test", guest={"hostname": "a"}), "spec", "boots the guest as it is"),
        (document(operation="fix", guest={"enabled": False}), "spec", "fix cannot be done"),
        (document(operation="fix", source={"type": "vmdk", "path": "a"}), "spec", "keeps the image's format"),
        (policy(action="Retry"), "spec.failurePolicy.rules[0]", "give classes, reasons or both"),
        (policy(classes=["transient"]), "spec.failurePolicy.rules[0].action", "Required value"),
        (policy(classes=["transient"], action="x"), "spec.failurePolicy.rules[0].action", 'values: "FailJob"'),
        (policy(classes=["x"], action="Retry"), "spec.failurePolicy.rules[0].classes[0]", 'values: "invalid"'),
        (policy(classes=["invalid"] * 2, action="Retry"), "spec.failurePolicy.rules[0].classes[1]", "Duplicate value"),
        (policy(reasons=["A b"], action="Retry"), "spec.failurePolicy.rules[0].reasons[0]", "the reason of an error"),
        (policy(reasons=["WorkerLost"], action="Retry"), "spec.failurePolicy.rules[0].reasons", "no policy changes"),
        (
            document(failurePolicy={"rules": [{"classes": ["transient"], "action": "Retry"}] * 21}),
            "spec.failurePolicy.rules",
            "must have at most 20 items",
        ),
        (document(priority=1001), "spec.priority", "less than or equal to 1000"),
    ],
)
def test_bad_documents_are_refused(
    api_server: ApiServer, namespace: str, wanted: Object, field: str, words: str
) -> None:
    said = tried(api_server, namespace, wanted)
    assert words in said
    assert f"{field}: " in said


def test_unknown_fields_are_refused_where_the_writer_asks_for_it(api_server: ApiServer, namespace: str) -> None:
    with pytest.raises(BuildError, match=r'unknown field "spec\.sorce"'):
        api_server.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(document(sorce={})))


def test_model_and_definition_agree(api_server: ApiServer, namespace: str) -> None:
    """What the model takes, the API server takes; what only the model refuses, the operator fails."""
    root = schema.schema_of("migration-job")
    specs = from_schema({"$ref": "#/$defs/JobSpec"}, root)
    left_to_the_operator: set[str] = set()

    @hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(specs)
    def check(spec: Object) -> None:
        wanted = {**document(), "spec": spec}
        said = tried(api_server, namespace, wanted)
        try:
            models.MigrationJob.model_validate(wanted)
        except pydantic.ValidationError as error:
            problems = error.errors(include_url=False)
            assert {problem["type"] for problem in problems} == {"value_error"}
            if not said:
                left_to_the_operator.update(str(problem["loc"][-1]) for problem in problems)
        else:
            assert said == "", spec

    check()
    # Details of a key's text alone.
    assert left_to_the_operator <= {"keys"}


class TestAJobThatExists:
    """What may change of it, and how."""

    @pytest.fixture
    def job(self, api_server: ApiServer, namespace: str) -> tuple[str, str]:
        """Namespace and name."""
        api_server.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(document()))
        return namespace, "web01"

    def test_it_is_new_without_anybodys_doing(self, api_server: ApiServer, job: tuple[str, str]) -> None:
        found = json.loads(api_server.kubectl("-n", job[0], "get", "mj", job[1], "-o", "json"))
        read = job_of(found)
        assert (read.status.phase, read.status.epoch) == (Phase.CREATED, 0)
        # The defaults that the API server filled in are the models'.
        assert read.spec == models.MigrationJob.model_validate(document()).spec
        assert models.MigrationJob.model_validate(object_of(read)).spec == read.spec

    def test_what_is_wanted_is_frozen_but_for_three_fields(self, api_server: ApiServer, job: tuple[str, str]) -> None:
        async def run() -> None:
            async with Api.connect(api_server.login()) as api:
                for change in ({"suspend": True}, {"priority": 5}, {"suspend": False}, {"cancel": True}):
                    await api.patch(JOBS, job[1], spec_patch(change), job[0])
                with pytest.raises(Refused, match="a cancelled job stays cancelled"):
                    await api.patch(JOBS, job[1], spec_patch({"cancel": False}), job[0])
                frozen = {str(field.alias) for field in models.JobSpec.model_fields.values()}
                frozen -= models.MUTABLE_SPEC_FIELDS
                values: Object = {
                    "operation": "inspect",
                    "source": {"path": "b"},
                    "target": {"format": "raw"},
                    "guest": {"hostname": "b"},
                    "verify": {"boot": False},
                    "isolation": "vm",
                    "requirements": {"capabilities": ["nbd"]},
                    "limits": {"bandwidthBytesPerSecond": 65536},
                    "backoffLimit": 3,
                    "failurePolicy": {"rules": [{"classes": ["transient"], "action": "FailJob"}]},
                    "activeDeadlineSeconds": 3,
                    "ttlSecondsAfterFinished": 3,
                }
                assert values.keys() == frozen
                for name, value in values.items():
                    with pytest.raises(Refused, match=f"{name} cannot change once the job exists"):
                        await api.patch(JOBS, job[1], spec_patch({name: value}), job[0])

        asyncio.run(run())

    @pytest.mark.parametrize("phase", list(Phase))
    def test_its_phase_takes_the_tables_steps_alone(
        self, api_server: ApiServer, job: tuple[str, str], phase: Phase
    ) -> None:
        async def run() -> None:
            async with Api.connect(api_server.login()) as api:
                for step in _way_to(phase):
                    await _set_phase(api, job, step)
                allowed = {phase, *crd.successors(phase)}
                for other in Phase:
                    if other in allowed:
                        await _set_phase(api, job, other, dry_run=True)
                        continue
                    with pytest.raises(Refused, match=f"a job cannot go from {phase.value} to {other.value}"):
                        await _set_phase(api, job, other, dry_run=True)

        asyncio.run(run())

    def test_its_epoch_never_falls_and_guards_each_write(self, api_server: ApiServer, job: tuple[str, str]) -> None:
        async def run() -> None:
            async with Api.connect(api_server.login()) as api:
                before = models.JobStatus()
                mine = models.JobStatus(phase=Phase.ASSIGNED, epoch=1, assigned_node="a")
                other = mine.model_copy(update={"epoch": 2, "assigned_node": "b"})

                async def write(old: models.JobStatus, new: models.JobStatus, version: str = "") -> None:
                    patch = status_patch(old, new, version)
                    await api.patch(JOBS, job[1], patch, job[0], subresource="status")

                version = (await api.get(JOBS, job[1], job[0]))["metadata"]["resourceVersion"]
                await write(before, mine, version)
                with pytest.raises(Changed):
                    # As an operator that did not see the first write.
                    await write(mine, other, version)
                await write(mine, other)
                for late in (mine, mine.model_copy(update={"phase": Phase.RUNNING})):
                    with pytest.raises(Changed):
                        await write(mine, late)
                with pytest.raises(Refused, match="a job's epoch never falls"):
                    await write(other, other.model_copy(update={"epoch": 1}))

        asyncio.run(run())

    def test_kubectl_tells_how_it_goes(self, api_server: ApiServer, job: tuple[str, str]) -> None:
        waiting = models.WaitReason(reason="NoWorker", message="no worker is alive; start one", count=0)
        running = models.JobStatus(
            phase=Phase.PROGRESSING,
            stage="copy",
            epoch=1,
            assigned_node="node-7",
            progress=models.Progress(stage="copy", percent=41.7, eta_seconds=93.4),
        )
        failed = models.Condition(
            type="Failed",
            status="True",
            reason="NoSpace",
            message="The disk is full.",
            last_transition_time="2026-11-24T02:07:00Z",
        )
        steps: list[tuple[models.JobStatus, list[str]]] = [
            (models.JobStatus(phase=Phase.QUEUED, waiting=[waiting]), ["QUEUED", "no worker is alive"]),
            (models.JobStatus(phase=Phase.ASSIGNED, epoch=1, assigned_node="node-7"), ["ASSIGNED", "node-7"]),
            (running, ["PROGRESSING", "copy", "41", "93", "node-7"]),
            (models.JobStatus(phase=Phase.FAILED, epoch=1, conditions=[failed]), ["FAILED", "The disk is full."]),
        ]
        for status, words in steps:
            patch = json.dumps([{"op": "replace", "path": "/status", "value": status.to_document()}])
            api_server.kubectl("-n", job[0], "patch", "mj", job[1], "--subresource=status", "--type=json", "-p", patch)
            line = api_server.kubectl("-n", job[0], "get", "mj", job[1], "--no-headers")
            assert [word for word in words if word not in line] == []

    def test_it_is_found_by_node_and_phase(self, api_server: ApiServer, job: tuple[str, str]) -> None:
        async def run() -> None:
            async with Api.connect(api_server.login()) as api:
                await _set_phase(api, job, Phase.ASSIGNED)

                async def count(fields: str) -> int:
                    return len(await api.all(JOBS, job[0], fields=fields))

                assert [await count(f"status.assignedNode={node}") for node in ("a", "b")] == [1, 0]
                assert [await count(f"status.phase{sign}ASSIGNED") for sign in ("=", "!=")] == [1, 0]

        asyncio.run(run())


def test_a_worker_is_what_it_tells(api_server: ApiServer) -> None:
    async def run() -> None:
        async with Api.connect(api_server.login()) as api:
            made = await api.create(WORKERS, worker_object("crd-node"))
            assert worker_of(made) is None
            told = registration("crd-node", 3, labels={"rack": "r1"}, running=["ns/web01"], output_shared=True)
            found = await api.patch(WORKERS, "crd-node", worker_status_patch(told), subresource="status")
            assert worker_of(found) == told
            bad = told.model_copy(update={"slots": 0})
            with pytest.raises(Refused, match=r"status\.slots"):
                await api.patch(WORKERS, "crd-node", worker_status_patch(bad), subresource="status")
            await api.delete(WORKERS, "crd-node")

    asyncio.run(run())


def _way_to(phase: Phase) -> list[Phase]:
    """The shortest way to ``phase`` by single steps of the table, CREATED left out."""
    ways: dict[Phase, list[Phase]] = {Phase.CREATED: []}
    while phase not in ways:
        for step in lifecycle.TRANSITIONS:
            if step.source in ways:
                ways.setdefault(step.target, [*ways[step.source], step.target])
    return ways[phase]


async def _set_phase(api: Api, job: tuple[str, str], phase: Phase, *, dry_run: bool = False) -> None:
    patch = {"status": {"phase": phase.value, "assignedNode": "a"}}
    await api.patch(JOBS, job[1], patch, job[0], subresource="status", dry_run=dry_run)
