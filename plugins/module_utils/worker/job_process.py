# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process of one job: a fork of the agent, alone in its PID and mount namespaces.

A fork rather than a new program, because it starts in milliseconds, shares the agent's memory and is of the very code
that the agent is of, even if the collection was upgraded meanwhile. When the process ends, however it ends, the kernel
ends all its descendants and unmounts what they mounted.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import resource
import signal
import typing as t

from ..backends.base import Hold
from ..backends.host import ProcessId
from ..backends.local import LocalBackend
from ..protocol import models, validation
from ..protocol.errors import ErrorClass, JobError
from ..telemetry.logs import JobLog
from . import forked, kernel, workdirs
from .config import Config, roots_of
from .context import Reporter, Roots, Stopped
from .reporter import EXIT_STOPPED, EXIT_UNREPORTED, QueueReporter

log = logging.getLogger(__name__)

_GO = b"g"
#: What a job's own process may allocate; it needs some hundred megabytes. Bytes.
_MEMORY_LIMIT = 2 * 1024**3

Pipeline = t.Callable[[models.MigrationJob, Roots, Reporter, pathlib.Path], models.JobResult]


@dataclasses.dataclass
class Child:
    """A running job, as the agent sees it."""

    name: str
    hold: Hold
    process: ProcessId
    workdir: pathlib.Path
    _gate: int

    @property
    def log(self) -> JobLog:
        """The log about this attempt."""
        return JobLog(log, self.name, self.hold.epoch)

    def begin(self) -> None:
        """Let the process begin: from now on a successor can find it in the queue, and make sure that it is dead."""
        os.write(self._gate, _GO)
        os.close(self._gate)

    def abandon(self) -> None:
        """Have the process end before it has begun."""
        os.close(self._gate)


def start(
    job: models.MigrationJob, config: Config, pipeline: Pipeline, let_go: t.Callable[[], None] = lambda: None
) -> Child:
    """Start the process of a job that this worker has just claimed; it waits for :meth:`Child.begin`.

    The caller has closed its connection to the queue; ``let_go`` closes, in the process, what else is the caller's.

    Raises:
        OSError: no process or namespace can be made.
    """
    uid = job.metadata.uid
    if uid is None:
        raise AssertionError("uid is not None")
    hold = Hold(uid, job.status.epoch)
    workdir = workdirs.path(config.roots.scratch, job.metadata.key, uid)
    waiting, gate = os.pipe()
    pid = kernel.fork_into_pid_namespace()
    if pid == 0:

        def work() -> int:
            os.close(gate)
            let_go()
            _isolate(job.metadata.name, waiting)
            _guard(config.roots)
            return _run(job, hold, config, pipeline, workdir)

        forked.work_and_end(work, JobLog(log, job.metadata.key, hold.epoch), EXIT_UNREPORTED)
    os.close(waiting)
    return Child(job.metadata.key, hold, ProcessId.of(pid), workdir, gate)


def _isolate(name: str, waiting: int) -> None:
    kernel.die_with_parent()
    # If the agent died before the line above, nobody holds the pipe's other end any more.
    if os.read(waiting, 1) != _GO:
        os._exit(EXIT_STOPPED)
    os.close(waiting)
    os.setsid()
    kernel.own_mounts()
    kernel.name_process(f"h2k:{name}")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _guard(roots: Roots) -> None:
    """Take from this process what no job needs: writing to sources, following links there, memory without end."""
    writable = (roots.output, roots.scratch)
    if not any(root.is_relative_to(roots.input) for root in writable) and not kernel.protect(roots.input):
        log.warning("This kernel cannot keep links out of %s: let nobody write there while jobs run.", roots.input)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or hard > _MEMORY_LIMIT:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_LIMIT, hard))


def _run(job: models.MigrationJob, hold: Hold, config: Config, pipeline: Pipeline, workdir: pathlib.Path) -> int:
    name = job.metadata.key
    said = JobLog(log, name, hold.epoch)
    backend = LocalBackend(config.state_dir)
    reporter = QueueReporter(backend, LocalBackend(config.state_dir), hold, name, config.lease_seconds)
    signal.signal(signal.SIGTERM, lambda *args: reporter.stop())
    reporter.start()
    error: JobError
    try:
        spec_digest = validation.spec_digest(job.spec)
        workdirs.adopt(workdir, config.roots, config.state_dir, spec_digest)
        with workdirs.held(workdir, config.state_dir, spec_digest):
            result = pipeline(job, roots_of(config.roots, job.metadata.namespace), reporter, workdir)
            reporter.insist(lambda: backend.complete(hold, result))
        said.info("COMPLETED")
        return 0
    except Stopped:
        return EXIT_STOPPED if reporter.cancelled() else EXIT_UNREPORTED
    except JobError as caught:
        error = caught
    except Exception as caught:
        said.exception("a mistake in the program")
        error = JobError(
            ErrorClass.INTERNAL,
            "InternalError",
            f"A mistake in the program: {' '.join([type(caught).__name__, *str(caught).splitlines()[:1]])}.",
            "The worker's log has the details; please report it.",
        )
    if reporter.cancelled():
        return EXIT_STOPPED
    said.error("%s", error)
    try:
        reporter.insist(lambda: backend.fail(hold, error))
    except (Stopped, JobError):
        return EXIT_UNREPORTED
    return 0
