# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How far off the time is that a batch is said to need still."""

from __future__ import annotations

import json
import pathlib
import statistics
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.batch_progress import JobProgress

from bench.figures import Figure
from bench.jobs import running_worker
from tests.e2e.migration import PATIENCE_SECONDS, ConversionHost, job
from tests.guests import build
from tests.tools.recorded_batch import PATH, Moment, estimates, read, write

#: Large and small ones in turn, so that no VM tells how long the next one takes.
_GUESTS = ("debian12", "tiny", "debian12-uefi", "tiny") * 2
_LOOK_SECONDS = 3.0


def of_time_left(scratch: pathlib.Path) -> list[Figure]:
    """Migrate and boot eight VMs, two at once; record how they are, and compare what was told with what came."""
    host = ConversionHost(scratch)
    files = []
    for number, guest in enumerate(_GUESTS):
        host.add(build(guest) / f"{guest}.ova", f"vm{number}.ova")
        verify = {"rehearse": "never", "timeoutSeconds": PATIENCE_SECONDS}
        path = scratch / f"vm{number}.json"
        path.write_text(json.dumps(job(f"vm{number}", f"vm{number}.ova", verify=verify)), encoding="utf-8")
        files.append(path)
    moments = []
    with running_worker(host, "--slots", "2"):
        host.command("submit", *files)
        over = False
        while not over:
            jobs = [JobProgress.of(one["status"]) for one in host.jobs().values()]
            moments.append(Moment(round(time.time(), 1), jobs))
            over = all(one.finished is not None for one in jobs)
            time.sleep(_LOOK_SECONDS)
    write(PATH, moments)
    return told(PATH)


def told(recording: pathlib.Path) -> list[Figure]:
    """Return by how much the estimates of a recording were off, in percent of the batch's whole time."""
    found = estimates(read(recording))
    whole = found[0].whole
    print(f"  a batch of {whole:.0f} s; told from {100 * found[0].passed:.0f} % on")
    for quarter in (0.25, 0.5, 0.75):
        near = min(found, key=lambda one: abs(one.passed - quarter))
        print(f"  at {100 * near.passed:.0f} %: told {near.told:.0f} s, came {near.true:.0f} s")
    return [
        Figure("time left of a batch, error (median)", 100 * statistics.median(abs(one.error) for one in found), " %"),
        Figure("time left of a batch, error (largest)", 100 * max(abs(one.error) for one in found), " %"),
    ]
