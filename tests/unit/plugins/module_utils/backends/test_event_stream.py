# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The events of all jobs as one file: whole, in order, each once, whatever happened to it."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.event_stream import Rotation
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from tests.unit.plugins.module_utils.backends.samples import job

ALL = Rotation(1 << 30, 2)


@pytest.fixture
def queue(tmp_path: pathlib.Path) -> t.Iterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "state")
    yield backend
    backend.close()


def files(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """The stream's files, the oldest first."""
    found = (tmp_path / "state/events").glob("_all.jsonl*")
    return sorted(found, key=lambda path: -int(path.suffix[1:]) if path.suffix[1:].isdigit() else 0)


def stream(tmp_path: pathlib.Path) -> list[dict[str, t.Any]]:
    return [json.loads(line) for path in files(tmp_path) for line in path.read_text().splitlines()]


def own(tmp_path: pathlib.Path, name: str) -> list[dict[str, t.Any]]:
    lines = (tmp_path / f"state/events/{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def submit(queue: LocalBackend, *names: str) -> None:
    for name in names:
        queue.submit(job(name))
        queue.set_priority(name, 5)


def test_it_holds_what_the_jobs_own_files_hold_in_order(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    submit(queue, "web", "db")
    queue.export_stream(ALL)
    submit(queue, "app")
    queue.cancel("web")
    queue.export_stream(ALL)
    queue.export_stream(ALL)
    found = stream(tmp_path)
    positions = [event.pop("position") for event in found]
    assert positions == sorted(set(positions))
    for name in ("web", "db", "app"):
        assert [event for event in found if event["subject"] == name] == own(tmp_path, name)
    assert all(models.Event.model_validate(event) for event in found)


def test_a_removed_job_is_neither_forgotten_nor_told_again(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    submit(queue, "web")
    queue.cancel("web")
    queue.export_stream(ALL)
    before = stream(tmp_path)
    queue.delete("web")
    queue.export_stream(ALL)
    assert stream(tmp_path) == before
    submit(queue, "db")
    queue.reconcile_events()
    queue.export_stream(ALL)
    assert stream(tmp_path)[: len(before)] == before
    assert [event["subject"] for event in stream(tmp_path)[len(before) :]] == ["db"] * len(own(tmp_path, "db"))


@pytest.mark.parametrize("harm", ["torn", "gone", "empty", "half a line"])
def test_a_file_that_a_crash_left_is_mended(queue: LocalBackend, tmp_path: pathlib.Path, harm: str) -> None:
    submit(queue, "web", "db")
    queue.export_stream(ALL)
    before = stream(tmp_path)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        lines = whole.splitlines(keepends=True)
        kept = {"torn": whole + b'{"specversion":"1.0","position":99}', "empty": b"", "half a line": whole[:-20]}
        file.write_bytes(kept[harm])
        assert len(lines) > 2
    queue.export_stream(ALL)
    assert stream(tmp_path) == before


def test_files_follow_one_another_and_the_oldest_go(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    rotation = Rotation(1500, 3)
    for number in range(30):
        submit(queue, f"web{number}")
        queue.export_stream(rotation)
    # The present one is not there when the last write filled it.
    assert {"_all.jsonl.1", "_all.jsonl.2"} <= {path.name for path in files(tmp_path)} and len(files(tmp_path)) <= 3
    assert all(path.stat().st_size < 3 * 1500 for path in files(tmp_path))
    positions = [event["position"] for event in stream(tmp_path)]
    # Nothing is missing between them, and the end is there.
    assert positions == list(range(positions[0], positions[-1] + 1)) and positions[0] > 1
    assert stream(tmp_path)[-1]["subject"] == "web29"


def test_a_long_queue_is_written_in_parts(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    for number in range(400):
        queue.submit(job(f"web{number}"))
    queue.export_stream(ALL)
    positions = [event["position"] for event in stream(tmp_path)]
    assert positions == list(range(1, len(positions) + 1)) and len(positions) > 1000


def test_a_queue_that_was_made_anew_is_told_from_its_beginning(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    submit(queue, "web", "db")
    queue.export_stream(ALL)
    before = stream(tmp_path)
    queue.close()
    for path in (tmp_path / "state").glob("queue.*"):
        path.unlink()
    submit(queue, "new")
    queue.export_stream(ALL)
    assert stream(tmp_path)[: len(before)] == before
    assert {event["subject"] for event in stream(tmp_path)[len(before) :]} == {"new"}
