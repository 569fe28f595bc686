# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names and waves."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.hyper2kvm.core.plugins.filter.vm_name import vm_name
from ansible_collections.hyper2kvm.core.plugins.filter.wave_sizes import wave_sizes


@pytest.mark.parametrize(
    ("host", "name"),
    [("web01", "web01"), ("Web_01.Example.COM", "web-01-example-com"), ("--x--", "x"), ("a" * 70, "a" * 52)],
)
def test_a_hosts_name_becomes_a_label(host: str, name: str) -> None:
    assert vm_name(host) == name


def test_a_collision_is_an_error_that_names_both() -> None:
    assert vm_name("web_01", ["web_01", "db01"]) == "web-01"
    with pytest.raises(AnsibleFilterError, match=r"web_01 and web-01 .* named web-01"):
        vm_name("web_01", ["web_01", "web-01"])
    with pytest.raises(AnsibleFilterError, match="neither a letter nor a digit"):
        vm_name("___")


GROUPS = {"wave1": ["a", "b"], "wave2": ["b", "c", "d"], "wave3": []}


def test_waves_are_counted_in_order_and_each_host_once() -> None:
    assert wave_sizes(["wave1", "wave2", "wave3"], GROUPS, ["a", "b", "c", "d"]) == [2, 2]
    assert wave_sizes("wave2, wave1", GROUPS, ["a", "b", "c", "d"]) == [3, 1]


def test_a_limit_makes_waves_smaller() -> None:
    assert wave_sizes(["wave1", "wave2"], GROUPS, ["a", "d"]) == [1, 1]
    assert wave_sizes(["wave1", "wave2"], GROUPS, ["d"]) == [1]


def test_without_waves_all_hosts_go_at_once() -> None:
    assert wave_sizes("", GROUPS, ["a"]) == ["100%"]


def test_a_wave_that_is_no_group_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="wave9"):
        wave_sizes(["wave9"], GROUPS, ["a"])
