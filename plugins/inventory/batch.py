# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: batch
short_description: Make an inventory of a plan and a spreadsheet of VMs
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Reads a plan file, and the CSV file or Excel workbook that it names, such as an export of RVTools.
  - Each VM becomes a host, each wave a group. The VMs are never connected to.
  - The faults of the plan, or of the table, are told together, each with its file and line; then there is no host.
    Ansible itself goes on after that, with a warning; set C(ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED) to end the run.
  - What the table says is text and never a template, whoever named the VMs.
  - A VM's name is its host's name, or where it has other characters than C(A-Z), C(a-z), C(0-9), C(-), C(_) and C(.),
    what the filter P(hyper2kvm.core.vm_name#filter) makes of it. C(hyper2kvm_source_name) is the name as it was.
  - Where the table has RVTools' column C(In Use MiB) or C(In Use MB), C(hyper2kvm_source_used_bytes) is what it says,
    for the playbook C(hyper2kvm.core.plan).
notes:
  - The plan is YAML 1.2 without anchors, aliases and tags. Secrets belong into C(group_vars) beside it.
extends_documentation_fragment:
  - ansible.builtin.constructed
requirements:
  - openpyxl, for Excel workbooks
options:
  plugin:
    description: What makes a YAML file a plan.
    type: str
    required: true
    choices: [hyper2kvm.core.batch]
  table:
    description: The VMs as another program exported them.
    type: dict
    suboptions:
      path:
        description:
          - CSV file, or Excel workbook where it ends in C(.xlsx) or C(.xlsm), relative to the plan.
          - The first row with content names the columns. Empty cells are variables without a value.
        type: path
        required: true
      sheet:
        description: Sheet of the workbook. The first one by default.
        type: str
      delimiter:
        description:
          - What separates the cells of a CSV file.
          - By default the one of C(,), C(;), tab and C(|) that the header has most of.
        type: str
      encoding:
        description: Encoding of a CSV file without a byte order mark.
        type: str
        default: utf-8
      columns:
        description:
          - Which column each variable is read from; a dictionary of column names by variable.
          - Besides variables there are V(name), the VM's name, by default the column C(name) or C(VM); V(wave), by
            default C(wave) or C(Wave), where a number V(2) means the group C(wave2); and V(groups), by default
            C(groups) or C(Groups), with commas between them.
          - A column that is named as a variable C(hyper2kvm_…) needs no entry.
        type: dict
        default: {}
      where:
        description:
          - Which rows are taken; the values that a column must have, one or a list, by its name. Case does not matter.
        type: dict
        default: {}
  vars:
    description: Variables of all VMs. They may be templates.
    type: dict
    default: {}
  waves:
    description:
      - Groups in the order in which they are moved; names, or dictionaries.
      - Where there are some, a wave that the table or O(hosts) names must be among them.
      - Playbooks go by them with C(-e '{"hyper2kvm_waves":["wave1","wave2"]}').
    type: list
    elements: raw
    default: []
    suboptions:
      name:
        description: The group.
        type: str
        required: true
      hosts:
        description: Hosts that are in it, names or shell patterns, besides those that the table or O(hosts) put there.
        type: list
        elements: str
      vars:
        description: Variables of the group.
        type: dict
  hosts:
    description:
      - VMs that the table lacks, and what is to be said of single ones besides it; a dictionary by host.
      - The keys of each are variables, C(wave) and C(groups).
    type: dict
    default: {}
"""

EXAMPLES = r"""
# plan.yml: VMs by hand
plugin: hyper2kvm.core.batch
vars:
  hyper2kvm_target_format: qcow2
waves:
  - name: wave1
    hosts: [web01, "db*"]
  - wave2
hosts:
  web01: {hyper2kvm_source_path: web01.ova}
  db01: {hyper2kvm_source_path: db01.vmdk, hyper2kvm_verify_timeout_seconds: 1200}
  mail: {hyper2kvm_source_path: mail/mail.ovf, wave: wave2, groups: [exposed]}

# plan.yml: VMs of RVTools' sheet vInfo, exported by ovftool into a folder each
# plugin: hyper2kvm.core.batch
# table:
#   path: RVTools_export_all.xlsx
#   sheet: vInfo
#   where: {Powerstate: poweredOn, Template: "False"}
#   columns:
#     cluster: Cluster
#     wave: Migration wave
# vars:
#   hyper2kvm_source_path: "{{ hyper2kvm_source_name }}/{{ hyper2kvm_source_name }}.ovf"
# keyed_groups:
#   - {key: cluster, prefix: cluster}
"""

import pathlib
import typing as t

from ansible.errors import AnsibleParserError
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.batch import read_plan
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.inventories import VMInventory, trusted
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.places import Faulty


class InventoryModule(VMInventory):
    """Hosts and groups of a batch."""

    NAME = "hyper2kvm.core.batch"

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory.

        Raises:
            AnsibleParserError: the plan or its table has faults.
        """
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            batch = read_plan(pathlib.Path(path))
        except Faulty as error:
            raise AnsibleParserError(str(error)) from None
        for name, value in batch.variables.items():
            inventory.set_variable("all", name, trusted(value))
        for group, variables in batch.groups.items():
            inventory.add_group(group)
            for name, value in variables.items():
                inventory.set_variable(group, name, trusted(value))
        for host, machine in batch.machines.items():
            inventory.add_host(host)
            for group in filter(None, (machine.wave, *machine.groups)):
                inventory.add_child(group, host)
            self.tell_host(host, machine.cells, machine.variables)
            self.construct(host)
