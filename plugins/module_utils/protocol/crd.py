# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol's two Kubernetes resources as CustomResourceDefinitions, made from the models.

The API server takes structural schemas only: no references, no ``const``, no conditions between fields. So all parts
are written in place, and what a schema cannot say is said in CEL, with a message for people: the rules between fields
and the patterns of texts (whose own message would be a regular expression). Lists and texts of a spec get bounds where
the models have none, because the API server refuses rules whose cost it cannot bound.
"""

from __future__ import annotations

import re
import typing as t

from . import _pydantic as p
from . import lifecycle, models, schema, spec
from .fields import API_VERSION, TEXT_TYPES
from .lifecycle import Actor, Phase
from .schema import Schema

GROUP, dummy, VERSION = API_VERSION.partition("/")

#: No pattern of the protocol admits a longer text, but for those that say their own limit; some much shorter ones.
_LONGEST_TEXT = 320
_LONGEST = {"name": 63, "MAC address": 17, "reason": 60}
#: Of a list, a mapping and a free text in a spec, where the models give no bound.
_MAX_ITEMS = 64
#: The public part of an RSA key of 16,384 bits, the longest that OpenSSH makes, has 2,753 characters.
_MAX_TEXT = 2900


class Rule(t.NamedTuple):
    """A condition in CEL that must hold, and what to say where it does not."""

    holds: str
    message: str
    field: str = ""
    """The field that is at fault, where it is one: ``.cancel``."""


_NO_UPWARD = "a path may not hold '..': it must stay below the worker's root"
_UPWARD = "matches('(^|/)[.][.](/|$)')"


def _once(items: str, key: str, message: str) -> Rule:
    """Return the rule that no two ``items`` agree in ``key``, a CEL expression over the item ``x``."""
    other = re.sub(r"\bx\b", "y", key)
    return Rule(f"self.{items}.all(x, self.{items}.exists_one(y, {other} == {key}))", message)


#: What asks for a change of the guest's files, each as CEL over a GuestSpec, with the fixer that makes it.
_WISHES: dict[str, tuple[str, str]] = {
    "hostname": ("has({0}.hostname)", "hostname"),
    "timezone": ("has({0}.timezone)", "timezone"),
    "sshKeys": ("size({0}.sshKeys) > 0", "ssh-keys"),
    "resetMachineId": ("{0}.resetMachineId", "machine-id"),
    "resetSshHostKeys": ("{0}.resetSshHostKeys", "ssh-host-keys"),
    "users": ("size({0}.users) > 0", "users"),
    "files": ("size({0}.files) > 0", "files"),
    "firstboot": ("size({0}.firstboot) > 0", "firstboot"),
    "agent": ("{0}.agent != 'enable'", "guest-agent"),
    "network.pinNames": ("has({0}.network.pinNames) && {0}.network.pinNames", spec.INTERFACE_NAMES),
}


def _wishes(guest: str) -> str:
    """Return CEL that says whether ``guest`` (an expression) asks for any change of the guest's files."""
    asked = [f"({wish.format(guest)})" for wish, dummy in _WISHES.values()]
    return " || ".join([*asked, f"size({guest}.fixers.only) > 0", f"size({guest}.fixers.skip) > 0"])


#: Steps that follow at once share one write: those of the control plane up to the assignment, and those of the worker
#: from there to the end. These are the phases that such a write may pass over.
_PASSED_OVER = {
    Actor.CONTROL: frozenset({Phase.VALIDATED, Phase.QUEUED}),
    Actor.WORKER: frozenset({Phase.RUNNING, Phase.PROGRESSING}),
}


def successors(phase: Phase) -> list[Phase]:
    """Return the phases that one write may bring a job to from ``phase``, in the lifecycle's order."""
    found = {step.target for step in lifecycle.TRANSITIONS if step.source is phase}
    for actor, passed_over in _PASSED_OVER.items():
        reached, new = set[Phase](), {phase}
        while new:
            new = {
                step.target for step in lifecycle.TRANSITIONS if step.source in new and actor in step.actors
            } - reached
            reached |= new
            new &= passed_over
        found |= reached
    return [other for other in Phase if other in found - {phase}]


