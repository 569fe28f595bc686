# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The execution environment, built by the container tool from what ansible-builder writes, and used.

It is the shipped definition but for where things come from: Debian instead of Fedora, which no registry is needed for,
and collections from files instead of Galaxy.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import typing as t

import pytest
import yaml

from tests.cluster import images
from tests.guests.host import REPOSITORY, BuildError

_BIN = pathlib.Path(sys.executable).parent
_NAME = "hyper2kvm-ee:test"
#: ansible-builder expects what Fedora's image has: pip, which may install beside the system's packages. Where this
#: machine trusts an authority of its own, pip is told of it.
_BASE = (
    "ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_CERT=/etc/ssl/certs/ca-certificates.crt DEBIAN_FRONTEND=noninteractive",
    "RUN apt-get update && apt-get install --yes python3 python3-pip python3-venv",
)
_PLAN = """\
plugin: hyper2kvm.core.batch
hosts:
  web1: {hyper2kvm_source_path: web1.vmdk, wave: wave2}
"""


def _tool(name: str, *arguments: str | pathlib.Path) -> None:
    done = subprocess.run([_BIN / name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _sources(collection: str, folder: pathlib.Path) -> pathlib.Path:
    """An installed collection, to be built again."""
    copy = folder / collection
    shutil.copytree(REPOSITORY / ".collections/ansible_collections" / collection, copy)
    manifest = json.loads((copy / "MANIFEST.json").read_text(encoding="utf-8"))
    told = {key: value for key, value in manifest["collection_info"].items() if value is not None}
    (copy / "galaxy.yml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image's name."""
    folder = tmp_path_factory.mktemp("ee")
    archives = folder / "archives"
    needed = yaml.safe_load((REPOSITORY / "galaxy.yml").read_text("utf-8"))["dependencies"]
    asked = yaml.safe_load((REPOSITORY / "ee/requirements.yml").read_text("utf-8"))["collections"]
    others = {*needed, *(one["name"] for one in asked)} - {"hyper2kvm.core"}
    for collection in (REPOSITORY, *(_sources(name.replace(".", "/"), folder) for name in sorted(others))):
        _tool("ansible-galaxy", "collection", "build", collection, "--output-path", archives)
    document: dict[str, t.Any] = yaml.safe_load((REPOSITORY / "ee/execution-environment.yml").read_text("utf-8"))
    document["images"]["base_image"]["name"] = f"{images.debian()}:latest"
    document["options"] |= {"package_manager_path": "/usr/bin/apt-get", "skip_pip_install": True}
    document["dependencies"]["galaxy"] = {
        "collections": [{"name": f"archives/{path.name}", "type": "file"} for path in archives.iterdir()]
    }
    document["additional_build_files"] = [{"src": str(path), "dest": "archives"} for path in archives.iterdir()]
    steps = document["additional_build_steps"]
    steps["prepend_base"] = list(_BASE)
    steps["prepend_galaxy"] = ["COPY _build/archives archives"]
    definition = folder / "execution-environment.yml"
    definition.write_text(yaml.safe_dump(document), encoding="utf-8")
    context = folder / "context"
    _tool("ansible-builder", "create", "-f", definition, "-c", context, "--output-filename", "Containerfile")
    images.build(context, context / "Containerfile", _NAME)
    return _NAME


def _inside(environment: str, *command: str) -> str:
    # As an engine runs it: for a user without a name, who gets a home there.
    return images.inside(environment, "/opt/builder/bin/entrypoint", *command)


def test_its_modules_are_documented(environment: str) -> None:
    told = json.loads(_inside(environment, "ansible-doc", "--json", "hyper2kvm.core.migration_job"))
    assert told["hyper2kvm.core.migration_job"]["doc"]["collection"] == "hyper2kvm.core"


def test_what_the_plugins_import_is_installed(environment: str) -> None:
    """Spreadsheets, the models and Kubernetes' client; and a plan is read by the inventory plugin."""
    _inside(environment, "python3", "-c", "import kubernetes, openpyxl, pydantic, ansible_runner")
    write = f"cat > /tmp/plan.yml <<'END'\n{_PLAN}END\nansible-inventory -i /tmp/plan.yml --list"
    hosts = json.loads(_inside(environment, "sh", "-c", write))
    assert hosts["_meta"]["hostvars"]["web1"]["hyper2kvm_source_path"] == "web1.vmdk"
    assert hosts["wave2"]["hosts"] == ["web1"]


def test_a_playbook_of_the_collection_says_what_it_lacks(environment: str) -> None:
    """Converting is not its work: without a host that does it there is an error, which says what to do."""
    write = f"cat > /tmp/plan.yml <<'END'\n{_PLAN}END\nansible-playbook hyper2kvm.core.migrate -i /tmp/plan.yml >&2"
    with pytest.raises(BuildError) as caught:
        _inside(environment, "sh", "-c", write)
    assert "cannot be made: Permission denied" in str(caught.value)
    assert "hyper2kvm_state_dir" in str(caught.value) and "Traceback" not in str(caught.value)
