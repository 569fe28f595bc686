# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Worker Job Protocol v1 from end to end: documents, schemas, examples, lifecycle, status, events.

Runs on its own: ``pytest tests/test_worker_protocol.py -v``.
"""

from __future__ import annotations

import copy
import datetime
import functools
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import typing as t

import hypothesis
import hypothesis.stateful
import jsonschema
import pydantic
import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import (
    errors,
    fields,
    lifecycle,
    models,
    reference,
    schema,
    status,
    validation,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, IllegalTransition, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parents[1]
NOW = datetime.datetime(2026, 11, 24, 2, 7, tzinfo=datetime.timezone.utc)
MAC = "52:54:00:00:00:01"
QUICK = hypothesis.settings(
    deadline=None, max_examples=40, suppress_health_check=[hypothesis.HealthCheck.too_slow], derandomize=True
)


def job(**spec: t.Any) -> dict[str, t.Any]:
    """Return the document of a job, minimal but for ``spec``."""
    return {"metadata": {"name": "web01-convert"}, "spec": {"source": {"path": "web01.ova"}, **spec}}


def validator(name: str, part: str = "") -> jsonschema.Draft202012Validator:
    """Return a validator of the *committed* schema ``name``, or of one of its definitions."""
    document = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(
        {"$defs": document["$defs"], "$ref": f"#/$defs/{part}"} if part else document
    )


JOB_SCHEMA = validator("migration-job")


class TestReadingJobs:
    """Text and data to a checked job."""

    def test_a_minimal_job_gets_the_defaults(self) -> None:
        spec = validation.parse_job(job()).spec
        assert spec.operation is models.Operation.CONVERT
        assert spec.target.format is models.TargetFormat.QCOW2
        assert spec.target.definitions == [models.Definition.LIBVIRT, models.Definition.KUBEVIRT]
        assert (spec.verify.boot, spec.verify.timeout_seconds, spec.backoff_limit) == (True, 600, 2)

    def test_json_yaml_and_data_give_the_same_job(self) -> None:
        document = job(verify={"timeoutSeconds": 900}, priority=-3)
        expected = validation.parse_job(document)
        assert validation.parse_job(json.dumps(document)) == expected
        assert validation.parse_job(json.dumps(document).encode()) == expected
        assert validation.parse_job(yaml.safe_dump(document)) == expected

    def test_snake_case_and_camel_case_are_the_same(self) -> None:
        camel = job(guest={"sshKeys": [{"keysFrom": {"name": "a", "key": "b"}}]}, ttlSecondsAfterFinished=5)
        snake = job(guest={"ssh_keys": [{"keys_from": {"name": "a", "key": "b"}}]}, ttl_seconds_after_finished=5)
        assert validation.parse_job(camel) == validation.parse_job(snake)
        assert validation.snake_to_document(snake) == camel

    def test_options_that_are_none_are_left_out_and_labels_keep_their_keys(self) -> None:
        options = {
            "metadata": {"name": "a", "labels": {"my_key": "v"}},
            "spec": {"source": {"path": "x", "digest": None}},
        }
        document = validation.snake_to_document(options)
        assert document == {"metadata": {"name": "a", "labels": {"my_key": "v"}}, "spec": {"source": {"path": "x"}}}

    def test_yaml_is_read_by_the_core_schema(self) -> None:
        text = """
            metadata: {name: no, annotations: {since: 2026-11-24, octal: "010"}}
            spec:
              source: {path: x}
              guest: {network: {macMap: [{source: 52:54:00:12:34:56, target: 52:54:00:AB:CD:EF}]}}
        """
        parsed = validation.parse_job(text)
        assert parsed.metadata.name == "no"
        assert parsed.metadata.annotations["since"] == "2026-11-24"
        assert parsed.spec.guest.network.mac_map[0].target == "52:54:00:ab:cd:ef"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "a job document is a mapping, not empty"),
            ("[]", "a job document is a mapping, not a list"),
            ('{"a": 1, "a": 2}', "the key 'a' comes twice"),
            ("a: 1\na: 2", "the key 'a' comes twice (line 2, column 1)"),
            ("a: &x 1\nb: *x", "anchors and aliases are refused (line 1, column 4)"),
            ("a: !!python/object/apply:os.system [id]", "tags are refused"),
            ("1: a", "a key that is no text"),
            ('{"a": NaN}', "NaN is no JSON"),
            ("{", "can be read neither as JSON nor as YAML"),
            ("a: [", "can be read neither as JSON nor as YAML"),
            ("[" * 100_000, "it is nested too deeply"),
            ("a: " + "[" * 100_000, "it is nested too deeply"),
            (b"\xff\xfe", "it is not UTF-8 text"),
            ("#" * (validation.MAX_DOCUMENT_BYTES + 1), "it is longer than 1048576 bytes"),
        ],
    )
    def test_text_that_is_no_document_is_refused(self, text: str | bytes, words: str) -> None:
        with pytest.raises(errors.JobError) as caught:
            validation.parse_job(text)
        assert caught.value.reason == "InvalidDocument"
        assert caught.value.error_class is errors.ErrorClass.INVALID
        assert words in caught.value.message

    @pytest.mark.parametrize(
        ("change", "field", "words"),
        [
            ({"spec": {}}, "spec.source", "is missing"),
            ({"metadata": None}, "metadata", "must be a mapping, not null"),
            ({"apiVersion": "hyper2kvm.io/v2"}, "apiVersion", "must be 'hyper2kvm.io/v1', not 'hyper2kvm.io/v2'"),
            ({"metadata": {"name": "Web 01"}}, "metadata.name", "must be a DNS label"),
            (job(sorce={}), "spec.sorce", "unknown field; is source meant?"),
            (job(target={"fromat": "raw"}), "spec.target.fromat", "unknown field; is format meant?"),
            (job(target={"format": "vhd"}), "spec.target.format", "must be 'qcow2' or 'raw', not 'vhd'"),
            (job(target={"path": "a/../../etc"}), "spec.target", "'..'"),
            (job(target={"format": "raw", "compression": "zstd"}), "spec.target", "compression needs format qcow2"),
            (job(target={"devices": ["/dev/a"]}), "spec.target", "devices need format raw"),
            (
                job(target={"format": "raw", "devices": ["/dev/a"], "allocation": "preallocated"}),
                "spec.target",
                "devices and allocation preallocated exclude each other",
            ),
            (
                job(target={"format": "raw", "devices": ["/dev/a", "/dev/a"]}),
                "spec.target",
                "named twice in devices: /dev/a",
            ),
            (job(target={"format": "raw", "devices": ["/dev/vg/../sda"]}), "spec.target", "'..'"),
            (job(target={"format": "raw", "devices": ["vg0/a"]}), "spec.target.devices[0]", "absolute path"),
            (
                job(verify={"timeoutSeconds": "soon"}),
                "spec.verify.timeoutSeconds",
                "must be a whole number, not 'soon'",
            ),
            (job(verify={"timeoutSeconds": 9}), "spec.verify.timeoutSeconds", "greater than or equal to 10"),
            (job(verify={"boot": "maybe"}), "spec.verify.boot", "must be true or false, not 'maybe'"),
            (
                job(verify={"timeout_seconds": 10, "timeoutSeconds": 10}),
                "spec.verify.timeout_seconds",
                "is given twice, as timeout_seconds and as timeoutSeconds",
            ),
            (job(source={"disks": [{"path": "a"}, {}]}), "spec.source.disks[1].path", "is missing"),
            (job(source={"disks": [{"path": "a"}] * 2}), "spec.source", "one file cannot be two disks: a"),
            (job(source={"path": "a", "disks": [{"path": "b"}]}), "spec.source", "give either path"),
            (job(source={"path": "a\nb"}), "spec.source.path", "without control characters"),
            (
                job(guest={"network": {"macs": ["52:54:00:00:00:01", "52:54:00:00:00:01"]}}),
                "spec.guest.network",
                "two cards of macs with the address 52:54:00:00:00:01",
            ),
            (
                job(
                    guest={
                        "network": {
                            "macMap": [{"source": "52:54:00:00:00:0" + c, "target": "52:54:00:00:00:0a"} for c in "12"]
                        }
                    }
                ),
                "spec.guest.network",
                "two cards of macMap with the address",
            ),
            (
                job(guest={"network": {"macs": [MAC], "macMap": [{"source": MAC, "target": MAC}]}}),
                "spec.guest.network",
                "give one of them",
            ),
            *(
                (job(guest={"network": {"map": [entry]}}), "spec.guest.network.map[0]", words)
                for entry, words in (
                    ({"source": "a", "network": "b", "bridge": "c"}, "give network or bridge"),
                    ({"source": "a", "multus": "b", "pod": True}, "give multus or pod"),
                    ({"source": "a"}, "it says no place"),
                )
            ),
            (
                job(guest={"network": {"map": [{"bridge": "br0"}, {"bridge": "br1"}]}}),
                "spec.guest.network",
                "two entries of map for the network (all others)",
            ),
            (
                job(guest={"network": {"map": [{"bridge": "br0;reboot"}]}}),
                "spec.guest.network.map[0].bridge",
                "must be a bridge's name",
            ),
            (job(guest={"network": {"macs": [190_000]}}), "spec.guest.network.macs[0]", "must be in quotes"),
            (job(guest={"network": {"macs": ["01:00:5e:00:00:01"]}}), "spec.guest.network.macs[0]", "of one card"),
            (
                job(guest={"fixers": {"only": ["a"], "skip": ["a"]}}),
                "spec.guest.fixers",
                "named in only and in skip: a",
            ),
            (job(guest={"fixers": {"only": ["a", "a"]}}), "spec.guest.fixers", "named twice in only: a"),
            (job(guest={"enabled": False, "hostname": "a"}), "spec.guest", "cannot be done: hostname"),
            (
                job(guest={"enabled": False, "network": {"pinNames": True}}),
                "spec.guest",
                "cannot be done: network.pinNames",
            ),
            (
                job(operation="boot-test", guest={"network": {"pinNames": True}}),
                "spec",
                "may not ask for network.pinNames",
            ),
            *(
                (
                    job(guest={**wish, "fixers": choice}),
                    "spec.guest",
                    f"{field} is done by the fixer {fixer}, but {how} {fixer}",
                )
                for field, fixer, wish in (
                    ("hostname", "hostname", {"hostname": "a"}),
                    ("timezone", "timezone", {"timezone": "UTC"}),
                    ("sshKeys", "ssh-keys", {"sshKeys": [{"keys": ["ssh-rsa A"]}]}),
                    ("resetMachineId", "machine-id", {"resetMachineId": True}),
                    ("resetSshHostKeys", "ssh-host-keys", {"resetSshHostKeys": True}),
                    ("users", "users", {"users": [{"name": "ops"}]}),
                    ("files", "files", {"files": [{"path": "/etc/motd", "content": "x"}]}),
                    ("firstboot", "firstboot", {"firstboot": [{"name": "a", "script": "true"}]}),
                    ("agent", "guest-agent", {"agent": "install"}),
                    ("network.pinNames", "interface-names", {"network": {"pinNames": True}}),
                )
                for how, choice in (("fixers.skip names", {"skip": [fixer]}), ("fixers.only lacks", {"only": ["grub"]}))
            ),
            (job(guest={"sshKeys": [{"user": "root"}]}), "spec.guest.sshKeys[0]", "give keys, keysFrom or both"),
            (
                job(guest={"files": [{"path": "/etc/motd"}]}),
                "spec.guest.files[0]",
                "give either content or contentFrom",
            ),
            (job(guest={"files": [{"path": "etc", "content": ""}]}), "spec.guest.files[0].path", "absolute path"),
            (job(guest={"files": [{"path": "/a/../b", "content": ""}]}), "spec.guest.files[0]", "may not hold '..'"),
            (job(guest={"firstboot": [{"name": "a"}]}), "spec.guest.firstboot[0]", "give either script or scriptFrom"),
            (job(guest={"users": [{"name": "a"}, {"name": "a"}]}), "spec.guest", "two entries of users for a"),
            (job(guest={"selinuxExclude": ["/srv"]}), "spec.guest", "goes with selinuxRelabel boot"),
            (job(guest={"enabled": False, "selinuxRelabel": "boot"}), "spec.guest", "cannot be done: selinuxRelabel"),
            (job(requirements={"labels": {"rack": 7}}), "spec.requirements.labels.rack", "must be text, not 7"),
            (job(operation="rehearse", verify={"rehearse": "never"}), "spec", "rehearse cannot be done"),
            (job(operation="boot-test", verify={"boot": False}), "spec", "boot-test cannot be done"),
            (job(operation="boot-test", guest={"hostname": "a"}), "spec", "may not ask for hostname"),
            (job(operation="fix", source={"type": "vmdk", "path": "a"}), "spec", "fix keeps the image's format"),
        ],
    )
    def test_each_problem_is_told_with_its_field(self, change: dict[str, t.Any], field: str, words: str) -> None:
        problems = validation.find_problems({**job(), **change})
        assert [problem.field for problem in problems] == [field]
        assert words in problems[0].message

    @pytest.mark.parametrize(
        "guest",
        [
            {"fixers": {"skip": ["interface-names", "hostname"]}},
            {"fixers": {"only": ["grub"]}, "network": {"pinNames": False, "macs": [MAC]}},
            {"fixers": {"only": ["ssh-keys"]}, "sshKeys": [{"keys": ["ssh-rsa A"]}]},
            {"enabled": False, "network": {"macs": [MAC]}},
        ],
    )
    def test_fixers_that_nothing_asks_for_may_be_left_out(self, guest: dict[str, t.Any]) -> None:
        wanted = validation.parse_job(job(guest=guest))
        # A store gives back every field, and that must say no more than what was written.
        assert validation.parse_job(wanted.to_document()) == wanted

    def test_all_problems_are_told_at_once_and_found_by_programs(self) -> None:
        with pytest.raises(errors.JobError) as caught:
            validation.parse_job({"metadata": {"name": "A"}, "spec": {"source": {"path": 1}, "verify": {"boot": []}}})
        assert caught.value.message.count(";") == 2
        assert caught.value.suggestion
        assert {problem["field"] for problem in caught.value.details["problems"]} == {
            "metadata.name",
            "spec.source.path",
            "spec.verify.boot",
        }

    def test_what_is_quoted_is_short_and_harmless_and_no_secret(self) -> None:
        message = str(validation.find_problems(job(target={"format": "\x1b[2J" + "x" * 500}))[0])
        assert "\x1b" not in message and len(message) < 150
        secret = job(
            guest={"sshKeys": [{"keysFrom": {"name": "Hunter2 Hunter2", "key": "Hunter2/"}}], "passwrd": "Hunter2"}
        )
        assert "Hunter2" not in str(validation.find_problems(secret))

    def test_a_thousand_problems_make_no_endless_message(self) -> None:
        with pytest.raises(errors.JobError) as caught:
            validation.parse_job(job(**{f"unknown{number}": 1 for number in range(1000)}))
        assert "and 980 more" in caught.value.message

    def test_unknown_fields_of_reports_are_skipped(self) -> None:
        document = {**job(), "status": {"phase": "QUEUED", "invented": {"later": True}}}
        assert validation.parse_job(document).status.phase is Phase.QUEUED
        JOB_SCHEMA.validate(document)


class TestComparingJobs:
    """Digest and differing fields."""

    def test_equal_wishes_have_equal_digests_however_written(self) -> None:
        plain = validation.parse_job(job()).spec
        explicit = validation.parse_job(plain_document := {**job(), "spec": plain.to_document()}).spec
        assert plain_document["spec"]["verify"]["boot"] is True
        assert validation.spec_digest(plain) == validation.spec_digest(explicit)
        assert validation.differing_fields(plain, explicit) == []

    def test_what_may_change_is_not_compared(self) -> None:
        one = validation.parse_job(job()).spec
        other = validation.parse_job(job(priority=5, suspend=True, cancel=True, target={"force": True})).spec
        assert validation.differing_fields(one, other) == []
        assert validation.spec_digest(one) == validation.spec_digest(other)

    def test_differing_fields_are_named_by_their_paths(self) -> None:
        one = validation.parse_job(job(source={"disks": [{"path": "a"}, {"path": "b"}]}, backoffLimit=1)).spec
        other = validation.parse_job(
            job(source={"disks": [{"path": "a"}, {"path": "c"}]}, requirements={"labels": {"rack": "7"}})
        ).spec
        assert validation.differing_fields(one, other) == [
            "spec.backoffLimit",
            "spec.requirements.labels.rack",
            "spec.source.disks[1].path",
        ]
        assert validation.spec_digest(one) != validation.spec_digest(other)

    def test_the_digest_is_pinned(self) -> None:
        # One that changes with a version would make every published target look outdated.
        spec = validation.parse_job(job(guest={"network": {"pinNames": False}}, limits={})).spec
        canonical = b'{"guest":{"network":{"pinNames":false}},"source":{"path":"web01.ova"}}'
        assert validation.spec_digest(spec) == f"sha256:{hashlib.sha256(canonical).hexdigest()}"


def examples() -> list[tuple[str, dict[str, t.Any]]]:
    """Return each document in ``k8s/examples`` and in code blocks of the documentation, with where it is."""
    found = [
        (str(path.relative_to(ROOT)), yaml.safe_load(path.read_text()))
        for path in sorted((ROOT / "k8s" / "examples").iterdir())
        if path.suffix in (".json", ".yaml")
    ]
    for path in sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("k8s/**/*.md"), *ROOT.glob("README.md")]):
        for match in re.finditer(r"```(?:json|yaml)\n(.*?)```", path.read_text(), re.DOTALL):
            document = yaml.safe_load(match[1])
            if isinstance(document, dict):
                found.append(
                    (f"{path.relative_to(ROOT)}:{path.read_text()[: match.start()].count(chr(10)) + 1}", document)
                )
    return [(place, document) for place, document in found if schema_for(document)]


def schema_for(document: dict[str, t.Any]) -> jsonschema.Draft202012Validator | None:
    """Return the validator for a document of the protocol; None for anything else."""
    if "specversion" in document:
        return validator("event")
    if document.keys() >= {"class", "reason", "message"}:
        return validator("migration-job", "ErrorDocument")
    kinds = {"MigrationWorker": "worker-registration", "MigrationResult": "result", "MigrationJob": "migration-job"}
    if document.get("apiVersion", models.API_VERSION) == models.API_VERSION and {"metadata", "spec"} <= document.keys():
        return JOB_SCHEMA
    return validator(kinds[document["kind"]]) if document.get("kind") in kinds else None


class TestExamples:
    """Every document that is shown to somebody."""

    @pytest.mark.parametrize(("place", "document"), examples(), ids=[place for place, dummy in examples()])
    def test_is_valid(self, place: str, document: dict[str, t.Any]) -> None:
        checker = schema_for(document)
        assert checker is not None
        if checker is JOB_SCHEMA:
            assert validation.find_problems(document) == []
            if place.startswith("k8s/"):
                assert document["apiVersion"] == models.API_VERSION and document["kind"] == "MigrationJob"
            document = validation.snake_to_document(document)
        checker.validate(document)

    def test_there_is_one_for_each_operation_and_one_of_several_disks(self) -> None:
        jobs = [validation.parse_job(document) for dummy, document in examples() if "spec" in document]
        assert {one.spec.operation for one in jobs} == set(models.Operation)
        assert any(len(one.spec.source.disks) > 1 for one in jobs)


class TestGeneratedFiles:
    """``make schemas`` was run."""

    def test_schemas_and_tables_are_up_to_date(self) -> None:
        stale = [
            str(path.relative_to(ROOT))
            for path, text in schema.generated_files(ROOT).items()
            if not path.exists() or path.read_text() != text
        ]
        assert not stale, f"run `make schemas`, and commit {', '.join(stale)}"

    @pytest.mark.parametrize("name", schema.DOCUMENTS)
    def test_schemas_are_schemas_and_describe_every_field(self, name: str) -> None:
        document = json.loads((ROOT / "schemas" / f"{name}.json").read_text())
        jsonschema.Draft202012Validator.check_schema(document)
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        for part in [document, *document.get("$defs", {}).values()]:
            assert part["description"]
            for field, prop in part.get("properties", {}).items():
                assert prop["description"], field

    def test_every_value_of_an_enumeration_is_explained(self) -> None:
        for kind in schema.ENUMERATIONS:
            undocumented = [value for value, text in schema.member_docs(kind).items() if not text]
            assert not undocumented or kind is Phase, f"{kind.__name__}: {undocumented}"

    def test_the_diagram_has_every_step(self) -> None:
        text = (ROOT / "docs" / "worker" / "PROTOCOL_SPEC.md").read_text()
        for step in lifecycle.TRANSITIONS:
            assert f"{step.source.value} --> {step.target.value}\n" in text

    def test_reasons_are_gathered_from_the_sources(self) -> None:
        source = """
