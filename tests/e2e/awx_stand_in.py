# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A stand-in for AWX's REST API: keeps what is made, and refuses fields that AWX does not have. It runs nothing.

The fields were written down by hand after the API's own description (AWX 24); no AWX has been asked.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import threading
import typing as t
import urllib.parse

_ASKS = {
    f"ask_{name}_on_launch"
    for name in (
        "credential", "diff_mode", "execution_environment", "forks", "instance_groups", "inventory", "job_slice_count",
        "job_type", "labels", "limit", "scm_branch", "skip_tags", "tags", "timeout", "variables", "verbosity",
    )
}  # fmt: skip
_NAMED = {"name", "description"}
FIELDS: dict[str, set[str]] = {
    "organizations": _NAMED | {"max_hosts", "default_environment"},
    "credential_types": _NAMED | {"kind", "inputs", "injectors"},
    "execution_environments": _NAMED | {"organization", "image", "credential", "pull"},
    "projects": _NAMED
    | {
        "organization",
        "local_path",
        "scm_type",
        "scm_url",
        "scm_branch",
        "scm_refspec",
        "scm_clean",
        "scm_track_submodules",
    }
    | {"scm_delete_on_update", "credential", "timeout", "scm_update_on_launch", "scm_update_cache_timeout"}
    | {"allow_override", "default_environment", "signature_validation_credential"},
    "inventories": _NAMED | {"organization", "kind", "host_filter", "variables", "prevent_instance_group_fallback"},
    "inventory_sources": _NAMED
    | {
        "source",
        "source_path",
        "source_vars",
        "scm_branch",
        "credential",
        "enabled_var",
        "enabled_value",
        "host_filter",
    }
    | {"overwrite", "overwrite_vars", "timeout", "verbosity", "limit", "execution_environment", "inventory"}
    | {"update_on_launch", "update_cache_timeout", "source_project"},
    "job_templates": _NAMED
    | _ASKS
    | {"job_type", "inventory", "project", "playbook", "scm_branch", "forks", "limit", "verbosity", "extra_vars"}
    | {"job_tags", "force_handlers", "skip_tags", "start_at_task", "timeout", "use_fact_cache", "organization"}
    | {"execution_environment", "host_config_key", "survey_enabled", "become_enabled", "diff_mode", "job_slice_count"}
    | {"allow_simultaneous", "custom_virtualenv", "webhook_service", "webhook_credential"}
    | {"prevent_instance_group_fallback"},
    "workflow_job_templates": _NAMED
    | _ASKS
    | {"extra_vars", "organization", "survey_enabled", "allow_simultaneous", "inventory", "limit", "scm_branch"}
    | {"webhook_service", "webhook_credential", "skip_tags", "job_tags"},
    "workflow_job_template_nodes": {
        "extra_data",
        "inventory",
        "scm_branch",
        "job_type",
        "job_tags",
        "skip_tags",
        "limit",
    }
    | {"diff_mode", "verbosity", "execution_environment", "forks", "job_slice_count", "timeout"}
    | {"workflow_job_template", "unified_job_template", "all_parents_must_converge", "identifier"},
    "create_approval_template": _NAMED | {"timeout"},
    "survey_spec": _NAMED | {"spec"},
}
#: What the modules of awx.awx send besides, and AWX passes over.
_OF_MODULES = {"credential_types": {"managed"}, "create_approval_template": {"identifier", "workflow_job_template"}}
_QUESTION = {
    "question_name",
    "question_description",
    "required",
    "type",
    "variable",
    "min",
    "max",
    "default",
    "choices",
}
_QUESTION |= {"new_question"}
_TYPES = {"text", "textarea", "password", "integer", "float", "multiplechoice", "multiselect"}

Body = dict[str, t.Any]


class Awx:
    """What was made, and what was wrong with it."""

    def __init__(self) -> None:
        self.things: dict[str, dict[int, Body]] = {kind: {} for kind in FIELDS}
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

    def check(self, kind: str, body: Body) -> None:
        """Note fields that AWX does not have, or values that it refuses."""
        unknown = body.keys() - FIELDS.get(kind, set()) - _OF_MODULES.get(kind, set())
        self.refused += [f"{kind}: {field}" for field in sorted(unknown)]
        for question in body.get("spec", []) if kind == "survey_spec" else []:
            wrong = sorted(question.keys() - _QUESTION)
            wrong += [] if question["type"] in _TYPES else [question["type"]]
            wrong += [key for key in ("question_name", "variable", "type", "required") if key not in question]
            self.refused += [f"{question.get('variable')}: {one}" for one in wrong]


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
                awx.check("workflow_job_template_nodes", body)
                node = awx.create("workflow_job_template_nodes", {**body, "workflow_job_template": int(rest[0])})
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
            awx.check(kind, body)
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
