# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role ``observability`` as it is written; tests/monitoring runs it."""

from __future__ import annotations

import pathlib
import re
import typing as t

import yaml

ROLE = pathlib.Path(__file__).parents[3] / "roles/observability"


def load(path: str) -> t.Any:
    """Data of a YAML file of the role."""
    return yaml.safe_load((ROLE / path).read_text(encoding="utf-8"))


def test_every_variable_is_unset_by_default_on_the_roles_page_and_used() -> None:
    options = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    assert load("defaults/main.yml") == dict.fromkeys(options, "")
    page = (ROLE / "README.md").read_text(encoding="utf-8")
    told = "".join(path.read_text(encoding="utf-8") for path in ROLE.rglob("*") if path.suffix in (".yml", ".j2"))
    for name in options:
        assert f"| `{name}` |" in page, name
        # In the two of them where it is declared, and where it is used.
        assert len(re.findall(rf"\b{name}\b", told)) > 2, name


def test_the_cluster_is_logged_into_as_by_the_role_control_plane() -> None:
    mine = load("meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    specs = ROLE.parent / "control_plane/meta/argument_specs.yml"
    theirs = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    shared = {name for name in theirs if name.startswith("hyper2kvm_kubernetes_")}
    assert shared and {name: mine[name] for name in shared} == {name: theirs[name] for name in shared}
