# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""AWX: its configuration as code, by the real awx.awx modules on a stand-in, and a run as AWX's runner makes it."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import typing as t

import pytest
import yaml

from tests.e2e.awx_stand_in import Awx, serving
from tests.e2e.playbooks import Inventory, ansible_playbook, environment
from tests.guests.host import REPOSITORY


def test_templates_survey_and_workflow_are_made(tmp_path: pathlib.Path) -> None:
    with serving() as (awx, url), (tmp_path / "log").open("w") as log:
        settings = {
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections"),
            "CONTROLLER_HOST": url,
            "CONTROLLER_OAUTH_TOKEN": "token",
        }
        done = ansible_playbook(REPOSITORY / "awx/configure.yml", folder=tmp_path, log=log, extra={}, settings=settings)
    assert done.status == 0, done.output
    assert awx.refused == []
    templates = awx.named("job_templates")
    assert {name.removeprefix("hyper2kvm ") for name in templates} == {
        *("plan", "preflight", "rehearse", "migrate", "cutover", "rollback"),
    }
    for template in templates.values():
        assert (REPOSITORY / "awx/project" / template["playbook"]).is_file()
        assert awx.surveys[str(template["id"])]["spec"][0]["variable"] == "hyper2kvm_waves"
    source = awx.named("inventory_sources")["plan"]
    assert (REPOSITORY / "awx/project" / source["source_path"]).is_file() and source["update_on_launch"]

    nodes = {node["id"]: node for node in awx.things["workflow_job_template_nodes"].values()}
    order, number = [], next(i for i, node in nodes.items() if node["identifier"] == "plan")
    while True:
        order.append(nodes[number]["identifier"])
        following = awx.links.get(f"workflow_job_template_nodes/{number}/success_nodes")
        if not following:
            break
        (number,) = following
    assert order == ["plan", "preflight", "approve", "migrate", "approve-cutover", "cutover"]


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("job_templates", {"name": "plan", "colour": "red"}, "'colour' was unexpected"),
        ("job_templates", {"name": "plan", "job_type": "walk"}, "'walk' is not one of"),
        ("job_templates", {"name": "plan", "forks": "many"}, "'many' is not of type 'integer'"),
        ("credential_types", {"name": "key"}, "'kind' is a required property"),
        ("survey_spec", {"name": "", "description": "", "spec": []}, "[] should be non-empty"),
        (
            "survey_spec",
            {
                **{"name": "", "description": ""},
                "spec": [{"type": "multiselect", "question_name": "Waves", "variable": "waves", "required": False}],
            },
            "'choices' is a required property",
        ),
    ],
)
def test_what_awx_would_refuse_is_noted(kind: str, body: dict[str, t.Any], why: str) -> None:
    """So that the test before this one means something."""
    awx = Awx()
    awx.check(kind, body)
    (refused,) = awx.refused
    assert refused.startswith(kind) and why in refused


def test_the_survey_asks_for_variables_that_there_are() -> None:
    text = (REPOSITORY / "awx/vars.yml").read_text(encoding="utf-8").replace("!unsafe", "")
    variables = yaml.safe_load(text)
    known = (REPOSITORY / "docs/variables.md").read_text(encoding="utf-8")
    for question in variables["hyper2kvm_awx_survey"]["spec"]:
        assert f"| `{question['variable']}` |" in known
        assert not question["required"] and question["type"] != "password"
    for kind in variables["hyper2kvm_awx_credential_types"]:
        assert set(kind["injectors"]) <= {"file", "env"}


def run(folder: pathlib.Path, playbook: str, collections: pathlib.Path, **extra: t.Any) -> dict[str, t.Any]:
    """Run a playbook of the project by ansible-runner in its private data folder; the artifacts of ``set_stats``."""
    shutil.rmtree(folder / "artifacts", ignore_errors=True)
    (folder / "env").mkdir(exist_ok=True)
    (folder / "env/extravars").write_text(json.dumps(extra), encoding="utf-8")
    command = [pathlib.Path(sys.executable).parent / "ansible-runner", "run", folder, "-p", playbook, "-i", playbook]
    variables = {
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "PATH": f"{pathlib.Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(LC_ALL="C.UTF-8", **variables)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = (json.loads(path.read_text()) for path in (folder / "artifacts" / playbook / "job_events").glob("*.json"))
    (stats,) = (event for event in events if event["event"] == "playbook_on_stats")
    found: dict[str, t.Any] = stats["event_data"]["artifact_data"]
    return found


def test_a_nodes_artifacts_are_variables_of_the_next(
    tmp_path: pathlib.Path, inventory: Inventory, collections: pathlib.Path
) -> None:
    """What AWX does with a workflow: artifacts of a node are extra variables of the nodes after it."""
    inventory.add("web01")
    folder = tmp_path / "private"
    shutil.copytree(REPOSITORY / "awx/project", folder / "project")
    (folder / "inventory").mkdir()
    shared = {
        "hyper2kvm_input_root": str(inventory.folder / "input"),
        "hyper2kvm_output_root": str(inventory.output),
        # Unanswered questions of the survey.
        **{"hyper2kvm_waves": "", "hyper2kvm_target_format": "", "hyper2kvm_limits_bandwidth_bytes_per_second": ""},
    }
    hosts = {"vms": {"hosts": inventory.groups["vms"]}}
    (folder / "inventory/hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    planned = run(folder, "plan.yml", collections, **shared)
    assert planned["hyper2kvm_plan"]["vms"]["web01"]["needed_bytes"] == 1 << 16
    migrated = run(folder, "migrate.yml", collections, **shared, **planned)
    assert migrated["hyper2kvm_results"]["web01"]["phase"] == "COMPLETED"
    assert migrated["hyper2kvm_results"]["web01"]["verdict"] == "boots"
    again = run(folder, "plan.yml", collections, **shared, **migrated)
    assert again["hyper2kvm_plan"]["vms"]["web01"]["done"] is True
