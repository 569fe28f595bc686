# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a batch will take, and what stands in its way, from what the role's survey saw. Pure."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import math
import typing as t

from ..module_utils.ansible_support.documents import printable, result, sentence, status
from ..module_utils.telemetry.units import rough_duration, size

_WRITES = ("convert",)
_COPY = "copy"

Seen = c.Mapping[str, t.Any]
"""What the role's survey saw of one VM."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What the jobs of this batch took that are over; None where none tells. Seconds and bytes."""

    bytes_per_second: float | None
    """Of target, while it was copied."""
    other_seconds: float | None
    """Of a job, besides its copy."""
    jobs: int
    """How many jobs tell."""


def survey(hosts: c.Mapping[str, Seen]) -> dict[str, t.Any]:
    """Return the batch's plan as ``set_stats`` hands it on, and as lines for people in ``table``.

    A VM whose job is over takes nothing more. How long the others take is reckoned from those: each one's bytes at
    the mean rate of their copies and the mean of what else they took, with as many jobs at once as there are slots.
    """
    rates = _rates(hosts.values())
    problems = faults(hosts)
    vms = {host: _vm(seen, rates, problems[host]) for host, seen in hosts.items()}
    places = {
        place: _place(place, [hosts[host] for host in names], [vms[host] for host in names])
        for place, names in _by_place(hosts).items()
    }
    return {
        "vms": vms,
        "conversion_hosts": places,
        "table": [*_rows(vms), "", *(line for place, one in places.items() for line in _sentences(place, one, rates))],
    }


def _rates(seen: c.Iterable[Seen]) -> Rates:
    copied = seconds = others = 0.0
    jobs = 0
    for one in seen:
        job = _job(one)
        if job is None or status(job).get("phase") != "COMPLETED" or job["spec"]["operation"] != one["operation"]:
            continue
        done = result(job)
        copy = sum(stage["seconds"] for stage in done.get("stages", []) if stage["name"] == _COPY)
        copied += sum(disk.get("bytesWritten", 0) for disk in done.get("disks", []))
        seconds += copy
        others += max(0.0, done.get("seconds", 0.0) - copy)
        jobs += 1
    return Rates(copied / seconds if seconds > 0 else None, others / jobs if jobs else None, jobs)


def _vm(seen: Seen, rates: Rates, problems: list[str]) -> dict[str, t.Any]:
    virtual = _virtual(seen)
    used = _used(seen)
    at_most = virtual if used is None else used if virtual is None else min(used, virtual)
    over = status(_job(seen) or {}).get("phase") == "COMPLETED"
    writes = seen["operation"] in _WRITES and not over
    needed = at_most if writes else 0
    seconds: float | None = 0.0
    if not over:
        seconds = rates.other_seconds
        if writes and seconds is not None:
            known = rates.bytes_per_second is not None and needed is not None
            seconds = seconds + needed / rates.bytes_per_second if known else None  # type: ignore[operator]
    return {
        "conversion_host": seen["conversion_host"],
        "job": seen["job"],
        "operation": seen["operation"],
        "done": over,
        "virtual_bytes": virtual,
        "used_bytes": used,
        "needed_bytes": needed,
        "seconds": None if seconds is None else round(seconds, 1),
        "problems": problems,
    }


def _place(place: str, seen: list[Seen], vms: list[dict[str, t.Any]]) -> dict[str, t.Any]:
    workers = [worker for one in seen[:1] for worker in one["workers"].get("workers", [])]
    slots = sum(worker["registration"]["slots"] for worker in workers)
    seconds = [vm["seconds"] for vm in vms]
    needed = [vm["needed_bytes"] for vm in vms]
    known = slots > 0 and all(one is not None for one in seconds)
    return {
        "vms": len(vms),
        "left": sum(not vm["done"] for vm in vms),
        "slots": slots or None,
        "free_output_bytes": _free(workers),
        "needed_bytes": sum(needed) if all(one is not None for one in needed) else None,
        # No batch is quicker than its longest VM.
        "seconds": max(sum(seconds) / slots, *seconds) if known else None,
    }


# -- what stands in the way --------------------------------------------------------------------------------------------


def faults(hosts: c.Mapping[str, Seen]) -> dict[str, list[str]]:
    """Return what stands in each VM's way, each with what to do."""
    found: dict[str, list[str]] = {host: [] for host in hosts}
    for host, seen in hosts.items():
        found[host] += _own_faults(seen)
    for key, what, todo in (
        ("folder", "would have their targets in the folder {}", "Set another hyper2kvm_target_path for one of them."),
        ("source", "have the same source {}", "Correct hyper2kvm_source_path of one of them."),
    ):
        shared: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
        for host, seen in hosts.items():
            if seen[key]:
                shared[seen["conversion_host"], seen[key]].append(host)
        for (dummy, value), names in shared.items():
            if len(names) > 1:
                for host in names:
                    found[host].append(f"{', '.join(names)} {what.format(printable(value))}. {todo}")
    for names in _by_place(hosts).values():
        short = _space_fault([hosts[host] for host in names])
        for host in names if short else []:
            found[host].append(short)
    return found


