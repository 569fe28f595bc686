# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A new machine id, where the job asks for one: the guest makes it at its next boot. Format: machine-id(5)."""

from __future__ import annotations

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_PATH = "/etc/machine-id"
_DBUS = "/var/lib/dbus/machine-id"
_WHY = "the job asks for a new identity"


class MachineIdFixer:
    """Empties the machine id, and D-Bus's copy of it."""

    name = "machine-id"
    title = "A new machine id"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        if not request.spec.reset_machine_id:
            return
        if edits.exists(_PATH):
            # Empty, not gone: then systemd fills it in without taking this for the very first boot.
            edits.write(_PATH, b"", why=_WHY)
        if edits.exists(_DBUS) and edits.resolve(_DBUS) != edits.resolve(_PATH):
            edits.remove(_DBUS, _WHY)
