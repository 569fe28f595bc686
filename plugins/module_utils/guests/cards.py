# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which of the target's network cards a guest means by a name or an old MAC address. Pure."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ..disks.model import Nic
from .facts import Interface


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What each name and old address becomes."""

    names: dict[str, str]
    """The new MAC address of each name."""
    addresses: dict[str, str]
    """New MAC address by old one, where they differ."""
    problems: tuple[str, ...] = ()
    """What could not be assigned with certainty, as sentences."""


def assign(interfaces: t.Sequence[Interface], source: t.Sequence[Nic], target: t.Sequence[Nic]) -> Assignment:
    """Match a guest's configuration to the target's cards: by old MAC address where it is known, else in order.

    Args:
        interfaces: what the configuration names.
        source: the source's cards in order; empty, or without MAC, where it does not tell.
        target: the target's cards in the same order.
    """
    new = [(nic.mac or "").lower() for nic in target]
    old = [(nic.mac or "").lower() for nic in source] + [""] * (len(target) - len(source))
    place = {mac: index for index, mac in enumerate(old[: len(new)]) if mac}
    place.update({mac: index for index, mac in enumerate(new) if mac and mac not in place})
    problems: list[str] = []

    wanted = list(dict.fromkeys(i.mac for i in interfaces if i.mac and i.mac not in place))
    silent = [index for index, mac in enumerate(old[: len(new)]) if not mac]
    if wanted and len(wanted) == len(silent):
        # The source does not tell these cards' addresses, but the guest knows as many.
        place.update(zip(wanted, silent, strict=True))
    elif wanted:
        problems += [
            f"The guest is configured for the network card {mac}, which the source does not have." for mac in wanted
        ]

    names: dict[str, int] = {}
    for interface in interfaces:
        if interface.name and interface.mac in place:
            names.setdefault(interface.name, place[interface.mac])
    open_names = sorted({i.name for i in interfaces if i.name and i.name not in names and not i.mac}, key=_natural)
    used = set(names.values()) | {place[i.mac] for i in interfaces if not i.name and i.mac in place}
    left = [index for index in range(len(new)) if index not in used]
    if open_names and len(open_names) != len(left):
        problems.append(
            f"The guest configures {len(open_names)} network interfaces ({', '.join(open_names)}) and the VM has "
            f"{len(left)} cards for them: they are matched in order."
        )
    names.update(zip(open_names, left, strict=False))
    return Assignment(
        {name: new[index] for name, index in names.items() if new[index]},
        {mac: new[index] for mac, index in place.items() if new[index] and new[index] != mac},
        tuple(problems),
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key of names as a person orders them: ens160 before ens192, eth2 before eth10."""
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|\D+", name)]