_ROOM = "Make room."
raise environment("NoSpace", f"{disk} is full.", _ROOM)
JobError(ErrorClass.TRANSIENT, "Lost", "x", suggestion=y)
raise invalid("Odd", "z")
"""
        assert list(reference.error_reasons(source)) == [
            ("NoSpace", "environment", "… is full.", "Make room."),
            ("Lost", "transient", "x", "…"),
            ("Odd", "invalid", "z", ""),
        ]

    def test_all_reasons_are_told_with_what_to_do(self) -> None:
        sources = [path.read_text(encoding="utf-8") for path in (ROOT / "plugins").rglob("*.py")]
        reasons = {error[0] for source in sources for error in reference.error_reasons(source)}
        page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
        told = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
        assert len(reasons) > 100 and reasons - told == set()
        # The API server itself says what to do, or nobody is stopped by them.
        silent = {"AlreadyExists", "Refused", "Cancelled", "GuestReadOnly", "MicroVmDevices", "MicroVmTalk"}
        acted = page[: page.index("## transient")]
        assert set(re.findall(r"^\| `(\w+)` \|.*\|  \|$", acted, re.MULTILINE)) <= silent

    def test_the_command_writes_what_is_missing_and_checks(self) -> None:
        command = [sys.executable, "-m", schema.__name__, "--check"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False)
        assert (done.returncode, done.stdout) in ((0, ""), (1, "out of date: docs/worker/PROTOCOL_SPEC.md\n"))


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT / ".collections"), "PATH": "/usr/bin:/bin"}


# -- schemas and models agree ----------------------------------------------------------------------------------------


@functools.cache
def _texts(pattern: str) -> list[str]:
    """Return some texts that obey ``pattern``; drawing new ones each time takes minutes."""
    found: set[str] = set()

    @hypothesis.settings(database=None, max_examples=30, derandomize=True, phases=[hypothesis.Phase.generate])
    @hypothesis.given(st.from_regex(pattern.strip("^$"), fullmatch=True))
    def collect(text: str) -> None:
        found.add(text)

    collect()
    return sorted(found)


def from_schema(node: dict[str, t.Any], root: dict[str, t.Any]) -> st.SearchStrategy[t.Any]:
    """Return documents that obey ``node``, rules between fields apart."""
    if "$ref" in node:
        return from_schema(root["$defs"][node["$ref"].rpartition("/")[2]], root)
    if "const" in node or "enum" in node:
        return st.sampled_from(node.get("enum", [node.get("const")]))
    kind = node["type"]
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(node.get("minimum", -(2**40)), node.get("maximum", 2**40))
    if kind == "number":
        return st.floats(node.get("minimum", 0.001), node.get("maximum", 1e9), allow_nan=False)
    if kind == "string":
        if "pattern" in node:
            return st.sampled_from(
                [text for text in _texts(node["pattern"]) if len(text) <= node.get("maxLength", 4096)]
            )
        return st.text(st.characters(codec="utf-8"), min_size=node.get("minLength", 0), max_size=20)
    if kind == "array":
        return st.lists(from_schema(node["items"], root), max_size=2)
    if "properties" not in node:
        values = node.get("additionalProperties", {"type": "string"})
        return st.dictionaries(
            from_schema({"type": "string", **node.get("propertyNames", {})}, root),
            from_schema(values, root),
            max_size=2,
        )
    required = set(node.get("required", []))
    parts = {name: from_schema(prop, root) for name, prop in node["properties"].items()}
    return st.fixed_dictionaries(
        {name: parts[name] for name in parts if name in required},
        optional={name: parts[name] for name in parts if name not in required},
    )


JUNK = st.sampled_from([None, True, -1, 0.5, 10**12, "", "600", "x y", [], ["x"], {}, {"x": 1}])


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[t.Any]) -> t.Any:
    """Return a document with one value or key replaced by something else."""
    document = copy.deepcopy(draw(documents))
    places: list[tuple[t.Any, t.Any]] = []

    def walk(node: t.Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(document)
    node, key = draw(st.sampled_from(places))
    node[key] = draw(JUNK)
    return document


def _documents(name: str) -> st.SearchStrategy[t.Any]:
    root = schema.schema_of(name)
    return from_schema(root, root)


def _refusals(name: str, document: t.Any) -> set[str]:
    """Return the kinds of problems that the model of document ``name`` has with it."""
    try:
        schema.DOCUMENTS[name].model_validate(document)
    except pydantic.ValidationError as error:
        return {detail["type"] for detail in error.errors()}
    return set()


class TestSchemasAgreeWithModels:
    """What one accepts the other does; rules that a schema cannot express apart."""

    @pytest.mark.parametrize("name", schema.DOCUMENTS)
    def test_on_valid_documents(self, name: str) -> None:
        checker = validator(name)

        @QUICK
        @hypothesis.given(_documents(name))
        def check(document: t.Any) -> None:
            refusals = _refusals(name, document)
            if not checker.is_valid(document):
                # A rule between fields, which the model must know as well.
                assert refusals == {"value_error"}
            elif refusals:
                assert refusals == {"value_error"}
            else:
                again = schema.DOCUMENTS[name].model_validate(document).to_document()
                checker.validate(again)
                assert schema.DOCUMENTS[name].model_validate(again).to_document() == again

        check()

    @pytest.mark.parametrize("name", schema.DOCUMENTS)
    def test_on_damaged_documents(self, name: str) -> None:
        checker = validator(name)

        @QUICK
        @hypothesis.given(damaged(_documents(name)))
        def check(document: t.Any) -> None:
            refusals = _refusals(name, document)
            if checker.is_valid(document):
                assert refusals <= {"value_error"}
            elif not refusals:
                # A reader is more patient than a writer may rely on, but what comes out is exact.
                checker.validate(schema.DOCUMENTS[name].model_validate(document).to_document())

        check()

    @QUICK
    @hypothesis.given(damaged(_documents("migration-job")))
    def test_every_refusal_is_told_with_fields_and_words(self, document: t.Any) -> None:
        for problem in validation.find_problems(document):
            assert re.fullmatch(r"(apiVersion|kind|metadata|spec|status)(\..+|\[.+)?|", problem.field)
            assert problem.message and "\n" not in problem.message and "Input should" not in problem.message


# -- lifecycle -------------------------------------------------------------------------------------------------------

#: Written down apart from the code's own table.
LEGAL = {
    "CREATED": "VALIDATED FAILED CANCELLED",
    "VALIDATED": "QUEUED CANCELLED",
    "QUEUED": "ASSIGNED FAILED CANCELLED",
    "ASSIGNED": "RUNNING QUEUED FAILED CANCELLED",
    "RUNNING": "PROGRESSING QUEUED COMPLETED FAILED CANCELLED",
    "PROGRESSING": "RUNNING QUEUED COMPLETED FAILED CANCELLED",
    "COMPLETED": "",
    "FAILED": "",
    "CANCELLED": "",
}
STATUS_SCHEMA = validator("migration-job", "JobStatus")
BACKOFF_LIMIT = 2
FLAKY = ("Flaky", "Fragile")
RETRIES = RetryPolicy(
    BACKOFF_LIMIT,
    (
        models.FailureRule(reasons=[FLAKY[0]], action=models.FailureAction.IGNORE),
        models.FailureRule(reasons=[FLAKY[1]], action=models.FailureAction.RETRY),
        models.FailureRule(classes=[errors.ErrorClass.INTERNAL], action=models.FailureAction.FAIL_JOB),
    ),
)


class Lifecycle(hypothesis.stateful.RuleBasedStateMachine):
    """Any order of any changes by anybody: only the table's steps happen, and the status stays in order."""

    def __init__(self) -> None:
        super().__init__()
        self.status = models.JobStatus()
        self.now = NOW

    def _try(self, change: t.Callable[[], models.JobStatus]) -> None:
        before, kept = self.status, self.status.to_document()
        self.now += datetime.timedelta(seconds=1)
        try:
            after = change()
        except IllegalTransition:
            after = before
        assert before.to_document() == kept, "a change must leave the given status as it is"
        if after.phase is not before.phase:
            assert after.phase.value in LEGAL[before.phase.value].split()
        if before.phase in lifecycle.TERMINAL:
            assert after.phase is before.phase
            ended = [c for c in after.conditions if c.type in ("Complete", "Failed")]
            assert ended == [c for c in before.conditions if c.type in ("Complete", "Failed")]
        assert after.epoch - before.epoch == (1 if after.phase is Phase.ASSIGNED is not before.phase else 0)
        self.status = after

    def teardown(self) -> None:
        STATUS_SCHEMA.validate(self.status.to_document())

    actors = st.sampled_from(Actor)

    @hypothesis.stateful.rule(phase=st.sampled_from(Phase), actor=actors)
    def advance(self, phase: Phase, actor: Actor) -> None:
        before = self.status.phase
        self._try(lambda: status.advance(self.status, phase, actor, self.now))
        if actor is Actor.USER and before is not self.status.phase:
            assert self.status.phase is Phase.CANCELLED

    @hypothesis.stateful.rule(actor=actors)
    def claim(self, actor: Actor) -> None:
        self._try(lambda: status.record_attempt(self.status, "w1", 30, actor, self.now))

    @hypothesis.stateful.rule()
    def queue(self) -> None:
        for phase in (Phase.VALIDATED, Phase.QUEUED):
            self._try(functools.partial(status.advance, self.status, phase, Actor.CONTROL, self.now))

    @hypothesis.stateful.rule()
    def complete(self) -> None:
        self._try(lambda: status.record_attempt(self.status, "w1", 30, Actor.WORKER, self.now))
        self._try(lambda: status.start_stage(self.status, "copy", self.now))
        self._try(lambda: status.advance(self.status, Phase.COMPLETED, Actor.WORKER, self.now))

    @hypothesis.stateful.rule()
    def start_stage(self) -> None:
        self._try(lambda: status.start_stage(self.status, "copy", self.now))

    @hypothesis.stateful.rule()
    def report_progress(self) -> None:
        self._try(lambda: status.report_progress(self.status, models.Progress(stage="copy"), self.now))

    @hypothesis.stateful.rule()
    def end_stage(self) -> None:
        record = models.StageRecord(name="copy", started_at=fields.timestamp(self.now), seconds=1)
        self._try(lambda: status.end_stage(self.status, record))

    @hypothesis.stateful.rule(
        kind=st.sampled_from(errors.ErrorClass),
        reason=st.sampled_from(["Broken", *FLAKY, status.WORKER_LOST, status.LEASE_EXPIRED]),
        actor=actors,
    )
    def fail(self, kind: errors.ErrorClass, reason: str, actor: Actor) -> None:
        error = errors.JobError(kind, reason, "It broke.")
        self._try(lambda: status.fail(self.status, error, actor, self.now, policy=RETRIES))

    @hypothesis.stateful.rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self._try(lambda: status.suspended(self.status, suspend, self.now))

    @hypothesis.stateful.invariant()
    def in_order(self) -> None:
        now = self.status
        assert (now.claim is not None) == (now.phase in lifecycle.HELD)
        assert [attempt.epoch for attempt in now.attempts] == list(range(1, now.epoch + 1))
        assert [a.ended_at is None for a in now.attempts[:-1]] == [False] * (len(now.attempts) - 1)
        if now.attempts:
            assert (now.attempts[-1].ended_at is None) == (now.phase in lifecycle.HELD)
        assert (now.finished_at is not None) == (now.phase in lifecycle.TERMINAL)
        assert now.not_before is None or now.phase is Phase.QUEUED
        assert now.phase in lifecycle.TERMINAL or status.failures(now) - status.ignored(now) <= BACKOFF_LIMIT
        kinds = [condition.type for condition in now.conditions]
        assert len(kinds) == len(set(kinds))
        true = {condition.type for condition in now.conditions if condition.status == "True"}
        assert ("Queued" in true) == (now.phase is Phase.QUEUED)
        assert ("Assigned" in true) == (now.phase in lifecycle.HELD)
        assert ("Progressing" in true) == (now.phase is Phase.PROGRESSING)
        assert len({"Complete", "Failed"} & set(kinds)) == (now.phase in lifecycle.TERMINAL)
        assert ("Complete" in true) == (now.phase is Phase.COMPLETED)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = hypothesis.settings(deadline=None, max_examples=120, stateful_step_count=30, derandomize=True)


