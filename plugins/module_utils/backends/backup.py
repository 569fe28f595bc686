# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local queue as one file that can be put away, and back from it.

A backup holds the records and events of all jobs. What is not in it is made anew or again: event files come from the
database, workers register themselves, and a job that had begun begins its attempt anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sqlite3

from ..protocol import errors
from ..protocol.lifecycle import TERMINAL, Actor, Phase
from .database import VERSION
from .local import LocalBackend
from .records import Record
from .store import QUEUE

#: By how much the epoch of a job that was not over rises when it is restored: more than it can have been claimed since
#: the backup, so that no partial target of a later attempt has the name of the next one's.
EPOCHS_AHEAD = 1000
_REPLACED = ".replaced"


@dataclasses.dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    jobs: int
    unfinished: int
    """Those that were not over."""
    events: int
    version: int
    """Of the database's schema."""


def back_up(state_dir: pathlib.Path, file: pathlib.Path) -> Backup:
    """Write the queue in ``state_dir`` to ``file``, which replaces an earlier one only once it is whole and was read.

    Raises:
        JobError: (invalid) there is no queue; (environment or transient) it cannot be read, or the file not be written.
    """
    if not (state_dir / QUEUE).exists():
        raise errors.invalid("NoQueue", f"There is no queue in {state_dir}.", "Give its folder (--state-dir).")
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        # What jobs and guests are called is nobody else's business.
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(_Queue(state_dir)) as queue:
            queue.copy_to(partial)
        found = verify(partial)
        _sync(partial)
        partial.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise errors.environment(
            "BackupUnwritable", f"{file} cannot be written: {error.strerror}.", "Give a file in a folder with room."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return found


def verify(file: pathlib.Path) -> Backup:
    """Read a backup as a whole, and return what it holds.

    Raises:
        JobError: (invalid) it is none, is damaged, or was written by a newer collection.
    """
    try:
        # immutable: no lock and no log is looked for, so a read-only medium will do.
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?immutable=1", uri=True)) as connection:
            (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if said != "ok":
                raise sqlite3.DatabaseError(said)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise errors.invalid(
                    "BackupFromNewerVersion",
                    f"{file} was written by a newer collection (schema {version}; this one knows {VERSION}).",
                    "Restore it with that version.",
                )
            phases = [Phase(phase) for (phase,) in connection.execute("SELECT phase FROM jobs")]
            (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
    except (sqlite3.Error, ValueError) as error:
        raise errors.invalid(
            "BackupUnusable", f"{file} is no backup of a queue, or it is damaged: {error}.", "Take another one."
        ) from error
    return Backup(len(phases), sum(phase not in TERMINAL for phase in phases), events, version)


def restore(file: pathlib.Path, state_dir: pathlib.Path, *, force: bool = False) -> Backup:
    """Make the queue in ``state_dir`` from a backup. With ``force`` one that is there is put aside (``*.replaced``).

    Jobs that had been claimed are in the queue again, without an attempt being counted.

    Raises:
        JobError: (invalid) the file is no backup, there is a queue already, or one of its workers is alive;
            (environment or transient) the folder cannot be written.
    """
    found = verify(file)
    queue = state_dir / QUEUE
    if queue.exists():
        _may_be_replaced(queue, force)
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = queue.with_name(f"{QUEUE}.restored")
        shutil.copyfile(file, new)
        new.chmod(0o600)
        with contextlib.closing(sqlite3.connect(new)) as connection:
            # A database keeps this for ever; a new one gets it when it is made.
            connection.execute("PRAGMA journal_mode = WAL")
        _sync(new)
        for suffix in ("", "-wal", "-shm"):
            old = queue.with_name(f"{QUEUE}{suffix}")
            if old.exists():
                old.replace(queue.with_name(f"{QUEUE}{_REPLACED}{suffix}"))
        new.replace(queue)
        _sync(state_dir)
    except (OSError, sqlite3.Error) as error:
        raise errors.environment(
            "StateUnusable", f"The queue cannot be put into {state_dir}: {error}.", "Look at its room and permissions."
        ) from error
    with contextlib.closing(_Queue(state_dir)) as restored:
        restored.take_back()
        restored.reconcile_events()
    return found


def _may_be_replaced(queue: pathlib.Path, force: bool) -> None:
    if not force:
        raise errors.invalid(
            "QueueExists", f"There is a queue already: {queue}.", "Give another folder, or --force to put it aside."
        )
    with contextlib.closing(LocalBackend(queue.parent)) as backend:
        alive = [worker.registration.name for worker in backend.workers()]
    if alive:
        raise errors.invalid(
            "WorkerAlive", f"Workers serve the queue {queue}: {', '.join(alive)}.", "Stop them, then restore again."
        )


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Queue(LocalBackend):
    """The queue, with what only its keeper does to it."""

    def copy_to(self, path: pathlib.Path) -> None:
        """See :meth:`Database.copy_to`."""
        self._database.copy_to(path)

    def take_back(self) -> None:
        """Have every job that is not over wait, beyond all epochs that attempts since the backup may have had."""
        with self._change() as change:
            change.tx.execute("DELETE FROM workers")
            rows = change.tx.execute("SELECT * FROM jobs ORDER BY number").fetchall()
            for record in map(Record.load, rows):
                if record.over:
                    continue
                if record.held:
                    record.release(Actor.CONTROL, "the queue was restored from a backup")
                record.status = record.status.model_copy(update={"epoch": record.epoch + EPOCHS_AHEAD})
                change.save(record)
