# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Two VMs cloned from one template, moved at once: the kernel sees each filesystem's identifier twice."""

from __future__ import annotations

import typing as t

import pytest

from tests.e2e.migration import ConversionHost, completed, job
from tests.guests import build
from tests.tools.machine import leftovers

CARD = "00:50:56:ab:99:01"


@pytest.mark.parametrize(
    "template", ["debian12-uefi", pytest.param("debian12-btrfs", marks=pytest.mark.long)], ids=["xfs", "btrfs"]
)
def test_clones_of_one_template_are_moved_side_by_side(host: ConversionHost, template: str) -> None:
    clones = ("clone-a", "clone-b")
    for name in clones:
        host.add(build(template) / f"{template}.ova", f"{name}.ova")
    # Each gets a name of its own, so that a change which went into the other's disk is seen.
    wanted: list[dict[str, t.Any]] = [
        job(name, f"{name}.ova", guest={"hostname": name, "network": {"macs": [CARD]}}, verify={"boot": False})
        for name in clones
    ]

    statuses = [completed(done) for done in host.run(*wanted, slots=2)]

    (first,), (second,) = [status["attempts"] for status in statuses]
    assert max(first["startedAt"], second["startedAt"]) < min(first["endedAt"], second["endedAt"]), statuses
    assert leftovers(host.output.parent) == []
    for name in clones:
        host.add(host.output / name / f"{name}.qcow2", f"{name}.qcow2")
    looks = [
        job(f"{name}-again", f"{name}.qcow2", "plan", guest={"hostname": name, "network": {"macs": [CARD]}})
        for name in clones
    ]
    for name, looked in zip(clones, host.run(*looks, slots=1), strict=True):
        completed(looked)
        found = host.result(f"{name}-again/plan.json")
        assert (found["guest"]["hostname"], found["changes"]) == (name, [])
