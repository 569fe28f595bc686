# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.tools.awx_requests DOCUMENT``: what AWX takes, from the OpenAPI document that AWX publishes.

Writes ``tests/e2e/awx_requests.json``: for each kind of thing that ``awx/configure.yml`` makes, a JSON Schema of the
request, with names, types, choices and bounds of its fields, and nothing else of the document.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import typing as t

FILE = pathlib.Path(__file__).parents[1] / "e2e/awx_requests.json"
PUBLISHED = "https://s3.amazonaws.com/awx-public-ci-files/awx/devel/schema.json"
#: Kinds of things, by the path below /api/v2/ that makes them.
_MADE_AT = {
    **{
        kind: f"{kind}/"
        for kind in (
            *("credential_types", "execution_environments", "projects", "inventories", "inventory_sources"),
            *("job_templates", "workflow_job_templates", "workflow_job_template_nodes"),
        )
    },
    "create_approval_template": "workflow_job_template_nodes/{id}/create_approval_template/",
}
_KEPT = ("type", "enum", "minimum", "maximum", "minLength", "maxLength")

Schema = dict[str, t.Any]


def main() -> None:
    """Write the file anew."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.awx_requests", description=__doc__.splitlines()[0])
    parser.add_argument("document", type=pathlib.Path, help=f"from {PUBLISHED}, or a copy")
    parser.add_argument("--drawn", required=True, metavar="TEXT", help="when it was published, and whose copy it is")
    options = parser.parse_args()
    content = options.document.read_bytes()
    document = json.loads(content)
    source = {"published": PUBLISHED, "drawn": options.drawn, "sha256": hashlib.sha256(content).hexdigest()}
    requests = {kind: request(document, path) for kind, path in _MADE_AT.items()}
    FILE.write_text(json.dumps({"source": source, "requests": requests}, indent=1) + "\n", encoding="utf-8")


def request(document: Schema, path: str) -> Schema:
    """The JSON Schema of what is posted to ``path``."""
    body = document["paths"][f"/api/v2/{path}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    found = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    return {
        "type": "object",
        "properties": {name: _field(one) for name, one in sorted(found["properties"].items())},
        "required": sorted(found.get("required", [])),
        # AWX passes over what it does not know; whoever sends it thinks that it does something.
        "additionalProperties": False,
    }


def _field(found: Schema) -> Schema:
    kept = {key: found[key] for key in _KEPT if key in found}
    # OpenAPI 3.0 has a word of its own for this.
    if found.get("nullable") and "type" in kept:
        kept["type"] = [kept["type"], "null"]
    unknown = found.keys() & {"allOf", "oneOf", "anyOf", "$ref", "items", "properties"}
    if unknown:
        # What is drawn would take more than AWX does.
        raise ValueError(f"the document describes a field by {', '.join(sorted(unknown))}, which is not drawn yet")
    return kept


if __name__ == "__main__":
    main()
