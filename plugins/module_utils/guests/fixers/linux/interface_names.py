# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Interface names that survive new cards: each name that is configured is bound to its card's MAC address.

Facts: systemd.link(5) and systemd.net-naming-scheme(7); udev(7) for guests whose udev knows no .link files (systemd
before 217, eudev) but obeys the rules that its persistent-net generator used to write.
"""

from __future__ import annotations

import re

from ...cards import Assignment, assign
from ...edits import Edits
from ...facts import GuestFacts, Interface
from ...netconfig import LINKS, UDEV_RULES
from ..base import FixRequest, Phase

_FIRST_WITH_LINKS = 217
_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
_WHY_NAME = "the guest's configuration names this interface; a new card would get another name"
_WHY_MAC = "the guest's configuration matches a card by the MAC address that it had"


class InterfaceNamesFixer:
    """Pins names by .link files or udev rules, and follows cards that get another MAC address."""

    name = "interface-names"
    title = "Network interface names by MAC address"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        if not guest.interfaces:
            return
        assignment = assign(guest.interfaces, request.source_nics, request.nics)
        _follow_addresses(guest.interfaces, assignment, edits)
        if request.spec.network.pin_names is False:
            return
        if not any(nic.mac for nic in request.nics):
            edits.warn("No MAC address of the target's network cards is known: interface names are not pinned.")
            return
        for problem in assignment.problems:
            edits.warn(problem)
        bound = _bound_names(guest.interfaces, assignment)
        pinned = {name: mac for name, mac in assignment.names.items() if bound.get(name) != mac}
        if pinned and _knows_links(guest, edits):
            for name, mac in pinned.items():
                edits.write(f"/etc/systemd/network/05-hyper2kvm-{name}.link", _link(name, mac), why=_WHY_NAME)
        elif pinned and any(edits.is_dir(folder) for folder in ("/lib/udev", "/usr/lib/udev")):
            text = edits.text(_RULES)
            rules = "".join(_rule(name, mac) for name, mac in pinned.items() if _rule(name, mac) not in text)
            if rules:
                edits.write(_RULES, (text.rstrip("\n") + "\n" if text else "") + rules, why=_WHY_NAME)
        elif any(not name.startswith("eth") for name in pinned):
            edits.warn(
                f"The guest has no udev: its interfaces ({', '.join(pinned)}) get the kernel's names eth0, eth1 …"
            )


def _bound_names(interfaces: tuple[Interface, ...], assignment: Assignment) -> dict[str, str]:
    """Return the (new) MAC addresses of names that a .link file or udev rule of the guest binds already."""
    folders = tuple(pattern.rpartition("/")[0] for pattern in (*LINKS, *UDEV_RULES))
    return {
        interface.name: assignment.addresses.get(interface.mac, interface.mac)
        for interface in interfaces
        if interface.name and interface.mac and interface.source.rpartition("/")[0] in folders
        if interface.source.endswith((".link", ".rules"))
    }


def _follow_addresses(interfaces: tuple[Interface, ...], assignment: Assignment, edits: Edits) -> None:
    """Write the cards' new addresses wherever the configuration has the old ones."""
    for path in dict.fromkeys(i.source for i in interfaces if i.mac in assignment.addresses):
        text = edits.read_text(path)
        # In one pass: cards may exchange their addresses.
        new = re.sub(
            r"(?i)(?<![0-9a-f:-])[0-9a-f]{2}([:-][0-9a-f]{2}){5}(?![0-9a-f:-])",
            lambda match: _in_style(match[0], assignment.addresses),
            text,
        )
        if new != text:
            edits.write(path, new, why=_WHY_MAC)


def _in_style(old: str, addresses: dict[str, str]) -> str:
    new = addresses.get(old.lower().replace("-", ":"))
    if new is None:
        return old
    new = new.replace(":", old[2])
    return new.upper() if old.upper() == old and old.lower() != old else new


def _knows_links(guest: GuestFacts, edits: Edits) -> bool:
    if guest.systemd_version is not None:
        return guest.systemd_version >= _FIRST_WITH_LINKS
    folders = ("/usr/lib/udev/rules.d", "/lib/udev/rules.d")
    return guest.init == "systemd" and any(edits.exists(f"{folder}/80-net-setup-link.rules") for folder in folders)


def _link(name: str, mac: str) -> str:
    # Path: cards have one; VLANs, bonds and bridges, which share a card's address, have none.
    return (
        "# Written by hyper2kvm: keeps the interface's name on its new network card.\n"
        f"[Match]\nMACAddress={mac}\nPath=*\n\n[Link]\nName={name}\n"
    )


def _rule(name: str, mac: str) -> str:
    return (
        f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{mac}", ATTR{{type}}=="1", NAME="{name}"\n'
    )
