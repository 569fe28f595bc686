# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker's processes take while they convert, the boot test's QEMU apart."""

from __future__ import annotations

import pathlib
import subprocess
import threading
import time

from bench.figures import Figure
from bench.jobs import run, running_worker
from bench.processes import proportional_bytes
from tests.e2e.migration import ConversionHost
from tests.guests import build
from tests.tools.machine import descendants

_GIB = 1024**3
MIB = 1024**2


def of_a_worker(scratch: pathlib.Path) -> list[Figure]:
    """The tiny guest on a disk of 1 GiB, the demo guest on its own of 8 GiB and on one of 64 GiB."""
    figures = []
    for guest, gib in (("tiny", 1), ("debian12", 8), ("debian12", 64)):
        raw = build(guest) / "disk.raw"
        place = scratch / f"{gib}"
        place.mkdir()
        host = ConversionHost(place)
        source = host.input / "web.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, source], check=True)
        subprocess.run(["qemu-img", "resize", "-q", "-f", "qcow2", source, str(gib * _GIB)], check=True)
        with running_worker(host, "--slots", "1") as worker:
            watch = Watch(worker.pid)
            run(host, "web", "web.qcow2")
            figures.append(Figure(f"memory of a worker, disk of {gib} GiB", watch.end() / MIB, " MiB", limit=150))
    return figures


class Watch:
    """The highest sum of proportional set sizes (proc(5), smaps_rollup) of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> int:
        """Stop watching; bytes."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        while not self._ended.is_set():
            self._most = max(self._most, sum(proportional_bytes(pid) for pid in {self._pid, *descendants(self._pid)}))
            time.sleep(0.05)
