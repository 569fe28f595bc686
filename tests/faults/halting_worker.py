# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker whose jobs halt at a chosen point, until somebody lets them go on or kills them. All else about it is real.

The environment variable ``HALT_AT`` names the point: ``[<job>/]<stage>:<where>``. ``<where>`` is ``begin``; a
percentage (the first progress at or above it); ``done`` (what the stage did is durable, and nobody was told); or
``recorded`` (the queue knows). ``publish:placed`` comes when all artifacts but the result document are there,
``end:begin`` after the last stage, before the job is told to be complete.

At the point the file ``HALT_FILE`` is made. The job goes on when that is removed.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import cli
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Reporter, Roots
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.pipeline import run_job
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.stages import publish

_JOB, _POINT = os.environ["HALT_AT"].rpartition("/")[::2]
_STAGE, _WHERE = _POINT.split(":")
_FILE = pathlib.Path(os.environ["HALT_FILE"])


def _halt(stage: str, where: str) -> None:
    if (stage, where) == (_STAGE, _WHERE):
        _FILE.touch()
        while _FILE.exists():
            time.sleep(0.01)


def _sync_folder(folder: pathlib.Path) -> None:
    _really_sync_folder(folder)
    _halt("publish", "placed")


_really_sync_folder, publish.sync_folder = publish.sync_folder, _sync_folder


class _HaltingReporter(Reporter):
    def __init__(self, real: Reporter) -> None:
        self._real = real
        self._passed = False

    def stage_started(self, name: str, bytes_total: int = 0) -> None:
        self._real.stage_started(name, bytes_total)
        _halt(name, "begin")

    def stage_ended(self, record: models.StageRecord) -> None:
        _halt(record.name, "done")
        self._real.stage_ended(record)
        _halt(record.name, "recorded")

    def progress(self, progress: models.Progress) -> None:
        self._real.progress(progress)
        if _WHERE.isdigit() and progress.percent >= int(_WHERE) and not self._passed:
            self._passed = progress.stage == _STAGE
            _halt(progress.stage, _WHERE)

    def warning(self, message: str) -> None:
        self._real.warning(message)

    def cancelled(self) -> bool:
        return self._real.cancelled()


def _pipeline(job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> models.JobResult:
    if _JOB not in ("", job.metadata.name):
        return run_job(job, roots, reporter, workdir)
    result = run_job(job, roots, _HaltingReporter(reporter), workdir)
    _halt("end", "begin")
    return result


if __name__ == "__main__":
    sys.exit(cli.main(pipeline=_pipeline))
