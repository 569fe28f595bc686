# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The swap to resume from by UUID: an initramfs waits half a minute for one that is not there."""

from __future__ import annotations

import re

from ... import cmdline
from ...devices import Devices, is_unstable, stable_name
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

# initramfs-tools(7): RESUME; uswsusp's suspend.conf(8): "resume device".
_CONFIGS = (
    ("/etc/initramfs-tools/conf.d/*", re.compile(r"""^(\s*(?:export\s+)?RESUME=["']?)(/dev/[^\s"']+)(.*)$""")),
    ("/etc/initramfs-tools/initramfs.conf", re.compile(r"""^(\s*RESUME=["']?)(/dev/[^\s"']+)(.*)$""")),
    ("/etc/suspend.conf", re.compile(r"^(\s*resume device\s*[=:]\s*)(/dev/\S+)(.*)$")),
)


class ResumeFixer:
    """Changes initramfs-tools' RESUME and the kernel's resume=."""

    name = "resume"
    title = "The device to resume from by UUID"
    phase = Phase.DEVICES

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        devices = Devices(guest.filesystems)

        def stable(device: str) -> str:
            if not is_unstable(device):
                return device
            found = devices.find(device, "swap")
            name = stable_name(found) if found is not None else None
            if name is None:
                edits.warn(f"The guest resumes from {device}, which is no swap that was found; it is left as it is.")
            return name or device

        why = "device names change with the disk controller; UUIDs stay"
        for pattern, setting in _CONFIGS:
            for path in edits.files(pattern):
                lines = edits.read_text(path).split("\n")
                new = [setting.sub(lambda m: m[1] + stable(m[2]) + m[3], line) for line in lines]
                if new != lines:
                    edits.write(path, "\n".join(new), why=why)
        for path in cmdline.files(guest, edits):
            cmdline.edit(edits, path, lambda line: cmdline.replace_devices(line, "resume", stable), why)
