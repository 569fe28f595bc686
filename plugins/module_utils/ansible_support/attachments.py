# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attachments and mounts that outlive the module which made them, because a process of their own holds them.

Each has a folder below ``<state dir>/attachments``, with a record of who made it, for how long, and of the process. The
process lets go when it is told to or when its time is over. A worker's sweep knows nothing of these folders.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import select
import shutil
import signal
import time
import typing as t

from ..backends.host import ProcessId
from ..protocol.errors import ErrorClass, JobError, environment, transient
from ..protocol.fields import timestamp
from ..worker import workdirs
from ..worker.context import Roots
from ..worker.job_context import write_durably
from .module import error_data

_RECORD = "attachment.json"
_OUTCOME = "failed.json"
_START_SECONDS = 300.0
_END_SECONDS = 300.0

Result = dict[str, t.Any]
Opener = c.Callable[[pathlib.Path], contextlib.AbstractContextManager[Result]]
"""Given a working folder, a context that lasts as long as the attachment, and gives what its user has to know."""


@dataclasses.dataclass(frozen=True)
class Record:
    """An attachment that is held."""

    name: str
    owner: str
    about: Result
    """What was asked for; the same again changes nothing."""
    expires_at: str
    process: str
    result: Result

    def to_data(self) -> Result:
        """Return what a module returns of it."""
        return {"name": self.name, "owner": self.owner, "expires_at": self.expires_at, **self.result}


class Attachments:
    """The attachments of one state folder."""

    def __init__(self, roots: Roots, state_dir: pathlib.Path) -> None:
        """Nothing is created yet."""
        self._roots = roots
        self._state_dir = state_dir

    def find(self, name: str) -> Record | None:
        """Return the attachment of that name if it is held."""
        record = self._read(name)
        return record if record is not None and ProcessId.load(record.process).alive() else None

    def hold(self, name: str, owner: str, about: Result, seconds: float, opener: Opener) -> Record:
        """Enter ``opener``'s context in a process of its own, which stays in it for ``seconds`` at most.

        Raises:
            JobError: the context cannot be entered; nothing is left of it.
        """
        folder = self._folder(name)
        self.clear(name)
        folder.mkdir(mode=0o700, parents=True)
        reader, writer = os.pipe()
        middle = os.fork()
        if middle == 0:
            # A grandchild, so that nobody has to wait for it.
            if os.fork() == 0:
                os.close(reader)
                _become_daemon(writer)
                self._live(folder, writer, Record(name, owner, about, "", "", {}), seconds, opener)
            os._exit(0)
        os.close(writer)
        os.waitpid(middle, 0)
        try:
            answer = json.loads(_read_all(reader) or "{}")
        finally:
            os.close(reader)
        if "record" not in answer:
            self.clear(name)
            raise _error(answer.get("error"))
        return Record(**answer["record"])

    def release(self, name: str) -> bool:
        """Have the attachment's process leave its context, wait for that, and return whether there was anything to do.

        Raises:
            JobError: leaving failed, so that what was written may be lost.
        """
        record = self._read(name)
        folder = self._folder(name)
        if record is None and not folder.exists():
            return False
        if record is not None:
            _end(ProcessId.load(record.process))
        try:
            outcome = json.loads((folder / _OUTCOME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            outcome = None
        self.clear(name)
        if outcome is not None:
            raise _error(outcome)
        return True

    def clear(self, name: str) -> None:
        """Detach and remove what a dead process left; nothing happens where it lives."""
        folder = self._folder(name)
        if folder.exists():
            workdirs.clear(folder, self._roots, self._state_dir, remove=True)
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _live(self, folder: pathlib.Path, writer: int, record: Record, seconds: float, opener: Opener) -> t.NoReturn:
        told = False
        error: JobError | None = None
        try:
            with workdirs.held(folder, self._state_dir):
                with opener(folder) as result:
                    expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
                    record = dataclasses.replace(
                        record,
                        expires_at=timestamp(expires),
                        process=ProcessId.of(os.getpid()).dump(),
                        result=result,
                    )
                    write_durably(folder / _RECORD, json.dumps(dataclasses.asdict(record)).encode())
                    os.write(writer, json.dumps({"record": dataclasses.asdict(record)}).encode())
                    os.close(writer)
                    told = True
                    signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, seconds)
                shutil.rmtree(folder, ignore_errors=True)
        except JobError as failure:
            error = failure
        except BaseException as failure:
            error = JobError(ErrorClass.INTERNAL, "InternalError", f"{type(failure).__name__}: {failure}")
        if error is not None and told:
            write_durably(folder / _OUTCOME, json.dumps(error_data(error)).encode())
        elif error is not None:
            os.write(writer, json.dumps({"error": error_data(error)}).encode())
        os._exit(0)

    def _folder(self, name: str) -> pathlib.Path:
        return self._state_dir / "attachments" / name

    def _read(self, name: str) -> Record | None:
        try:
            return Record(**json.loads((self._folder(name) / _RECORD).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None


def _become_daemon(keep: int) -> None:
    os.setsid()
    # Blocked, so that they wait for sigtimedwait and cannot interrupt the closing of anything.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) > 2 and int(entry) != keep:
            with contextlib.suppress(OSError):
                os.close(int(entry))
    os.chdir("/")


def _read_all(reader: int) -> str:
    parts: list[bytes] = []
    deadline = time.monotonic() + _START_SECONDS
    while True:
        ready, dummy, dummy = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise transient("AttachTimeout", f"The disks are not attached after {_START_SECONDS:.0f} s.", "Try again.")
        part = os.read(reader, 1 << 16)
        if not part:
            return b"".join(parts).decode("utf-8")
        parts.append(part)


def _end(process: ProcessId) -> None:
    deadline = time.monotonic() + _END_SECONDS
    asked = False
    while process.alive():
        if not asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
            asked = True
        if time.monotonic() > deadline:
            raise transient(
                "DetachTimeout",
                f"The process {process.pid} that holds the disks has not ended after {_END_SECONDS:.0f} s.",
                "See what still uses them (fuser, lsof), then try again.",
            )
        time.sleep(0.05)


def _error(data: t.Mapping[str, t.Any] | None) -> JobError:
    if data is None:
        return environment("AttachFailed", "The process that holds the disks died.", "See the kernel's log (dmesg).")
    return JobError(ErrorClass(data["class"]), data["reason"], data["message"], data["suggestion"], data["stage"])
