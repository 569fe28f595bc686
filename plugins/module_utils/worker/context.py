# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a stage is given, and what it gives back."""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

from ..guests.microvm.image import Settings
from ..protocol import models


@dataclasses.dataclass(frozen=True)
class Roots:
    """The folders and devices that a worker may touch. The folders are absolute and existing."""

    input: pathlib.Path
    """Sources; never written."""
    output: pathlib.Path
    """Targets, and partial targets while they grow."""
    scratch: pathlib.Path
    """Overlays and throw-away layers."""
    secrets: pathlib.Path | None = None
    target_devices: tuple[str, ...] = ()
    """Patterns of block devices that jobs may name as targets, absolute; see :mod:`..disks.block_device`."""
    kernel_root: pathlib.Path = pathlib.Path("/")
    """What stands for ``/`` when a kernel for micro-VMs is looked for."""

    @property
    def microvms(self) -> Settings:
        """Where this worker's micro-VMs come from."""
        return Settings(self.kernel_root, self.scratch / ".microvm")


class Stopped(Exception):
    """A stage stopped because :meth:`Reporter.cancelled` said so. What it had done so far stays for a later attempt."""


class Reporter(t.Protocol):
    """Where a running job's news go. Implementations never raise on a slow or lost backend.

    Rate and time left are computed behind :meth:`progress`; a stage gives bytes (or any unit that has a total).
    """

    def stage_started(self, name: str, bytes_total: int = 0) -> None:
        """Tell that a stage begins; ``bytes_total`` is 0 where its size is not known yet."""

    def stage_ended(self, record: models.StageRecord) -> None:
        """Record a stage's end durably: when this returns, a later attempt can rely on it.

        Raises:
            Stopped: the job is no longer this worker's, so nothing may be built on the stage.
        """

    def progress(self, progress: models.Progress) -> None:
        """Tell how far the running stage is. May be called often; it is thinned out behind this call."""

    def warning(self, message: str) -> None:
        """Tell something that a person should know, though the job goes on."""

    def cancelled(self) -> bool:
        """Whether the job must stop now (cancel, suspend, lost lease). A long stage asks at least each second."""
