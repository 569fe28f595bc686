# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role's variables: one for each field of a job, documented, unset by default, and handed on."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import typing as t

import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments

ROOT = pathlib.Path(__file__).parents[3]
ROLE = ROOT / "roles/migrate"
#: Variables that are no field of a job and no folder.
OTHERS = {
    "backend",
    "collect_failures",
    "conversion_host",
    "name",
    "progress_interval",
    "slots",
    "spec",
    "wait_timeout",
    "labels",
    "annotations",
    "report_path",
    "report_csv",
    "report_junit",
    "report_title",
}


def load(path: str) -> t.Any:
    """Data of a YAML file of the role."""
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def specs() -> dict[str, t.Any]:
    """The role's options."""
    found: dict[str, t.Any] = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return found


def leaves(options: dict[str, t.Any], prefix: str) -> t.Iterator[str]:
    """Names of all fields that are no group of fields."""
    for name, option in options.items():
        if option["type"] == "dict" and "options" in option:
            yield from leaves(option["options"], f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}"


def test_there_is_a_variable_for_each_field_and_each_folder() -> None:
    cluster = {f"kubernetes_{option}" for option in arguments.CLUSTER}
    fields = {*leaves(arguments.SPEC, ""), *arguments.ROOTS, *cluster}
    assert {name.removeprefix("hyper2kvm_") for name in specs()} == fields | OTHERS


def test_every_variable_is_unset_by_default_and_may_be_blank() -> None:
    assert load("defaults/main.yml") == dict.fromkeys(specs(), "")
    for name, option in specs().items():
        assert option["default"] == "", name
        assert option["type"] in ("str", "raw"), name
        assert "" in option.get("choices", [""]), name


def test_choices_are_the_documents() -> None:
    fields: dict[str, t.Any] = {}

    def collect(options: dict[str, t.Any], prefix: str) -> None:
        for name, option in options.items():
            (
                collect(option["options"], f"{prefix}{name}_")
                if "options" in option
                else fields.update({prefix + name: option})
            )

    collect(arguments.SPEC, "hyper2kvm_")
    for name, option in specs().items():
        if name in fields and fields[name]["type"] == "str":
            assert option.get("choices", [""])[1:] == fields[name].get("choices", []), name


def test_every_variable_reaches_a_task() -> None:
    files = ("tasks/main.yml", "tasks/report.yml", "vars/main.yml")
    used = "".join((ROLE / path).read_text(encoding="utf-8") for path in files)
    assert [name for name in specs() if name not in used] == []


def test_no_play_and_no_role_connects_or_becomes() -> None:
    files = [*ROOT.glob("playbooks/*.yml"), *ROLE.rglob("*.yml")]
    words = [word for path in files for word in path.read_text(encoding="utf-8").split()]
    assert not {"connection:", "become:", "rescue:"}.intersection(words)


def test_the_page_of_variables_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/write_variables.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_page_of_variables_tells_lists_from_numbers() -> None:
    lines = (ROOT / "docs/variables.md").read_text(encoding="utf-8").splitlines()
    told = {cells[1].strip(" `"): cells[2].strip() for line in lines if len(cells := line.split("|")) > 3}
    assert told["hyper2kvm_guest_network_map"] == told["hyper2kvm_source_disks"] == "list"
    assert told["hyper2kvm_scratch_free_gib"] == told["hyper2kvm_priority"] == "number"
    assert told["hyper2kvm_worker_labels"] == "dictionary"
