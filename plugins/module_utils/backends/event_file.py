# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A job's events as a file, ``events/<name>.jsonl``: CloudEvents JSON lines, a copy of what the database holds.

The name of a job of a namespace has a slash, and its file a dot in its place, which no name has.

The database is the truth: an event's sequence is given and its line written in the very transaction that it tells of.
The file is caught up after each commit, and by whoever comes next where a process died in between; it is never ahead.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import sqlite3
import typing as t

from .database import Database
from .host import lock_file

_BLOCK = 65536
#: A process that was stopped while it wrote holds the lock; the event file can wait, the queue cannot.
_PATIENCE_SECONDS = 2.0


def event_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return where the events of a job are."""
    return folder / f"{name.replace('/', '.')}.jsonl"


def catch_up(database: Database, folder: pathlib.Path, name: str) -> None:
    """Append to the job's event file what it lacks. A torn last line, left by a crash, is cut off first.

    Raises:
        OSError: the file cannot be written.
        JobError: the database cannot be read.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    with open(event_file(folder, name), "a+b") as file:
        if not lock_file(file.fileno(), _PATIENCE_SECONDS):
            raise BlockingIOError(errno.EWOULDBLOCK, "somebody else writes to it", file.name)
        last = _whole_tail(file)
        with database.reading() as tx:
            lines = _missing(tx, name, last)
        if lines:
            file.write(b"".join(line.encode("utf-8") + b"\n" for line in lines))
            file.flush()
            os.fdatasync(file.fileno())


def _missing(tx: sqlite3.Connection, name: str, last: tuple[str, int] | None) -> list[str]:
    """Return the lines that come after the event ``last`` (uid, sequence); all where the database does not know it."""
    number = 0
    if last is not None:
        row = tx.execute("SELECT number FROM events WHERE uid = ? AND sequence = ? AND name = ?", (*last, name))
        found = row.fetchone()
        number = found["number"] if found else 0
    rows = tx.execute("SELECT line FROM events WHERE name = ? AND number > ? ORDER BY number", (name, number))
    return [row["line"] for row in rows]


def _whole_tail(file: t.BinaryIO) -> tuple[str, int] | None:
    """Cut off what follows the last whole event, and return that event's uid and sequence (None: there is none)."""
    end = file.seek(0, os.SEEK_END)
    tail = b""
    start = end
    while start > 0:
        step = min(_BLOCK, start)
        start -= step
        file.seek(start)
        tail = file.read(step) + tail
        position = len(tail)
        # Walk the complete lines of the tail from the back; the first of them may lack its beginning.
        while (newline := tail.rfind(b"\n", 0, position)) >= 0:
            before = tail.rfind(b"\n", 0, newline)
            if before < 0 and start > 0:
                break
            identity = _identity(tail[before + 1 : newline])
            if identity is not None:
                file.truncate(start + newline + 1)
                return identity
            position = newline
    file.truncate(0)
    return None


def _identity(line: bytes) -> tuple[str, int] | None:
    try:
        event = json.loads(line)
        return str(event["jobuid"]), int(event["sequence"])
    except (ValueError, KeyError, TypeError):
        return None
