# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the collection's inventory plugins share."""

from __future__ import annotations

import collections.abc as c
import typing as t

from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible.utils.unsafe_proxy import wrap_var

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 every text is a template unless it is marked
    trust_as_template = None


class VMInventory(BaseInventoryPlugin, Constructable):  # type: ignore[misc]
    """An inventory whose hosts are VMs."""

    def verify_file(self, path: str) -> bool:
        """Whether ``path`` may be a configuration file of this plugin."""
        return bool(super().verify_file(path)) and path.endswith((".yml", ".yaml"))

    def tell_host(self, host: str, cells: c.Mapping[str, str], variables: c.Mapping[str, t.Any]) -> None:
        """Give a host its variables: ``cells`` are what other programs wrote, and never templates."""
        for name, cell in cells.items():
            self.inventory.set_variable(host, name, wrap_var(cell))
        for name, value in variables.items():
            self.inventory.set_variable(host, name, trusted(value))

    def construct(self, host: str) -> None:
        """Add the host to the groups, and give it the variables, that its variables lead to."""
        variables = self.inventory.get_host(host).get_vars()
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)


def trusted(value: t.Any) -> t.Any:
    """Return what the inventory's author wrote, so that Ansible takes it as templates."""
    if isinstance(value, dict):
        return {key: trusted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [trusted(one) for one in value]
    return trust_as_template(value) if isinstance(value, str) and trust_as_template else value