def _phase_rule() -> Rule:
    table = ", ".join(f"'{phase.value}': {[to.value for to in successors(phase)]}" for phase in Phase)
    return Rule(
        f"self == oldSelf || self in {{{table}}}[oldSelf]",
        "'a job cannot go from ' + oldSelf + ' to ' + self",
    )


#: Rules between the fields of a model, by its name. The models check the same, and more.
_RULES: dict[str, list[Rule]] = {
    "DiskSpec": [Rule(f"!self.path.{_UPWARD}", _NO_UPWARD, ".path")],
    "SourceSpec": [
        Rule(
            "has(self.path) != (size(self.disks) > 0)",
            "give either path (one file or folder) or disks (all disks of the VM)",
        ),
        Rule(
            "!has(self.digest) || size(self.disks) == 0",
            "digest goes with path; give each disk of disks its own digest",
        ),
        Rule(
            "size(self.disks) == 0 || !(self.type in ['ova', 'ovf', 'vmx', 'vbox', 'hyperv'])",
            "a type that describes a whole VM (ova, ovf, vmx, vbox, hyperv) takes path, not disks",
        ),
        _once("disks", "x.path", "one file cannot be two disks"),
        Rule(f"!has(self.path) || !self.path.{_UPWARD}", _NO_UPWARD, ".path"),
    ],
    "TargetSpec": [
        Rule(
            "self.compression == 'none' || self.format == 'qcow2'",
            "compression needs format qcow2: raw images have none",
        ),
        Rule(
            "self.compression == 'none' || self.allocation != 'preallocated'",
            "compression and allocation preallocated exclude each other",
        ),
        Rule(
            "size(self.devices) == 0 || self.format == 'raw'",
            "devices need format raw: what a guest reads of a block device are its own bytes",
        ),
        Rule(
            "size(self.devices) == 0 || self.allocation != 'preallocated'",
            "devices and allocation preallocated exclude each other: a device has its room already",
        ),
        _once("devices", "x", "one device cannot be two disks"),
        Rule(f"!self.devices.exists(x, x.{_UPWARD})", _NO_UPWARD, ".devices"),
        Rule(f"!has(self.path) || !self.path.{_UPWARD}", _NO_UPWARD, ".path"),
    ],
    "NetworkSpec": [
        Rule(
            "size(self.macMap) == 0 || size(self.macs) == 0",
            "macMap names cards by their address, macs by their order; give one of them",
        ),
        _once("macMap", "x.source.lowerAscii()", "two entries of macMap for one card"),
        _once("macMap", "x.target.lowerAscii()", "two cards of macMap with one address"),
        _once("macs", "x.lowerAscii()", "two cards of macs with one address"),
        _once("map", "(has(x.source) ? x.source : '')", "two entries of map for one network"),
    ],
    "NetworkMapping": [
        Rule("!(has(self.network) && has(self.bridge))", "a card is in one place: give network or bridge, not both"),
        Rule("!(has(self.multus) && self.pod)", "a card is in one place: give multus or pod, not both"),
        Rule(
            "has(self.network) || has(self.bridge) || has(self.multus) || self.pod",
            "it says no place: give network or bridge (libvirt), multus or pod (KubeVirt)",
        ),
    ],
    "SshKeys": [
        Rule("size(self.keys) > 0 || has(self.keysFrom)", "give keys, keysFrom or both"),
        # One rule each: the API server bounds what a rule may cost.
        *(
            Rule(f"self.keys.all(x, {holds})", "a key is one line: type, base64 data and perhaps a comment", ".keys")
            for holds in ("x.contains(' ')", r"!x.contains('\n')", "!x.contains('PRIVATE KEY')")
        ),
    ],
    "GuestFile": [
        Rule("has(self.content) != has(self.contentFrom)", "give either content or contentFrom"),
        Rule(f"!self.path.{_UPWARD}", _NO_UPWARD, ".path"),
    ],
    "FirstbootScript": [Rule("has(self.script) != has(self.scriptFrom)", "give either script or scriptFrom")],
    "FixSelection": [Rule("!self.only.exists(x, x in self.skip)", "a fixer is named in only and in skip")],
    "GuestSpec": [
        _once("sshKeys", "x.user", "two entries of sshKeys for one user"),
        _once("users", "x.name", "two entries of users for one user"),
        _once("files", "x.path", "two entries of files for one path"),
        _once("firstboot", "x.name", "two scripts of firstboot with one name"),
        Rule(
            "size(self.selinuxExclude) == 0 || self.selinuxRelabel == 'boot'",
            "selinuxExclude goes with selinuxRelabel boot",
        ),
        Rule(
            f"self.enabled || !({_wishes('self')} || self.selinuxRelabel != 'changed')",
            "enabled false leaves the guest as it is: take it back, or the changes that are asked for "
            "(fixers, hostname, timezone, sshKeys, resetMachineId, resetSshHostKeys, users, files, firstboot, agent, "
            "selinuxRelabel, network.pinNames)",
        ),
        *(
            Rule(
                f"!({wish.format('self')}) || (!('{fixer}' in self.fixers.skip) && "
                f"(size(self.fixers.only) == 0 || '{fixer}' in self.fixers.only))",
                f"{field} is done by the fixer {fixer}, but fixers leaves it out; take one of the two back",
            )
            for field, (wish, fixer) in _WISHES.items()
        ),
    ],
    "FailureRule": [
        Rule(
            "size(self.classes) > 0 || size(self.reasons) > 0",
            "a rule names the errors that it is for: give classes, reasons or both",
        ),
        Rule(
            f"!self.reasons.exists(x, x in {sorted(spec.BEYOND_POLICY)})",
            f"no policy changes what follows {', '.join(sorted(spec.BEYOND_POLICY))}; leave it out of reasons",
            ".reasons",
        ),
    ],
    "JobSpec": [
        Rule(
            "self.operation != 'rehearse' || self.verify.rehearse != 'never'",
            "operation rehearse cannot be done with verify.rehearse never",
        ),
        Rule(
            "self.operation != 'boot-test' || self.verify.boot",
            "operation boot-test cannot be done with verify.boot false",
        ),
        Rule(
            f"self.operation != 'boot-test' || !({_wishes('self.guest')} || " "self.guest.selinuxRelabel != 'changed')",
            "operation boot-test boots the guest as it is, so guest may not ask for a change",
        ),
        Rule("self.operation != 'fix' || self.guest.enabled", "operation fix cannot be done with guest.enabled false"),
        Rule(
            "self.operation != 'fix' || (size(self.source.disks) == 0 ? self.source.type in ['auto', "
            "self.target.format] : self.source.disks.all(x, (has(x.format) ? x.format : self.source.type) in "
            "['auto', self.target.format]))",
            "operation fix keeps the image's format, so target.format must be the source's; the operation convert "
            "changes it",
        ),
        Rule("!oldSelf.cancel || self.cancel", "a cancelled job stays cancelled; submit a new one", ".cancel"),
    ],
}


