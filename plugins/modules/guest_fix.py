#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_fix
short_description: Repair a guest in its image
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Makes a guest boot on KVM by changing its image, which is a qcow2 or raw image below O(output_root), in place.
  - Every change is made on an overlay first, and reaches the image only when all of them are safe on disk.
  - A guest that needs no change is left alone. This takes root.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
  - hyper2kvm.core.guest
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: RV(diff) is a list with an entry for each file of the guest that changes.
seealso:
  - module: hyper2kvm.core.migration_job
    description: Its operation V(fix) repairs a guest into a copy.
"""

EXAMPLES = r"""
- name: See what would be changed
  hyper2kvm.core.guest_fix:
    source:
      path: /var/lib/hyper2kvm/output/web01/web01.qcow2
  check_mode: true
  diff: true

- name: Let an administrator in, and change nothing else
  hyper2kvm.core.guest_fix:
    source:
      path: /var/lib/hyper2kvm/output/web01/web01.qcow2
    guest:
      fixers:
        only: [ssh-keys]
      ssh_keys:
        - keys: ["{{ lookup('ansible.builtin.file', '~/.ssh/id_ed25519.pub') }}"]
"""

RETURN = r"""
changes:
  description: Every change of a file in the guest.
  returned: success
  type: list
  elements: dict
  sample:
    - {path: /etc/fstab, kind: write, fixer: fstab, why: device names change on KVM}
diff:
  description: The same changes as entries of Ansible's diffs.
  returned: success
  type: list
  elements: dict
  contains:
    before_header:
      description: Path of the guest's file.
      type: str
    after_header:
      description: The same.
      type: str
    prepared:
      description: What is done to the file and why, with its unified diff where it is text.
      type: str
  sample:
    - before_header: /etc/hostname
      after_header: /etc/hostname
      prepared: "write /etc/hostname: the job gives the guest this name (hostname)\n-old\n+new\n"
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import guest_fix
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            "source": arguments.REQUIRED_SOURCE,
            "guest": {"type": "dict", "options": arguments.GUEST},
        },
        supports_check_mode=True,
    )
    run(module, lambda: guest_fix(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
