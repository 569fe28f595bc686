# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long a batch takes, from what is known."""

from __future__ import annotations

import typing as t

from ansible_collections.hyper2kvm.core.plugins.plugin_utils.survey import survey

MIB = 1024**2
WORKER = {
    "registration": {
        "name": "worker1",
        "host": "kvm1",
        "bootId": "1",
        "pid": 1,
        "collectionVersion": "1.0.0",
        "slots": 2,
        "capabilities": {name: {"available": True} for name in ("qemu-img", "root", "attach", "boot-test")},
    },
    "free_output_bytes": 500 * MIB,
    "unmet": None,
}
#: 100 MiB in 10 s, and 30 s besides.
DONE = {
    "spec": {"operation": "convert"},
    "status": {
        "phase": "COMPLETED",
        "result": {
            "seconds": 40.0,
            "stages": [{"name": "inspect", "seconds": 1.0}, {"name": "copy", "seconds": 10.0}],
            "disks": [{"bytesWritten": 100 * MIB}],
        },
    },
}


def seen(host: str, *, disk: int = 200 * MIB, job: dict[str, t.Any] | None = None, **more: t.Any) -> dict[str, t.Any]:
    """What was seen of one VM."""
    return {
        "conversion_host": "kvm1",
        "backend": "local",
        "job": f"{host}-convert",
        "operation": "convert",
        "folder": host,
        "source": f"{host}.ova",
        "used_bytes": "",
        "devices": False,
        "disks": {"disks": [{"virtual_size": disk}]},
        "wanted": {"job": {}},
        "workers": {"workers": [WORKER]},
        "jobs": {"jobs": [job] if job else []},
        **more,
    }


def test_time_is_reckoned_from_the_vms_that_are_done() -> None:
    found = survey({"a": seen("a", job=DONE), "b": seen("b"), "c": seen("c"), "d": seen("d", used_bytes=100 * MIB)})
    # At 10 MiB a second, and 30 s besides.
    assert {host: vm["seconds"] for host, vm in found["vms"].items()} == {"a": 0.0, "b": 50.0, "c": 50.0, "d": 40.0}
    place = found["conversion_hosts"]["kvm1"]
    # 140 s of work on two slots.
    assert (place["left"], place["slots"], place["seconds"]) == (3, 2, 70.0)
    assert place["needed_bytes"] == 500 * MIB and not any(vm["problems"] for vm in found["vms"].values())
    assert "kvm1: they take about 1 min 10 s, going by 1 VMs of this batch that are done." in found["table"]


def test_no_batch_is_quicker_than_its_longest_vm() -> None:
    found = survey({"a": seen("a", job=DONE), "b": seen("b", disk=1000 * MIB), "c": seen("c")})
    assert found["conversion_hosts"]["kvm1"]["seconds"] == 130.0


def test_what_is_not_known_is_not_said() -> None:
    found = survey({"a": seen("a"), "b": seen("b", job=DONE, disks={"skipped": True})})
    assert found["vms"]["a"]["seconds"] == 50.0
    found = survey({"a": seen("a", disks={"skipped": True}), "b": seen("b", job=DONE)})
    assert found["vms"]["a"]["needed_bytes"] is None and found["conversion_hosts"]["kvm1"]["seconds"] is None


def test_space_is_short_by_what_is_known_to_be_used() -> None:
    found = survey({"a": seen("a", disk=1000 * MIB), "b": seen("b", disk=1000 * MIB, used_bytes=501 * MIB)})
    assert (
        "The batch needs 501.0 MiB on kvm1, and its output root has 500.0 MiB free." in found["vms"]["a"]["problems"][0]
    )
    found = survey({"a": seen("a", disk=1000 * MIB)})
    assert found["vms"]["a"]["problems"] == []


def test_what_no_worker_can_do_is_said_of_each_of_them() -> None:
    unmet = {"reason": "CapabilityMissing", "message": "lacks microvm: there is no kernel"}
    lacking = {**WORKER, "unmet": unmet}
    found = survey({"a": seen("a", workers={"workers": [lacking]})})
    assert found["vms"]["a"]["problems"] == ["The worker worker1 lacks microvm: there is no kernel."]
    assert survey({"a": seen("a", workers={"workers": [lacking, WORKER]})})["vms"]["a"]["problems"] == []


def test_a_job_that_is_no_job_is_said() -> None:
    found = survey({"a": seen("a", wanted={"msg": "spec.priority: 5000 is too large. Give 1000 or less."})})
    assert found["vms"]["a"]["problems"] == ["spec.priority: 5000 is too large. Give 1000 or less."]
