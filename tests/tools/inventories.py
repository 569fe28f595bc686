# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inventories as Ansible's own command reads them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import typing as t

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Listed:
    """What ``ansible-inventory --list`` said."""

    groups: dict[str, list[str]]
    hosts: dict[str, dict[str, t.Any]]
    errors: str

    def tells(self, text: str) -> bool:
        """Whether the errors have that text, which old versions of Ansible break into lines anywhere."""
        return "".join(text.split()) in "".join(self.errors.split())


def run(command: str, *arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's commands with this collection; a source that is faulty ends it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    settings = {
        "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections"),
        "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    return subprocess.run(
        [pathlib.Path(sys.executable).parent / command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**kept, **settings},
    )


def listed(source: pathlib.Path) -> Listed:
    """List the inventory that a file describes."""
    done = run("ansible-inventory", "-i", source, "--list")
    if done.returncode:
        return Listed({}, {}, done.stderr)
    document = json.loads(done.stdout)
    groups = {name: group.get("hosts", []) for name, group in document.items() if name != "_meta"}
    hosts = document["_meta"]["hostvars"]
    return Listed(groups, {host: _plain(variables) for host, variables in hosts.items()}, done.stderr)


def _plain(value: t.Any) -> t.Any:
    """Return values without the mark of those that are no templates."""
    if not isinstance(value, dict):
        return value
    return (
        value["__ansible_unsafe"] if "__ansible_unsafe" in value else {key: _plain(one) for key, one in value.items()}
    )
