# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another time zone, as the job asks for it. Format: localtime(5)."""

from __future__ import annotations

import re

from ....protocol.errors import unsupported
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_WHY = "the job gives the guest this time zone"


class TimezoneFixer:
    """Points /etc/localtime at the zone, and tells Debian's and Red Hat's own files."""

    name = "timezone"
    title = "The time zone"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        zone = request.spec.timezone
        if zone is None:
            return
        if not edits.is_file(f"/usr/share/zoneinfo/{zone}"):
            raise unsupported(
                "UnknownTimezone",
                f"The guest does not know the time zone {zone}: it has no /usr/share/zoneinfo/{zone}.",
                "Correct guest.timezone, or install tzdata in the guest.",
            )
        if guest.timezone != zone or not edits.is_symlink("/etc/localtime"):
            edits.symlink("/etc/localtime", f"../usr/share/zoneinfo/{zone}", _WHY)
        if edits.exists("/etc/timezone"):
            edits.write("/etc/timezone", f"{zone}\n", why=_WHY)
        clock = edits.text("/etc/sysconfig/clock")
        new = re.sub(r"(?m)^((?:ZONE|TIMEZONE)=).*$", lambda match: f'{match[1]}"{zone}"', clock)
        if new != clock:
            edits.write("/etc/sysconfig/clock", new, why=_WHY)
