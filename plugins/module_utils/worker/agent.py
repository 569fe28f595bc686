# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent: one process that claims jobs, runs each in a process of its own, and answers for them while it lives.

It has a single thread, because it forks, and because the kernel takes the death of a thread for that of a parent. Each
turn of its loop looks at the children, the lease, the orders and the queue; nothing in it blocks for long.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import select
import shutil
import signal
import time
import types

from ..backends.base import Fenced, Hold, Order
from ..backends.host import boot_id, boottime, now
from ..backends.local import LocalBackend
from ..protocol import errors, models
from ..protocol.errors import JobError
from ..protocol.fields import timestamp
from ..protocol.lifecycle import TERMINAL, Phase
from ..scheduling.matching import TARGET_DEVICE
from ..telemetry.logs import JobLog
from ..telemetry.metrics import table
from ..telemetry.metrics.book import Tally
from ..telemetry.version import collection_version
from . import job_process, keeper, workdirs
from .capabilities import probe
from .config import Config, worker_name
from .exporter import Exporter, Telling
from .job_process import Pipeline
from .jobs_folder import JobsFolder
from .local import starting_lock
from .reporter import EXIT_FENCED, EXIT_STOPPED, STOP_AT_LEASE_PART

log = logging.getLogger(__name__)

_TURN_SECONDS = 0.1
#: Looked at this often even if nobody has written to the queue: backoffs and deadlines pass by themselves.
_LOOK_SECONDS = 1.0
_SWEEP_SECONDS = 30.0
#: Between the request to stop and the kill; with the rest of the way, a cancel takes less than 5 s.
_GRACE_SECONDS = 3.0
#: How long to wait for killed processes.
_KILL_SECONDS = 3.0
#: Heartbeats in one lease.
_BEATS = 6
#: A registration that meets a stopped writer waits until that one's lease has ended.
_REGISTER_ATTEMPTS = 2 * _BEATS


