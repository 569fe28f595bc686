# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real worker processes with a pretended pipeline: see :mod:`.fake_worker`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import TERMINAL, Phase

from tests.tools.machine import wait_for
from tests.unit.plugins.module_utils.backends.samples import job

FAKE_WORKER = pathlib.Path(__file__).with_name("fake_worker.py")


@dataclasses.dataclass(frozen=True)
class TraceLine:
    """A stage's begin or end, as the job's process saw it."""

    epoch: int
    stage: str
    what: str


@dataclasses.dataclass
class Site:
    """One queue with its folders, and the workers that a test starts."""

    root: pathlib.Path
    queue: LocalBackend
    workers: list[subprocess.Popen[bytes]]

    @property
    def output(self) -> pathlib.Path:
        return self.root / "output"

    @property
    def scratch(self) -> pathlib.Path:
        return self.output / ".hyper2kvm" / "scratch"

    def command(self, *args: str) -> list[str]:
        return [sys.executable, str(FAKE_WORKER), *args, "--output-root", str(self.output)]

    def start(self, *args: str, ready: bool = True) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it is known to the queue."""
        with open(self.root / "worker.log", "ab") as log:
            worker = subprocess.Popen(
                self.command("run", "--input-root", str(self.root), *args), stderr=log, start_new_session=True
            )
        self.workers.append(worker)
        if ready:
            wait_for(lambda: self._known(worker))
        return worker

    def _known(self, worker: subprocess.Popen[bytes]) -> bool:
        assert worker.poll() is None, f"the worker has ended: {(self.root / 'worker.log').read_text()}"
        return any(one.registration.pid == worker.pid for one in self.queue.workers())

    def submit(self, name: str, *, fields: dict[str, t.Any] | None = None, **annotations: str) -> models.MigrationJob:
        return self.queue.submit(job(name, annotations=annotations, **(fields or {}))).job

    def phase(self, name: str) -> Phase:
        return self.queue.get(name).status.phase

    def wait_phase(self, name: str, *phases: Phase, seconds: float = 120.0) -> models.MigrationJob:
        wanted = phases or tuple(TERMINAL)
        wait_for(lambda: self.phase(name) in wanted, seconds)
        return self.queue.get(name)

    def trace(self, name: str) -> list[TraceLine]:
        try:
            lines = (self.output / f"{name}.trace").read_text().splitlines()
        except FileNotFoundError:
            return []
        parts = [line.split() for line in lines]
        return [TraceLine(int(epoch), stage, what) for epoch, stage, what in parts]

    def running_pid(self, name: str) -> int:
        """Wait until a stage of the job runs, and return its process's PID."""
        wait_for(lambda: [one for one in self.trace(name)[-1:] if one.what == "begin"])
        title = f"h2k:{name}"[:15]
        workers = {worker.pid for worker in self.workers}
        for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                before, dummy, after = status.read_text().rpartition(")")
                if before.endswith(f"({title}") and int(after.split()[1]) in workers:
                    return int(status.parent.name)
        raise AssertionError(f"no process of {name} was found")

    def log(self) -> str:
        return (self.root / "worker.log").read_text()


@pytest.fixture
def site(tmp_path: pathlib.Path) -> t.Iterator[Site]:
    """A queue; at the end its workers are killed, and nothing of them may be left."""
    output = tmp_path / "output"
    output.mkdir()
    place = Site(tmp_path, LocalBackend(output / ".hyper2kvm"), [])
    yield place
    place.queue.close()
    for worker in place.workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    wait_for(lambda: not _processes_in(tmp_path))
    assert str(tmp_path) not in pathlib.Path("/proc/self/mountinfo").read_text()


def _processes_in(folder: pathlib.Path) -> list[int]:
    """Return the processes whose working directory lies in ``folder``."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
    return found
