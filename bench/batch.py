# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several VMs side by side."""

from __future__ import annotations

import json
import os
import pathlib
import time

from bench.figures import Figure
from bench.jobs import running_worker
from tests.e2e.migration import ConversionHost, job
from tests.guests import build

VMS = 16


def of_sixteen(scratch: pathlib.Path) -> list[Figure]:
    """Sixteen guests, each booted, on a worker with two slots, against the same sixteen one after the other."""
    ova = build("tiny") / "tiny.ova"
    wall = []
    single = 0.0
    for slots in (1, 2):
        place = scratch / f"{slots}"
        place.mkdir()
        host = ConversionHost(place)
        files = []
        for number in range(VMS):
            host.add(ova, f"vm{number}.ova")
            document = job(f"vm{number}", f"vm{number}.ova")
            path = place / f"vm{number}.json"
            path.write_text(json.dumps(document), encoding="utf-8")
            files.append(path)
        with running_worker(host, "--slots", str(slots)):
            os.sync()
            began = time.monotonic()
            host.command("submit", "--wait", *files)
            wall.append(time.monotonic() - began)
        if slots == 1:
            single = sum(host.result(f"vm{number}/result.json")["seconds"] for number in range(VMS))
        print(f"  {VMS} VMs, {slots} at once: {wall[-1]:.1f} s")
    return [
        Figure(f"{VMS} VMs, two at once ÷ sum of single walls", wall[1] / single),
        Figure(f"{VMS} VMs, two at once ÷ one after the other", wall[1] / wall[0]),
    ]