def _own_faults(seen: Seen) -> list[str]:
    place = seen["conversion_host"]
    told = [seen[name] for name in ("disks", "wanted", "workers", "jobs")]
    if any(one.get("unreachable") for one in told):
        return [
            f"The conversion host {place} cannot be reached. See that ansible -m ansible.builtin.ping {place} succeeds."
        ]
    found = [sentence(one["error"]) if "error" in one else printable(str(one["msg"])) for one in told if _failed(one)]
    workers = seen["workers"].get("workers", [])
    if not workers and not _failed(seen["workers"]):
        if seen["backend"] == "kubernetes":
            found.append("The cluster has no worker. Run the playbook hyper2kvm.core.deploy.")
        elif place != "localhost":  # where the first job starts one
            found.append(
                f"No worker is alive on {place}. Run the playbook hyper2kvm.core.conversion_host for it, or "
                "systemctl start hyper2kvm-worker there."
            )
    if workers and all(worker.get("unmet") for worker in workers):
        found += [f"The worker {worker['registration']['name']} {worker['unmet']['message']}." for worker in workers]
    return found


def _space_fault(seen: list[Seen]) -> str:
    """Return that the targets of one conversion host will not fit, as far as that is known; else nothing."""
    place = seen[0]["conversion_host"]
    free = _free(seen[0]["workers"].get("workers", []))
    writing = [one for one in seen if one["operation"] in _WRITES and not one["devices"]]
    needed = sum(_used(one) or 0 for one in writing if status(_job(one) or {}).get("phase") != "COMPLETED")
    if free is None or needed <= free:
        return ""
    return (
        f"The batch needs {size(needed)} on {place}, and its output root has {size(free)} free. Make room, give "
        "another hyper2kvm_output_root, or move fewer VMs at once."
    )


# -- what was seen -----------------------------------------------------------------------------------------------------


def _by_place(hosts: c.Mapping[str, Seen]) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for host, seen in hosts.items():
        places.setdefault(seen["conversion_host"], []).append(host)
    return places


def _failed(registered: c.Mapping[str, t.Any]) -> bool:
    # Survey tasks never fail, and so what failed tells by its message.
    return "error" in registered or ("msg" in registered and not registered.get("skipped"))


def _job(seen: Seen) -> dict[str, t.Any] | None:
    jobs = seen["jobs"].get("jobs", [])
    return jobs[0] if jobs else None


def _virtual(seen: Seen) -> int | None:
    disks = seen["disks"].get("disks")
    return sum(disk["virtual_size"] for disk in disks) if disks else None


def _used(seen: Seen) -> int | None:
    return int(seen["used_bytes"]) if str(seen["used_bytes"]).isdecimal() else None


def _free(workers: c.Sequence[c.Mapping[str, t.Any]]) -> int | None:
    return max((worker["free_output_bytes"] for worker in workers), default=None)


# -- for people --------------------------------------------------------------------------------------------------------


def _rows(vms: c.Mapping[str, c.Mapping[str, t.Any]]) -> list[str]:
    rows = [("VM", "operation", "disks", "used", "needs", "takes", "")]
    for host, vm in vms.items():
        rows.append(
            (
                host,
                vm["operation"],
                _size(vm["virtual_bytes"]),
                _size(vm["used_bytes"]),
                "done" if vm["done"] else _size(vm["needed_bytes"]),
                "" if vm["done"] else _time(vm["seconds"]),
                f"{len(vm['problems'])} in its way" if vm["problems"] else "",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _sentences(place: str, one: c.Mapping[str, t.Any], rates: Rates) -> list[str]:
    needed, free = one["needed_bytes"], one["free_output_bytes"]
    lines = [
        f"{place}: {one['left']} of {one['vms']} VMs are left; slots: {one['slots'] or 'unknown, no worker is alive'}."
    ]
    lines.append(f"{place}: they need at most {_size(needed)}; free is {_size(free)}.")
    if one["seconds"] is not None:
        lines.append(
            f"{place}: they take about {_time(one['seconds'])}, going by {rates.jobs} VMs of this batch that are done."
        )
    else:
        lines.append(f"{place}: how long they take is told once one VM of this batch is done.")
    return lines


def _size(count: int | None) -> str:
    return "unknown" if count is None else size(count)


def _time(seconds: float | None) -> str:
    return "unknown" if seconds is None else rough_duration(math.ceil(seconds))
