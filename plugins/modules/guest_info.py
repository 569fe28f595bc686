#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_info
short_description: Tell what is inside a virtual machine
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Looks into a guest on an overlay that is thrown away, and returns its operating system, kernels, boot loader,
    filesystems and network interfaces.
  - No program of the guest is run. This takes root.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
seealso:
  - module: hyper2kvm.core.disk_info
"""

EXAMPLES = r"""
- name: Look into a guest
  hyper2kvm.core.guest_info:
    source:
      path: web01.ova
  register: web01

- name: Say what it is
  ansible.builtin.debug:
    msg: "{{ web01.guest.prettyName }} on {{ web01.hardware.firmware }}"
"""

RETURN = r"""
guest:
  description: What was found in the guest.
  returned: success
  type: dict
  sample:
    osId: debian
    prettyName: Debian GNU/Linux 12 (bookworm)
    arch: x86_64
hardware:
  description: The VM's hardware as its metadata tells it, and the firmware that its disk boots by.
  returned: success
  type: dict
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import guest_info
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={**arguments.ROOTS, "source": arguments.REQUIRED_SOURCE},
        supports_check_mode=True,
    )
    run(module, lambda: guest_info(module.params))


if __name__ == "__main__":
    main()