def _rules(model: str) -> list[Rule]:
    """Return the rules between the fields of a model, by its name."""
    return [*_RULES.get(model, []), *(_frozen() if model == spec.JobSpec.__name__ else [])]


def _frozen() -> list[Rule]:
    fields = spec.JobSpec.model_fields.items()
    names = [str(field.alias) for name, field in fields if name not in models.MUTABLE_SPEC_FIELDS]
    return [
        Rule(
            f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            f"{name} cannot change once the job exists; give the new job another name, or delete this one first",
        )
        for name in names
    ]


#: Rules for one field of a model.
_FIELD_RULES: dict[tuple[str, str], Schema] = {
    ("JobStatus", "phase"): {"rule": _phase_rule().holds, "messageExpression": _phase_rule().message},
    ("JobStatus", "epoch"): {"rule": "self >= oldSelf", "message": "a job's epoch never falls"},
}
#: Like `metadata.name` in the models. The API server itself would let dots and 253 characters pass.
_NAME_RULE = Rule(
    "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
    "a job's name must be a DNS label: at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
)
#: A job that nobody has looked at yet.
_NEW = {"phase": Phase.CREATED.value, "epoch": 0}


class Column(t.NamedTuple):
    """A column of ``kubectl get``."""

    name: str
    type: str
    path: str
    priority: int = 0
    """0: always shown; 1: with ``-o wide``."""


