#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_job
short_description: Move a virtual machine to KVM
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Hands a job to the queue of the host that the module runs on, or to a Kubernetes cluster; changes it, stops it or
    removes it.
  - A job whose target is there, made from the same source with the same document, is not done again.
  - With O(backend=kubernetes) the target is out of sight, and the job's record decides. A job that is completed is not
    done again, though its target be gone; remove the job to have it done anew. Where the record is gone, as after
    O(ttl_seconds_after_finished), the job is handed in, and its worker does not overwrite the target that it finds.
  - With its action plugin the task shows the job's progress while it waits.
  - An empty string counts as an option that is not given, so that blank answers of a survey do no harm.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.roots
  - hyper2kvm.core.roots.queue
  - hyper2kvm.core.job
attributes:
  check_mode:
    support: full
    details:
      - For the operations V(convert), V(fix), V(rehearse) and V(plan) the guest is inspected, and every change of it
        planned, on an overlay in a temporary folder. This takes root.
      - With O(backend=kubernetes) the API server checks the document and stores nothing. What would change in the guest
        tells the operation V(plan), as a job.
  diff_mode:
    support: full
    details: RV(diff) is a list; in check mode it has an entry for each file of the guest that would change.
options:
  state:
    description:
      - V(present) sees to it that the job has been done or is on its way. A job that failed or was cancelled is tried
        again, a suspended one goes on. With O(name) alone the job must exist, and nothing but its waiting is done.
      - V(absent) cancels the job, waits for its end and removes its record. Its target stays, unless O(remove_target).
        On a cluster a job that no worker has is removed at once.
      - V(suspended) holds the job back; a running one is checkpointed and goes back to the queue.
      - V(cancelled) stops the job for good and keeps its record.
    type: str
    choices: [present, absent, suspended, cancelled]
    default: present
  remove_target:
    description:
      - With O(state=absent), remove what the job has published as well.
      - A target that is in use, or that was changed since it was published, is left alone and is an error.
      - With O(backend=kubernetes) this is always an error, for targets lie on the cluster's storage.
    type: bool
    default: false
  wait:
    description: Wait for the end of the job.
    type: bool
    default: true
  wait_timeout:
    description:
      - Seconds to wait. The job goes on when they have passed; the task fails.
    type: int
    default: 86400
  slots:
    description:
      - How many jobs a worker carries out at once, where this task has to start one, which is on the host that Ansible
        itself runs on. Elsewhere a worker runs as a service.
    type: int
  installation:
    description:
      - Folder of this collection on the host that the module runs on; a worker is started from there where none lives.
      - The action plugin gives it where that is the host that Ansible itself runs on.
    type: path
  progress_interval:
    description: Seconds between two lines on the progress of the batch, where there is no terminal.
    type: int
    default: 30
seealso:
  - module: hyper2kvm.core.migration_job_info
  - module: hyper2kvm.core.job_validate
"""

EXAMPLES = r"""
- name: Move a VM to KVM
  hyper2kvm.core.migration_job:
    name: web01
    source:
      path: web01.ova
    target:
      format: qcow2
  delegate_to: conversion01

- name: Move a VM as a job document describes it, and do not wait
  hyper2kvm.core.migration_job:
    definition: "{{ lookup('ansible.builtin.file', 'db01.json') | from_json }}"
    wait: false

- name: Hand a job to a cluster, in the namespace of a team
  hyper2kvm.core.migration_job:
    backend: kubernetes
    namespace: team-a
    context: production
    name: web01
    source:
      path: web01.ova

- name: Wait for a job that was handed in before
  hyper2kvm.core.migration_job:
    name: db01
    wait_timeout: 7200

- name: Hold a job back
  hyper2kvm.core.migration_job:
    name: db01
    state: suspended

- name: Take a migration back
  hyper2kvm.core.migration_job:
    name: db01
    state: absent
    remove_target: true
"""

RETURN = r"""
job:
  description:
    - The job document with its status. C(status.result) holds everything that the job found and did.
    - In check mode C(status.result) is the plan.
    - Of a job that failed only what says why; M(hyper2kvm.core.migration_job_info) returns all of it.
  returned: unless the job is gone
  type: dict
  sample:
    apiVersion: hyper2kvm.io/v1
    kind: MigrationJob
    metadata: {name: web01, uid: 5f0c}
    spec: {operation: convert, source: {path: web01.ova}}
    status: {phase: COMPLETED}
diff:
  description:
    - What was done, as entries of Ansible's diffs. The first is the job document without its defaults.
    - After it come the files of the guest that the job has changed, or would in check mode, each with its unified diff.
    - With O(remove_target=true), the files that are removed.
  returned: unless O(name) is all that is said of the job
  type: list
  elements: dict
  contains:
    before_header:
      description: The job's name, or the path of the guest's file.
      type: str
    after_header:
      description: The same.
      type: str
    before:
      description: The document as it was; empty where there was none.
      type: raw
    after:
      description: The document as it is; empty where there is none any more.
      type: raw
    prepared:
      description: Instead of RV(diff[].before) and RV(diff[].after), the change as text.
      type: str
  sample:
    - before_header: web01
      after_header: web01
      before: ""
      after: {metadata: {name: web01}, spec: {source: {path: web01.ova}}}
removed:
  description: The files that were removed, relative to O(output_root).
  returned: when O(remove_target=true)
  type: list
  elements: str
  sample: [web01/web01.qcow2, web01/result.json]
error:
  description: What failed, as data.
  returned: failure
  type: dict
  contains:
    class:
      description: V(invalid), V(unsupported), V(environment), V(transient) or V(internal).
      type: str
      sample: unsupported
    stage:
      description: The stage that failed.
      type: str
      sample: rehearse
    reason:
      description: One word for programs.
      type: str
      sample: NoRootDevice
    message:
      description: What failed and where.
      type: str
    suggestion:
      description: What to do next.
      type: str
    retryable:
      description: Whether another attempt, unchanged, makes sense, by the error's class or the rule that it matched.
      type: bool
    rule:
      description: The rule of O(failure_policy) that the error matched; absent where none did.
      type: dict
      contains:
        index:
          description: Its place among the rules, from 0.
          type: int
        action:
          description: V(FailJob), V(Retry) or V(Ignore).
          type: str
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.jobs import JobModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **arguments.ROOTS,
            **arguments.QUEUE,
            **arguments.JOB,
            "state": {"type": "str", "choices": ["present", "absent", "suspended", "cancelled"], "default": "present"},
            "remove_target": {"type": "bool", "default": False},
            "wait": {"type": "bool", "default": True},
            "wait_timeout": {"type": "int", "default": 86400},
            "progress_interval": {"type": "int", "default": 30},
            "slots": {"type": "int"},
            "installation": {"type": "path"},
        },
        mutually_exclusive=arguments.JOB_EXCLUSIONS,
        required_one_of=[("name", "definition")],
        supports_check_mode=True,
    )

    def body() -> dict[str, t.Any]:
        job = JobModule(module.params, check_mode=module.check_mode)
        return {
            "present": job.present,
            "absent": job.absent,
            "suspended": job.suspended,
            "cancelled": job.cancelled,
        }[module.params["state"]]()

    run(module, body)


if __name__ == "__main__":
    main()
