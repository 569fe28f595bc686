# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker's look at a long queue costs."""

from __future__ import annotations

import pathlib
import statistics
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from bench.figures import Figure
from tests.unit.plugins.module_utils.backends.samples import job, worker

SHORT, LONG = 10, 1000
_LOOKS = 50


def that_cannot_run(scratch: pathlib.Path) -> list[Figure]:
    """A worker's look at jobs of which it can run none: a scan of them, and nothing that grows faster."""
    short, long = (_look(scratch / f"{jobs}", jobs) for jobs in (SHORT, LONG))
    print(f"  a look at {SHORT} jobs: {short * 1000:.2f} ms, at {LONG}: {long * 1000:.2f} ms")
    what = f"a look at {LONG:,} jobs that cannot run ÷ at {SHORT}"
    return [Figure(what, long / short, limit=LONG / SHORT)]


def _look(state: pathlib.Path, jobs: int) -> float:
    """Median seconds of what a worker asks of a queue in which something has changed."""
    queue = LocalBackend(state)
    needs = models.Requirements(capabilities=["no-worker-has-this"])
    for number in range(jobs):
        queue.submit(job(f"job{number}", requirements=needs))
    me = worker()
    queue.register(me, "roots", lease_seconds=3600)
    seconds = []
    for dummy in range(_LOOKS):
        began = time.monotonic()
        queue.orders(me.name, [])
        queue.lost()
        queue.maintain()
        taken = queue.claim(me.name)
        seconds.append(time.monotonic() - began)
        assert taken is None
    queue.close()
    return statistics.median(seconds)
