# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's guest agent started at boot where it is installed: the machine's definition has a channel for it."""

from __future__ import annotations

import re

from ....protocol import models
from ... import firstboot
from ...edits import Edits
from ...facts import GuestFacts
from ...tools import AGENT, is_activated, is_masked, start_links, unit_file
from ..base import FixRequest, Phase

_INSTALL = re.compile(r"(?m)^[ \t]*(WantedBy|RequiredBy)[ \t]*=[ \t]*(.+)$")
_WHY = "the guest agent answers the new hypervisor: addresses, quiet snapshots, shutdown"


class GuestAgentFixer:
    """Makes the links that ``systemctl enable``, ``rc-update add`` or ``update-rc.d`` would make."""

    name = "guest-agent"
    title = "QEMU's guest agent started"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`. An administrator's mask stays."""
        policy = request.spec.agent
        if policy is models.AgentPolicy.LEAVE:
            return
        if not any(edits.exists(path) for path in AGENT.files):
            if policy is models.AgentPolicy.INSTALL:
                firstboot.add_script(guest, edits, 50, "guest-agent", firstboot.AGENT_SCRIPT, confidential=False)
            return
        if start_links(edits, AGENT) or is_activated(edits, AGENT):
            return
        if guest.init == "systemd":
            _by_systemd(edits)
            return
        script = next((name for name in AGENT.scripts if edits.is_file(f"/etc/init.d/{name}")), "")
        if script and guest.init == "openrc":
            edits.symlink(f"/etc/runlevels/default/{script}", f"/etc/init.d/{script}", _WHY)
        elif script and guest.init == "sysvinit":
            for level in (2, 3, 4, 5):
                folder = next((f for f in (f"/etc/rc.d/rc{level}.d", f"/etc/rc{level}.d") if edits.is_dir(f)), "")
                if folder:
                    edits.symlink(f"{folder}/S90{script}", f"/etc/init.d/{script}", _WHY)


def _by_systemd(edits: Edits) -> None:
    for unit in AGENT.units:
        path = unit_file(edits, unit)
        if not path:
            continue
        if is_masked(edits, unit):
            edits.warn(f"The guest agent ({unit}) is masked by the guest's administrator, and stays so.")
            return
        wanted = [(key, target) for key, names in _INSTALL.findall(edits.read_text(path)) for target in names.split()]
        for key, target in wanted or [("WantedBy", "multi-user.target")]:
            folder = "wants" if key == "WantedBy" else "requires"
            edits.symlink(f"/etc/systemd/system/{target}.{folder}/{unit}", path, _WHY)
        return
