# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: wave_sizes
short_description: Count the hosts of each wave
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Returns how many hosts of a play each wave has, for the play's C(serial), where its C(hosts) are the same waves.
  - A host counts for the first wave that has it. A wave without a host in the play is left out.
positional: groups, hosts
options:
  _input:
    description: The waves, which are groups in order; a list, or names with commas or colons between them.
    type: raw
    required: true
  groups:
    description: The inventory's groups.
    type: dict
    required: true
  hosts:
    description: The hosts of the play, so without those that C(--limit) leaves out.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Move one wave after the other
  hosts: "{{ hyper2kvm_waves }}"
  serial: "{{ hyper2kvm_waves | hyper2kvm.core.wave_sizes(groups, ansible_play_hosts_all) }}"
  roles: [hyper2kvm.core.migrate]
"""

RETURN = r"""
_value:
  description: A number for each wave; V(100%) where there are no waves.
  type: list
  sample: [2, 5]
"""

import collections.abc as c
import re

from ansible.errors import AnsibleFilterError


def wave_sizes(
    waves: str | c.Iterable[str], groups: c.Mapping[str, c.Collection[str]], hosts: c.Iterable[str]
) -> list[int | str]:
    """Return the number of hosts of each wave.

    Raises:
        AnsibleFilterError: a wave is no group.
    """
    names = [name for name in re.split(r"[,:\s]+", waves) if name] if isinstance(waves, str) else list(waves)
    left = set(hosts)
    sizes: list[int | str] = []
    for name in names:
        if name not in groups:
            raise AnsibleFilterError(f"The wave {name} is no group of the inventory.")
        members = left.intersection(groups[name])
        left -= members
        if members:
            sizes.append(len(members))
    return sizes or ["100%"]


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, c.Callable[..., list[int | str]]]:
        """Return them by name."""
        return {"wave_sizes": wave_sizes}
