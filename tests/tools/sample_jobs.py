# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Job documents for tests of what is shown of jobs.

``recorded`` holds those of a real run (guests of tests/guests, an emulated processor), in a tree like an output root,
with two of its screenshots. :func:`many` makes up a batch from them: its names, times, sizes and faults are invented.
"""

from __future__ import annotations

import copy
import datetime
import heapq
import json
import pathlib
import typing as t

#: What the recorded documents' paths are relative to.
OUTPUT_ROOT = pathlib.Path(__file__).parent / "recorded"

Job = dict[str, t.Any]

_START = datetime.datetime(2026, 11, 26, 21, 0, tzinfo=datetime.timezone.utc)
_ROLES = ("web", "db", "app", "mail", "cache", "build", "ldap", "proxy")
#: Which recorded job each made-up one resembles, over and over: most VMs boot.
_PATTERN = ("web01-convert",) * 11 + (
    "db01-convert",
    "web01-convert",
    "old01-convert",
    "web01-convert",
    "web01-convert",
)


def recorded() -> dict[str, Job]:
    """The documents of the real run, by the jobs' names."""
    jobs = json.loads((OUTPUT_ROOT / "jobs.json").read_text(encoding="utf-8"))
    return {job["metadata"]["name"]: job for job in jobs}


def three() -> list[Job]:
    """A VM that booted, one that did not, and one that was refused, as they were recorded."""
    jobs = recorded()
    return [jobs[name] for name in ("web01-convert", "db01-convert", "gone-convert")]


def many(count: int, slots: int = 12) -> list[Job]:
    """Made-up jobs of one night, ``slots`` of them at a time. The same count gives the same jobs."""
    models = recorded()
    free = [(0.0, slot) for slot in range(slots)]
    made = []
    for number in range(count):
        began, slot = heapq.heappop(free)
        job, seconds = _made_up(models[_PATTERN[number % len(_PATTERN)]], number, began)
        heapq.heappush(free, (began + seconds + 1.0, slot))
        made.append(job)
    return made


def _made_up(model: Job, number: int, began: float) -> tuple[Job, float]:
    """A job that looks like ``model``, and how long it took, in seconds."""
    job = copy.deepcopy(model)
    name = f"{_ROLES[number % len(_ROLES)]}{number:03}"
    job["metadata"] |= {"name": f"{name}-convert", "uid": f"made-up-{number}"}
    job["spec"]["source"]["path"] = f"{name}.ova"
    status = job["status"]
    found = status.get("result") or {}
    times = 8 + number * 37 % 90
    for disk in found.get("disks", ()):
        disk["source"] = f"{name}.ova"
        for field in ("bytesRead", "bytesWritten", "virtualSizeBytes"):
            disk[field] *= times
    at = began
    for stage in status["stages"]:
        stage["startedAt"] = _instant(at)
        stage["seconds"] = round(stage["seconds"] * (times if stage["name"] in ("copy", "commit") else 0.2), 3)
        at += stage["seconds"] + 0.1
    if "bootTest" in found:
        found["bootTest"]["seconds"] = status["stages"][-2]["seconds"]
    if status["phase"] == "FAILED":
        at += 6.0
    elif number % 9 == 4:
        found["verdict"] = "boots-with-warnings"
        found["bootTest"]["warnings"] = ["The unit networking.service failed in the guest."]
    if status["phase"] == "COMPLETED" and number % 50 == 23:
        status["phase"] = "CANCELLED"
    status |= {"startedAt": _instant(began), "finishedAt": _instant(at)}
    for attempt in status["attempts"]:
        attempt |= {"startedAt": _instant(began), "endedAt": _instant(at), "worker": f"conversion{number % 3 + 1:02}"}
    if found:
        found |= {"job": job["metadata"]["name"], "seconds": at - began, "stages": status["stages"]}
        found["completedAt"] = _instant(at)
    return job, at - began


def _instant(seconds: float) -> str:
    moment = _START + datetime.timedelta(seconds=seconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
