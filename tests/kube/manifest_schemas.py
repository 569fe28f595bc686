# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JSON Schemas of all that an API server knows, for kubeconform, which would else fetch them from elsewhere."""

from __future__ import annotations

import json
import pathlib
import re
import typing as t

_INT_OR_STRING = {"oneOf": [{"type": "string"}, {"type": "integer"}]}


def write_schemas(openapi: dict[str, t.Any], folder: pathlib.Path) -> None:
    """Write a file for each kind of an API server's OpenAPI v2 document.

    No field may be given that a kind does not have; of our own kinds the definitions say so too, as the API server only
    drops such fields.
    """
    definitions = {name: _strict(definition) for name, definition in openapi["definitions"].items()}
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = kind["group"].split(".")[0]
            parts = [kind["kind"], *([group] if group else []), kind["version"]]
            whole = {**definition, "definitions": {part: definitions[part] for part in _parts(name, definitions)}}
            (folder / f"{'-'.join(parts).lower()}.json").write_text(json.dumps(whole), encoding="utf-8")


def _parts(name: str, definitions: dict[str, t.Any]) -> set[str]:
    """The definitions that one refers to, directly or not."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        named = set(re.findall(r'"#/definitions/([^"]+)"', json.dumps(definitions[ahead.pop()])))
        ahead += named - found
        found |= named
    return found


def _strict(schema: t.Any) -> t.Any:
    """Return a definition in which unknown fields are errors and quantities may be numbers."""
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return _INT_OR_STRING
    strict = {key: _strict(inner) for key, inner in schema.items()}
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].removeprefix("#/definitions/")
        # Kubernetes' own: quantities may be numbers, although their definition says text.
        if name.endswith("api.resource.Quantity"):
            return {"type": ["string", "number"]}
    if "properties" in schema and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict
