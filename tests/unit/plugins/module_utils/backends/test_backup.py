# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A queue is backed up while it is written to, and comes back with its jobs, events and epochs."""

from __future__ import annotations

import contextlib
import pathlib
import sqlite3
import stat
import threading

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends import backup, database
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from tests.unit.plugins.module_utils.backends.samples import job, worker


@pytest.fixture
def state(tmp_path: pathlib.Path) -> pathlib.Path:
    """A queue with one job that a worker has and one that waits."""
    folder = tmp_path / "state"
    with contextlib.closing(LocalBackend(folder)) as queue:
        queue.register(worker("host-1", slots=1), "roots", 30.0)
        queue.submit(job("first"))
        queue.submit(job("second"))
        assert queue.claim("host-1") is not None
    return folder


def test_what_comes_back_is_what_was_there(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "queue.backup"
    told = backup.back_up(state, file)
    assert (told.jobs, told.unfinished, told.version) == (2, 2, database.VERSION)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("queue")] == ["queue.backup"]
    assert backup.restore(file, tmp_path / "new") == told

    with contextlib.closing(LocalBackend(state)) as old, contextlib.closing(LocalBackend(tmp_path / "new")) as new:
        assert [one.metadata for one in new.list()] == [one.metadata for one in old.list()]
        assert [one.spec for one in new.list()] == [one.spec for one in old.list()]
        assert new.events("first")[: len(old.events("first"))] == old.events("first")
        # Its worker is gone, so it waits again; as does the other, for a worker.
        assert [one.status.phase for one in new.list()] == [Phase.QUEUED, Phase.QUEUED]
        assert new.events("first")[-1].data["why"] == "the queue was restored from a backup"
        # Whatever the old queue's workers did after the backup, their epochs are below the next one's.
        new.register(worker("host-2"), "roots", 30.0)
        claimed = new.claim("host-2")
        assert claimed is not None and claimed.status.epoch > 1000
    assert (tmp_path / "new/events/first.jsonl").exists()


def test_jobs_that_are_over_stay_as_they_are(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with contextlib.closing(LocalBackend(state)) as queue:
        queue.cancel("second")
        before = queue.get("second").to_document()
    backup.back_up(state, tmp_path / "file")
    backup.restore(tmp_path / "file", tmp_path / "new")
    with contextlib.closing(LocalBackend(tmp_path / "new")) as queue:
        assert queue.get("second").to_document() == before


def test_writers_go_on_meanwhile_and_the_backup_is_of_one_moment(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    stop, made = threading.Event(), []

    def submit() -> None:
        with contextlib.closing(LocalBackend(state)) as queue:
            while not stop.is_set():
                made.append(queue.submit(job(f"job-{len(made)}")).job.metadata.name)

    writer = threading.Thread(target=submit)
    writer.start()
    try:
        seen = []
        for number in range(5):
            before = len(made)
            told = backup.back_up(state, tmp_path / f"file-{number}")
            # Two were there from the beginning; one may be under way.
            assert before + 2 <= told.jobs <= len(made) + 3
            seen.append(told.jobs)
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen)
    backup.restore(tmp_path / "file-4", tmp_path / "new")
    with contextlib.closing(LocalBackend(tmp_path / "new")) as queue:
        for one in queue.list():
            assert [event.sequence for event in queue.events(one.metadata.name)]


def test_the_restored_queue_is_as_durable_as_a_new_one(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    backup.back_up(state, tmp_path / "file")
    backup.restore(tmp_path / "file", tmp_path / "new")
    with contextlib.closing(sqlite3.connect(tmp_path / "new/queue.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_queue_is_not_replaced_unless_that_is_asked_for(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    backup.back_up(state, tmp_path / "file")
    with contextlib.closing(LocalBackend(state)) as queue:
        queue.submit(job("third"))
    with pytest.raises(JobError, match="There is a queue already"):
        backup.restore(tmp_path / "file", state)
    with pytest.raises(JobError, match="host-1"):
        backup.restore(tmp_path / "file", state, force=True)
    with contextlib.closing(LocalBackend(state)) as queue:
        queue.unregister("host-1")
    backup.restore(tmp_path / "file", state, force=True)
    with contextlib.closing(LocalBackend(state)) as queue:
        assert [one.metadata.name for one in queue.list()] == ["first", "second"]
    (state / "aside").mkdir()
    for path in state.glob("queue.db.replaced*"):
        path.rename(state / "aside" / path.name.replace("queue.db.replaced", "queue.db"))
    with contextlib.closing(LocalBackend(state / "aside")) as queue:
        assert len(queue.list()) == 3


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "text"])
def test_a_damaged_backup_is_refused_and_nothing_is_made(
    damage: str, state: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "file"
    backup.back_up(state, file)
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        content[4096 : 4096 * 3] = b"\xff" * 4096 * 2
        file.write_bytes(content)
    else:
        file.write_text("no database")
    with pytest.raises(JobError, match="no backup of a queue, or it is damaged"):
        backup.restore(file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backup_of_a_newer_collection_is_refused(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    backup.back_up(state, file)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version = {database.VERSION + 1}")
    with pytest.raises(JobError, match="newer collection"):
        backup.restore(file, tmp_path / "new")


def test_a_backup_that_cannot_be_written_leaves_the_earlier_one(state: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError, match="cannot be written"):
        backup.back_up(state, tmp_path / "missing/file")
    file = tmp_path / "file"
    backup.back_up(state, file)
    kept = file.read_bytes()
    (state / "queue.db").write_bytes(b"\xff" * 8192)
    for beside in ("queue.db-wal", "queue.db-shm"):
        (state / beside).unlink(missing_ok=True)
    with pytest.raises(JobError):
        backup.back_up(state, file)
    assert file.read_bytes() == kept and not file.with_name("file.partial").exists()


def test_there_must_be_a_queue(tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError, match="There is no queue"):
        backup.back_up(tmp_path, tmp_path / "file")
