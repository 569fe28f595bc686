# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the documentation shows is what the product takes: documents, playbooks, variables, commands and targets.

The tutorial's commands are run, by ``tests/e2e/test_tutorial.py``; here every other page's are parsed.
"""

from __future__ import annotations

import argparse
import collections.abc as c
import dataclasses
import difflib
import functools
import itertools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import typing as t

import jsonschema
import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import jobspec1
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
#: Pages with documents of the past.
_OTHERS = ("docs/worker/JOBSPEC1.md", "changelogs/")
_KINDS = {"MigrationJob": "migration-job", "MigrationResult": "result"}
#: What stands for something that whoever reads it has to fill in.
_BLANK = re.compile(r"…|<[a-z ]+>|\.\.\.")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    where: str
    language: str
    text: str


def pages() -> list[pathlib.Path]:
    """All pages that git knows, or would."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    names = subprocess.check_output(listed, cwd=ROOT, text=True).split()
    return [ROOT / name for name in names if not name.startswith(("tests/", ".github/", *_OTHERS))]


@functools.cache
def blocks() -> tuple[Block, ...]:
    """The blocks of all pages."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text[: match.start()].count("\n") + 1
            indent = len(match["indent"])
            body = "".join(one[indent:] if one.strip() else one for one in match["text"].splitlines(keepends=True))
            found.append(Block(f"{page.relative_to(ROOT)}:{line}", match["language"], body))
    return tuple(found)


def of(*languages: str) -> list[Block]:
    """The blocks of these languages."""
    return [block for block in blocks() if block.language in languages]


def parametrized(*languages: str) -> pytest.MarkDecorator:
    """A test for each such block."""
    return pytest.mark.parametrize("block", of(*languages), ids=lambda block: block.where)


def test_there_is_something_to_look_at() -> None:
    assert len(of("yaml")) > 20 and len(of("json")) >= 3 and len(of("console")) > 20


@parametrized("yaml")
def test_yaml_is_yaml_and_a_job_is_a_job(block: Block) -> None:
    for document in yaml.safe_load_all(block.text):
        if isinstance(document, dict) and {"metadata", "spec"} <= document.keys() and _ours(document):
            jobspec1.parse(yaml.safe_dump(document).encode())


def _ours(document: dict[str, t.Any]) -> bool:
    return document.get("kind", "MigrationJob") == "MigrationJob"


@parametrized("json")
def test_json_is_what_its_schema_says(block: Block) -> None:
    document = json.loads(_BLANK.sub("0", block.text))
    name = _KINDS.get(document.get("kind", "")) or ("event" if "specversion" in document else None)
    if name is not None:
        schema = json.loads((ROOT / f"schemas/{name}.json").read_text(encoding="utf-8"))
        jsonschema.validate(document, schema)


def playbooks() -> dict[str, str]:
    """The blocks that are playbooks, by where they are."""
    found = {}
    for block in of("yaml"):
        for document in yaml.safe_load_all(block.text):
            if (
                isinstance(document, list)
                and document
                and {"hosts", "ansible.builtin.import_playbook"} & set(document[0])
            ):
                found[block.where] = block.text
    return found


def test_playbooks_are_taken_by_ansible(tmp_path: pathlib.Path) -> None:
    found = playbooks()
    assert len(found) > 2
    files = []
    for where, text in found.items():
        file = tmp_path / (re.sub(r"\W", "-", where) + ".yml")
        file.write_text(text, encoding="utf-8")
        files.append(file)
    command = [pathlib.Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "--syntax-check", *files]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@functools.cache
def variables() -> frozenset[str]:
    """All variables of roles and playbooks that users set or get."""
    known = set()
    for path in itertools.chain(ROOT.glob("roles/*/meta/argument_specs.yml"), ROOT.glob("playbooks/*.yml")):
        known |= set(re.findall(r"\bhyper2kvm_[a-z0-9_]+\b", path.read_text(encoding="utf-8")))
    for path in itertools.chain(ROOT.glob("roles/*/tasks/*.yml"), ROOT.glob("plugins/inventory/*.py")):
        known |= set(re.findall(r"\bhyper2kvm_[a-z0-9_]+\b", path.read_text(encoding="utf-8")))
    return frozenset(known)


@parametrized("yaml", "console", "")
def test_variables_are_known(block: Block) -> None:
    # Metrics have names of that kind as well; in a shell they are none of Ansible's.
    text = block.text if block.language == "yaml" else "\n".join(re.findall(r"-e\s+(\S+|'[^']*')", block.text))
    for name in re.findall(r"\bhyper2kvm_[a-z0-9_]+\b", text):
        assert name in variables(), f"{name}; is {difflib.get_close_matches(name, variables(), 1)} meant?"


def commands(block: Block) -> c.Iterator[str]:
    """The commands of a block that people type, each on one line."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    for line in text.splitlines():
        prompt = re.match(r"[$#] (?=\S)", line)
        # Elsewhere than in a console, lines that are drawn or listed are no commands.
        if not prompt and (block.language == "console" or re.search(r" {3,}|,", line)):
            continue
        yield from re.split(r"\s(?:&&|\|\|?|;)\s", line[prompt.end() :] if prompt else line.strip())


def all_commands(beginning: str) -> list[tuple[str, str]]:
    """Commands of a program, with where they are."""
    return [
        (block.where, found)
        for block in of("console", "")
        for one in commands(block)
        for found in re.findall(rf"^(?:\w+=\S+ )*(?:\S*/)?({beginning}(?:\s.*)?)$", one)
    ]


@pytest.mark.parametrize(("where", "command"), all_commands("hyper2kvm-worker"))
def test_the_workers_commands_are_taken_by_its_parser(where: str, command: str) -> None:
    words = shlex.split(_BLANK.sub("1", command), comments=True)[1:]
    assert where and isinstance(cli._parser().parse_args(words), argparse.Namespace)


def test_playbooks_of_the_collection_are_there() -> None:
    named = [(where, name) for where, one in all_commands("ansible-playbook") for name in _own(one)]
    assert len(named) > 15
    assert [(where, name) for where, name in named if not (ROOT / f"playbooks/{name}.yml").is_file()] == []


def _own(command: str) -> list[str]:
    return re.findall(r"\bhyper2kvm\.core\.([a-z_]+)\b", command)


def test_targets_of_make_are_there() -> None:
    there = {
        folder: set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / folder / "Makefile").read_text(encoding="utf-8")))
        for folder in (".", "k8s")
    }
    named = all_commands("make")
    assert len(named) > 10
    for where, command in named:
        words = shlex.split(_BLANK.sub("x", command), comments=True)[1:]
        folder = "k8s" if "k8s" in words else "."
        targets = [word for word in words if "=" not in word and word not in ("-C", "k8s")]
        assert set(targets) <= there[folder], f"{where}: {command}"


def links(page: pathlib.Path) -> set[pathlib.Path]:
    """The pages that a page leads to."""
    found = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    return {(page.parent / one).resolve() for one in found if one.endswith(".md") and "://" not in one}


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs/README.md"
    # What has an index of its own is found by that.
    found = links(index).union(*(links(ROOT / f"docs/{one}/README.md") for one in ("adr", "runbooks")))
    wanted = {
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("roles/*/README.md"),
        *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "helm/README.md", "k8s/README.md")),
        ROOT / "k8s/operator/README.md",
    }
    assert sorted(str(page.relative_to(ROOT)) for page in wanted - found - {index}) == []
    assert index in links(ROOT / "README.md")
