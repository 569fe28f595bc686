# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a module as Ansible does, in this process."""

from __future__ import annotations

import contextlib
import io
import json
import types
import typing as t
from unittest import mock

import pytest
from ansible.module_utils import basic

try:
    from ansible.module_utils.testing import patch_module_args
except ImportError:

    def patch_module_args(args: dict[str, t.Any]) -> t.ContextManager[None]:
        """Do by hand what ansible-core does from 2.17 on."""
        return mock.patch.object(basic, "_ANSIBLE_ARGS", json.dumps({"ANSIBLE_MODULE_ARGS": args}).encode())


def run_module(module: types.ModuleType, *, check: bool = False, **options: t.Any) -> dict[str, t.Any]:
    """Run a module with these options, in check mode if ``check``, and return its result."""
    given = {**options, "_ansible_check_mode": check, "_ansible_diff": True}
    printed = io.StringIO()
    with patch_module_args(given), contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
        module.main()
    found: dict[str, t.Any] = json.loads(printed.getvalue())
    return found
