# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How many workers it takes: the figures by hand, and that fewer would not do."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.scheduling.capacity import (
    Capacity,
    Fleet,
    seconds_with,
    workers_for,
)
from hypothesis import given

#: 100 VMs of 36 GB at 100 MB/s, 40 s besides: 400 s of a slot each, 40,000 s together.
FLEET = Fleet(100, 3.6e12, 3.6e10, 1e8, 40.0)


def test_the_slots_decide() -> None:
    # Two workers of four slots: 40,000 s / 8.
    assert workers_for(FLEET, slots=4, window_seconds=5000.0) == Capacity(2, 5000.0, "slots")
    assert workers_for(FLEET, slots=4, window_seconds=4999.0).workers == 3
    assert workers_for(FLEET, slots=4, window_seconds=1e6).workers == 1


def test_no_batch_is_faster_than_its_largest_vm() -> None:
    fleet = dataclasses.replace(FLEET, largest_bytes=1e12)
    assert workers_for(fleet, slots=4, window_seconds=10000.0) == Capacity(0, 10040.0, "largest VM")
    assert workers_for(fleet, slots=4, window_seconds=10040.0).workers == 1


def test_no_number_of_workers_is_faster_than_the_storage() -> None:
    fleet = dataclasses.replace(FLEET, storage_bytes_per_second=3e8)
    assert workers_for(fleet, slots=4, window_seconds=11999.0) == Capacity(0, 12000.0, "storage")
    assert workers_for(fleet, slots=2, window_seconds=12000.0) == Capacity(2, 12000.0, "storage")


@given(
    vms=st.integers(1, 2000),
    mean=st.floats(1e6, 1e12),
    skew=st.floats(1.0, 3.0),
    rate=st.floats(1e6, 1e9),
    other=st.floats(1.0, 600.0),
    storage=st.floats(1e8, 1e11),
    slots=st.integers(1, 16),
    window=st.floats(600.0, 1e6),
)
def test_so_many_do_it_and_one_fewer_does_not(
    vms: int, mean: float, skew: float, rate: float, other: float, storage: float, slots: int, window: float
) -> None:
    largest = mean * (skew if vms > 1 else 1.0)
    fleet = Fleet(vms, vms * mean, largest, rate, other, storage)
    answer = workers_for(fleet, slots, window)
    if answer.workers:
        assert answer.seconds <= window * (1 + 1e-9)
        assert answer.workers == 1 or seconds_with(fleet, answer.workers - 1, slots).seconds > window * (1 - 1e-9)
    else:
        assert answer.seconds > window and seconds_with(fleet, 10 * vms, slots).seconds > window * (1 - 1e-9)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_twice_the_workers_take_half_the_time_while_slots_decide(workers: int) -> None:
    once, twice = seconds_with(FLEET, workers, 2), seconds_with(FLEET, 2 * workers, 2)
    assert once.bound_by == twice.bound_by == "slots" and twice.seconds == pytest.approx(once.seconds / 2)
