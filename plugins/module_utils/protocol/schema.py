# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The protocol's documents as JSON Schema 2020-12, made from the models.

``python -m ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.schema --write`` writes ``schemas/``,
``k8s/crds/`` and the generated parts of ``docs/worker/PROTOCOL_SPEC.md`` and ``docs/errors.md``; ``--check`` only says
which of them are out of date.

What pydantic gives is brought into one plain form, whatever pydantic's version: no titles but those of documents, no
``null`` (a writer leaves out what is unset), defaults also for lists and parts, documented values, and the rules
between fields that a schema can express. What it cannot (no file twice among the disks, …) :mod:`.validation` checks.
"""

# This is a command of its own, not a module: it prints, and it exits.
# pylint: disable=ansible-bad-function
from __future__ import annotations

import argparse
import ast
import collections.abc as c
import enum
import inspect
import json
import pathlib
import re
import sys
import textwrap
import typing as t

from . import _pydantic as p
from . import errors, lifecycle, models

Schema = dict[str, t.Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BASE = "https://hyper2kvm.io/schemas/v1/"

#: The documents that have a schema of their own, by the name of its file less ``.json``.
DOCUMENTS: dict[str, type[models.Document]] = {
    "migration-job": models.MigrationJob,
    "worker-registration": models.WorkerRegistration,
    "heartbeat": models.Heartbeat,
    "claim": models.Claim,
    "event": models.Event,
    "result": models.JobResult,
}

#: Enumerations that documents use, and the event kinds, which they use as a part of a text.
ENUMERATIONS: tuple[type[enum.Enum], ...] = (
    models.Operation,
    models.SourceType,
    models.TargetFormat,
    models.Allocation,
    models.Contents,
    models.Compression,
    models.Definition,
    models.Isolation,
    models.AgentPolicy,
    models.SelinuxRelabel,
    models.FsckPolicy,
    models.RehearsePolicy,
    models.FailureAction,
    lifecycle.Phase,
    errors.ErrorClass,
    models.EventKind,
)


def _when(condition: Schema, then: Schema) -> Schema:
    return {"if": {"properties": condition, "required": list(condition)}, "then": then}


_SOME = {"minItems": 1}
_POD: Schema = {"required": ["pod"], "properties": {"pod": {"const": True}}}

#: Rules between the fields of a model; the models check the same.
_RULES: dict[str, list[Schema]] = {
    "SourceSpec": [
        {
            **_when(
                {"disks": _SOME},
                {
                    "properties": {"path": False, "digest": False, "type": {"not": {"enum": ["ova", "ovf"]}}},
                },
            ),
            "else": {"required": ["path"]},
        }
    ],
    "TargetSpec": [
        _when(
            {"compression": {"enum": ["zlib", "zstd"]}},
            {"properties": {"format": {"const": "qcow2"}, "allocation": {"const": "sparse"}}},
        )
    ],
    "NetworkSpec": [_when({"macMap": _SOME}, {"properties": {"macs": {"maxItems": 0}}})],
    "NetworkMapping": [
        {"anyOf": [*({"required": [name]} for name in ("network", "bridge", "multus")), _POD]},
        {"not": {"required": ["network", "bridge"]}},
        {"not": {"required": ["multus", *_POD["required"]], "properties": _POD["properties"]}},
    ],
    "SshKeys": [{"anyOf": [{"required": ["keysFrom"]}, {"required": ["keys"], "properties": {"keys": _SOME}}]}],
    "FailureRule": [
        {"anyOf": [{"required": [name], "properties": {name: _SOME}} for name in ("classes", "reasons")]},
        {"properties": {"reasons": {"items": {"not": {"enum": sorted(models.BEYOND_POLICY)}}}}},
    ],
    "JobSpec": [
        _when(
            {"operation": {"const": "rehearse"}},
            {"properties": {"verify": {"properties": {"rehearse": {"not": {"const": "never"}}}}}},
        ),
        _when(
            {"operation": {"const": "boot-test"}},
            {"properties": {"verify": {"properties": {"boot": {"const": True}}}}},
        ),
        _when(
            {"operation": {"const": "fix"}},
            {"properties": {"guest": {"properties": {"enabled": {"const": True}}}}},
        ),
    ],
}
_ORDER = [
    *("description", "$ref", "type", "const", "enum", "pattern", "minLength", "maxLength"),
    *("minimum", "exclusiveMinimum", "maximum", "items", "minItems", "maxItems", "uniqueItems", "default"),
    *("properties", "required", "propertyNames", "additionalProperties", "allOf"),
]
#: Lists in which no value may come twice.
SETS = {
    "TargetSpec": ["definitions"],
    "NetworkSpec": ["macs"],
    "FixSelection": ["only", "skip"],
    "Requirements": ["capabilities"],
    "FailureRule": ["classes", "reasons"],
}


def schema_of(name: str) -> Schema:
    """Return the schema of the document ``name``, a key of :data:`DOCUMENTS`."""
    model = DOCUMENTS[name]
    head = {"$schema": _DIALECT, "$id": f"{_BASE}{name}.json", "title": model.__name__}
    return {**head, **model_schema(model)}


def model_schema(model: type[p.BaseModel]) -> Schema:
    """Return the schema of a model, with those of its parts in ``$defs`` by their models' names."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    parts: dict[str, Schema] = {**raw.pop("$defs", {}), model.__name__: raw}
    known = {found.__name__: found for found in _models(model)}
    for part, schema in parts.items():
        parts[part] = _plain(schema)
        if part in known:
            _complete(parts[part], known[part])
    _document_values(parts)
    main = parts.pop(model.__name__)
    rest = {"$defs": {part: _ordered(parts[part]) for part in sorted(parts)}} if parts else {}
    return {**_ordered(main), **rest}


