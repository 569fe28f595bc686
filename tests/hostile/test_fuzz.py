# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A short campaign on every reader of hostile data, and all that longer ones found: ``make fuzz`` is the long one."""

from __future__ import annotations

import pytest

from tests.hostile.fuzz import attack
from tests.hostile.targets import TARGETS, Target, case_folder

#: Inputs for each share of a target.
_INPUTS = 6
_CASES = [(name, path) for name in TARGETS for path in sorted(case_folder(name).glob("*"))]


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_are_taken_or_refused(name: str) -> None:
    outcome = attack(TARGETS[name], _INPUTS * TARGETS[name].share)
    assert not outcome.failure, f"{outcome.case!r}: {outcome.failure}"


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_good(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].check(seed)


@pytest.mark.parametrize(("name", "path"), _CASES, ids=[f"{name}-{path.name}" for name, path in _CASES])
def test_what_was_found_before(name: str, path: object) -> None:
    TARGETS[name].check(path.read_bytes())  # type: ignore[attr-defined]


def test_the_campaign_sees_and_shrinks_a_failure() -> None:
    def read(data: bytes) -> None:
        if b"\xff" in data:
            raise KeyError("not documented")

    outcome = attack(Target(lambda: [b"a" * 100], read), 5000)
    assert "KeyError" in outcome.failure
    assert outcome.case is not None and b"\xff" in outcome.case


def test_the_campaign_ends_an_input_that_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hostile.fuzz._INPUT_SECONDS", 0.05)

    def read(data: bytes) -> None:
        while data:
            pass

    assert "TooSlow" in attack(Target(lambda: [b"a"], read), 3).failure
