#!/usr/bin/python
# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: job_validate
short_description: Check a job document
version_added: 1.0.0
author:
  - hyper2kvm contributors (@hyper2kvm)
description:
  - Checks a job document against the Worker Job Protocol and returns it with its defaults filled in.
  - Looks neither at the source nor at the queue.
  - An empty string counts as an option that is not given, so that blank answers of a survey do no harm.
  - Of a document of JobSpec 1.0, given as O(definition), it returns the job that asks for the same; what cannot be
    honoured is an error that says why.
extends_documentation_fragment:
  - hyper2kvm.core.attributes
  - hyper2kvm.core.attributes.info
  - hyper2kvm.core.roots
  - hyper2kvm.core.roots.queue
  - hyper2kvm.core.job
notes:
  - Folders and backend are options because C(module_defaults) gives them to all modules; nothing is looked for there.
  - The document is not handed in; M(hyper2kvm.core.migration_job) does that, and checks it as well.
seealso:
  - module: hyper2kvm.core.migration_job
"""

EXAMPLES = r"""
- name: Check a job document
  hyper2kvm.core.job_validate:
    definition: "{{ lookup('ansible.builtin.file', 'web01.json') | from_json }}"

- name: Make a job document from options
  hyper2kvm.core.job_validate:
    name: web01
    source:
      path: web01.ova
  register: web01

- name: Keep it
  ansible.builtin.copy:
    content: "{{ web01.job | to_nice_json }}"
    dest: /data/input/jobs/web01.json
    mode: "0644"
"""

RETURN = r"""
job:
  description: The job document with its defaults filled in.
  returned: success
  type: dict
  sample:
    apiVersion: hyper2kvm.io/v1
    kind: MigrationJob
    metadata: {name: web01}
    spec: {operation: convert, source: {type: auto, path: web01.ova}}
error:
  description: What is wrong with the document, as M(hyper2kvm.core.migration_job) returns it.
  returned: failure
  type: dict
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support import arguments, options
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.module import run
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import jobspec1


def main() -> None:
    module = AnsibleModule(
        argument_spec={**arguments.ROOTS, **arguments.QUEUE, **arguments.JOB},
        mutually_exclusive=arguments.JOB_EXCLUSIONS,
        required_one_of=[("name", "definition")],
        supports_check_mode=True,
    )

    def body() -> dict[str, t.Any]:
        definition = module.params["definition"]
        job = jobspec1.parse(definition) if jobspec1.recognises(definition) else options.job(module.params)
        document = job.to_document()
        document.pop("status")
        return {"changed": False, "job": document}

    run(module, body)


if __name__ == "__main__":
    main()
