# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A job's events as a file of CloudEvents 1.0 JSON lines that a crash cannot tear.

Format: the JSON event format of CloudEvents 1.0.2, one event a line (JSON Lines), UTF-8.

An event is appended whole and is on the disk (``fdatasync``) when :meth:`EventLog.append` returns; events are few,
progress included, so each is worth its sync. What a crash or a full disk leaves behind the last whole event is cut off
by whoever writes next, and is not seen by readers. Numbers are given under the file's lock, so that several processes
may write to one log: 1, 2, 3 … for each job uid, without a gap.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import typing as t

from ..protocol import _pydantic as p
from ..protocol.errors import environment
from ..protocol.fields import timestamp
from ..protocol.models import Event, EventKind

EVENT_TYPE_PREFIX = "io.hyper2kvm.job."


class EventLog:
    """The events of one job, appended to a file that may hold those of its earlier uids as well."""

    def __init__(self, path: pathlib.Path, *, source: str, job: str, uid: str) -> None:
        """Open or create the file at ``path``, and cut off what a crash left behind its last whole event.

        ``source`` is the URI reference of whoever tells the events, ``job`` and ``uid`` the job's name and uid.

        Raises:
            JobError: (environment) the file cannot be written, or is damaged before its last event.
        """
        self._path, self._source, self._job, self._uid = path, source, job, uid
        self._end = 0
        self._last: dict[str, int] = {}
        with _told(path):
            created = not path.exists()
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if created:
                _sync_folder(path.parent)
        try:
            with _told(path), self._locked():
                self._catch_up()
        except BaseException:
            self.close()
            raise

    @property
    def sequence(self) -> int:
        """The number of the job's last event that this process knows of; 0: there is none."""
        return self._last.get(self._uid, 0)

    def append(
        self, kind: EventKind, data: t.Mapping[str, t.Any], *, epoch: int, now: datetime.datetime | None = None
    ) -> Event:
        """Write one event, durably, and return it. ``now`` is an aware datetime; by default the present.

        Raises:
            JobError: (environment) it could not be written; the file is as it was before.
        """
        with _told(self._path), self._locked():
            self._catch_up()
            sequence = self.sequence + 1
            event = Event(
                id=f"{self._uid}-{sequence}",
                source=self._source,
                type=EVENT_TYPE_PREFIX + kind.value,
                subject=self._job,
                time=timestamp(now or datetime.datetime.now(datetime.timezone.utc)),
                sequence=sequence,
                jobuid=self._uid,
                epoch=epoch,
                data=dict(data),
            )
            line = event_line(event)
            try:
                # The kernel may take less than all where the disk is nearly full; the rest then fails with the reason.
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
                os.fdatasync(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._end)
                raise
            self._end += len(line)
            self._last[self._uid] = sequence
            return event

    def close(self) -> None:
        """Close the file. Doing so twice is no mistake."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *dummy: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _locked(self) -> t.Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Read what others appended since, and cut off what is no whole event at the file's end."""
        size = os.fstat(self._file).st_size
        if size == self._end:
            return
        if size < self._end:
            self._end, self._last = 0, {}
        tail = _read_range(self._file, self._end, size)
        events, whole = _split(tail)
        for sequence, uid in ((event.sequence, event.jobuid) for event in events):
            if sequence != self._last.get(uid, 0) + 1:
                raise environment(
                    "EventLogDamaged",
                    f"{self._path} lacks events of job {uid} before number {sequence}.",
                    "Move the file away; the job's status does not depend on it.",
                )
            self._last[uid] = sequence
        if whole < len(tail):
            os.ftruncate(self._file, self._end + whole)
            os.fdatasync(self._file)
        self._end += whole


def event_line(event: Event) -> bytes:
    """Return ``event`` as the line that stands for it in a log, line feed included."""
    text = json.dumps(event.to_document(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode() + b"\n"


def read_events(path: pathlib.Path, *, uid: str | None = None, since: int = 0) -> list[Event]:
    """Return the whole events of the log at ``path``, oldest first: those of ``uid``, numbered above ``since``.

    An event that is being written this moment is left out. No file means no events.

    Raises:
        JobError: (environment) the file cannot be read.
    """
    with _told(path):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
    events, dummy = _split(content)
    return [event for event in events if event.sequence > since and uid in (None, event.jobuid)]


def _split(content: bytes) -> tuple[list[Event], int]:
    """Return the events of ``content`` up to its last whole one, and how many bytes these are.

    A line that is no event but is followed by one is a damage that nobody repairs here; it is left out.
    """
    events: list[Event] = []
    whole = position = 0
    while (newline := content.find(b"\n", position)) >= 0:
        with contextlib.suppress(p.ValidationError):
            events.append(Event.model_validate_json(content[position:newline]))
            whole = newline + 1
        position = newline + 1
    return events, whole


def _read_range(file: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(file, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(path: pathlib.Path) -> t.Iterator[None]:
    """Turn an error of the operating system into one that names the log."""
    try:
        yield
    except OSError as error:
        raise environment(
            "EventLogUnusable",
            f"The event log {path} cannot be used: {error.strerror or error}.",
            "Look at the free space and the permissions of its folder.",
        ) from error
