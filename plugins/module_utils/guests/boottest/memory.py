# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of a host's memory a virtual machine may have."""

from __future__ import annotations

import contextlib
import pathlib

from ...protocol.errors import environment

_MINIMUM = 256 * 1024**2


def granted_memory(wanted: int) -> int:
    """What a virtual machine gets: at most three quarters of what the host has free. Bytes.

    Raises:
        JobError: class ``environment``, that is too little for any.
    """
    free = _free_memory()
    given = min(wanted, free * 3 // 4) // 1024**2 * 1024**2
    if given < min(wanted, _MINIMUM):
        raise environment(
            "NotEnoughMemory",
            f"There are {free // 1024**2} MiB of free memory to run a virtual machine in; that is too little.",
            "Run fewer jobs at once on this worker, or give it more memory.",
        )
    return given


def _free_memory() -> int:
    """What this host, and the control group of this container, still have. Bytes."""
    meminfo = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in meminfo.splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no limit: the file is absent, or says "max"
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free = min(free, limit - int((group / "memory.current").read_text(encoding="ascii")))
    return free
