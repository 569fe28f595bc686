# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The local queue's file: one SQLite database in WAL mode, shared by all processes of one host."""

# False alarm: contextlib throws into the generator, so that the inner context ends.
# pylint: disable=contextmanager-generator-missing-cleanup
from __future__ import annotations

import collections.abc as c
import contextlib
import pathlib
import sqlite3
import threading

from ..protocol import errors
from .host import lock_file, look_at

VERSION = 3
#: Where the write lock is in the shared memory file (sqlite.org/walformat.html, "WAL Locks").
_WRITE_LOCK_BYTE = 120

_TALLIES = """
CREATE TABLE tallies (           -- what was counted, for metrics; see telemetry.metrics.book
  metric TEXT NOT NULL,
  labels TEXT NOT NULL,
  part TEXT NOT NULL,
  amount REAL NOT NULL,
  PRIMARY KEY (metric, labels, part)
) WITHOUT ROWID"""

_SCHEMA = f"""
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  uid TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL UNIQUE,
  document TEXT NOT NULL,        -- metadata and spec, camelCase JSON
  status TEXT NOT NULL,          -- status without claim, waiting and result, camelCase JSON
  result TEXT,                   -- the result document
  spec_digest TEXT NOT NULL,     -- of the frozen part of the spec
  demand TEXT NOT NULL,          -- what matching needs to know, JSON
  phase TEXT NOT NULL,
  priority INTEGER NOT NULL,
  suspend INTEGER NOT NULL,
  cancel INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  worker TEXT,
  process TEXT,                  -- the job's process on this host
  lease TEXT,                    -- instant; so are the others below
  not_before TEXT,
  deadline TEXT,
  remove_after TEXT,
  progressed TEXT,
  announced TEXT,
  sequence INTEGER NOT NULL,     -- of the last event
  version INTEGER NOT NULL,      -- rises with each write
  node TEXT,                     -- of a cluster, which gave the job to this queue; NULL: it was submitted here
  granted INTEGER                -- the epoch of the one attempt that was given
);
CREATE INDEX jobs_by_phase ON jobs (phase);
CREATE TABLE events (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  uid TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  line TEXT NOT NULL,            -- the event as JSON, byte for byte as in the event file
  UNIQUE (uid, sequence)
);
CREATE INDEX events_by_name ON events (name, number);
CREATE TABLE workers (
  name TEXT PRIMARY KEY,
  registration TEXT NOT NULL,
  roots TEXT NOT NULL,
  process TEXT NOT NULL,
  lease_seconds REAL NOT NULL,   -- how long it may be silent
  lease TEXT NOT NULL,
  free_scratch INTEGER NOT NULL,
  free_output INTEGER NOT NULL
);
{_TALLIES};
"""

#: What brings a database of an earlier version to the next one.
_UPGRADES = {
    1: ("ALTER TABLE jobs ADD COLUMN node TEXT", "ALTER TABLE jobs ADD COLUMN granted INTEGER"),
    2: (_TALLIES,),
}


