#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_info
short_description: Tell which workers are there and what they can do
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Returns the workers that are alive on the queue of the host that the module runs on, or in a Kubernetes cluster.
  - A capability is something that the worker tried when it started.
  - An empty string counts as an option that is not given, so that blank answers of a survey do no harm.
options:
  for_job:
    description:
      - A job document, as M(hyper2kvm.core.job_validate) returns it.
      - Each worker then tells whether it could take that job.
    type: dict
    version_added: 1.3.0
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.roots.queue
seealso:
  - module: hyper2kvm.core.migration_job_info
"""

EXAMPLES = r"""
- name: See the workers
  hyper2kvm.core.worker_info:
  register: found

- name: Make sure that somebody can boot a guest
  ansible.builtin.assert:
    that: found.workers | selectattr('registration.capabilities.boot-test.available') | length > 0

- name: Make a job document
  hyper2kvm.core.job_validate:
    name: web01
    source:
      path: web01.ova
  register: web01

- name: See who could take it
  hyper2kvm.core.worker_info:
    for_job: "{{ web01.job }}"
  register: takers
"""

RETURN = r"""
workers:
  description: The workers that are alive.
  returned: success
  type: list
  elements: dict
  contains:
    registration:
      description: What the worker said of itself when it started, as in the Worker Job Protocol.
      type: dict
    running:
      description:
        - The phases of the jobs that it holds, by the jobs' names.
        - With O(backend=kubernetes), jobs of other namespaces are C(<namespace>/<name>), and their phases are empty.
      type: dict
    seconds_since_heartbeat:
      description:
        - Age of its last sign of life.
        - With O(backend=kubernetes) by the clock of the host that the module runs on, and 0 where the login may not see
          the workers' Leases.
      type: float
    unmet:
      description:
        - The first thing that the job in O(for_job) takes and the worker lacks.
        - None if it could take the job once it has a slot free.
      returned: O(for_job) is given
      type: dict
      contains:
        reason:
          description: What it is about, in one word.
          type: str
          sample: CapabilityMissing
        message:
          description: A sentence without its subject, which is the worker.
          type: str
          sample: "lacks boot-test (boots guests to prove them): qemu-system-x86_64 is not installed"
    free_scratch_bytes:
      description: Room for overlays.
      type: int
    free_output_bytes:
      description: Room for targets.
      type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.jobs import worker_info
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={**arguments.ROOTS, **arguments.QUEUE, "for_job": {"type": "dict"}}, supports_check_mode=True
    )
    run(module, lambda: worker_info(module.params))


if __name__ == "__main__":
    main()
