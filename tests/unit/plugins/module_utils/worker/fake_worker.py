# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker with a pipeline that only pretends: run as a program, with the command line of ``hyper2kvm-worker``.

What a job does is said in its annotations: ``stages`` (names, by commas), ``seconds`` (of each stage), ``fail``
(``<class> <number of attempts that fail> [stage]``), ``deaf`` (does not look whether it is to stop), ``child`` (starts
a process in a session of its own that would outlive it), ``leave`` (a mount and a loop device), ``crash`` (raises what
it must not), ``die`` (ends without a word).

The environment may set the agent's patience: ``FAKE_LOOK_SECONDS``, ``FAKE_GRACE_SECONDS``; and its keeper's file:
``FAKE_KEEPER``.

Every stage's begin and end is a line in ``<output>/<job>.trace``: ``<epoch> <stage> <begin|end>``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import typing as t

COLLECTIONS = pathlib.Path(__file__).parents[5] / ".collections"
if __name__ == "__main__":
    sys.path.insert(0, str(COLLECTIONS))

from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import agent, cli
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Reporter, Roots, Stopped

CAPABILITIES = ("qemu-img", "root", "attach", "boot-test")


class FakePipeline:
    """One attempt at a job, resumable by the list of ended stages in its work directory."""

    def __init__(self, job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> None:
        self.job = job
        self.reporter = reporter
        self.workdir = workdir
        self.trace = roots.output / f"{job.metadata.name}.trace"
        self.wanted = job.metadata.annotations
        self.state = workdir / "ended.json"

    def run(self) -> models.JobResult:
        ended = json.loads(self.state.read_text()) if self.state.exists() else []
        for stage in self.wanted.get("stages", "inspect,publish").split(","):
            if stage not in ended:
                self.stage(stage)
                ended.append(stage)
                temporary = self.state.with_suffix(".new")
                temporary.write_text(json.dumps(ended))
                temporary.replace(self.state)
                self.reporter.stage_ended(record(stage))
        return models.JobResult(
            job=self.job.metadata.name,
            uid=self.job.metadata.uid or "",
            operation=self.job.spec.operation,
            verdict="done",
            source_identity="fake",
            spec_digest="sha256:" + "0" * 64,
            completed_at="2026-01-01T00:00:00Z",
            seconds=0.0,
            stages=[record(stage) for stage in ended],
        )

    def stage(self, name: str) -> None:
        self.tell(name, "begin")
        self.reporter.stage_started(name, 100)
        self.misbehave(name)
        seconds = float(self.wanted.get("seconds", "0"))
        began = time.monotonic()
        while (spent := time.monotonic() - began) < seconds:
            if self.reporter.cancelled() and "deaf" not in self.wanted:
                raise Stopped
            self.reporter.progress(models.Progress(stage=name, bytes_done=int(100 * spent / seconds), bytes_total=100))
            time.sleep(0.02)
        self.tell(name, "end")

    def misbehave(self, stage: str) -> None:
        if "child" in self.wanted:
            subprocess.Popen(["sleep", "600"], start_new_session=True, cwd=self.workdir)
        if "leave" in self.wanted:
            disk = self.workdir / "disk"
            with open(disk, "wb") as file:
                file.truncate(1 << 20)
            subprocess.run(["losetup", "--find", disk], check=True)
            (self.workdir / "mnt").mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "none", self.workdir / "mnt"], check=True)
        if "die" in self.wanted:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(9)
        if "crash" in self.wanted:
            raise ZeroDivisionError("not a message for people")
        kind, times, where = (*self.wanted.get("fail", " 0").split(" "), "")[:3]
        if kind and self.job.status.epoch <= int(times) and where in ("", stage):
            raise JobError(ErrorClass(kind), "FakeFailure", "it was asked to fail", "Ask for something else.", "fake")

    def tell(self, stage: str, what: str) -> None:
        line = f"{self.job.status.epoch} {stage} {what}\n".encode()
        descriptor = os.open(self.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, line)
        os.close(descriptor)


def record(stage: str) -> models.StageRecord:
    """Return the record of a stage that ended."""
    return models.StageRecord(name=stage, started_at="2026-01-01T00:00:00Z", seconds=0.0)


def pipeline(job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> models.JobResult:
    """Stand in for the engine."""
    return FakePipeline(job, roots, reporter, workdir).run()


def everything(*_args: t.Any, **_options: t.Any) -> dict[str, models.Capability]:
    """Stand in for the trials, which have tests of their own."""
    return {name: models.Capability(available=True) for name in CAPABILITIES}


if __name__ == "__main__":
    agent.probe = everything
    agent._LOOK_SECONDS = float(os.environ.get("FAKE_LOOK_SECONDS", agent._LOOK_SECONDS))
    agent._GRACE_SECONDS = float(os.environ.get("FAKE_GRACE_SECONDS", agent._GRACE_SECONDS))
    status.BACKOFF_SECONDS = 0.2
    if "FAKE_KEEPER" in os.environ:
        configure, file = cli._config, pathlib.Path(os.environ["FAKE_KEEPER"])
        # On a node its agent says who keeps the worker; here the test is the keeper.
        cli._config = lambda options: dataclasses.replace(configure(options), keeper=file)
    sys.exit(cli.main(pipeline=pipeline))
