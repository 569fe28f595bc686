# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An action that lets a module be given empty strings."""

from __future__ import annotations

import typing as t

from ansible.plugins.action import ActionBase

from .blanks import without_blanks


class WithoutBlanks(ActionBase):  # type: ignore[misc]
    """Runs the module without the options that are blank."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Run the module."""
        super().run(tmp, task_vars)
        result: dict[str, t.Any] = self._execute_module(
            module_args=without_blanks(self._task.args), task_vars=task_vars or {}
        )
        return result