def queued() -> models.JobStatus:
    """Return the status of a job that waits."""
    validated = status.advance(models.JobStatus(), Phase.VALIDATED, Actor.CONTROL, NOW)
    return status.advance(validated, Phase.QUEUED, Actor.CONTROL, NOW)


def running(before: models.JobStatus | None = None) -> models.JobStatus:
    """Return the status of a job whose first stage began."""
    claimed = status.record_attempt(before or queued(), "w1", 30, Actor.WORKER, NOW)
    return status.start_stage(claimed, "inspect", NOW)


class TestStatus:
    """Retries, waits, conditions."""

    def test_the_table_is_the_one_of_the_specification(self) -> None:
        legal = {(source, target) for source, targets in LEGAL.items() for target in targets.split()}
        assert {(step.source.value, step.target.value) for step in lifecycle.TRANSITIONS} == legal

    def test_only_a_claim_assigns(self) -> None:
        for actor in Actor:
            with pytest.raises(IllegalTransition):
                status.advance(queued(), Phase.ASSIGNED, actor, NOW)

    def test_a_retryable_failure_waits_longer_each_time_and_ends_at_the_limit(self) -> None:
        now, waits = queued(), []
        for dummy in range(4):
            now = status.fail(running(now), errors.transient("Broken", "x"), Actor.WORKER, NOW, policy=RetryPolicy(3))
            if now.not_before:
                waits.append((fields.moment(now.not_before) - NOW).total_seconds())
        assert waits == [10, 20, 40]
        assert now.phase is Phase.FAILED
        assert now.last_error is not None and now.last_error.reason == "Broken"
        assert [status.backoff_seconds(n) for n in (1, 6, 7, 1000)] == [10, 320, 360, 360]

    @pytest.mark.parametrize("kind", [kind for kind in errors.ErrorClass if not errors.RETRYABLE[kind]])
    def test_other_failures_are_final_at_once(self, kind: errors.ErrorClass) -> None:
        failed = status.fail(running(), errors.JobError(kind, "Broken", "x"), Actor.WORKER, NOW, policy=RetryPolicy(9))
        assert failed.phase is Phase.FAILED
        assert {c.type: (c.status, c.reason) for c in failed.conditions}["Failed"] == ("True", "Broken")

    def test_lost_workers_do_not_count_until_there_are_too_many(self) -> None:
        now = queued()
        for number in range(status.MAX_LOSSES):
            assert now.phase is Phase.QUEUED and now.not_before is None, number
            lost = errors.transient(status.WORKER_LOST, "x")
            now = status.fail(running(now), lost, Actor.CONTROL, NOW, policy=RetryPolicy(0))
        assert now.phase is Phase.FAILED

    def test_a_stage_that_ended_between_losses_starts_the_count_anew(self) -> None:
        now, moment = queued(), NOW
        for dummy in range(status.MAX_LOSSES + 2):
            moment += datetime.timedelta(minutes=1)
            now = status.start_stage(status.record_attempt(now, "w1", 30, Actor.WORKER, moment), "copy", moment)
            record = models.StageRecord(name="copy", started_at=fields.timestamp(moment), seconds=1)
            now = status.end_stage(now, record)
            lost = errors.transient(status.WORKER_LOST, "x")
            now = status.fail(now, lost, Actor.CONTROL, moment, policy=RetryPolicy(0))
        assert now.phase is Phase.QUEUED

    def test_an_attempt_that_was_handed_back_does_not_count(self) -> None:
        handed_back = status.advance(running(), Phase.QUEUED, Actor.WORKER, NOW, reason="Suspended")
        assert status.failures(handed_back) == 0 and handed_back.attempts[0].ended_at

    def test_a_condition_keeps_its_time_and_words_until_its_status_changes(self) -> None:
        before = {condition.type: condition for condition in running().conditions}
        later = NOW + datetime.timedelta(seconds=5)
        after = {c.type: c for c in status.report_progress(running(), models.Progress(stage="x"), later).conditions}
        assert after["Assigned"] == before["Assigned"] and after["Validated"] == before["Validated"]
        assert after["Assigned"].message == "claimed by w1"
        assert after["Progressing"].last_transition_time == fields.timestamp(later)

    def test_a_cancelled_job_is_failed_in_kubernetes_words(self) -> None:
        cancelled = status.advance(queued(), Phase.CANCELLED, Actor.USER, NOW)
        assert {c.type: c.reason for c in cancelled.conditions}["Failed"] == "Cancelled"

    def test_an_error_as_a_document_has_all_that_its_reader_needs(self) -> None:
        error = errors.JobError(errors.ErrorClass.TRANSIENT, "Lost", "It is gone.", "Look.", "copy", {"x": 1})
        document = models.ErrorDocument.of(error).to_document()
        assert document == {
            "class": "transient",
            "stage": "copy",
            "reason": "Lost",
            "message": "It is gone.",
            "suggestion": "Look.",
            "retryable": True,
            "needs": [],
        }


