# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cloud-init told where it is: the old hypervisor's source of data is gone, and a new instance is none.

Facts: cloud-init's documentation (datasources, ds-identify, network configuration sources, the modules set_hostname and
ssh). Left alone, cloud-init takes the moved VM for a new one where it finds any data, or falls back to the source
``None``: it writes a network configuration of DHCP over the guest's own, and makes new host keys.
"""

from __future__ import annotations

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_PROGRAMS = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init")
_DISABLED = "/etc/cloud/cloud-init.disabled"
_DROP_IN = "/etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg"
_IDENTIFY = ("/usr/lib/cloud-init/ds-identify", "/usr/libexec/cloud-init/ds-identify")
_SETTINGS = """\
# Written by hyper2kvm: this VM moved to KVM, and keeps its addresses, its name and its keys.
# Sources of data that KVM hosts give, as a disk; where there is none, cloud-init has nothing to do.
datasource_list: [{sources}]
network: {{config: disabled}}
preserve_hostname: true
ssh_deletekeys: false
"""


class CloudInitFixer:
    """Adds a file of settings, where cloud-init is installed and may run."""

    name = "cloud-init"
    title = "cloud-init keeps the guest as it is"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        if edits.exists(_DISABLED) or not any(edits.exists(path) for path in _PROGRAMS):
            return
        sources = ["NoCloud", "ConfigDrive"]
        if not any(edits.exists(path) for path in _IDENTIFY):
            # An old one without a generator runs at each boot, and fails where it finds nothing at all.
            sources.append("None")
        edits.write(
            _DROP_IN,
            _SETTINGS.format(sources=", ".join(sources)),
            why="cloud-init would take the moved VM for a new one: other addresses, other host keys",
        )
