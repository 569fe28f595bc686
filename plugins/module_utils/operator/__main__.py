# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m ansible_collections.hyper2kvm.core.plugins.module_utils.operator``: see :mod:`.cli`."""

# This is a command of its own, not a module: it prints, and it exits.
# pylint: disable=ansible-bad-function
from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
