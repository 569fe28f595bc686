# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What people see while jobs run, and which process shows it."""

from __future__ import annotations

import os
import pathlib
import typing as t

import pytest
from ansible.utils.display import Display
from ansible_collections.hyper2kvm.core.plugins.plugin_utils import progress
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.blanks import without_blanks
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.progress import Batch, Progress


def job(name: str, phase: str, stage: str | None = None, **status: t.Any) -> dict[str, t.Any]:
    """A job document as modules return it."""
    return {
        "metadata": {"name": name},
        "spec": {"operation": "convert", "source": {"path": f"{name}.ova"}},
        "status": {"phase": phase, "stage": stage, **status},
    }


COPYING = job(
    "web01",
    "PROGRESSING",
    "copy",
    progress={"stage": "copy", "percent": 43.2, "ratePerSecond": 222298112.0, "etaSeconds": 72.0},
)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is displayed."""
    shown: list[str] = []
    monkeypatch.setattr(Display, "display", lambda self, msg, **_kwargs: shown.append(msg))
    return shown


def test_a_change_of_stage_is_one_line(lines: list[str], tmp_path: pathlib.Path) -> None:
    with Progress("web01", Batch(tmp_path), 600, terminal=False) as shown:
        shown.show(job("web01", "QUEUED", waiting=[{"message": "has all 2 slots in use", "examples": ["kvm1"]}]))
        shown.show(COPYING)
        shown.show(COPYING)
        shown.show(
            job("web01", "COMPLETED", result={"seconds": 93.4, "bootTest": {"verdict": "booted", "seconds": 14}})
        )
    assert lines == [
        "[web01] waiting: kvm1 has all 2 slots in use",
        "[web01] copy",
        "[web01] COMPLETED in 1 min 33 s, booted in 14 s",
    ]


def test_one_process_speaks_for_the_batch(lines: list[str], tmp_path: pathlib.Path) -> None:
    first, second = Progress("web01", Batch(tmp_path), 0, terminal=False), Progress(
        "db01", Batch(tmp_path), 0, terminal=False
    )
    with first, second:
        first.show(COPYING, [job("db01", "QUEUED")])
        second.show(job("db01", "QUEUED"))
        assert first.others() == ["db01", "web01"] and second.others() == []
        assert second.patience() > 30
    batch = [line for line in lines if line.startswith("hyper2kvm:")]
    assert batch == ["hyper2kvm: 1 running, 1 waiting; 212.0 MiB/s | web01 copy 43 %, 212 MiB/s, 1 min 12 s left"]


def test_another_process_takes_over(lines: list[str], tmp_path: pathlib.Path) -> None:
    with Progress("web01", Batch(tmp_path), 0, terminal=False) as first:
        first.show(COPYING)
    with Progress("db01", Batch(tmp_path), 0, terminal=False) as second:
        second.show(job("db01", "RUNNING", "inspect"))
        assert "web01" in second.others()
    assert len([line for line in lines if line.startswith("hyper2kvm:")]) == 2


def test_the_batchs_line_comes_each_interval(lines: list[str], tmp_path: pathlib.Path) -> None:
    with Progress("web01", Batch(tmp_path), 600, terminal=False) as shown:
        shown.show(COPYING)
        assert not [line for line in lines if line.startswith("hyper2kvm:")]
        os.utime(tmp_path / "lock", (0, 0))
        shown.show(COPYING)
        shown.show(COPYING)
        assert shown.patience() > 500
    assert len([line for line in lines if line.startswith("hyper2kvm:")]) == 1


def test_a_terminal_has_a_line_for_each_running_job(lines: list[str], tmp_path: pathlib.Path) -> None:
    with Progress("web01", Batch(tmp_path), 600, terminal=True) as shown:
        shown.show(COPYING, [job("db01", "QUEUED")])
    drawn, cleared = lines
    assert (
        "web01  [#########...........]  copy 43 %, 212 MiB/s, 1 min 12 s left\nbatch" in drawn
        and "1 running, 1 waiting; 212.0 MiB/s\x1b" in drawn
    )
    assert drawn.endswith("\x1b[4A\r") and cleared == "\r\x1b[J"


def test_a_guest_cannot_speak_to_the_terminal() -> None:
    hostile = job("web01", "RUNNING", "verify", progress={"stage": "verify", "message": "\x1b]0;owned\x07 login:"})
    line, _counts = progress.rows({"web01": {**progress.summarize(hostile), "host": "web01"}}, 200)
    assert "\x1b" not in line and "\x07" not in line and "login:" in line


def test_rows_fit_the_terminal_and_their_number_is_bounded() -> None:
    many = {f"vm{i}": {**progress.summarize(COPYING), "host": f"vm{i}"} for i in range(30)}
    rows = progress.rows(many, 40)
    assert len(rows) == 10 and max(map(len, rows)) < 40 and "30 run" in rows[-1] and "22 more" in rows[-2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (59.4, "59 s"), (72, "1 min 12 s"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_an_empty_string_is_as_good_as_no_value() -> None:
    args = {
        "name": "a",
        "priority": "",
        "verify": {"boot": False, "marker": "", "timeout_seconds": 0},
        "guest": {"fixers": {"only": ""}},
        "labels": {"gpu": ""},
        "spec": {"guest": {"hostname": ""}},
    }
    assert without_blanks(args) == {
        "name": "a",
        "verify": {"boot": False, "timeout_seconds": 0},
        "guest": {"fixers": {}},
        "labels": {"gpu": ""},
        "spec": {"guest": {"hostname": ""}},
    }
