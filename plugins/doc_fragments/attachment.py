# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What modules have in common that leave something attached."""

    DOCUMENTATION = r"""
options:
  name:
    description:
      - Name of the attachment, for the task that ends it; lower case letters, digits and hyphens.
    type: str
    required: true
  source:
    required: false
  writable:
    description:
      - Whether the disks take writes.
      - For qcow2 images below O(output_root) alone; a source is never written.
    type: bool
    default: false
  owner:
    description: Who it is for; told to whoever looks at the attachment.
    type: str
    default: ansible
  ttl:
    description: Seconds after which it ends by itself.
    type: int
    default: 3600
notes:
  - A process of its own holds the disks until a task ends it or its time is over. A worker leaves it alone.
  - The task takes root.
"""