@dataclasses.dataclass
class _Running:
    child: job_process.Child
    order: Order | None = None
    kill_at: float | None = None
    code: int | None = None
    """The process's exit code, once it has ended."""

    def signal(self, number: int) -> None:
        if self.code is None:
            os.kill(self.child.process.pid, number)

    def ended(self) -> bool:
        """Whether the process, and with it all its descendants, has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.child.process.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None


def _target_device(allowed: tuple[str, ...]) -> models.Capability:
    """Whether jobs may write onto block devices: nothing to try, but what whoever started the worker allows."""
    if allowed:
        return models.Capability(available=True, detail=f"onto {', '.join(allowed)}")
    return models.Capability(available=False, detail="it was started without --target-device")


class Agent:
    """A worker on the local queue."""

    def __init__(self, config: Config, pipeline: Pipeline, exporter: Exporter | None = None) -> None:
        """Prepare a worker that carries out jobs by ``pipeline``, and tells its metrics by ``exporter``.

        Raises:
            JobError: (environment) the state folder cannot be used.
        """
        self._config = config
        self._pipeline = pipeline
        self._exporter = exporter or Exporter(Telling(), config.state_dir, config.roots, in_cluster=False)
        self._backend = LocalBackend(config.state_dir, patience=config.lease_seconds / _BEATS)
        self._jobs_folder = config.jobs_dir and JobsFolder(config.jobs_dir, config.state_dir, self._backend)
        self._name = worker_name(os.getpid())
        self._running: dict[Hold, _Running] = {}
        self._leaving = False
        self._renewed = boottime()
        self._next_beat = 0.0
        self._next_look = 0.0
        self._next_sweep = 0.0
        self._seen_version = (0, 0)
        self._busy_since = time.monotonic()
        self._tallies: list[Tally] = []
        """What is to be counted when the queue can be written."""
        self._wake = os.pipe()
        self.failed_jobs = 0
        """How many jobs ended FAILED in this worker's hands."""

    def run(self) -> None:
        """Work until idle for long enough (where that is configured) or told to leave by SIGTERM or SIGINT.

        Raises:
            JobError: the queue cannot be used at all.
        """
        self._registration = self._describe()
        self._listen()
        self._register()
        log.info("worker %s serves %s", self._name, self._config.state_dir)
        try:
            self._renewed = boottime()
            while True:
                self._mind_children()
                try:
                    self._mind_queue()
                except JobError as error:
                    # It is out of reach: the lease decides what becomes of the running jobs.
                    log.warning("%s", error)
                    self._evict()
                except Fenced:
                    # We were silent for so long (stopped, suspended) that others have struck us off.
                    self._register()
                if self._finished():
                    break
                # A connection to SQLite must not cross a fork. Last of all: while the agent sleeps, the process that
                # it forked shares its memory.
                self._exporter.turn(self._backend.close)
                select.select([self._wake[0], *self._exporter.descriptors()], [], [], _TURN_SECONDS)
                self._drain_wake()
        finally:
            self._kill_all()
            with contextlib.suppress(JobError):
                self._backend.export_stream(self._config.event_rotation)
            with contextlib.suppress(JobError):
                self._count()
                self._backend.unregister(self._name)
            self._backend.close()
            self._exporter.close()
            log.info("worker %s ends", self._name)

    def _register(self) -> None:
        for attempt in range(_REGISTER_ATTEMPTS):
            try:
                self._backend.register(
                    self._registration,
                    self._config.roots_text,
                    self._config.lease_seconds,
                    self._in_touch(),
                    self._free_bytes(),
                )
                return
            except JobError:
                if attempt == _REGISTER_ATTEMPTS - 1:
                    raise
                self._evict()

    def _evict(self) -> None:
        with contextlib.suppress(JobError):
            if self._backend.evict_stopped_writer():
                log.warning("killed a stopped process that kept all others from writing to the queue")

    def _describe(self) -> models.WorkerRegistration:
        return models.WorkerRegistration(
            name=self._name,
            host=os.uname().nodename,
            boot_id=boot_id(),
            pid=os.getpid(),
            collection_version=collection_version(),
            slots=self._config.slots,
            labels=self._config.labels,
            accepts=self._config.accepts,
            capabilities={
                **probe(
                    self._config.roots.scratch,
                    self._config.state_dir,
                    kernel_root=self._config.roots.kernel_root,
                ),
                TARGET_DEVICE: _target_device(self._config.roots.target_devices),
            },
        )

    def _listen(self) -> None:
        def leave(number: int, frame: types.FrameType | None) -> None:
            self._leaving = True

        signal.signal(signal.SIGTERM, leave)
        signal.signal(signal.SIGINT, leave)
        signal.signal(signal.SIGCHLD, lambda *dummy: None)
        for end in self._wake:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake[0], 512):
                pass

    def _mind_children(self) -> None:
        """Do what needs no queue."""
        self._guard_lease()
        for running in self._running.values():
            if self._leaving:
                self._stop(running, Order.SUSPEND)
            if running.kill_at is not None and time.monotonic() >= running.kill_at:
                running.signal(signal.SIGKILL)

    def _mind_queue(self) -> None:
        self._beat()
        self._settle_ended()
        if self._jobs_folder and not self._leaving:
            self._jobs_folder.look()
        version = self._backend.data_version()
        if version != self._seen_version or time.monotonic() >= self._next_look:
            self._seen_version = version
            self._next_look = time.monotonic() + _LOOK_SECONDS
            self._look()

    def _look(self) -> None:
        """Obey orders, take over what others lost, keep the queue in order, and claim."""
        for hold, order in self._backend.orders(self._name, list(self._running)).items():
            running = self._running[hold]
            if order is Order.FENCED and self._is_over(hold.uid):
                # It has written its own end, and is about to leave.
                running.kill_at = running.kill_at or time.monotonic() + _GRACE_SECONDS
            else:
                self._stop(running, order)
        self._take_over()
        self._backend.maintain()
        self._backend.export_stream(self._config.event_rotation)
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP_SECONDS
            self._backend.reconcile_events()
            found = workdirs.sweep(self._config.roots, self._config.state_dir, self._backend.has_use_for)
            self._note_leftovers(found)
            self._backend.forget_dead_workers()
        while not self._leaving and len(self._running) < self._config.slots and not self._must_stop(self._in_touch()):
            job = self._backend.claim(self._name)
            if job is None:
                break
            self._start(job)

    # -- the worker's own life -----------------------------------------------------------------------------------------

    def _in_touch(self) -> float:
        """When this worker was last known to be allowed to work: now, or when its keeper last said so."""
        return boottime() if self._config.keeper is None else keeper.read(self._config.keeper)

    def _must_stop(self, renewed: float) -> bool:
        return boottime() - renewed > self._config.lease_seconds * (1 - STOP_AT_LEASE_PART)

    def _beat(self) -> None:
        began = boottime()
        since = self._in_touch()
        news = self._config.keeper is not None and since > self._renewed
        if began < self._next_beat and not news:
            return
        scratch, output = self._free_bytes()
        beat = models.Heartbeat(
            worker=self._name,
            time=timestamp(now()),
            running={hold.uid: hold.epoch for hold in self._running},
            free_scratch_bytes=scratch,
            free_output_bytes=output,
        )
        self._backend.heartbeat(beat, since)
        self._count()
        self._renewed = since
        self._next_beat = began + self._config.lease_seconds / _BEATS

    def _free_bytes(self) -> tuple[int, int]:
        """The free space below the scratch and the output root."""
        roots = self._config.roots
        return shutil.disk_usage(roots.scratch).free, shutil.disk_usage(roots.output).free

    def _guard_lease(self) -> None:
        """Kill the jobs if the lease could not be renewed in time, before anybody may take them over."""
        if self._running and self._must_stop(self._renewed):
            log.error("the lease could not be renewed; stopping all jobs")
            self._tallies.append(Tally(table.FENCES, (), len(self._running)))
            self._kill_all()
            self._renewed = boottime()

    def _finished(self) -> bool:
        if self._running:
            self._busy_since = time.monotonic()
            return False
        if self._leaving:
            return True
        if self._jobs_folder and not self._jobs_folder.settled:
            self._busy_since = time.monotonic()
            return False
        idle = self._config.idle_seconds
        if idle is None or time.monotonic() - self._busy_since < idle:
            return False
        # Under the lock that a submitter takes to see whether a worker is there: either it still finds us, and we find
        # its job, or it finds us gone.
        try:
            with starting_lock(self._config.state_dir):
                if not self._backend.may_wait_for(self._name):
                    self._backend.unregister(self._name)
                    return True
                self._busy_since = time.monotonic()
                return False
        except (JobError, Fenced) as error:
            log.warning("%s", error)
            return False

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _start(self, job: models.MigrationJob) -> None:
        JobLog(log, job.metadata.key, job.status.epoch).info("attempt %d", job.status.epoch)
        # A connection to SQLite must not cross a fork.
        self._backend.close()
        try:
            child = job_process.start(job, self._config, self._pipeline, self._exporter.leave)
        except OSError as error:
            hold = Hold(job.metadata.uid or "", job.status.epoch)
            problem = errors.transient(
                "NoProcess",
                f"No process can be made for the job: {error.strerror}.",
                "Give the host more memory, or raise the limit of its processes (TasksMax=).",
            )
            self._backend.fail(hold, problem)
            return
        self._running[child.hold] = _Running(child)
        try:
            self._backend.started(child.hold, child.process)
        except BaseException:
            child.abandon()
            raise
        child.begin()

    def _stop(self, running: _Running, order: Order) -> None:
        if running.order is not None:
            return
        running.order = order
        running.child.log.info("%s", order.value)
        at_once = order is Order.FENCED
        running.kill_at = time.monotonic() + (0.0 if at_once else _GRACE_SECONDS)
        running.signal(signal.SIGKILL if at_once else signal.SIGTERM)

    def _kill_all(self) -> None:
        """Kill the jobs. One that the kernel does not let go of (storage that hangs) stays ours until it does."""
        for running in self._running.values():
            running.order = Order.FENCED
            running.signal(signal.SIGKILL)
        deadline = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < deadline and not all(running.ended() for running in self._running.values()):
            time.sleep(0.01)
        for hold, running in list(self._running.items()):
            if running.ended():
                del self._running[hold]
                with contextlib.suppress(JobError, Fenced):
                    self._backend.release(hold, "the worker could not keep its hold on the job")
                self._clear(running.child)
            else:
                running.child.log.error("its process %d cannot be killed", running.child.process.pid)

    def _settle_ended(self) -> None:
        for hold, running in list(self._running.items()):
            if not running.ended():
                continue
            fenced = running.code == EXIT_FENCED or running.order is Order.FENCED
            try:
                self._settle(running, running.code or 0)
            except Fenced:
                running.child.log.info("it is no longer ours")
                fenced = True
            if fenced:
                self._tallies.append(Tally(table.FENCES))
            # Not before its end is written: a queue out of reach is tried again as long as the lease lasts.
            del self._running[hold]
            self._clear(running.child)

    def _settle(self, running: _Running, code: int) -> None:
        """Write the end of an attempt whose process could not, or was not to."""
        hold = running.child.hold
        if code in (0, EXIT_FENCED):
            return
        if running.order is Order.CANCEL:
            self._backend.cancelled(hold)
        elif running.order is Order.SUSPEND:
            self._backend.release(hold, "the worker ends" if self._leaving else "suspended")
        elif running.order is Order.DEADLINE:
            self._backend.fail(
                hold,
                errors.environment(
                    "DeadlineExceeded",
                    "Its deadline (activeDeadlineSeconds) passed while it ran.",
                    "Submit it again with more time.",
                ),
            )
        elif code == EXIT_STOPPED:
            self._backend.release(hold, "stopped")
        elif running.order is None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            self._backend.fail(
                hold,
                errors.transient(
                    "JobProcessDied",
                    f"The job's process {how}.",
                    "See the worker's log and the kernel's (out of memory?).",
                ),
            )

    def _clear(self, child: job_process.Child) -> None:
        with contextlib.suppress(JobError):
            if self._backend.phase(child.hold.uid) is Phase.FAILED:
                self.failed_jobs += 1
            useless = not self._backend.has_use_for(child.name)
            try:
                found = workdirs.clear(child.workdir, self._config.roots, self._config.state_dir, remove=useless)
                self._note_leftovers(found)
            except OSError as error:
                child.log.warning("cannot clear %s: %s", child.workdir, error)

    def _note_leftovers(self, found: workdirs.Leftovers) -> None:
        self._tallies += (Tally(table.LEFTOVERS, (kind,), number) for kind, number in found.items())

    def _count(self) -> None:
        """Write what was counted since the last time."""
        if self._tallies:
            self._backend.count(self._tallies)
            self._tallies.clear()

    def _is_over(self, uid: str) -> bool:
        phase = self._backend.phase(uid)
        return phase is None or phase in TERMINAL

    def _take_over(self) -> None:
        """Give jobs whose worker is gone back to the queue, once their old process is known to be dead."""
        for lost in self._backend.lost():
            # One that has not told its process yet has done nothing, and will be refused when it does.
            dead = lost.process is None or lost.process.kill()
            if lost.process is not None and lost.process.alive():
                continue
            JobLog(log, lost.name, lost.hold.epoch).warning("its worker %s is gone", lost.worker)
            self._backend.reclaim(lost, dead)
