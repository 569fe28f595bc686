# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for AWX's REST API: keeps what is made, and notes each request that AWX would refuse. It runs nothing.

What AWX takes is in ``awx_requests.json``, drawn from the OpenAPI document that AWX publishes; see
:mod:`tests.tools.awx_requests`. That document says nothing of surveys: their schema is written after what AWX checks
(``JobTemplateSurveySpec`` in ansible/awx, e21dd0a).
"""

from __future__ import annotations

import contextlib
import http.server
import json
import pathlib
import re
import threading
import typing as t
import urllib.parse

import jsonschema

_TEXT = {"type": "string"}
_BOUND = {"type": ["integer", "null"]}
_TYPES = ("text", "textarea", "password", "integer", "float", "multiplechoice", "multiselect")
_CHOICES = {"type": {"enum": ["multiplechoice", "multiselect"]}}
_QUESTION = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("question_name", "question_description", "variable"), _TEXT),
        "required": {"type": "boolean"},
        "type": {"enum": _TYPES},
        "min": _BOUND,
        "max": _BOUND,
        "choices": {"type": ["string", "array"]},
        "default": {},
        "new_question": {"type": "boolean"},
    },
    "required": ["type", "question_name", "variable", "required"],
    "additionalProperties": False,
    "if": {"properties": _CHOICES},
    "then": {"required": ["choices"]},
}
_SURVEY = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "description": _TEXT,
        "spec": {"type": "array", "items": _QUESTION, "minItems": 1},
    },
    "required": ["name", "description", "spec"],
    "additionalProperties": False,
}
_DRAWN = json.loads(pathlib.Path(__file__).with_name("awx_requests.json").read_text(encoding="utf-8"))["requests"]
REQUESTS: dict[str, dict[str, t.Any]] = {**_DRAWN, "survey_spec": _SURVEY}
#: What the modules of awx.awx send besides, and AWX passes over: an organization, for one, is the project's.
_OF_MODULES = {
    "credential_types": {"managed"},
    "job_templates": {"organization"},
    "create_approval_template": {"identifier", "workflow_job_template"},
}

Body = dict[str, t.Any]


class Awx:
    """What was made, and what was wrong with it."""

    def __init__(self) -> None:
        self.things: dict[str, dict[int, Body]] = {kind: {} for kind in REQUESTS}
        self.links: dict[str, list[int]] = {}
        self.surveys: dict[str, Body] = {}
        self.refused: list[str] = []
        self.writes = 0
        self._next = 1
        self.create("organizations", {"name": "Default"})

    def create(self, kind: str, body: Body) -> Body:
        """Make a thing."""
        number, self._next = self._next, self._next + 1
        url = f"/api/v2/{kind}/{number}/"
        subs = (
            *("survey_spec", "workflow_nodes", "success_nodes", "failure_nodes", "always_nodes", "credentials"),
            *("labels", "create_approval_template", "notification_templates_success", "instance_groups"),
        )
        thing = {"id": number, "type": kind[:-1], "url": url, **body, "related": {sub: f"{url}{sub}/" for sub in subs}}
        self.things.setdefault(kind, {})[number] = thing
        return thing

    def named(self, kind: str) -> dict[str, Body]:
        """Things by name."""
        return {str(thing.get("name") or thing.get("identifier")): thing for thing in self.things[kind].values()}

    def check(self, kind: str, body: Body, *, partly: bool = False) -> None:
        """Note what AWX would refuse in a request. ``partly``: it changes a thing, and has only what changes."""
        schema = {**REQUESTS[kind], "required": []} if partly else REQUESTS[kind]
        sent = {key: value for key, value in body.items() if key not in _OF_MODULES.get(kind, ())}
        for error in jsonschema.Draft202012Validator(schema).iter_errors(sent):
            self.refused.append(f"{'.'.join([kind, *map(str, error.absolute_path)])}: {error.message}")


def _handler(awx: Awx) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def answer(self, body: t.Any, status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-API-Product-Name", "AWX")
            self.send_header("X-API-Product-Version", "24.6.1")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def body(self) -> Body:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")  # type: ignore[no-any-return]

        def parts(self) -> tuple[list[str], dict[str, str]]:
            url = urllib.parse.urlsplit(self.path)
            return url.path.removeprefix("/api/v2/").strip("/").split("/"), dict(urllib.parse.parse_qsl(url.query))

        def do_GET(self) -> None:
            (kind, *rest), query = self.parts()
            if kind in ("", "ping", "me", "config", "api"):
                self.answer({"version": "24.6.1", "current_version": "/api/v2/"})
            elif len(rest) == 2 and rest[1] == "survey_spec":
                self.answer(awx.surveys.get(rest[0], {}))
            elif len(rest) == 2:
                numbers = awx.links.get("/".join([kind, *rest]), [])
                self.list([one for things in awx.things.values() for one in things.values() if one["id"] in numbers])
            elif rest:
                thing = (
                    awx.things.get(kind, {}).get(int(rest[0])) if rest[0].isdigit() else awx.named(kind).get(rest[0])
                )
                self.answer(thing or {"detail": "Not found."}, 200 if thing else 404)
            else:
                kinds = list(awx.things) if kind == "unified_job_templates" else [kind]
                found = [one for name in kinds for one in awx.things.get(name, {}).values()]
                keys = [
                    key
                    for key in query
                    if re.fullmatch(r"name|identifier|organization|inventory|workflow_job_template", key)
                ]
                self.list([one for one in found if all(str(one.get(key)) == query[key] for key in keys)])

        def list(self, results: t.Any) -> None:
            self.answer({"count": len(results), "next": None, "previous": None, "results": results})

        def do_POST(self) -> None:
            (kind, *rest), body = self.parts()[0], self.body()
            awx.writes += 1
            if not rest:
                awx.check(kind, body)
                self.answer(awx.create(kind, body), 201)
            elif rest[1] == "survey_spec":
                awx.check("survey_spec", body)
                awx.surveys[rest[0]] = body
                self.answer(body)
            elif rest[1] == "workflow_nodes":
                whole = {**body, "workflow_job_template": int(rest[0])}
                awx.check("workflow_job_template_nodes", whole)
                node = awx.create("workflow_job_template_nodes", whole)
                awx.links.setdefault("/".join([kind, *rest]), []).append(node["id"])
                self.answer(node, 201)
            elif rest[1] == "create_approval_template":
                awx.check("create_approval_template", body)
                approval = awx.create("workflow_approval_templates", body)
                awx.things[kind][int(rest[0])]["unified_job_template"] = approval["id"]
                self.answer(approval, 201)
            else:
                awx.links.setdefault("/".join([kind, *rest]), []).append(body["id"])
                self.answer({}, 204)

        def do_PATCH(self) -> None:
            (kind, number), body = self.parts()[0], self.body()
            awx.writes += 1
            awx.check(kind, body, partly=True)
            awx.things[kind][int(number)].update(body)
            self.answer(awx.things[kind][int(number)])

        def do_DELETE(self) -> None:
            kind, number = self.parts()[0]
            awx.writes += 1
            del awx.things[kind][int(number)]
            self.answer({}, 204)

    return Handler


@contextlib.contextmanager
def serving() -> t.Iterator[tuple[Awx, str]]:
    """The stand-in and its URL."""
    awx = Awx()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(awx)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield awx, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
