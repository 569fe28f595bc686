#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_mount
short_description: Mount a virtual machine's filesystems
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Mounts a guest's filesystems as its own fstab says, on the host that the task runs on, until a task unmounts them.
  - "Never follow a link of the guest on the host: C(/etc/fstab) of a guest may point to the host's own."
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
      - V(mounted) sees to it that the guest is mounted.
      - V(unmounted) sees to it that it is not; it is an error if something that was written may be lost.
    type: str
    choices: [mounted, unmounted]
    default: mounted
  source:
    required: false
"""

EXAMPLES = r"""
- name: Mount a guest
  hyper2kvm.core.guest_mount:
    name: web01
    source:
      path: web01.ova
  register: web01

- name: See its log
  ansible.builtin.command:
    argv: [tail, "{{ web01.root }}/var/log/dpkg.log"]
  changed_when: false

- name: Unmount it
  hyper2kvm.core.guest_mount:
    name: web01
    state: unmounted
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
root:
  description: Where the guest's C(/) is mounted.
  returned: while it lasts
  type: str
mounts:
  description: All that is mounted, C(/) first.
  returned: while it lasts
  type: list
  elements: dict
  sample: [{mountpoint: /, type: ext4, uuid: 0f7e}]
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import mounted_guest
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.holding import hold_or_release
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            **arguments.ATTACHMENT,
            "state": {"type": "str", "choices": ["mounted", "unmounted"], "default": "mounted"},
        },
        required_if=[("state", "mounted", ["source"])],
        supports_check_mode=True,
    )
    run(module, lambda: hold_or_release(module.params, mounted_guest, "mounted", check_mode=module.check_mode))


if __name__ == "__main__":
    main()
