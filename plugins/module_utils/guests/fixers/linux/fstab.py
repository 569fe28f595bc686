# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fstab by UUID: disks are named otherwise on the new controller."""

from __future__ import annotations

from ... import fstab
from ...devices import Devices, is_unstable, stable_name
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_PATH = "/etc/fstab"
#: Folders of the old host, shown by its hypervisor.
_SHARES = ("vmhgfs", "fuse.vmhgfs-fuse", "vboxsf", "prl_fs")
_DISCS = ("iso9660", "udf", "udf,iso9660", "auto,iso9660")


class FstabFixer:
    """Names what fstab mounts by its UUID. Lines that name no disk stay as they are."""

    name = "fstab"
    title = "Filesystems by UUID in fstab"
    phase = Phase.DEVICES

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        text = edits.text(_PATH)
        devices = Devices(guest.filesystems)
        specs: dict[int, str] = {}
        for line in fstab.parse(text):
            if not is_unstable(line.spec) or line.type in _DISCS:
                continue
            found = guest.root if line.mountpoint == "/" else devices.find(line.spec, line.type)
            name = stable_name(found) if found is not None else None
            if name is not None:
                specs[line.index] = name
            elif "noauto" not in line.option_list:
                edits.warn(
                    f"fstab mounts {line.spec} at {line.mountpoint}, which is none of the filesystems that were found: "
                    "the line is left as it is, and the guest may wait for it at boot."
                )
        shares = [
            line
            for line in fstab.parse(text)
            if line.type in _SHARES and not {"nofail", "noauto"} & set(line.option_list)
        ]
        for line in shares:
            edits.warn(f"fstab mounts a folder of the old host at {line.mountpoint}; on KVM that will be empty.")
        if shares:
            new = text
            for line in shares:
                new = fstab.add_option(new, line.index, "nofail")
            edits.write(_PATH, new, why="a folder of the old host is gone, and must not keep the guest from booting")
            text = new
        if specs:
            why = "device names change with the disk controller; UUIDs stay"
            edits.write(_PATH, fstab.replace_specs(text, specs), why=why)
