# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many workers move a fleet within a window, by a model that is simple enough to be checked by hand.

A VM keeps a slot for its copy and for what else its job takes (inspection, fixes, boot tests)::

    slot seconds of a VM   = bytes / rate of a slot + other seconds
    seconds by the slots   = VMs * slot seconds / (workers * slots), and no less than the largest VM's slot seconds
    seconds by the storage = all bytes / rate of the storage, which all workers share

The batch takes the longer of the two. Rates and other seconds are to be measured, by moving one VM of each kind: see
``docs/worker/v1.3.0-cicd-ops.md``.
"""

from __future__ import annotations

import dataclasses
import math
import typing as t


@dataclasses.dataclass(frozen=True)
class Fleet:
    """What is to be moved, and how fast a job does it."""

    vms: int
    total_bytes: float
    """Used bytes of all disks together: what is copied."""
    largest_bytes: float
    """Of the VM with the most."""
    slot_bytes_per_second: float
    """Of one job's copy while all slots are busy."""
    other_seconds: float
    """Of a job, besides its copy."""
    storage_bytes_per_second: float = math.inf
    """What source and target storage let through for all workers together."""


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The answer."""

    workers: int
    """0: no number of them does it."""
    seconds: float
    """How long so many take; where none does it, as many as there are slots' worth of VMs."""
    bound_by: t.Literal["slots", "storage", "largest VM"]


def seconds_with(fleet: Fleet, workers: int, slots: int) -> Capacity:
    """Return how long ``workers`` with ``slots`` each take, and what it is that they do not get below."""
    copies = fleet.total_bytes / fleet.slot_bytes_per_second
    by_slots = (copies + fleet.vms * fleet.other_seconds) / (workers * slots)
    by_largest = fleet.largest_bytes / fleet.slot_bytes_per_second + fleet.other_seconds
    by_storage = fleet.total_bytes / fleet.storage_bytes_per_second
    longest = max(by_slots, by_largest, by_storage)
    if longest == by_slots:
        return Capacity(workers, by_slots, "slots")
    return Capacity(workers, longest, "storage" if longest == by_storage else "largest VM")


def workers_for(fleet: Fleet, slots: int, window_seconds: float) -> Capacity:
    """Return the fewest workers that are done within the window; 0 of them where more do not help."""
    most = math.ceil(fleet.vms / slots)
    at_best = seconds_with(fleet, most, slots)
    if at_best.seconds > window_seconds:
        return dataclasses.replace(at_best, workers=0)
    slot_seconds = fleet.total_bytes / fleet.slot_bytes_per_second + fleet.vms * fleet.other_seconds
    fewest = math.ceil(slot_seconds / (slots * window_seconds))
    return seconds_with(fleet, max(1, fewest), slots)
