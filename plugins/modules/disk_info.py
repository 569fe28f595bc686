#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_info
short_description: Tell what a virtual machine's disks are
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Returns the images, sizes and hardware of an OVA, an OVF folder or disk images. Reads headers and metadata alone.
  - What a job would refuse (a truncated file, a reference that leaves the input root) is an error here too.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
options:
  filesystems:
    description: Return what the disks' partitions hold, too. This takes root.
    type: bool
    default: false
seealso:
  - module: hyper2kvm.core.guest_info
"""

EXAMPLES = r"""
- name: See what is in an OVA
  hyper2kvm.core.disk_info:
    source:
      path: web01.ova
  register: web01

- name: Make sure that there is room for it
  ansible.builtin.assert:
    that: web01.disks | sum(attribute='virtual_size') < 100 * 1024 ** 3
"""

RETURN = r"""
disks:
  description: The disks, in the order of the source.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the disk within its VM.
      type: str
      sample: disk0
    path:
      description: The file that holds it.
      type: str
    format:
      description: V(vmdk), V(qcow2), V(vhd), V(vhdx), V(vdi) or V(raw).
      type: str
    subformat:
      description: Kind within the format, where it has kinds.
      type: str
      sample: streamOptimized
    virtual_size:
      description: Size of the disk in bytes.
      type: int
    extents:
      description: Further files that hold a part of it, such as the parents of a snapshot.
      type: list
      elements: str
hardware:
  description: The VM's hardware as its metadata tells it.
  returned: success
  type: dict
  sample: {name: web01, cpus: 2, memory_bytes: 2147483648, firmware: bios}
filesystems:
  description: What each partition holds.
  returned: when O(filesystems=true)
  type: list
  elements: dict
  sample:
    - {disk: disk0, number: 1, start: 1048576, size: 8588886016, type: ext4, uuid: 0f7e, label: ""}
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.direct import disk_info
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            "source": arguments.REQUIRED_SOURCE,
            "filesystems": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, lambda: disk_info(module.params))


if __name__ == "__main__":
    main()
