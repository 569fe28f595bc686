# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role ``conversion_host`` and the image install, without a machine: the e2e tests have one."""

from __future__ import annotations

import io
import pathlib
import re
import shutil
import tarfile
import typing as t

import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.lookup.collection_archive import archive_of
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import VENV_PYTHON

ROOT = pathlib.Path(__file__).parents[3]
ROLE = ROOT / "roles/conversion_host"


def load(path: str) -> t.Any:
    """Data of a YAML file of the role."""
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def bindep(platform: str) -> set[str]:
    """The packages that a worker needs, as bindep.txt lists them for a kind of system."""
    found = set()
    for line in (ROOT / "bindep.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") and line.strip():
            name, dummy, selectors = line.partition(" ")
            words = selectors.strip("[]").split()
            wanted = [word for word in words if word.startswith("platform:")]
            # Another word is a profile: tests', a browser's.
            if wanted == words and (not wanted or f"platform:{platform}" in wanted):
                found.add(name)
    return found


@pytest.mark.parametrize(("family", "platform"), [("Debian", "dpkg"), ("RedHat", "rpm")])
def test_the_packages_are_those_of_bindep(family: str, platform: str) -> None:
    listed = load("vars/main.yml")["hyper2kvm_conversion_host_platforms"][family]["packages"]
    assert {name for name in listed if "python" not in name} == bindep(platform)


def test_every_variable_is_unset_by_default_and_on_the_roles_page() -> None:
    options = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert load("defaults/main.yml") == dict.fromkeys(options, "")
    page = (ROLE / "README.md").read_text(encoding="utf-8")
    told = "".join(path.read_text(encoding="utf-8") for path in ROLE.rglob("*") if path.suffix in (".yml", ".j2"))
    for name in options:
        assert f"| `{name}` |" in page, name
        # In the three of them where it is declared, and where it is used.
        assert len(re.findall(rf"\b{name}\b", told)) > 2, name


def test_the_virtual_environment_is_where_modules_look_for_it() -> None:
    known = load("vars/main.yml")
    assert known["hyper2kvm_conversion_host_home"] == "/opt/hyper2kvm"
    assert VENV_PYTHON == "/opt/hyper2kvm/venv/bin/python"


def test_the_archive_is_the_same_whoever_packs_it_and_its_command_comes_last(tmp_path: pathlib.Path) -> None:
    first = archive_of(ROOT)
    copy = tmp_path / "core"
    for name in ("plugins/module_utils", "scripts"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("galaxy.yml", "LICENSE", "requirements.txt"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "plugins/module_utils/worker/__pycache__").mkdir(exist_ok=True)
    (copy / "plugins/module_utils/worker/__pycache__/agent.cpython-399.pyc").write_bytes(b"")
    assert archive_of(copy) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        members = tar.getmembers()
    core = "ansible_collections/hyper2kvm/core"
    assert members[-1].name == f"{core}/scripts/hyper2kvm-worker" and members[-1].mode == 0o755
    names = {member.name for member in members}
    assert f"{core}/plugins/module_utils/worker/agent.py" in names and f"{core}/requirements.txt" in names
    (copy / "requirements.txt").write_text("another\n")
    assert archive_of(copy) != first
