# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tutorial, word for word, with the installed collection and a small real guest."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from tests.e2e.migration import PATIENCE_SECONDS, REPOSITORY, link_or_copy
from tests.e2e.playbooks import CORE, environment
from tests.e2e.tutorial import Command, File, steps
from tests.guests import build

PAGE = REPOSITORY / "docs/tutorial.md"


def test_each_command_prints_what_the_page_shows(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    roots = {"input": tmp_path / "var/input", "output": tmp_path / "var/output"}
    roots["input"].mkdir(parents=True)
    link_or_copy(build("tiny") / "tiny.ova", roots["input"] / "web01.ova")
    site = tmp_path / "site"
    (site / "group_vars").mkdir(parents=True)
    # In place of /var/lib/hyper2kvm, and a busy machine may take its time.
    settings = {f"hyper2kvm_{name}_root": str(root) for name, root in roots.items()}
    settings["hyper2kvm_verify_timeout_seconds"] = str(PATIENCE_SECONDS)
    (site / "group_vars/all.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    variables = environment(
        ANSIBLE_COLLECTIONS_PATH=str(installed),
        HYPER2KVM_OUTPUT_ROOT=str(roots["output"]),
        LC_ALL="C.UTF-8",
        PATH=f"{installed / CORE / 'scripts'}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    )
    found = steps(PAGE.read_text(encoding="utf-8"))
    assert sum(isinstance(step, Command) for step in found) > 4
    for step in found:
        if isinstance(step, File):
            (site / step.name).write_text(step.text, encoding="utf-8")
            continue
        command = step.line.replace("/var/lib/hyper2kvm", str(tmp_path / "var"))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=site,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        output = done.stdout.replace(str(tmp_path / "var"), "/var/lib/hyper2kvm")
        assert done.returncode == 0, output
        assert step.matches(output), f"{step.line} printed\n{output}"


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nd\n", True),
        ("a\n…\nd\n", "a\nb\nc\n", False),
        ("took … s\n", "took 4.2 s\n", True),
        ("took … s\n", "took 4.2 min\n", False),
        ("took 4 s\n", "took 4 s\nand more\n", False),
    ],
)
def test_what_is_shown_is_compared(shown: str, printed: str, right: bool) -> None:
    assert Command("x", shown).matches(printed) is right
