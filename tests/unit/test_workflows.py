# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The workflows are as docs/worker/v1.3.0-cicd-ops.md says. That they are well-formed, actionlint checks."""

from __future__ import annotations

import collections.abc as c
import pathlib
import re
import typing as t

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
PAGE = (ROOT / "docs/worker/v1.3.0-cicd-ops.md").read_text(encoding="utf-8")
#: An action at a commit, with its version for people and for Dependabot.
PINNED = re.compile(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

Job = dict[str, t.Any]


def jobs() -> c.Iterator[tuple[str, Job]]:
    """All jobs by ``file/name``."""
    for path in FILES:
        for name, job in load(path)["jobs"].items():
            yield f"{path.stem}/{name}", job


def load(path: pathlib.Path) -> Job:
    """A workflow."""
    return t.cast(Job, yaml.safe_load(path.read_text(encoding="utf-8")))


def commands(job: Job) -> list[str]:
    """What a job runs in its shell."""
    return [step["run"] for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_of_others_is_run_but_at_a_digest(path: pathlib.Path) -> None:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    used = [line for line in lines if "uses:" in line and not line.startswith("#")]
    assert used and [line for line in used if not PINNED.search(line)] == []
    images = [line for line in lines if re.match(r"(container|image): \S", line)]
    assert [line for line in images if not re.search(r"@sha256:[0-9a-f]{64}$", line)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_one_version_of_an_action_has_one_digest(path: pathlib.Path) -> None:
    everywhere = "\n".join(one.read_text(encoding="utf-8") for one in FILES)
    for action, digest in re.findall(r"uses: (\S+)@([0-9a-f]{40})", path.read_text(encoding="utf-8")):
        assert set(re.findall(rf"uses: {re.escape(action)}@([0-9a-f]{{40}})", everywhere)) == {digest}


def test_every_job_has_just_the_rights_that_it_is_given() -> None:
    assert {str(load(path).get("permissions")) for path in FILES} == {"{}"}
    for name, job in jobs():
        assert isinstance(job["permissions"], dict), name
        writes = {key for key, value in job["permissions"].items() if value == "write"}
        # Whoever may write, publishes; what a pull request brings runs in none of them.
        assert not writes or name.partition("/")[0] in ("image", "release", "docs"), name
    for path in FILES:
        assert "pull_request_target" not in path.read_text(encoding="utf-8")


def test_no_job_keeps_the_token_or_runs_for_ever() -> None:
    for name, job in jobs():
        assert 0 < job["timeout-minutes"] <= 120, name
        assert not job["runs-on"].endswith("latest"), name
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


def test_no_expression_is_pasted_into_a_shell() -> None:
    """What a branch or a tag is called could be a command; it comes by the environment instead."""
    assert [name for name, job in jobs() for one in commands(job) if "${{" in one] == []


def test_they_call_the_targets_that_people_call() -> None:
    there = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    there_k8s = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "k8s/Makefile").read_text(encoding="utf-8")))
    called = set()
    for name, job in jobs():
        matrix = job.get("strategy", {}).get("matrix", {})
        for line in "\n".join(commands(job)).splitlines():
            if not line.strip().startswith("make "):
                continue
            words = [word for word in line.split("2>&1")[0].split()[1:] if "=" not in word and word != "-C"]
            known = there_k8s if words[0] == "k8s" else there
            targets = [one for one in words if one != "k8s"]
            targets = [one for word in targets for one in (matrix["target"] if word == '"$TARGET"' else [word])]
            assert targets and set(targets) <= known, f"{name}: {line}"
            called |= set(targets)
    assert called >= {"lint", "unit", "sanity", "release", "image", "docsite", "k3d-full-test", "compat", "molecule"}


def test_each_molecule_scenario_has_a_target() -> None:
    there = {path.parent.name for path in ROOT.glob("extensions/molecule/*/molecule.yml")}
    run = re.findall(r"\$\(MOLECULE\) (\w+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(there) == 3 and sorted(run) == sorted(there)


def test_the_matrix_is_what_the_collection_says_that_it_supports() -> None:
    matrix = load(FOLDER / "ci.yml")["jobs"]["compat"]["strategy"]["matrix"]
    oldest = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
    assert oldest == f">={matrix['ansible'][0]}.0"
    assert f"ansible-core ~= {matrix['ansible'][0]}.0" in (ROOT / "requirements-oldest.txt").read_text(encoding="utf-8")


def test_the_page_has_a_line_for_each_job() -> None:
    told = set(re.findall(r"(?m)^\| `(\w+/\w+)` \|", PAGE))
    assert told == {name for name, dummy in jobs()}
