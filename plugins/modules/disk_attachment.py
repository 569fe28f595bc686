#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_attachment
short_description: Attach a virtual machine's disks
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Shows a VM's disks and their partitions as devices of the host that the task runs on, until a task detaches them.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
  - hyper2kvm.core.attachment
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: There is nothing to compare.
options:
  state:
    description:
      - V(attached) sees to it that the disks are attached.
      - V(detached) sees to it that they are not; it is an error if something that was written may be lost.
    type: str
    choices: [attached, detached]
    default: attached
  source:
    required: false
"""

EXAMPLES = r"""
- name: Attach a VM's disks
  hyper2kvm.core.disk_attachment:
    name: web01
    source:
      path: web01.ova
    ttl: 600
  register: web01

- name: Look at a filesystem
  ansible.builtin.command:
    argv: [dumpe2fs, -h, "{{ web01.partitions[0].device }}"]
  changed_when: false

- name: Detach them
  hyper2kvm.core.disk_attachment:
    name: web01
    state: detached
"""

RETURN = r"""
name:
  description: Name of the attachment.
  returned: success
  type: str
owner:
  description: Who it is for.
  returned: while it lasts
  type: str
expires_at:
  description: When it ends by itself.
  returned: while it lasts
  type: str
  sample: "2026-11-24T03:00:00.000Z"
disks:
  description: The whole disks, each as a flat file or a block device.
  returned: while it lasts
  type: list
  elements: dict
  sample: [{name: disk0, device: /dev/nbd0}]
partitions:
  description: The partitions, each as a block device, with what they hold.
  returned: while it lasts
  type: list
  elements: dict
  sample: [{disk: disk0, number: 1, type: ext4, device: /dev/loop0}]
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import attached_disks
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.holding import hold_or_release
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            **arguments.ATTACHMENT,
            "state": {"type": "str", "choices": ["attached", "detached"], "default": "attached"},
        },
        required_if=[("state", "attached", ["source"])],
        supports_check_mode=True,
    )
    run(module, lambda: hold_or_release(module.params, attached_disks, "attached", check_mode=module.check_mode))


if __name__ == "__main__":
    main()
