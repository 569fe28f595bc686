# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The old hypervisor's tools switched off: they find no hypervisor any more. Their packages stay."""

from __future__ import annotations

import re

from ...edits import Edits
from ...facts import GuestFacts
from ...paths import split
from ...tools import OLD_HYPERVISORS, ToolKind, is_masked, start_links, unit_file, upstart_jobs
from ..base import FixRequest, Phase

_MODULES = ("/etc/modules", "/etc/modules-load.d/*.conf")
_WHY = "the tools of the old hypervisor have nothing to do on KVM"


class HypervisorToolsFixer:
    """Removes the links that start such tools, masks their units, and has their modules no longer loaded."""

    name = "hypervisor-tools"
    title = "The old hypervisor's tools switched off"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        for kind in OLD_HYPERVISORS:
            for link in start_links(edits, kind):
                folder, name = split(link)
                if "/rc" in folder:
                    edits.symlink(f"{folder}/K01{name[3:]}", edits.readlink(link), _WHY)
                edits.remove(link, _WHY)
            for job in upstart_jobs(edits, kind):
                override = f"{job[:-5]}.override"
                edits.write(override, edits.text(override) + "manual\n", why=_WHY)
            _mask(edits, kind)
            _forget_modules(edits, kind)


def _mask(edits: Edits, kind: ToolKind) -> None:
    for unit in kind.units:
        own = unit_file(edits, unit)
        # A unit file of the administrator's own takes the mask's place; without links nothing starts it.
        if own and not own.startswith("/etc/") and not is_masked(edits, unit):
            edits.symlink(f"/etc/systemd/system/{unit}", "/dev/null", _WHY)


def _forget_modules(edits: Edits, kind: ToolKind) -> None:
    for path in dict.fromkeys(edits.resolve(path) for path in edits.files(*_MODULES)):
        lines = edits.read_text(path).split("\n")
        unwanted = [i for i, line in enumerate(lines) if re.sub(r"-", "_", line.strip()) in kind.modules]
        for index in unwanted:
            lines[index] = f"# {lines[index]}"
        if unwanted:
            edits.write(path, "\n".join(lines), why="these modules drive devices that only the old hypervisor has")
