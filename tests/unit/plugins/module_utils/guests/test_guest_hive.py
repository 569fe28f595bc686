# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Values out of Windows' registry, also out of a file that is none."""

from __future__ import annotations

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.hive import Hive
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins.module_utils.guests.hives import Values, hive

PATH = r"Microsoft\Windows NT\CurrentVersion"
VALUES: Values = {"ProductName": "Windows Server 2022 Standard", "UBR": 2340, "CurrentBuild": "20348", "x": "a"}
HIVE = hive(PATH, VALUES, beside=2)


@pytest.mark.parametrize("kind", [b"lh", b"li", b"lf"])
def test_values_by_path_in_any_case(kind: bytes) -> None:
    found = Hive(hive(PATH, VALUES, beside=3, kind=kind))
    assert found.values(PATH.upper()) == VALUES
    assert found.values(r"Microsoft\Office") == {}


def test_what_is_no_hive() -> None:
    for data in (b"", b"regf", b"MZ" * 4096):
        with pytest.raises(ValueError, match="no registry file"):
            Hive(data)


@given(st.lists(st.tuples(st.integers(0, len(HIVE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_hive_ends_in_a_value_error_at_worst(damage: list[tuple[int, int]]) -> None:
    data = bytearray(HIVE)
    for at, byte in damage:
        data[at] = byte
    try:
        found = Hive(bytes(data)).values(PATH)
    except ValueError:
        return
    assert all(isinstance(value, (str, int)) for value in found.values())