_JOB_COLUMNS = (
    Column("Phase", "string", ".status.phase"),
    Column("Stage", "string", ".status.stage"),
    Column("%", "integer", ".status.progress.percent"),
    Column("ETA-s", "integer", ".status.progress.etaSeconds"),
    Column("Node", "string", ".status.assignedNode"),
    Column("Age", "date", ".metadata.creationTimestamp"),
    Column("Waiting", "string", ".status.waiting[0].message"),
    Column("Error", "string", '.status.conditions[?(@.type=="Failed")].message'),
    Column("Operation", "string", ".spec.operation", 1),
    Column("Priority", "integer", ".spec.priority", 1),
    Column("Epoch", "integer", ".status.epoch", 1),
    Column("Bytes/s", "integer", ".status.progress.ratePerSecond", 1),
    Column("Last-Error", "string", ".status.lastError.message", 1),
)
_WORKER_COLUMNS = (
    Column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
    Column("Schedulable", "boolean", ".status.schedulable"),
    Column("Slots", "integer", ".status.slots"),
    Column("Running", "string", ".status.running"),
    Column("Free-Output", "integer", ".status.freeOutputBytes"),
    Column("Free-Scratch", "integer", ".status.freeScratchBytes"),
    Column("Version", "string", ".status.collectionVersion"),
    Column("Age", "date", ".metadata.creationTimestamp"),
)


def crd_text(name: str) -> str:
    """Return the text of the CRD's file; ``name`` is a key of :data:`DEFINITIONS`.

    Raises:
        ImportError: PyYAML is missing.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes lists indented, as the rest of the repository has them."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    body = yaml.dump(DEFINITIONS[name](), Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
    return f"# Generated from the protocol's models: `make schemas`.\n---\n{body}"


def job_crd() -> Schema:
    """Return the CustomResourceDefinition of MigrationJob."""
    wanted = _explained(_structural(models.JobSpec))
    status = _structural(models.JobStatus)
    for name, value in _NEW.items():
        status["properties"][name]["default"] = value
    status["default"] = _NEW
    body = {
        "description": "A migration of one virtual machine: what is wanted (`spec`), and what is (`status`).",
        "type": "object",
        "required": ["spec"],
        "properties": {"spec": wanted, "status": status},
        "x-kubernetes-validations": [_validation(_NAME_RULE)],
    }
    selectable = [{"jsonPath": ".status.assignedNode"}, {"jsonPath": ".status.phase"}]
    return _definition("MigrationJob", "mj", "Namespaced", body, _JOB_COLUMNS, selectable)


def worker_crd() -> Schema:
    """Return the CustomResourceDefinition of MigrationWorker."""
    status = _structural(models.WorkerStatus)
    for name in ("apiVersion", "kind"):
        # The object has them already.
        del status["properties"][name]
    body = {
        "description": "What the worker of a node offers. It is named after its node, and written by it alone.",
        "type": "object",
        "properties": {"status": status},
    }
    return _definition("MigrationWorker", "mw", "Cluster", body, _WORKER_COLUMNS, [])


#: The definitions by the names of their files less ``.yaml``.
DEFINITIONS: dict[str, t.Callable[[], Schema]] = {"migrationjobs": job_crd, "migrationworkers": worker_crd}


def _definition(
    kind: str, short: str, scope: str, body: Schema, columns: t.Iterable[Column], selectable: list[Schema]
) -> Schema:
    plural = f"{kind.lower()}s"
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": column.name, "type": column.type, "jsonPath": column.path, "priority": column.priority}
            for column in columns
        ],
        "schema": {"openAPIV3Schema": body},
    }
    if selectable:
        version["selectableFields"] = selectable
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "hyper2kvm"}},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["hyper2kvm"],
            },
            "versions": [version],
        },
    }


def _structural(model: type[p.BaseModel]) -> Schema:
    """Return a model's schema in the form that the API server takes, with the rules between its fields."""
    whole = schema.model_schema(model)
    parts: dict[str, Schema] = whole.pop("$defs", {})
    return _inline(model.__name__, whole, parts)


