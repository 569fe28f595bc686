# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An engine that only pretends, for tests of what is above it: playbooks, modules, queue and worker are real.

What becomes of a job is said in its annotations: ``seconds`` (of each stage), ``fail`` (the reason, at ``rehearse``),
``held`` (it goes on when there is a file ``.go`` in the output root).
Every begin and end is a line ``<job> <begin|end>`` in ``<output>/.trace``.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import unsupported
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import agent, cli
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Reporter, Roots, Stopped
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.layout import layout_of

STAGES = ("inspect", "rehearse", "publish")
NOW = "2026-01-01T00:00:00Z"


def pipeline(job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> models.JobResult:
    """Stand in for the engine."""
    del workdir
    _trace(roots, f"{job.metadata.name} begin")
    try:
        return _Attempt(job, roots, reporter).run()
    finally:
        _trace(roots, f"{job.metadata.name} end")


class _Attempt:
    def __init__(self, job: models.MigrationJob, roots: Roots, reporter: Reporter) -> None:
        self.job = job
        self.roots = roots
        self.reporter = reporter
        self.wanted = job.metadata.annotations
        self.result = models.JobResult(
            job=job.metadata.name,
            uid=job.metadata.uid or "",
            operation=job.spec.operation,
            verdict="boots",
            source_identity=open_source(job.spec.source, roots.input).identity,
            spec_digest=validation.spec_digest(job.spec),
            completed_at="",
            seconds=0.0,
        )

    def run(self) -> models.JobResult:
        for stage in STAGES:
            self.reporter.stage_started(stage, 100)
            self.work(stage)
            record = models.StageRecord(name=stage, started_at=NOW, seconds=0.1)
            self.result.stages.append(record)
            self.reporter.stage_ended(record)
        return self.publish()

    def work(self, stage: str) -> None:
        while "held" in self.wanted and not (self.roots.output / ".go").exists():
            if self.reporter.cancelled():
                raise Stopped
            time.sleep(0.02)
        end = time.monotonic() + float(self.wanted.get("seconds", "0.05"))
        while time.monotonic() < end:
            if self.reporter.cancelled():
                raise Stopped
            self.reporter.progress(models.Progress(stage=stage, bytes_done=50, bytes_total=100, percent=50.0))
            time.sleep(0.02)
        if stage == "rehearse" and "fail" in self.wanted:
            self.result.verdict = "will-not-boot"
            error = unsupported(self.wanted["fail"], "The guest did not come up.", "Look at its console.")
            error.stage, error.details = stage, self.result.to_document()
            raise error

    def publish(self) -> models.JobResult:
        layout = layout_of(self.job, self.roots.output)
        layout.folder.mkdir(parents=True, exist_ok=True)
        booted = models.BootTestResult(verdict="booted", seconds=14.0)
        if self.job.spec.operation in models.WRITES_TARGET:
            definition = layout.libvirt
            definition.write_bytes(b"<domain/>")
            path = str(definition.relative_to(self.roots.output))
            digest = "sha256:" + hashlib.sha256(b"<domain/>").hexdigest()
            self.result.artifacts = [models.Artifact(path=path, kind="libvirt", size_bytes=9, digest=digest)]
            self.result.boot_test = booted
        else:
            self.result.rehearsal = booted
        self.result.completed_at = NOW
        layout.result.write_text(json.dumps(self.result.to_document()), encoding="utf-8")
        return self.result


def _trace(roots: Roots, line: str) -> None:
    descriptor = os.open(roots.output / ".trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _everything(*_arguments: t.Any, **_options: t.Any) -> dict[str, models.Capability]:
    """Stand in for the trials."""
    names = ("qemu-img", "root", "attach", "boot-test")
    return {name: models.Capability(available=True) for name in names}


def main() -> int:
    """Run the worker's command line."""
    agent.probe = _everything  # type: ignore[assignment]
    return cli.main(pipeline=pipeline)