# -- events ----------------------------------------------------------------------------------------------------------


class TestEvents:
    """An event as the line that stands for it in a stream."""

    def test_an_event_is_a_cloudevent_on_one_line(self) -> None:
        event = models.Event(
            id="u1-1",
            source="/hyper2kvm/test",
            type="io.hyper2kvm.job.warning",
            subject="web01",
            time=NOW.isoformat(),
            sequence=1,
            jobuid="u1",
            data={"stage": "copy", "message": "ä\n\x00\u2028\ud800"},
        )
        line = event.line()
        assert "\n" not in line
        document = json.loads(line.encode())
        validator("event").validate(document)
        assert models.Event.model_validate(document).data["stage"] == "copy"

    def test_a_queue_numbers_them_without_a_gap(self, tmp_path: pathlib.Path) -> None:
        queue = LocalBackend(tmp_path)
        queue.submit(validation.parse_job({"metadata": {"name": "web01"}, "spec": {"source": {"path": "web01.ova"}}}))
        queue.cancel("web01")
        lines = (tmp_path / "events" / "web01.jsonl").read_bytes().splitlines()
        for number, line in enumerate(lines, 1):
            document = json.loads(line)
            validator("event").validate(document)
            assert document["sequence"] == number
        assert [event.line().encode() for event in queue.events("web01")] == lines
        assert json.loads(lines[-1])["data"]["to"] == "CANCELLED"


class TestWithoutThirdParties:
    """A target's Python, or ansible-test's, may lack pydantic."""

    def test_every_module_can_be_imported_and_says_what_is_missing(self) -> None:
        modules = sorted(
            f"{validation.__name__.rpartition('.')[0]}.{path.stem}"
            for path in (ROOT / "plugins" / "module_utils" / "protocol").glob("[!_]*.py")
        )
        code = f"""
import importlib, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pydantic", "pydantic_core", "yaml", "jsonschema"):
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
for name in {modules!r}:
    importlib.import_module(name)
try:
    sys.modules[{validation.__name__!r}].parse_job({{}})
except sys.modules[{errors.__name__!r}].JobError as error:
    print(error.reason)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=_environment(), check=False
        )
        assert (done.stdout, done.stderr) == ("MissingLibrary\n", "")
