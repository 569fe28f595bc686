# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of job documents that a worker takes by itself: how a container is given its jobs.

Each document is handed in once. What became of it is kept beside the queue, in ``<state>/documents/<file name>.json``,
by the digest of its bytes: a document that was refused is told once, and one whose job failed is not tried again by
every restart of the worker. A document that is changed is handed in again, and the queue decides; one that is taken
away is forgotten, and its job goes on.

The folder lies among the sources, so its files are strangers' work: none is followed out of the folder, none is read
beyond a document's size, and nothing but a regular file is read at all.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import stat
import time
import typing as t

from ..backends.host import now
from ..backends.local import LocalBackend
from ..guests.openat2 import open_in_root
from ..protocol import jobspec1, models
from ..protocol.errors import ErrorClass, JobError, invalid
from ..protocol.fields import timestamp
from ..protocol.validation import MAX_DOCUMENT_BYTES
from .display import plain

log = logging.getLogger(__name__)

SUFFIXES = (".json", ".yaml", ".yml")
#: Of the queue's state folder; where records lie.
RECORDS = "documents"
_LOOK_SECONDS = 1.0
#: Room for the record's own suffix in a file name of 255 bytes.
_LONGEST_NAME = 240

#: What decides that a file was not written to between two looks.
_Stamp = tuple[int, int, int]


class JobsFolder:
    """The documents of one folder. Files are taken when they have not changed from one look to the next."""

    def __init__(self, folder: pathlib.Path, state_dir: pathlib.Path, backend: LocalBackend) -> None:
        """Watch ``folder``, which need not be there yet, for the queue of ``backend`` in ``state_dir``."""
        self._folder = folder
        self._records = state_dir / RECORDS
        self._backend = backend
        self._seen: dict[str, _Stamp] = {}
        self._done: dict[str, _Stamp] = {}
        self._told: dict[str, str] = {}
        #: Documents that wait until the job of their name has stopped.
        self._behind: set[str] = set()
        self._next_look = 0.0
        self.settled = False
        """Whether no document is there that has not been looked at."""

    def look(self) -> None:
        """Hand in what is new, at most once a second; a document that is not accepted stops nothing."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            root = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            # It may come later (a volume); what is known of its documents stays.
            self._tell("", f"the folder of jobs {self._folder} cannot be opened: {error.strerror}")
            self.settled = True
            return
        try:
            stamps = dict(self._stamps(root))
            steady = [name for name, stamp in stamps.items() if self._seen.get(name) == stamp]
            self._seen = stamps
            self._behind.clear()
            for name in sorted(steady):
                if self._done.get(name) != stamps[name] and self._take(root, name):
                    self._done[name] = stamps[name]
            self._forget()
        finally:
            os.close(root)
        self.settled = len(steady) == len(stamps) and not self._behind

    def _stamps(self, root: int) -> c.Iterator[tuple[str, _Stamp]]:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/self/fd/{root}"):
                if not name.startswith(".") and name.endswith(SUFFIXES):
                    with contextlib.suppress(OSError):
                        found = _stat(root, name)
                        yield name, (found.st_ino, found.st_size, found.st_mtime_ns)

    def _take(self, root: int, name: str) -> bool:
        """Deal with one document; False if that is to be tried again."""
        digest = ""
        try:
            text = _read(root, name)
            digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
            if self._recorded(name) == digest:
                return True
            job = jobspec1.parse(text)
            # The job that is to give way is run by who looks here: to wait for its end would be to wait for oneself.
            outcome = self._backend.submit(job, force=job.spec.target.force, patience=0.0)
        except JobError as error:
            if error.reason == "JobStillRunning":
                self._behind.add(name)
            if error.error_class not in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED):
                self._tell(name, f"document {name!a}: {error}")
                return False
            log.error("document %a is refused: %s", name, plain(str(error)))
            return self._record(name, digest, None, error)
        log.info("document %a: job %s %s", name, job.metadata.name, outcome.outcome.value)
        return self._record(name, digest, outcome.job, None)

    def _recorded(self, name: str) -> str | None:
        """Return the digest of the document that was dealt with under this name."""
        try:
            known = json.loads((self._records / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return t.cast("str | None", known.get("digest")) if isinstance(known, dict) else None

    def _record(self, name: str, digest: str, job: models.MigrationJob | None, error: JobError | None) -> bool:
        record: dict[str, t.Any] = {"document": name, "digest": digest, "time": timestamp(now())}
        if job is not None:
            record |= {"job": job.metadata.name, "uid": job.metadata.uid}
        if error is not None:
            record["error"] = {
                "class": error.error_class.value,
                "reason": error.reason,
                "message": error.message,
                "suggestion": error.suggestion,
            }
        path = self._records / f"{name}.json"
        if len(os.fsencode(name)) > _LONGEST_NAME:
            return True
        try:
            self._records.mkdir(mode=0o700, exist_ok=True)
            partial = self._records / ".partial"
            partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as problem:
            # The queue knows the job: handing the document in again will change nothing.
            self._tell(name, f"document {name!a}: its record {path} cannot be written: {problem.strerror}")
            return False
        return True

    def _forget(self) -> None:
        """Remove the records of documents that are gone."""
        for names in (self._done, self._told):
            for name in [name for name in names if name and name not in self._seen]:
                del names[name]
        with contextlib.suppress(OSError):
            for record in self._records.glob("*.json"):
                if record.name.removesuffix(".json") not in self._seen:
                    record.unlink(missing_ok=True)

    def _tell(self, name: str, message: str) -> None:
        """Log what may pass by itself, once and not at each look."""
        if self._told.get(name) != message:
            self._told[name] = message
            log.warning("%s", plain(message))


def _stat(root: int, name: str) -> os.stat_result:
    """Look at a document, behind links if they stay within the folder (a mounted ConfigMap is made of such)."""
    try:
        descriptor = open_in_root(root, name, os.O_PATH)
    except OSError:
        return os.lstat(name, dir_fd=root)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _read(root: int, name: str) -> bytes:
    """Return a document's bytes.

    Raises:
        JobError: (invalid) it is no file within the folder, or too long; (transient) it cannot be read now.
    """
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise invalid("InvalidDocument", f"Its name is longer than {_LONGEST_NAME} bytes.", "Give it a shorter name.")
    try:
        descriptor = open_in_root(root, name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise invalid("InvalidDocument", "It is no regular file.", "Put the document itself there.")
            # One byte more, so that a longer one is seen as such.
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_DOCUMENT_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            why = "It is a link that leads to nothing within the folder of jobs."
            raise invalid("InvalidDocument", why, "Put the document itself there.") from None
        raise JobError(
            ErrorClass.TRANSIENT, "UnreadableDocument", f"It cannot be read: {error.strerror}.", "Look at its disk."
        ) from error
