# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks plan and preflight from the built tarball, on a real queue; the engine only pretends."""

from __future__ import annotations

import re

from tests.e2e.playbooks import Inventory

PLAN, PREFLIGHT, MIGRATE = (f"hyper2kvm.core.{name}" for name in ("plan", "preflight", "migrate"))
GIB = 1024**3


def test_a_plan_tells_space_and_time_and_changes_nothing(inventory: Inventory) -> None:
    inventory.add("web01", "web02")
    inventory.add("big", hyper2kvm_source_used_bytes=3 * GIB)
    planned = inventory.play(PLAN)
    assert planned.status == 0, planned.output
    assert not inventory.begun() and not inventory.output.exists()
    assert re.search(r"web01 +convert +64\.0 KiB +unknown +64\.0 KiB +unknown", planned.output)
    # What is used cannot be more than the disk.
    assert re.search(r"big +convert +64\.0 KiB +3\.0 GiB +64\.0 KiB", planned.output)
    assert "localhost: how long they take is told once one VM of this batch is done." in planned.output
    assert planned.recap("web01")["failed"] == 0

    assert inventory.play(MIGRATE, "--limit", "web01").status == 0
    again = inventory.play(PLAN)
    assert re.search(r"web01 +convert +64\.0 KiB +unknown +done", again.output), again.output
    assert '"done": true' in again.output  # handed on by set_stats
    assert re.search(r"localhost: 2 of 3 VMs are left", again.output)
    assert inventory.begun() == ["web01-convert"]


def test_preflight_fails_for_what_cannot_be_moved_and_says_what_to_do(inventory: Inventory) -> None:
    inventory.add("good")
    inventory.add("gone", hyper2kvm_source_path="gone.ova")
    inventory.add("one", "two", hyper2kvm_target_path="shared")
    inventory.add("twin", hyper2kvm_source_path="good.raw", hyper2kvm_conversion_host="nowhere.invalid")
    inventory.groups["conversion_hosts"] = {"nowhere.invalid": {"ansible_host": "127.0.0.1", "ansible_port": 1}}
    checked = inventory.play(PREFLIGHT)
    assert checked.status in (2, 4), checked.output
    assert checked.recap("good")["failed"] == 0
    assert all(checked.recap(host)["failed"] == 1 for host in ("gone", "one", "two", "twin"))
    for text in (
        "'gone.ova' cannot be opened: No such file or directory. It is looked for in",
        "one, two would have their targets in the folder shared. Set another hyper2kvm_target_path for one of them.",
        "The conversion host nowhere.invalid cannot be reached.",
    ):
        assert text in checked.output.replace("\n", " "), checked.output
    assert not inventory.begun() and not inventory.output.exists()


def test_preflight_measures_space_and_capabilities_where_a_worker_lives(inventory: Inventory) -> None:
    inventory.add("first", held=True)
    handed_in = inventory.play(MIGRATE, "--tags", "submit")
    assert handed_in.status == 0, handed_in.output
    try:
        inventory.add("huge", hyper2kvm_source_used_bytes=1 << 60)
        inventory.add("picky", hyper2kvm_requirements_capabilities="time-travel")
        # What only the whole document tells.
        inventory.add("labelled", hyper2kvm_spec={"requirements": {"labels": {"site": "moon"}}})
        inventory.add("wrong", hyper2kvm_priority=5000)
        checked = inventory.play(PREFLIGHT)
        assert checked.status == 2
        told = checked.output.replace("\n", " ")
        assert "does not know the capability time-travel" in told, told
        assert "is not labelled site=moon" in told, told
        assert "spec.priority: must be less than or equal to 1000" in told, told
        # All VMs of a conversion host share its space.
        assert checked.recap("first")["failed"] == 1
        assert re.search(r"The batch needs 1024\.0 PiB on localhost, and its output root has .* free\. Make room", told)
    finally:
        inventory.release()
        assert inventory.play(MIGRATE, "--tags", "wait", "--limit", "first").status == 0


def test_a_controller_needs_nothing_but_ansible(inventory: Inventory) -> None:
    inventory.hide("pydantic")
    inventory.add("first", held=True)
    assert inventory.play(MIGRATE, "--tags", "submit").status == 0
    inventory.add("second")
    try:
        planned, checked = inventory.play(PLAN), inventory.play(PREFLIGHT)
    finally:
        inventory.release()
    assert planned.status == 0, planned.output
    assert checked.recap("first")["failed"] == 0, checked.output
    moved = inventory.play(MIGRATE, "--limit", "first")
    assert moved.status == 0, moved.output
    assert sorted(inventory.begun()) == ["first-convert"]
