# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The worker of a node as a child of its node agent: one does not outlive the other, nor a predecessor both."""

from __future__ import annotations

import asyncio
import logging
import os
import pathlib
import signal

from ..backends.host import lock_file
from ..backends.kube.api import SERVICE_ACCOUNT, VARIABLES
from ..protocol import errors
from . import forked, kernel
from .agent import Agent
from .config import Config
from .exporter import Exporter
from .job_process import Pipeline

log = logging.getLogger(__name__)

_LOCK = "node.lock"
#: A predecessor that is told to end has 30 s for it.
_PATIENCE_SECONDS = 60.0
_GO = b"g"


def lock(state_dir: pathlib.Path) -> int:
    """Become the only node agent of a state folder, and return the descriptor that holds it so.

    What is forked from here on holds it as well: whoever gets it knows that worker and jobs of a predecessor are dead.

    Raises:
        JobError: (environment) the folder cannot be written, or another one works there.
    """
    path = state_dir / _LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.environment(
            "StateUnusable", f"The state folder {state_dir} cannot be written: {error.strerror}.", "Look at its disk."
        ) from error
    if not lock_file(descriptor, _PATIENCE_SECONDS):
        os.close(descriptor)
        raise errors.environment(
            "StateInUse",
            f"Another worker of a node works in the state folder {state_dir}.",
            "Give each node's worker a volume of its own; see who has the folder (fuser).",
        )
    return descriptor


class Worker:
    """The child that runs the queue's agent. It waits until it is told to begin."""

    def __init__(self, config: Config, pipeline: Pipeline, exporter: Exporter) -> None:
        """Fork it; nothing that must not cross a fork may be open yet: connections, threads, event loops.

        The child alone has the exporter from then on.
        """
        waiting, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            forked.work_and_end(lambda: _work(waiting, config, pipeline, exporter), log)
        os.close(waiting)
        exporter.leave()
        self._ended: int | None = None

    def begin(self) -> None:
        """Let it begin."""
        os.write(self._gate, _GO)
        os.close(self._gate)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self._ended is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Wait for its end, and return its exit status; negative: the signal that killed it."""
        if self._ended is None:
            descriptor = os.pidfd_open(self.pid)
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
            self._ended = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._ended


def cut_off(account: pathlib.Path) -> None:
    """Take from this process, and from all that it starts, what speaks to the cluster: network, and login.

    Jobs read what strangers made, and neither they nor the queue's agent have anybody to speak to. ``account`` is the
    folder with the pod's token, where this is a pod.

    Raises:
        OSError: this process may not.
    """
    kernel.leave_network()
    kernel.private_mounts()
    if account.is_mount():
        kernel.detach_mount(str(account.resolve()))
    for variable in VARIABLES.values():
        os.environ.pop(variable, None)


def _work(waiting: int, config: Config, pipeline: Pipeline, exporter: Exporter) -> int:
    kernel.die_with_parent()
    # If the parent died before the line above, nobody holds the pipe's other end any more.
    if os.read(waiting, 1) != _GO:
        return 1
    os.close(waiting)
    cut_off(SERVICE_ACCOUNT)
    Agent(config, pipeline, exporter).run()
    return 0
