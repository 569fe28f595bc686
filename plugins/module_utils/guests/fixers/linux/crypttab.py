# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""crypttab by UUID: encrypted partitions are named otherwise on the new controller. Format: crypttab(5)."""

from __future__ import annotations

import re

from ...devices import Devices, is_unstable
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_PATH = "/etc/crypttab"
_LINE = re.compile(r"^(\s*\S+\s+)(\S+)(.*)$")


class CrypttabFixer:
    """Names LUKS partitions by their header's UUID, others, which have none, by their partition's."""

    name = "crypttab"
    title = "Encrypted partitions by UUID in crypttab"
    phase = Phase.DEVICES

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        text = edits.text(_PATH)
        devices = Devices(guest.filesystems)
        lines = text.split("\n")
        for index, line in enumerate(lines):
            match = _LINE.match(line)
            if match is None or match[1].lstrip().startswith("#") or not is_unstable(match[2]):
                continue
            found = devices.find(match[2])
            if found is not None and found.type == "crypto_LUKS" and found.uuid:
                lines[index] = f"{match[1]}UUID={found.uuid}{match[3]}"
            elif found is not None and found.partition.partuuid:
                # Encrypted anew with a random key at each boot: what UUID it has now means nothing.
                lines[index] = f"{match[1]}PARTUUID={found.partition.partuuid}{match[3]}"
            else:
                edits.warn(f"crypttab opens {match[2]}, which is none of the partitions that were found.")
        if lines != text.split("\n"):
            edits.write(_PATH, "\n".join(lines), why="device names change with the disk controller; UUIDs stay")
