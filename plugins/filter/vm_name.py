# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: vm_name
short_description: Make a VM's name of a host's name
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Returns a host's name as jobs and folders are named, which is lower case letters, digits and hyphens, at most 52.
  - The eleven characters up to an RFC 1123 label's 63 are for the operation that a job's name ends in.
positional: others
options:
  _input:
    description: The host's name in the inventory.
    type: str
    required: true
  others:
    description:
      - Names of the hosts beside which this one must be told apart; it may be among them itself.
      - That two of them get one name is an error.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the name of a VM's job
  ansible.builtin.debug:
    msg: "{{ inventory_hostname | hyper2kvm.core.vm_name(ansible_play_hosts_all) }}-convert"
"""

RETURN = r"""
_value:
  description: The name.
  type: str
  sample: web01-example-com
"""

import collections.abc as c

from ansible.errors import AnsibleFilterError
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.names import slug


def vm_name(host: str, others: c.Iterable[str] = ()) -> str:
    """Return the VM's name.

    Raises:
        AnsibleFilterError: nothing of the host's name can stay, or another host has the same name.
    """
    name = slug(host)
    if not name:
        raise AnsibleFilterError(f"{host!r} has neither a letter nor a digit, so no job can be named after it.")
    same = sorted({other for other in others if other != host and slug(other) == name})
    if same:
        raise AnsibleFilterError(
            f"The hosts {host} and {', '.join(same)} would both have jobs and targets named {name}. Rename one of them."
        )
    return name


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, c.Callable[..., str]]:
        """Return them by name."""
        return {"vm_name": vm_name}
