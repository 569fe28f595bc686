# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The execution environment, as far as ansible-builder makes it without a container engine."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILDER = pathlib.Path(sys.executable).parent / "ansible-builder"


def lines(path: pathlib.Path) -> set[str]:
    """What a requirements file asks for, without comments and other files."""
    found = (line.split(" ;")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return {line for line in found if line and line[0] not in "#-"}


def test_the_context_is_created_from_the_shipped_definition(tmp_path: pathlib.Path) -> None:
    command = [BUILDER, "create", "-f", REPOSITORY / "ee/execution-environment.yml", "-c", tmp_path / "context"]
    command += ["--output-filename", "Containerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    containerfile = (tmp_path / "context/Containerfile").read_text(encoding="utf-8")
    assert "RUN ansible-doc hyper2kvm.core.migration_job" in containerfile
    asked = yaml.safe_load((tmp_path / "context/_build/requirements.yml").read_text(encoding="utf-8"))
    assert [one["name"] for one in asked["collections"]] == ["hyper2kvm.core", "community.libvirt"]


def test_what_the_collection_needs_beside_ansible_is_found_and_no_more(tmp_path: pathlib.Path) -> None:
    """As ansible-builder looks into the installed collections of an environment."""
    installed = tmp_path / "ansible_collections/hyper2kvm"
    installed.mkdir(parents=True)
    (installed / "core").symlink_to(REPOSITORY)
    done = subprocess.run([BUILDER, "introspect", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = yaml.safe_load(re.sub(r"(?m)^#.*$", "", done.stdout))
    names = {re.split(r"[ ><=~;#]", line)[0].lower() for line in found["python"]}
    assert names == {"kubernetes", "openpyxl", "pydantic"}
    assert not found["system"]


def test_what_it_asks_for_is_what_is_tested() -> None:
    ours = lines(REPOSITORY / "requirements.txt") | lines(REPOSITORY / "requirements-kubernetes.txt")
    assert lines(REPOSITORY / "meta/ee-requirements.txt") - {"openpyxl"} <= ours
