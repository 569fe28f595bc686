# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings of modprobe that name the old machine's devices, or keep virtio's drivers out.

Formats: modprobe.d(5); the aliases ``eth<n>`` and ``scsi_hostadapter`` of Red Hat Enterprise Linux up to 5, from which
its mkinitrd and its network scripts take what to load.
"""

from __future__ import annotations

import re

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_CONFIGS = ("/etc/modprobe.conf", "/etc/modules.conf", "/etc/conf.modules", "/etc/modprobe.d/*.conf")
_CARD = re.compile(r"^(\s*alias\s+eth\d+\s+)(\S+)(.*)$")
_ADAPTER = re.compile(r"^(\s*alias\s+scsi_hostadapter\d*\s+)(\S+)(.*)$")
_KEPT_OUT = re.compile(r"^\s*(?:blacklist\s+virtio\w*|install\s+virtio\w*\s+(?:/usr)?/bin/(?:true|false))\s*(?:#.*)?$")
_VIRTIO = re.compile(r"^virtio")


class ModprobeFixer:
    """Lets aliases of cards and disk controllers mean virtio's, and takes back what forbids these drivers."""

    name = "modprobe"
    title = "Modules by virtio's names in modprobe's settings"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        adapter = True
        for path in dict.fromkeys(edits.resolve(path) for path in edits.files(*_CONFIGS)):
            lines = []
            for line in edits.read_text(path).split("\n"):
                card, controller = _CARD.match(line), _ADAPTER.match(line)
                if card and not _VIRTIO.match(card[2]):
                    line = f"{card[1]}virtio_net{card[3]}"
                elif controller and adapter:
                    adapter = False
                    line = line if _VIRTIO.match(controller[2]) else f"{controller[1]}virtio_blk{controller[3]}"
                elif (controller and not _VIRTIO.match(controller[2])) or _KEPT_OUT.match(line):
                    line = f"# {line}"
                lines.append(line)
            text = "\n".join(lines)
            if text != edits.read_text(path):
                edits.write(path, text, why="names drivers of the old machine's devices, or forbids virtio's")
