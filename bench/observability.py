# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What it costs that a conversion can be watched: metrics, events and progress."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import statistics
import time
import typing as t
import urllib.request

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends import event_file
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Hold
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.database import Database
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from bench.figures import Figure
from bench.jobs import run, running_worker, seconds_of
from bench.processes import proportional_bytes
from tests.e2e.migration import ConversionHost
from tests.guests import build
from tests.tools.machine import children, wait_for
from tests.unit.plugins.module_utils.backends.samples import job, worker

_MIB = 1024**2
_WRITES = 200
_SCRAPES = 50
#: As often as Prometheus asks, as its packages set it up.
_SCRAPE_SECONDS = 15.0
#: As often as a job's process writes its progress.
_PROGRESS_SECONDS = 1.0


def cost(scratch: pathlib.Path) -> list[Figure]:
    """Of the demo guest's conversion: time as a part of its wall, and memory.

    The three are added up from what each was seen to take, because their sum is below what two runs of one conversion
    differ by. Of metrics and of progress that is processor time: other processes and threads spend it, beside the work.
    Of events it is wall: a stage waits until its event is on the disk.
    """
    host = _host(scratch / "quiet")
    with running_worker(host) as process:
        run(host, "web01", "web01.ova")
        quiet = _memory(process.pid)
    host = _host(scratch / "host")
    with running_worker(host, "--metrics-port", "0") as process:
        log = (scratch / "host" / "worker.log").read_text(encoding="utf-8")
        (url,) = re.findall(r"metrics: (http://\S+)", log)
        done = run(host, "web01", "web01.ova")
        wall = seconds_of(done)
        before = _processor(process.pid)
        for dummy in range(_SCRAPES):
            _ask(url)
        scrape = (_processor(process.pid) - before) / _SCRAPES
        wait_for(lambda: not children(process.pid))
        at_rest = _memory(process.pid)
        asked = _memory_while_asked(process.pid, url)
        backend = LocalBackend(host.output / ".hyper2kvm")
        events = len(backend.events("web01"))
        backend.close()
    progress, event = _writes(scratch / "queue")
    parts = {
        "metrics": scrape * wall / _SCRAPE_SECONDS,
        "progress": progress * wall / _PROGRESS_SECONDS,
        "events": event * events,
    }
    told = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in parts.items())
    print(f"  a conversion of {wall:.1f} s with {events} events: {told}")
    return [
        Figure("metrics, events, progress ÷ a conversion", 100 * sum(parts.values()) / wall, " %", limit=1),
        Figure("memory of a worker that tells metrics, beyond one that does not", (at_rest - quiet) / _MIB, " MiB", 10),
        Figure("the same at the moment of an answer", (asked - quiet) / _MIB, " MiB"),
    ]


def _host(place: pathlib.Path) -> ConversionHost:
    place.mkdir()
    host = ConversionHost(place)
    host.add(build("debian12") / "debian12.ova", "web01.ova")
    return host


def _writes(state: pathlib.Path) -> tuple[float, float]:
    """The processor time of a report of progress, and the wall of an event's way into its file; seconds."""
    backend = LocalBackend(state)
    backend.register(worker(), "", 600.0)
    backend.submit(job("a"))
    claimed = backend.claim("host-1")
    if claimed is None:
        raise RuntimeError("the job was not claimed")
    hold = Hold(claimed.metadata.uid or "", claimed.status.epoch)
    backend.stage_started(hold, "copy")
    began = time.process_time()
    for number in range(_WRITES):
        backend.progress(hold, models.Progress(stage="copy", bytes_done=number, bytes_total=_WRITES))
    progress = (time.process_time() - began) / _WRITES
    database = Database(state / "queue.db", 10.0)
    walls = [_timed_event(backend, hold, database, state / "events") for dummy in range(_WRITES // 10)]
    database.close()
    backend.close()
    return progress, statistics.median(walls)


def _timed_event(backend: LocalBackend, hold: Hold, database: Database, folder: pathlib.Path) -> float:
    """Take the last event away from its file, and time how it gets there again."""
    backend.warning(hold, "something that a person should know")
    file = event_file.event_file(folder, "a")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    os.sync()
    began = time.monotonic()
    event_file.catch_up(database, folder, "a")
    return time.monotonic() - began


def _ask(url: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as answer:
        answer.read()


def _processor(pid: int) -> float:
    """Seconds of processor time of a process and of those of its children that have ended (proc(5), stat)."""
    return sum(int(field) for field in _stat(pid)[11:15]) / t.cast(int, os.sysconf("SC_CLK_TCK"))


def _memory(pid: int) -> int:
    """Bytes of a process and its children: the sum of their proportional set sizes (proc(5), smaps_rollup).

    They stand still meanwhile: what they share would count twice, or not at all, if one began or ended between looks.
    """
    stopped = [pid]
    try:
        _stop(pid)
        for child in children(pid):
            # One that ends meanwhile has none.
            with contextlib.suppress(ProcessLookupError):
                _stop(child)
                stopped.append(child)
        return sum(proportional_bytes(one) for one in stopped)
    finally:
        for one in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: _stat(pid)[0] in "TZX")


def _stat(pid: int) -> list[str]:
    """What proc(5) tells of a process behind its name; its state comes first."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()


def _memory_while_asked(pid: int, url: str) -> int:
    """The most that was seen while one client after the other was answered; bytes."""
    most = 0
    with concurrent.futures.ThreadPoolExecutor(1) as client:
        for dummy in range(_SCRAPES):
            asking = client.submit(_ask, url)
            while not asking.done():
                most = max(most, _memory(pid))
    return most
