#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_boot_test
short_description: Boot a guest and see whether it comes up
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Boots disks on a throw-away layer with virtio hardware, without a network that leads anywhere.
  - The guest came up when it reports that its boot target is reached, or shows what O(verify.marker) says.
  - A guest whose files cannot be seen (encrypted, LVM, Windows) boots all the same, and is judged by its console alone.
  - Not one byte of the disks is changed. This takes root.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
options:
  verify:
    description: How the result is proven.
    type: dict
    suboptions:
      timeout_seconds:
        description: Time limit, in seconds.
        type: int
        default: 600
      marker:
        description:
          - A text that the guest's console must show.
          - "Default: the guest reports that it has booted, or shows a login prompt."
        type: str
notes:
  - A job with the operation V(boot-test) keeps the console's log and a screenshot as well.
seealso:
  - module: hyper2kvm.core.migration_job
"""

EXAMPLES = r"""
- name: See whether a converted guest still boots
  hyper2kvm.core.guest_boot_test:
    source:
      path: /var/lib/hyper2kvm/output/web01/web01.qcow2
    verify:
      timeout_seconds: 300
  register: web01

- name: Show the addresses that it had
  ansible.builtin.debug:
    var: web01.boot_test.facts
"""

RETURN = r"""
boot_test:
  description: What the boot test saw.
  returned: always
  type: dict
  sample:
    verdict: booted
    seconds: 21.4
    accelerator: kvm
    marker: multi-user.target
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import guest_boot_test
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            "source": arguments.REQUIRED_SOURCE,
            "verify": {
                "type": "dict",
                "options": {option: arguments.VERIFY[option] for option in ("timeout_seconds", "marker")},
            },
        },
        supports_check_mode=True,
    )
    run(module, lambda: guest_boot_test(module.params))


if __name__ == "__main__":
    main()
