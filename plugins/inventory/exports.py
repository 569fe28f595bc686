# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: exports
short_description: Make an inventory of a folder of exported VMs
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Each VM that lies in a folder of the controller, or below it, becomes a host, with C(hyper2kvm_source_path) and
    C(hyper2kvm_source_type).
  - A VM is an OVA, an OVF, VMX or C(.vbox) file, Hyper-V's XML file in its folder C(Virtual Machines), or a disk image
    that belongs to none of these, and is neither a part nor a parent of another image.
  - What tells of disks is read, which is descriptors, headers and tables; links are not followed, nothing is written.
  - A host is named after its file, or after its path where another one has the same name, in the way of the filter
    P(hyper2kvm.core.vm_name#filter).
  - Of a VM with several disks and no description each disk would be a host. Leave them out by O(exclude), and tell of
    that VM in another inventory, with C(hyper2kvm_source_disks).
  - An export that cannot be read is a host all the same, with a warning that says why, so that none is missed.
requirements:
  - pydantic
extends_documentation_fragment:
  - ansible.builtin.constructed
options:
  plugin:
    description: What makes a YAML file one of this plugin.
    type: str
    required: true
    choices: [hyper2kvm.core.exports]
  path:
    description:
      - The folder, relative to the file.
      - It is the C(hyper2kvm_input_root) of the conversion host, or a copy of it.
    type: str
    required: true
  exclude:
    description:
      - Files and folders that are left out; shell patterns of their names, or of their paths within the folder.
    type: list
    elements: str
    default: []
  vars:
    description: Variables of all VMs. They may be templates.
    type: dict
    default: {}
"""

EXAMPLES = r"""
# exports.yml: all that lies in /srv/exports
plugin: hyper2kvm.core.exports
path: /srv/exports
exclude: ["*.bak", old]
vars:
  hyper2kvm_input_root: /srv/exports
keyed_groups:
  - {key: hyper2kvm_source_type, prefix: from}
"""

import pathlib
import typing as t

from ansible.errors import AnsibleParserError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.exports import find_exports
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.inventories import VMInventory, trusted
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.places import Faulty


class InventoryModule(VMInventory):
    """A host for each export."""

    NAME = "hyper2kvm.core.exports"

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory.

        Raises:
            AnsibleParserError: the folder cannot be read, or two exports would be one host.
        """
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            found = find_exports(pathlib.Path(path).parent / self.get_option("path"), self.get_option("exclude"))
        except (Faulty, JobError) as error:
            raise AnsibleParserError(f"{path}: {error}") from None
        for warning in found.warnings:
            self.display.warning(warning)
        for name, value in self.get_option("vars").items():
            inventory.set_variable("all", name, trusted(value))
        for export in found.exports:
            inventory.add_host(export.host)
            cells = {"hyper2kvm_source_path": export.path, "hyper2kvm_source_type": export.kind}
            self.tell_host(export.host, cells, {})
            self.construct(export.host)
