# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How a running job's news reach the queue: cheaply, and never in the way of the work."""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
import typing as t

from ..backends.base import Fenced, Hold
from ..backends.host import boottime
from ..backends.local import LocalBackend
from ..protocol import models
from ..protocol.errors import JobError
from ..telemetry.logs import JobLog
from .context import Stopped

log = logging.getLogger(__name__)

#: At most one write of progress in this time.
_WRITE_SECONDS = 1.0
_PULSE_SECONDS = 0.5
#: The rate is that of the last seconds, so that it follows a disk that slows down.
_RATE_WINDOW_SECONDS = 15.0
_PATIENCE_SECONDS = 10.0
#: A worker stops its work when this part of its lease is left.
STOP_AT_LEASE_PART = 1 / 3

#: How a job's process ends when the agent has to write the job's end.
EXIT_STOPPED = 75
EXIT_FENCED = 76
EXIT_UNREPORTED = 77


class Meter:
    """Computes percent, rate and time left of one stage; the only place that does."""

    def __init__(self, stage: str, bytes_total: int) -> None:
        """Start measuring a stage."""
        self._stage = stage
        self._total = bytes_total
        self._samples: collections.deque[tuple[float, int]] = collections.deque([(time.monotonic(), 0)])

    def measure(self, progress: models.Progress) -> models.Progress:
        """Return what the stage reported, with percent, bytes per second and seconds left filled in.

        A stage that moves no bytes tells percent and seconds left itself.
        """
        now = time.monotonic()
        total = progress.bytes_total or self._total
        done = min(progress.bytes_done, total) if total else progress.bytes_done
        if done < self._samples[-1][1]:
            # It began anew (another disk, a repeated read): what was before tells nothing about it.
            self._samples.clear()
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[1][0] > _RATE_WINDOW_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        return models.Progress(
            stage=progress.stage or self._stage,
            bytes_done=done,
            bytes_total=total,
            percent=round(100.0 * done / total, 1) if total else progress.percent,
            rate_per_second=round(rate, 1),
            eta_seconds=round((total - done) / rate, 1) if total and rate > 0 else progress.eta_seconds,
            message=progress.message,
        )


class QueueReporter:
    """The :class:`~.context.Reporter` of a job's process, with the thread that watches over its lease.

    That thread ends the whole process when only a third of the lease is left and the worker has not renewed it, or when
    the job is no longer this worker's: whatever the stages are busy with, and whatever became of the worker.
    """

    def __init__(self, backend: LocalBackend, watch: LocalBackend, hold: Hold, job: str, lease_seconds: float) -> None:
        """Report on ``job``. ``watch`` is a second connection to the queue, for the thread alone."""
        self._backend = backend
        self._watch = watch
        self._hold = hold
        self._log = JobLog(log, job, hold.epoch)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._meter = Meter("", 0)
        self._latest: models.Progress | None = None
        self._lease_seconds = lease_seconds
        self._lease_end = boottime() + lease_seconds
        self._thread = threading.Thread(target=self._pulse, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to watch over the lease."""
        self._thread.start()

    def stop(self) -> None:
        """Make :meth:`cancelled` true. Safe in a signal handler."""
        self._stop.set()

    def stage_started(self, name: str, bytes_total: int = 0) -> None:
        """See :meth:`Reporter.stage_started`."""
        self._log.info("stage %s", name)
        with self._lock:
            self._meter = Meter(name, bytes_total)
            self._latest = None
        self._try(lambda: self._backend.stage_started(self._hold, name))

    def progress(self, progress: models.Progress) -> None:
        """See :meth:`Reporter.progress`."""
        with self._lock:
            self._latest = self._meter.measure(progress)

    def warning(self, message: str) -> None:
        """See :meth:`Reporter.warning`."""
        self._log.warning("%s", message)
        self._try(lambda: self._backend.warning(self._hold, message))

    def cancelled(self) -> bool:
        """See :meth:`Reporter.cancelled`."""
        return self._stop.is_set()

    def stage_ended(self, record: models.StageRecord) -> None:
        """See :meth:`Reporter.stage_ended`."""
        with self._lock:
            latest, self._latest = self._latest, None
        if latest is not None:
            # What a short stage did is counted by its progress, of which nothing may be told yet.
            self._try(lambda: self._backend.progress(self._hold, latest))
        self.insist(lambda: self._backend.stage_ended(self._hold, record))

    def insist(self, write: t.Callable[[], object]) -> None:
        """Write to the queue for good, trying again for a while where it cannot be reached.

        Raises:
            Stopped: the job is no longer ours, or was to stop meanwhile.
            JobError: the queue could not be reached for 10 s.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                write()
                return
            except Fenced as error:
                self._stop.set()
                raise Stopped(str(error)) from error
            except JobError as error:
                self._log.warning("%s", error)
                if time.monotonic() > deadline:
                    raise
                if self._stop.wait(_PULSE_SECONDS):
                    raise Stopped("stopped while the queue could not be reached") from error

    def _try(self, write: t.Callable[[], object]) -> None:
        try:
            write()
        except Fenced:
            self._stop.set()
        except JobError as error:
            self._log.warning("%s", error)

    def _pulse(self) -> None:
        written = 0.0
        reserve = self._lease_seconds * STOP_AT_LEASE_PART
        while True:
            time.sleep(_PULSE_SECONDS)
            try:
                self._lease_end = boottime() + self._watch.lease_left(self._hold)
            except Fenced:
                self._end("it is no longer this worker's")
            except JobError as error:
                self._log.warning("%s", error)
            if boottime() > self._lease_end - reserve:
                self._end("its lease was not renewed in time")
            with self._lock:
                latest = self._latest
                if latest is None or time.monotonic() - written < _WRITE_SECONDS:
                    continue
                self._latest = None
            written = time.monotonic()
            self._try(lambda progress=latest: self._watch.progress(self._hold, progress))  # type: ignore[misc]

    def _end(self, why: str) -> None:
        self._log.error("stopped at once: %s", why)
        os._exit(EXIT_FENCED)
