# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a worker is well, for those that ask from outside: probes of a container, and the command ``health``."""

from __future__ import annotations

import contextlib
import pathlib

from ..backends.host import boottime
from ..backends.local import LocalBackend
from . import keeper

#: In a folder of a node: when its agent last minded its jobs, and how long that may be ago.
ALIVE = "node-agent"
SILENT_SECONDS = 60.0


def is_alive(state_dir: pathlib.Path) -> bool:
    """Whether a worker of this queue is alive and, where it works for a cluster, its node agent minds its jobs.

    Raises:
        JobError: the queue cannot be read.
    """
    told = state_dir / ALIVE
    if told.exists():
        return boottime() - keeper.read(told) < SILENT_SECONDS
    with contextlib.closing(LocalBackend(state_dir)) as backend:
        return bool(backend.workers())
