# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LVM's list of the disks that it may look at, by names of the old machine (lvmdevices(8)): gone, so that all are."""

from __future__ import annotations

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_LISTS = "/etc/lvm/devices/*.devices"
_CACHES = ("/etc/lvm/cache/.cache", "/etc/blkid.tab", "/etc/blkid/blkid.tab")
_WHY = "it names the old machine's disks; LVM would not see the new ones"


class LvmDevicesFixer:
    """Removes the list and the caches of what disks were called."""

    name = "lvm-devices"
    title = "LVM looks at the new disks"
    phase = Phase.DEVICES

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        for path in edits.files(_LISTS):
            edits.remove(path, _WHY)
        for path in edits.files(*_CACHES):
            edits.remove(path, "a cache of what the old machine called its disks")
