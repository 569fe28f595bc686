# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page about guests says nothing that is not there: its tests exist, its fixers too, and none is left out."""

from __future__ import annotations

import pathlib
import re

from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import GuestFacts
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.registry import fixers
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tools import OLD_HYPERVISORS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/guests.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"(?m)^\s*def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 25 and named - there == set()


def test_each_of_the_25_pains_has_its_line() -> None:
    numbers = [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", PAGE)]
    assert numbers == list(range(1, 26))


def test_every_fixer_is_told_of() -> None:
    listed = PAGE[PAGE.index("## Everything else") : PAGE.index("`fixers.only`")]
    told = set(re.findall(r"`([a-z-]+)`(?=[^|\n]*\|)", listed))
    elsewhere = {"grub", "uefi-fallback", "unified-kernel", "initramfs", "interface-names", "network-match"}
    assert {fixer.name for fixer in fixers(GuestFacts())} - elsewhere - told == set()


def test_every_hypervisor_whose_tools_are_known_is_told_of() -> None:
    words = {"vmware": "VMware", "virtualbox": "VirtualBox", "hyperv": "Hyper-V", "azure": "Azure"}
    for kind in OLD_HYPERVISORS:
        first = kind.name.partition("-")[0]
        assert words.get(first, first.title()) in PAGE