class Database:
    """A connection to the queue's file, made when it is first needed. Threads may share it, forks may not.

    A process that forks calls :meth:`close` first.
    """

    def __init__(self, path: pathlib.Path, patience: float) -> None:
        """Remember where the file is; nothing is opened yet. ``patience`` is how long to wait for other writers."""
        self._path = path
        self._patience = patience
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def reading(self) -> c.Iterator[sqlite3.Connection]:
        """Give a consistent view of the database.

        Raises:
            JobError: (environment or transient) the database cannot be used.
        """
        with self._guarded("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, keep: bool = True) -> c.Iterator[sqlite3.Connection]:
        """Give a transaction that no other writer is in, committed durably at the end; not at all if not ``keep``.

        Raises:
            JobError: (environment or transient) the database cannot be used; nothing was written.
        """
        with self._guarded("BEGIN IMMEDIATE") as connection:
            yield connection
            if not keep:
                connection.rollback()

    def data_version(self) -> tuple[int, int]:
        """Return what differs from the last one if another connection has written since, or this one is new.

        SQLite's own number says nothing across connections: a new one may begin with that of the old one, whatever was
        written in between.
        """
        with self._lock, self._spoken_for():
            version: int = self._open().execute("PRAGMA data_version").fetchone()[0]
            return self._opened, version

    def copy_to(self, path: pathlib.Path) -> None:
        """Write the database as it is at one moment to a new file, while others go on writing to it.

        SQLite's online backup (sqlite.org/backup.html): in one step, so that no writer makes it begin anew. The copy is
        one file, which needs no log beside it.

        Raises:
            JobError: (environment or transient) the database cannot be read, or the copy not be written.
        """
        with self._lock, self._spoken_for(), contextlib.closing(sqlite3.connect(path)) as copy:
            self._open().backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")

    def writer(self) -> int | None:
        """Return the PID of the process that is in a write transaction, as far as it can be seen from here."""
        try:
            inode = self._path.with_name(f"{self._path.name}-shm").stat().st_ino
            locks = pathlib.Path("/proc/locks").read_text(encoding="ascii")
        except OSError:
            return None
        for line in locks.splitlines():
            # proc(5): "1: POSIX ADVISORY WRITE pid major:minor:inode first last"; the device's number is not compared,
            # because on btrfs it is another than stat's.
            fields = line.split()
            where = len(fields) == 8 and (fields[1], fields[3], fields[5].rpartition(":")[2], fields[6])
            if where == ("POSIX", "WRITE", str(inode), str(_WRITE_LOCK_BYTE)) and int(fields[4]) > 0:
                return int(fields[4])
        return None

    def _who(self) -> str:
        pid = self.writer()
        process = None if pid is None else look_at(pid)
        if process is None:
            return "others"
        return f"the process {pid}" + (", which is stopped," if process.state in "Tt" else "")

    @contextlib.contextmanager
    def _guarded(self, begin: str) -> c.Iterator[sqlite3.Connection]:
        with self._lock, self._spoken_for():
            connection = self._open()
            connection.execute(begin)
            try:
                yield connection
                if connection.in_transaction:
                    connection.commit()
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.rollback()
                raise

    @contextlib.contextmanager
    def _spoken_for(self) -> c.Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise errors.transient(
                    "QueueBusy",
                    f"The queue {self._path} was in use by {self._who()} for {self._patience:.0f} s: {text}.",
                    "Try again; if that process hangs or is stopped, end it.",
                ) from error
            raise errors.environment(
                "QueueUnavailable",
                f"The queue {self._path} cannot be used: {text}.",
                "Look at the disk's free space, its health and the folder's permissions.",
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=self._patience, isolation_level=None, check_same_thread=False
            )
            connection.row_factory = sqlite3.Row
            try:
                # A stage's end must outlive a power cut, and no event may be in its file but not in here.
                connection.execute("PRAGMA synchronous = FULL")
                if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    self._create(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._opened += 1
        return self._connection

    def _create(self, connection: sqlite3.Connection) -> None:
        # SQLite does not wait for others while it turns a file to WAL, so a lock of our own comes before it.
        with open(self._path.with_suffix(".lock"), "wb") as lock:
            if not lock_file(lock.fileno(), self._patience):
                raise sqlite3.OperationalError("database is locked: somebody else creates it")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, VERSION, *_UPGRADES):
                raise errors.environment(
                    "QueueFromAnotherVersion",
                    f"The queue {self._path} was written by another version of this collection (schema {found}).",
                    "Use that version, or give another state folder (--state-dir).",
                )
            if found == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                _bring_to(connection, VERSION, _SCHEMA.split(";\n"))
            for version in range(found, VERSION) if found else ():
                _bring_to(connection, version + 1, _UPGRADES[version])


def _bring_to(connection: sqlite3.Connection, version: int, statements: c.Iterable[str]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
