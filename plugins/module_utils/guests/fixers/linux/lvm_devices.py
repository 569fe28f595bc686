# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LVM's list of devices by names that LVM may correct: a disk loses its serial number with its old controller.

Format: lvmdevices(8). An entry by an identity of the hardware (``sys_wwid``, ``sys_serial``) that no disk has any more
hides its physical volume. One by a name is looked for by the volume's own UUID, wherever the disk is now.
"""

from __future__ import annotations

import re

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_FILES = "/etc/lvm/devices/*.devices"
_ENTRY = re.compile(r"^(\s*)IDTYPE=(\S+)\s+IDNAME=(\S+)\s+DEVNAME=(\S+)(\s+PVID=\S+.*)$")
#: Identities that are in the data and go with them.
_STAY = ("lvmlv_uuid", "crypt_uuid", "md_uuid", "mpath_uuid")


class LvmDevicesFixer:
    """Rewrites entries that name hardware; the list itself, which keeps other disks out, stays."""

    name = "lvm-devices"
    title = "LVM's list of devices without old hardware"
    phase = Phase.DEVICES

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        for path in edits.files(_FILES):
            text = edits.read_text(path)
            new = "\n".join(_by_name(line) for line in text.split("\n"))
            if new != text:
                edits.write(path, new, why="the disks' serial numbers stay behind; LVM finds them by their own UUIDs")


def _by_name(line: str) -> str:
    entry = _ENTRY.match(line)
    if entry is None or entry[2] in _STAY or entry[2] == "devname" or "PVID=." in line:
        return line
    return f"{entry[1]}IDTYPE=devname IDNAME={entry[4]} DEVNAME={entry[4]}{entry[5]}"
