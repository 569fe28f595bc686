# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the Dockerfile repeats of other files is what these say."""

from __future__ import annotations

import fnmatch
import pathlib
import re

import yaml
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[2]


def text(path: str) -> str:
    """A file of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def test_the_images_have_libraries_as_they_are_required() -> None:
    exact = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", text("requirements-image.txt"), re.MULTILINE))
    lines = [line for line in text("requirements.txt").splitlines() if line and not line.startswith("#")]
    required = [Requirement(line) for line in lines]
    assert required
    wrong = [str(one) for one in required if not one.specifier.contains(exact.get(one.name.lower(), "0"))]
    assert wrong == [], "run `make lock`"


def test_the_images_are_labelled_with_the_collections_version() -> None:
    version = yaml.safe_load(text("galaxy.yml"))["version"]
    assert set(re.findall(r"^ARG VERSION=(.*)$", text("Dockerfile"), re.MULTILINE)) == {version}


def test_what_the_images_are_made_of_is_there_and_reaches_their_builder() -> None:
    sent = {line.removeprefix("!") for line in text(".dockerignore").splitlines() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", text("Dockerfile"), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert {name for name in sent if not any(fnmatch.fnmatchcase(name, source) for source in copied)} == set()
    assert {source for source in copied if not any(fnmatch.fnmatchcase(name, source) for name in sent)} == set()
    assert [source for source in sorted(copied) if not [*ROOT.glob(source)]] == []


def test_each_target_starts_a_command_of_its_own() -> None:
    found = re.findall(r'^FROM \S+ AS (\S+)$|^ENTRYPOINT \["(.*)"\]$', text("Dockerfile"), re.MULTILINE)
    stages = dict(zip([stage for stage, dummy in found], [command for dummy, command in found[1:]], strict=False))
    commands = {stage: command for stage, command in stages.items() if command}
    assert commands == {"operator": "hyper2kvm-operator", "worker": "hyper2kvm-worker"}
