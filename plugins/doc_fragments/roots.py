# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Where a worker's files lie on the host that the module runs on."""

    DOCUMENTATION = r"""
options:
  input_root:
    description:
      - Folder that holds the sources, on the host that the module runs on. Nothing in it is ever written.
      - Every path to a source is relative to it, or absolute below it.
    type: path
    default: /var/lib/hyper2kvm/input
  output_root:
    description:
      - Folder for the targets. Every path to a target is relative to it, or absolute below it.
    type: path
    default: /var/lib/hyper2kvm/output
  state_dir:
    description:
      - Folder of the queue. It must lie on a local disk.
      - "Default: C(.hyper2kvm) below O(output_root)."
    type: path
  scratch_dir:
    description:
      - Folder for overlays and throw-away layers.
      - "Default: C(scratch) below O(state_dir)."
    type: path
  secrets_root:
    description:
      - Folder of the secrets that a job document refers to, each in C(<name>/<key>).
    type: path
    default: /var/lib/hyper2kvm/secrets
"""

    QUEUE = r"""
options:
  backend:
    description:
      - Where the jobs are kept. V(local) is a queue in O(state_dir) on the host that the module runs on.
    type: str
    choices: [local]
    default: local
"""
