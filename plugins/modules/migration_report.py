#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_report
short_description: Print what became of a batch of migrations
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Prints a table with a row for each VM, from what M(hyper2kvm.core.migration_job) returned for it, or
    M(hyper2kvm.core.migration_job_info) with a name.
  - Runs on the controller alone; meant for a task with C(run_once).
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict what would change without changing anything.
    support: full
    details: The module changes nothing.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
    support: N/A
    details: The module changes nothing.
options:
  hosts:
    description: The hosts whose VMs are in the table.
    type: list
    elements: str
    required: true
  variables:
    description: Names of the variables that the hosts' results were registered in, in the order of the tasks.
    type: list
    elements: str
    required: true
seealso:
  - module: hyper2kvm.core.migration_job
"""

EXAMPLES = r"""
- name: Move the VM
  hyper2kvm.core.migration_job:
    name: "{{ inventory_hostname }}"
    source:
      path: "{{ inventory_hostname }}.ova"
  delegate_to: conversion01
  register: migration

- name: Show what became of all
  hyper2kvm.core.migration_report:
    hosts: "{{ ansible_play_hosts_all }}"
    variables: [migration]
  run_once: true
"""

RETURN = r"""
results:
  description: What became of each VM, by host.
  returned: success
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
  returned: success
  type: list
  elements: str
table:
  description: The lines that were printed.
  returned: success
  type: list
  elements: str
"""

# The work is done by the action plugin of the same name.
