# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine without a queue: what check mode asks of it."""

from __future__ import annotations

import pathlib
import tempfile

from ..protocol import models
from ..protocol.errors import environment
from . import kernel
from .context import Reporter, Roots
from .pipeline import PREVIEW, run_stages


class SilentReporter(Reporter):
    """For work that nobody watches and nobody stops."""

    def progress(self, progress: models.Progress) -> None:
        """Nobody watches."""

    def warning(self, message: str) -> None:
        """Warnings are in the result as well."""

    def stage_started(self, name: str, bytes_total: int = 0) -> None:
        """Nobody watches."""

    def stage_ended(self, record: models.StageRecord) -> None:
        """Nobody resumes."""

    def cancelled(self) -> bool:
        """Nobody stops it."""
        return False


def plan_only(job: models.MigrationJob, roots: Roots) -> models.JobResult:
    """Inspect and plan ``job`` on overlays in a temporary folder that is gone afterwards. No root is written.

    The calling process gets a mount namespace of its own, so that nothing of it can stay mounted elsewhere; it is meant
    for a process that ends soon, such as a module.

    Raises:
        JobError: as the stages inspect and plan, and class ``environment`` where the process is not root.
    """
    private_mounts()
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-plan-") as folder:
        return run_stages(PREVIEW, job, roots, SilentReporter(), pathlib.Path(folder))


def private_mounts() -> None:
    """Move the calling process to a mount namespace of its own.

    Raises:
        JobError: class ``environment``, the process may not (it is not root).
    """
    try:
        kernel.private_mounts()
    except OSError as error:
        raise environment(
            "NotRoot",
            f"Mounting a guest takes root: {error.strerror}.",
            "Run as root, for example with become on the conversion host.",
        ) from error
