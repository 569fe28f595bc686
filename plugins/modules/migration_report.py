#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_report
short_description: Report what became of a batch of migrations
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Prints a table with a row for each VM, where O(hosts) names what to report.
  - Writes a report into files, where O(path), O(csv) or O(junit) name some. The one of O(path) is an HTML page that
    needs no network; it shows outcomes, a timeline, the copies' rates, and of each VM what was changed in it, how it
    booted, what went wrong and what to do.
  - The same documents give the same bytes, so a second run changes nothing.
  - A document that cannot be read is told in the report and in a warning; the others are reported all the same.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.roots
  - hyper2kvm.core.roots.queue
  - ansible.builtin.files
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: The files that would be written are named; their contents are not shown.
options:
  hosts:
    description:
      - Report the VMs of these hosts, as far as their tasks were run.
      - The table is printed by the controller, and so is meant for a task with C(run_once).
    type: list
    elements: str
  variables:
    description:
      - Names of the variables that the tasks' results of O(hosts) were registered in, in the order of the tasks.
    type: list
    elements: str
  jobs:
    description:
      - Report these jobs, each a document as M(hyper2kvm.core.migration_job_info) returns it with its result.
    type: list
    elements: dict
  results:
    description:
      - Report all jobs whose result documents lie in this folder or below, on the host that the module runs on.
      - Only work that was finished leaves one; a job that failed is told by its job document alone.
    type: path
  path:
    description: File for the HTML page, on the host that the module runs on.
    type: path
  csv:
    description: File for a table with a line for each VM.
    type: path
  junit:
    description: File for the same as JUnit XML, in which each VM is a test, for CI servers.
    type: path
  table:
    description: Whether to print the table of O(hosts).
    type: bool
    default: true
  title:
    description: What the report is called.
    type: str
    default: Migration report
notes:
  - Screenshots of boot tests are put into the page where they are found, below O(results) or else O(output_root).
  - How much of a VM's diffs, console and screenshot is taken depends on how many VMs there are; what was cut is told.
  - The queue's options are there because C(module_defaults) gives them to all modules; no queue is asked.
seealso:
  - module: hyper2kvm.core.migration_job
  - module: hyper2kvm.core.migration_job_info
"""

EXAMPLES = r"""
- name: Move the VM
  hyper2kvm.core.migration_job:
    name: "{{ inventory_hostname }}"
    source:
      path: "{{ inventory_hostname }}.ova"
  delegate_to: conversion01
  register: migration

- name: Show what became of all, and keep it
  hyper2kvm.core.migration_report:
    hosts: "{{ ansible_play_hosts_all }}"
    variables: [migration]
    path: /srv/reports/wave1.html
  run_once: true
  delegate_to: localhost

- name: Report all that was ever moved by a host
  hyper2kvm.core.migration_report:
    results: /var/lib/hyper2kvm/output
    path: /srv/reports/all.html
    csv: /srv/reports/all.csv
    title: All VMs
  delegate_to: conversion01
"""

RETURN = r"""
files:
  description: The files of the report.
  returned: when a file is named
  type: list
  elements: dict
  contains:
    format:
      description: V(html), V(csv) or V(junit).
      type: str
    path:
      description: Where it is.
      type: str
    size:
      description: Size in bytes.
      type: int
    changed:
      description: Whether it was written anew.
      type: bool
    seconds:
      description: Seconds that it took to make it.
      type: float
outcomes:
  description: How many VMs had each outcome.
  returned: when a file is named
  type: dict
  sample: {booted: 17, will not boot: 1, refused: 2}
results:
  description: What became of each VM, by host.
  returned: when O(hosts) is given
  type: dict
  contains:
    job:
      description: Name of the job.
      type: str
    phase:
      description: The job's phase; V(FAILED) also where there is no job.
      type: str
    changed:
      description: Whether anything was done.
      type: bool
    verdict:
      description: V(boots), V(boots-with-warnings), V(will-not-boot), V(not-verified) or V(done).
      type: str
    artifacts:
      description: Files below the output root.
      type: list
      elements: str
    seconds:
      description: Time that the job took.
      type: float
    error:
      description: Why it failed, as M(hyper2kvm.core.migration_job) returns it.
      type: dict
failed_hosts:
  description: The hosts whose jobs did not end well.
  returned: when O(hosts) is given
  type: list
  elements: str
table:
  description: The lines that were printed.
  returned: when O(hosts) is given
  type: list
  elements: str
error:
  description: What failed, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.reports import migration_report


def main() -> None:
    # With `hosts` the action plugin is the one that knows them; it gives their jobs to this module.
    module = AnsibleModule(
        argument_spec=arguments.REPORT,
        add_file_common_args=True,
        supports_check_mode=True,
        required_one_of=[("path", "csv", "junit"), *arguments.REPORT_SOURCES],
        mutually_exclusive=arguments.REPORT_SOURCES,
        required_together=[("hosts", "variables")],
    )

    def body() -> dict[str, t.Any]:
        result = migration_report(module.params, check_mode=module.check_mode)
        for file in result["files"]:
            permissions = module.load_file_common_arguments(module.params, path=file["path"])
            result["changed"] = module.set_fs_attributes_if_different(permissions, result["changed"])
        return result

    run(module, body)


if __name__ == "__main__":
    main()
