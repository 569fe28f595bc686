# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the tests share that make things go wrong."""

from __future__ import annotations

import os
import pathlib
import random
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import private_mounts

from tests.faults.faulty_host import FaultyHost

#: CI does the same in each run, so that a red run is its commit's doing; elsewhere each run tries something else.
SEED = int(os.environ.get("HYPER2KVM_FAULT_SEED") or (1 if os.environ.get("CI") else random.getrandbits(32)))


@pytest.fixture(scope="session", autouse=True)
def _own_mounts() -> None:
    """What these tests mount is seen by them and their workers alone, and gone with them."""
    private_mounts()


@pytest.fixture
def host(tmp_path: pathlib.Path) -> t.Iterator[FaultyHost]:
    """A conversion host; whatever a test did to it, its sources and event streams are unharmed in the end."""
    place = FaultyHost(tmp_path)
    yield place
    place.close()
    place.check_unharmed()


def pytest_report_header() -> str:
    """Name the seed where all see it."""
    return f"fault seed: {SEED} (HYPER2KVM_FAULT_SEED)"


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of the test's own; the seed is printed where it fails, and repeats it as far as timing allows."""
    print(f"HYPER2KVM_FAULT_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.nodeid}")
