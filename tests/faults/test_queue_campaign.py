# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queue under many workers that are killed, stopped and woken, and whose clocks jump."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import TRANSITIONS, Phase

from tests.e2e.migration import REPOSITORY
from tests.faults.faulty_host import ROUNDS, left_on_host
from tests.tools.machine import children, wait_for
from tests.unit.plugins.module_utils.backends.samples import job

WORKERS = 8
#: `make test` has a fraction of the campaign.
JOBS = min(1000, 40 * ROUNDS)
LEASE_SECONDS = 4.0
STAGES = ("inspect", "copy", "publish")
LEGAL = {(step.source.value, step.target.value) for step in TRANSITIONS}


class Crowd:
    """The workers of the campaign."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.output.mkdir()
        self.queue = LocalBackend(self.output / ".hyper2kvm")
        self.workers: list[subprocess.Popen[bytes]] = []
        self.stopped: list[list[int]] = []

    def hire(self) -> None:
        command = [sys.executable, "-m", "tests.faults.stepping_worker", "run", "--slots", "2"]
        roots = ["--input-root", str(self.folder), "--output-root", str(self.output)]
        with open(self.folder / "worker.log", "ab") as log:
            self.workers.append(
                subprocess.Popen(
                    [*command, *roots, "--lease-seconds", str(LEASE_SECONDS)],
                    stderr=log,
                    cwd=REPOSITORY,
                    env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".collections")},
                    start_new_session=True,
                )
            )

    def kill(self, chance: random.Random) -> None:
        """Kill a worker, or a process of one of its jobs alone."""
        victim = chance.choice(self.workers)
        jobs = sorted(children(victim.pid))
        if jobs and chance.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(jobs), signal.SIGKILL)
            return
        self.workers.remove(victim)
        victim.kill()
        victim.wait()
        self.hire()

    def stop(self, chance: random.Random) -> None:
        """Stop a worker for longer than its lease, with its jobs' processes or without."""
        victim = chance.choice(self.workers)
        pids = [victim.pid, *(children(victim.pid) if chance.random() < 0.5 else [])]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.stopped.append(pids)

    def wake(self) -> None:
        """Wake those that were stopped first."""
        for pid in self.stopped.pop(0) if self.stopped else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def dismiss(self) -> None:
        while self.stopped:
            self.wake()
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(120)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        self.queue.close()

    def done(self) -> int:
        return sum(1 for one in self.queue.list() if one.status.phase is Phase.COMPLETED)


@pytest.fixture
def crowd(tmp_path: pathlib.Path) -> t.Iterator[Crowd]:
    """Nobody yet, on an empty queue."""
    place = Crowd(tmp_path)
    yield place
    place.dismiss()


@pytest.mark.timeout(3600)
def test_no_job_is_lost_and_none_is_run_twice(crowd: Crowd, chance: random.Random) -> None:
    names = [f"job{number:04}" for number in range(JOBS)]
    for dummy in range(WORKERS):
        crowd.hire()
    for name in names:
        crowd.queue.submit(job(name, annotations={"stages": ",".join(STAGES), "seconds": "0.05"}, backoff_limit=20))
    # Something goes wrong with every fourth job or so.
    while (done := crowd.done()) < JOBS - WORKERS:
        wait_for(lambda done=done: crowd.done() >= min(done + 4, JOBS - WORKERS), 300)
        chance.choice([crowd.kill, crowd.kill, crowd.stop])(chance)
        if len(crowd.stopped) > 2:
            crowd.wake()
    while crowd.stopped:
        crowd.wake()
    wait_for(lambda: crowd.done() == JOBS, 300)
    for name in names:
        _check(crowd, name)
    crowd.dismiss()
    assert left_on_host(crowd.folder) == []
    assert list((crowd.output / ".hyper2kvm/scratch").iterdir()) == []


def _check(crowd: Crowd, name: str) -> None:
    document = crowd.queue.get(name)
    assert [record.name for record in document.status.stages] == list(STAGES)
    # What the job's processes themselves saw: no attempt went on when the next had begun.
    lines = [line.split() for line in (crowd.output / f"{name}.trace").read_text().splitlines()]
    epochs = [int(epoch) for epoch, dummy, dummy in lines]
    assert epochs == sorted(epochs), f"{name}: an old attempt worked beside a new one: {lines}"
    # A stage is done again only where its process died between its end and its record.
    ends = collections.Counter(stage for dummy, stage, what in lines if what == "end")
    attempts = len(document.status.attempts)
    assert set(ends) == set(STAGES)
    assert sum(ends.values()) <= len(STAGES) + attempts - 1
    text = (crowd.output / ".hyper2kvm/events" / f"{name}.jsonl").read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [event["epoch"] for event in events] == sorted(event["epoch"] for event in events)
    steps = [event["data"] for event in events if event["type"].endswith(".phase")]
    assert all((step["from"], step["to"]) in LEGAL for step in steps if "from" in step)
    assert [step["to"] for step in steps].count("COMPLETED") == 1
    assert [step["to"] for step in steps].count("ASSIGNED") == attempts
