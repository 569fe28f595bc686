# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file by which a worker's keeper says that the worker may go on: when the keeper last heard that it may.

Where jobs come from a cluster, they may be given to another node once this one was silent for too long. The keeper is
the process that speaks to the cluster; the worker and its jobs stop in time if it falls silent, for whatever reason.
"""

from __future__ import annotations

import pathlib

from ..backends.host import Instant, boottime


def write(path: pathlib.Path, since: float) -> None:
    """Say that at ``since`` (as ``boottime()`` gives it) the worker was allowed to go on.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(Instant.after(0.0, since).dump(), encoding="ascii")
    partial.replace(path)


def read(path: pathlib.Path) -> float:
    """Return what :func:`write` was last told since this boot; 0 where it was told nothing."""
    try:
        instant = Instant.load(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0
    return boottime() + instant.left() if instant.of_this_boot() else 0.0