def _inline(model: str, node: Schema, parts: dict[str, Schema]) -> Schema:
    """Return ``node``, the schema of a model (by its name; else ""), with all parts in place."""
    if "$ref" in node:
        part = node["$ref"].rpartition("/")[2]
        whole = {**_inline(part, parts[part], parts), **{key: value for key, value in node.items() if key != "$ref"}}
        if whole.get("default") == {}:
            # Rules are tried on a default as it stands.
            inner = whole["properties"].items()
            whole["default"] = {name: value["default"] for name, value in inner if "default" in value}
        return whole
    made: Schema = {}
    for key, value in node.items():
        if key == "properties":
            made[key] = {name: _inline("", inner, parts) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            made[key] = _inline("", value, parts)
        elif key == "const":
            made["enum"] = [value]
        elif key == "exclusiveMinimum":
            made |= {"minimum": value, key: True}
        elif key == "uniqueItems":
            made["x-kubernetes-list-type"] = "set"
        elif key == "allOf" or (key, value) == ("additionalProperties", False):
            # The rules are in CEL; unknown fields are refused by whoever asks for it (kubectl does), else left out.
            continue
        else:
            made[key] = value
    if made.get("type") == "integer":
        made["format"] = "int64"
    if made.get("type") == "object" and not made.keys() & {"properties", "additionalProperties"}:
        made["x-kubernetes-preserve-unknown-fields"] = True
    if "propertyNames" in made:
        made["maxProperties"] = _MAX_ITEMS
        keys = _text_rule("self.all(x, x.matches({}))", made.pop("propertyNames")["pattern"])
        made["x-kubernetes-validations"] = [keys]
    rules = _rules(model)
    if rules:
        made["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
    for (owner, name), rule in _FIELD_RULES.items():
        if owner == model:
            made["properties"][name]["x-kubernetes-validations"] = [rule]
    return made


def _explained(node: Schema) -> Schema:
    """Return the schema of something that people write: patterns as rules with a message, and bounds everywhere."""
    made = dict(node)
    rules = list(made.pop("x-kubernetes-validations", []))
    if "properties" in made:
        made["properties"] = {name: _explained(inner) for name, inner in made["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(made.get(key), dict):
            made[key] = _explained(made[key])
    if made.get("type") == "array":
        made.setdefault("maxItems", _MAX_ITEMS)
    if "additionalProperties" in made:
        made.setdefault("maxProperties", _MAX_ITEMS)
    if "pattern" in made:
        pattern = made.pop("pattern")
        made.setdefault("maxLength", _LONGEST.get(TEXT_TYPES[pattern].name, _LONGEST_TEXT))
        rules.append(_text_rule("self.matches({})", pattern))
    elif made.get("type") == "string" and "enum" not in made:
        made.setdefault("maxLength", _MAX_TEXT)
    if rules:
        made["x-kubernetes-validations"] = rules
    return made


def _text_rule(rule: str, pattern: str) -> Schema:
    literal = "'" + pattern.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return {"rule": rule.format(literal), "message": f"must be {TEXT_TYPES[pattern].meaning}"}


def _validation(rule: Rule) -> Schema:
    where = {"fieldPath": rule.field} if rule.field else {}
    return {"rule": rule.holds, "message": rule.message, **where}
