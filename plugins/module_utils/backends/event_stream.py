# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The events of all jobs of a queue as one file, ``events/_all.jsonl``, for log shippers and for people.

Its lines are those of the jobs' own event files, with their ``position`` in the queue. As there, the database is the
truth: the file is caught up with it by whichever worker looks first, and is never ahead. No job's name begins like its.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import typing as t

from .database import Database
from .host import lock_file

NAME = "_all.jsonl"
_POSITION = re.compile(rb',"position":(\d+)\}\n\Z')
_BATCH = 1000
_BLOCK = 65536


@dataclasses.dataclass(frozen=True)
class Rotation:
    """How much of the stream is kept."""

    max_bytes: int = 64 * 1024**2
    """A file that has so many is followed by another."""
    files: int = 5
    """How many files there are at most, the present one among them; 2 or more."""


class EventStream:
    """The file and its predecessors ``_all.jsonl.1``, ``.2`` …, the first of them the youngest."""

    def __init__(self, folder: pathlib.Path, rotation: Rotation) -> None:
        """Write into ``folder``; nothing is opened yet."""
        self._folder = folder
        self._path = folder / NAME
        self._rotation = rotation

    def catch_up(self, database: Database) -> None:
        """Append what the file lacks, unless another process does so at this moment.

        Raises:
            OSError: the file cannot be written.
            JobError: the database cannot be read.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with open(self._folder / "_all.lock", "wb") as lock:
            if lock_file(lock.fileno(), 0.0):
                while self._append(database):
                    pass

    def _append(self, database: Database) -> bool:
        """Append some of what is missing; whether that may not have been all."""
        with open(self._path, "a+b") as file:
            line, end = _last_line(file)
            file.truncate(end)
            position = _position(line) if line else self._position_of_the_last()
            with database.reading() as tx:
                newest = tx.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")
                # A queue that was made anew counts from 1 again.
                begin = position if position <= newest.fetchone()[0] else 0
                rows = tx.execute(
                    "SELECT number, line FROM events WHERE number > ? ORDER BY number LIMIT ?", (begin, _BATCH)
                ).fetchall()
            for row in rows:
                file.write(f'{row["line"][:-1]},"position":{row["number"]}}}\n'.encode())
            full = file.tell() >= self._rotation.max_bytes
        if full:
            self._rotate()
        return len(rows) == _BATCH

    def _position_of_the_last(self) -> int:
        """Return up to where the files before the present one have the events."""
        try:
            with open(self._older(1), "rb") as file:
                return _position(_last_line(file)[0])
        except FileNotFoundError:
            return 0

    def _older(self, number: int) -> pathlib.Path:
        return self._path.with_name(f"{NAME}.{number}")

    def _rotate(self) -> None:
        oldest = self._rotation.files - 1
        for path in self._folder.glob(f"{NAME}.*"):
            if path.suffix[1:].isdigit() and int(path.suffix[1:]) >= oldest:
                path.unlink(missing_ok=True)
        for number in range(oldest - 1, 0, -1):
            if self._older(number).exists():
                self._older(number).rename(self._older(number + 1))
        self._path.rename(self._older(1))


def _last_line(file: t.BinaryIO) -> tuple[bytes, int]:
    """Return the last whole line of a file and where it ends; ``b""``, 0 if there is none."""
    end = file.seek(0, os.SEEK_END)
    size = min(end, _BLOCK)
    while True:
        file.seek(end - size)
        tail = file.read(size)
        whole = tail.rfind(b"\n") + 1
        begin = tail.rfind(b"\n", 0, max(0, whole - 1)) + 1
        if begin > 0 or size == end:
            return tail[begin:whole], end - size + whole
        size = min(end, 2 * size)


def _position(line: bytes) -> int:
    """Return a line's position; 0 for one that was not written here."""
    found = _POSITION.search(line)
    return int(found[1]) if found else 0
