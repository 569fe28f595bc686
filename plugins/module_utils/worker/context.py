# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a stage is given, and what it gives back."""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

from ..protocol import models


@dataclasses.dataclass(frozen=True)
class Roots:
    """The folders that a worker may touch. All absolute and existing."""

    input: pathlib.Path
    """Sources; never written."""
    output: pathlib.Path
    """Targets, and partial targets while they grow."""
    scratch: pathlib.Path
    """Overlays and throw-away layers."""
    secrets: pathlib.Path | None = None


class Reporter(t.Protocol):
    """Where a running job's news go. Implementations never raise on a slow or lost backend."""

    def progress(self, progress: models.Progress) -> None:
        """Tell how far the running stage is. May be called often; it is thinned out behind this call."""

    def warning(self, message: str) -> None:
        """Tell something that a person should know, though the job goes on."""

    def cancelled(self) -> bool:
        """Whether the job must stop now (cancel, suspend, lost lease). A long stage asks at least each second."""
