# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What all modules of the collection say of themselves."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict what would change without changing anything.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
  action_group:
    description: Use C(group/hyper2kvm.core.hyper2kvm) in C(module_defaults) to set defaults for this module.
    support: full
    membership:
      - hyper2kvm.core.hyper2kvm
requirements:
  - python >= 3.10
  - pydantic >= 2.7
notes:
  - Where the interpreter that Ansible finds has no pydantic, the module runs itself again with
    C(/opt/hyper2kvm/venv/bin/python), if that is there.
"""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and predict what would change without changing anything.
    support: full
    details: The module changes nothing.
  diff_mode:
    description: Returns details on what has changed, or would change in C(check_mode), when in diff mode.
    support: N/A
    details: The module changes nothing.
"""
