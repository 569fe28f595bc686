# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The matrix of servers is a pairwise cover of what can be."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.matrix_table import table
from tests.guests.matrix import ALL, COVER, FACTORS, MATRIX, choices, fits, pairs, pairwise
from tests.guests.specs import SPECS


def test_every_pair_that_can_be_is_in_the_matrix() -> None:
    covered = {pair for choice in COVER.values() for pair in pairs(choice)}
    for (one, ones), (other, others) in itertools.combinations(FACTORS.items(), 2):
        for pair in itertools.product(ones, others):
            impossible = {one: pair[0], other: pair[1]} in (
                {"firmware": "bios", "loader": "systemd-boot"},
                {"firmware": "uefi", "loader": "extlinux"},
            )
            assert (((one, pair[0]), (other, pair[1])) in covered) is not impossible


def test_it_is_no_larger_than_a_cover_must_be() -> None:
    assert all(map(fits, COVER.values()))
    assert 16 <= len(COVER) == len(FACTORS["storage"]) * len(FACTORS["network"])


def test_its_first_sixteen_have_nearly_all() -> None:
    everything = set().union(*map(pairs, COVER.values()))
    first = set().union(*map(pairs, list(COVER.values())[:16]))
    assert len(first) > 0.85 * len(everything)


def test_no_two_guests_have_the_same_name_or_address() -> None:
    assert len(ALL) == len(SPECS) + len(MATRIX)
    for values in ([spec.address for spec in MATRIX.values()], [spec.mac for spec in MATRIX.values()]):
        assert len(set(values)) == len(values)


@given(
    st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=2), min_size=1, max_size=4, unique=True), max_size=4)
)
def test_a_cover_has_all_pairs_of_its_rows_and_no_row_in_vain(factors: dict[str, list[str]]) -> None:
    rows = choices(factors, lambda row: True)
    cover = pairwise(rows)
    wanted = set().union(*map(pairs, rows))
    assert set().union(*map(pairs, cover)) == wanted
    seen: set[object] = set()
    for row in cover:
        assert not pairs(row) <= seen
        seen |= pairs(row)
    assert pairwise(rows) == cover


def test_the_table_tells_of_each_server_what_was_seen_or_that_nothing_was() -> None:
    seen = {"kernel": "6.1.0-9-amd64", "seconds": 99.6, "bootSeconds": 41.2, "accelerator": "tcg", "phase": "COMPLETED"}
    booted = {**seen, "verdict": "boots", "reason": "", "failedUnits": [], "passed": True}
    warned = {**booted, "verdict": "boots-with-warnings", "failedUnits": ["cups.service"], "passed": False}
    refused = {**seen, "verdict": "", "reason": "NoRootDevice", "phase": "FAILED", "bootSeconds": None}
    shown = table({"matrix-01": booted, "matrix-02": refused, "matrix-03": warned}).splitlines()
    assert shown[2].endswith("| 6.1.0-9-amd64 | 100 | 41 | boots, all as before |") and shown[2].startswith(
        "| `matrix-01` | 11 | bios |"
    )
    assert shown[3].endswith("| 100 |  | NoRootDevice |")
    assert shown[4].endswith("| 41 | boots; `cups.service` failed |")
    assert all(line.endswith("|  |  |  | not run |") for line in shown[5:-2])
    assert shown[-1].startswith(f"3 of {len(COVER)} were run for this table, and 2 booted")
