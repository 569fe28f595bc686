# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: batch_survey
short_description: Reckon what a batch will take, and what stands in its way
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Puts together what the role P(hyper2kvm.core.migrate#role) saw with C(tasks_from) V(survey).
  - How long the VMs take is reckoned from those of the batch whose jobs are over, each one's bytes at the mean rate of
    their copies and the mean of what else they took, with as many jobs side by side as workers have slots.
positional: hosts
options:
  _input:
    description: C(hostvars).
    type: dict
    required: true
  hosts:
    description: The hosts of the batch. One that was not surveyed is left out.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show what the batch will take
  ansible.builtin.debug:
    msg: "{{ (hostvars | hyper2kvm.core.batch_survey(ansible_play_hosts_all)).table }}"
  run_once: true
"""

RETURN = r"""
_value:
  description:
    - For each of C(vms) C(needed_bytes) of space at most, C(seconds), C(done) and C(problems); for each of
      C(conversion_hosts) their sums; and C(table), lines for people. What is not known is null.
  type: dict
  sample:
    vms: {web01: {needed_bytes: 1073741824, seconds: 90.0, done: false, problems: []}}
    conversion_hosts: {localhost: {vms: 1, left: 1, slots: 2, needed_bytes: 1073741824, seconds: 90.0}}
    table: ["VM     operation  disks    used     needs    takes"]
"""

import collections.abc as c
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.survey import survey

_SEEN = "hyper2kvm_migrate_survey"


def batch_survey(hostvars: c.Mapping[str, t.Any], hosts: c.Iterable[str]) -> dict[str, t.Any]:
    """Return the batch's plan.

    Raises:
        AnsibleFilterError: the Python that runs Ansible lacks a library.
    """
    try:
        return survey({host: hostvars[host][_SEEN] for host in hosts if _SEEN in hostvars[host]})
    except JobError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, c.Callable[..., dict[str, t.Any]]]:
        """Return them by name."""
        return {"batch_survey": batch_survey}
