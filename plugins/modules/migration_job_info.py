#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_job_info
short_description: Tell how migration jobs are going
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Returns jobs from the queue of the host that the module runs on, or from a namespace of a Kubernetes cluster.
  - A job that waits says in C(status.waiting) why it is not running.
  - An empty string counts as an option that is not given, so that blank answers of a survey do no harm.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.roots.queue
options:
  name:
    description:
      - The one job to return, with its result. It need not exist.
      - "Default: all jobs, without their results."
    type: str
  names:
    description: With O(name), return these jobs after it, without their results.
    type: list
    elements: str
    default: []
  label_selectors:
    description: Return only jobs that carry all these labels, each as C(key=value).
    type: list
    elements: str
    default: []
  events:
    description:
      - Return the events of the job O(name) too.
      - With O(backend=kubernetes) this is an error, which names the node that has them.
    type: bool
    default: false
  explain:
    description:
      - Return as RV(waiting) why the job O(name) is not running, in whole and as it is now.
      - The job's C(status.waiting) has ten reasons at most, and may be some seconds old.
    type: bool
    default: false
    version_added: 1.1.0
  wait_timeout:
    description: Seconds to wait for the end of the job O(name) before it is returned as it is.
    type: int
    default: 0
  wait_while:
    description:
      - With O(wait_timeout), wait only as long as the job is in this phase and stage, with a slash between them, and
        not until its end.
    type: str
seealso:
  - module: hyper2kvm.core.migration_job
"""

EXAMPLES = r"""
- name: See all jobs
  hyper2kvm.core.migration_job_info:
  register: all_jobs

- name: See why a job waits
  hyper2kvm.core.migration_job_info:
    name: web01-convert
    explain: true
  register: web01

- name: Wait until the copy has ended
  hyper2kvm.core.migration_job_info:
    name: web01-convert
    wait_timeout: 3600
    wait_while: PROGRESSING/copy

- name: Show why it waits
  ansible.builtin.debug:
    var: web01.waiting
"""

RETURN = r"""
jobs:
  description: The job documents with their status, the oldest first.
  returned: success
  type: list
  elements: dict
  sample:
    - metadata: {name: web01-convert}
      spec: {operation: convert, source: {path: web01.ova}}
      status: {phase: PROGRESSING, stage: copy}
events:
  description: The job's events (CloudEvents 1.0), the oldest first.
  returned: when O(events=true)
  type: list
  elements: dict
waiting:
  description: Why the job is not running, the commonest reason first; empty where a worker has it or may take it now.
  returned: when O(explain=true)
  type: list
  elements: dict
  sample:
    - reason: NoFreeSlot
      message: has all 2 slots in use
      count: 3
      examples: [node1, node2, node3]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.jobs import job_info
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            **arguments.QUEUE,
            "name": {"type": "str"},
            "label_selectors": {"type": "list", "elements": "str", "default": []},
            "events": {"type": "bool", "default": False},
            "explain": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 0},
            "wait_while": {"type": "str"},
            "names": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run(module, lambda: job_info(module.params))


if __name__ == "__main__":
    main()
