#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: disk_convert
short_description: Convert a disk to qcow2 or raw
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Copies one disk of a VM to a qcow2 or raw image below O(output_root), and changes nothing in it.
  - An image that is there already is read and compared; the same content is no change, and other content an error.
  - For a VM that is to boot on KVM use M(hyper2kvm.core.migration_job).
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.roots
  - hyper2kvm.core.source
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details: A disk's content is nothing to show.
options:
  disk:
    description: Which of the VM's disks, as M(hyper2kvm.core.disk_info) names them.
    type: str
    default: disk0
  dest:
    description: The image, relative to O(output_root).
    type: str
    required: true
  format:
    description: Format of the image.
    type: str
    choices: [qcow2, raw]
    default: qcow2
  allocation:
    description: Whether blocks without data are reserved.
    type: str
    choices: [sparse, preallocated]
    default: sparse
  compression:
    description: Compression of a qcow2 image's clusters.
    type: str
    choices: [none, zlib, zstd]
    default: none
  bandwidth_bytes_per_second:
    description: Upper bound of the read rate.
    type: int
  force:
    description: Replace an existing image.
    type: bool
    default: false
seealso:
  - module: hyper2kvm.core.migration_job
"""

EXAMPLES = r"""
- name: Convert a data disk
  hyper2kvm.core.disk_convert:
    source:
      path: data.vmdk
    dest: data/data.qcow2
"""

RETURN = r"""
image:
  description: The image.
  returned: success
  type: str
  sample: /var/lib/hyper2kvm/output/data/data.qcow2
virtual_size:
  description: Size of the disk in bytes.
  returned: success
  type: int
digest:
  description: Digest of the disk's content, in which holes and zeros count alike.
  returned: success, unless in check mode
  type: str
bytes_read:
  description: Bytes that were read of the source.
  returned: changed
  type: int
bytes_written:
  description: Bytes that were written.
  returned: changed
  type: int
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.converting import disk_convert
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            "source": arguments.REQUIRED_SOURCE,
            "disk": {"type": "str", "default": "disk0"},
            "dest": {"type": "str", "required": True},
            "format": {"type": "str", "choices": ["qcow2", "raw"], "default": "qcow2"},
            "allocation": {"type": "str", "choices": ["sparse", "preallocated"], "default": "sparse"},
            "compression": {"type": "str", "choices": ["none", "zlib", "zstd"], "default": "none"},
            "bandwidth_bytes_per_second": {"type": "int"},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run(module, lambda: disk_convert(module.params, check_mode=module.check_mode))


if __name__ == "__main__":
    main()