def schema_text(name: str) -> str:
    """Return the text of the schema's file."""
    return json.dumps(schema_of(name), indent=2, ensure_ascii=False) + "\n"


def member_docs(kind: type[enum.Enum]) -> dict[str, str]:
    """Return the docstrings of an enumeration's members, by their value; empty where one has none."""
    found = {member.value: "" for member in kind}
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    if not isinstance(definition, ast.ClassDef):
        raise AssertionError("isinstance(definition, ast.ClassDef)")
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr):
            (target,) = statement.targets
            if not (isinstance(target, ast.Name) and isinstance(after.value, ast.Constant)):
                raise AssertionError("isinstance(target, ast.Name) and isinstance(after.value, ast.Constant)")
            found[kind[target.id].value] = plain_text(str(after.value.value))
    return found


def plain_text(docstring: str) -> str:
    """Return a docstring as one line of Markdown."""
    line = " ".join(docstring.split()).replace("``", "`")
    return re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", line)


def _models(model: type[p.BaseModel]) -> c.Iterator[type[p.BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for inner in _inner_models(field.annotation):
            yield from _models(inner)


def _inner_models(annotation: t.Any) -> c.Iterator[type[p.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, p.BaseModel):
        yield annotation
    for argument in t.get_args(annotation):
        yield from _inner_models(argument)


def _plain(node: t.Any) -> t.Any:
    """Return a schema in one form for all versions of pydantic."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if isinstance(node, float) and node.is_integer():
        return int(node)
    if not isinstance(node, dict):
        return node
    if "allOf" in node and len(node["allOf"]) == 1:
        node = {**node["allOf"][0], **{key: value for key, value in node.items() if key != "allOf"}}
    if "anyOf" in node:
        (choice,) = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        node = {**choice, **{key: value for key, value in node.items() if key != "anyOf"}}
    plain: Schema = {}
    for key, value in node.items():
        if key in ("properties", "patternProperties"):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key == "description":
            plain[key] = plain_text(value)
        elif key == "title" or (key, value) in (("default", None), ("additionalProperties", True)):
            continue
        else:
            plain[key] = _plain(value)
    if "const" in plain:
        plain.pop("enum", None)
    if "patternProperties" in plain:
        ((pattern, values),) = plain.pop("patternProperties").items()
        plain |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
    return plain


def _ordered(schema: Schema) -> Schema:
    """Return a model's or enumeration's schema with its keys in a fixed order; pydantic's differs by version."""
    ordered = {key: schema[key] for key in sorted(schema, key=lambda key: (_ORDER.index(key), key))}
    if "properties" in ordered:
        ordered["properties"] = {name: _ordered(inner) for name, inner in ordered["properties"].items()}
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(ordered.get(key), dict):
            ordered[key] = _ordered(ordered[key])
    return ordered


def _complete(schema: Schema, model: type[p.BaseModel]) -> None:
    """Add what pydantic leaves out: descriptions that a part has as well, defaults made by functions, common rules."""
    for name, field in model.model_fields.items():
        prop = schema["properties"][str(field.validation_alias or field.alias or name)]
        prop["description"] = plain_text(field.description or "")
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, p.BaseModel):
            prop["default"] = {}
        elif isinstance(default, (list, dict)):
            prop["default"] = [item.value if isinstance(item, enum.Enum) else item for item in default] or default
    for name in SETS.get(model.__name__, []):
        schema["properties"][name]["uniqueItems"] = True
    if model.__name__ in _RULES:
        schema["allOf"] = _RULES[model.__name__]


def _document_values(parts: dict[str, Schema]) -> None:
    for kind in ENUMERATIONS:
        if kind.__name__ in parts:
            schema = parts[kind.__name__]
            told = [f"`{value}`: {doc}" for value, doc in member_docs(kind).items() if doc]
            schema["description"] = " ".join([plain_text(kind.__doc__ or ""), *told])


def generated_files(root: pathlib.Path) -> dict[pathlib.Path, str]:
    """Return what the generated files below the repository's ``root`` must hold."""
    from . import crd, reference

    pages = [root / "docs" / "worker" / "PROTOCOL_SPEC.md", root / "docs" / "errors.md"]
    sources = [path.read_text(encoding="utf-8") for path in sorted((root / "plugins").rglob("*.py"))]
    return {
        **{root / "schemas" / f"{name}.json": schema_text(name) for name in DOCUMENTS},
        **{root / "k8s" / "crds" / f"{name}.yaml": crd.crd_text(name) for name in crd.DEFINITIONS},
        **{page: reference.fill_in(page.read_text(encoding="utf-8"), sources) for page in pages},
    }


def main(arguments: list[str]) -> int:
    """Write or check the generated files of the repository that this module lies in; return an exit status."""
    parser = argparse.ArgumentParser(prog="schema", description="JSON Schemas and reference tables from the models.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write what is out of date")
    action.add_argument("--check", action="store_true", help="exit with 1 if something is out of date")
    write = parser.parse_args(arguments).write
    root = pathlib.Path(__file__).resolve().parents[3]
    stale = 0
    for path, text in generated_files(root).items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'written' if write else 'out of date'}: {path.relative_to(root)}")
    return 1 if stale and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
