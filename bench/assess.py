# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it takes to look through a folder of many VMs."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from bench.figures import Figure, timed
from bench.memory import MIB, Watch
from tests.guests.host import REPOSITORY
from tests.tools.exports import write_exports

_COUNT = 500


def of_a_folder(scratch: pathlib.Path) -> list[Figure]:
    """``hyper2kvm-worker assess`` over 450 names of the tiny guest and 50 of a blank disk, two at once."""
    write_exports(scratch / "exports", _COUNT)
    most = 0

    def look() -> None:
        nonlocal most
        command = [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", "assess", scratch / "exports"]
        # It tells of each VM that is refused, and ends with 1 for them.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([*command, "--csv", scratch / "all.csv"], **quiet) as process:
            watch = Watch(process.pid)
            status = process.wait()
            most = watch.end()
        assert status == 1, status

    seconds = timed(look)
    return [
        Figure(f"assess, {_COUNT} VMs, a VM", seconds / _COUNT, " s"),
        Figure("memory of the same", most / MIB, " MiB"),
    ]
