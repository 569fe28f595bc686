# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections.abc as c
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.report import outcome, report


class ActionModule(ActionBase):  # type: ignore[misc]
    """Prints what became of a batch's jobs. Nothing is run on any host."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Read the registered results of the hosts, print the table and return both."""
        super().run(tmp, task_vars)
        _validated, args = self.validate_argument_spec(
            argument_spec={
                "hosts": {"type": "list", "elements": "str", "required": True},
                "variables": {"type": "list", "elements": "str", "required": True},
            }
        )
        hostvars = (task_vars or {})["hostvars"]
        found = [
            outcome(host, _results(hostvars[host], args["variables"]), check=bool(self._task.check_mode))
            for host in args["hosts"]
        ]
        outcomes = [one for one in found if one is not None]
        lines = report(outcomes)
        display = Display()
        for line in ["", *lines, ""] if lines else []:
            display.display(line)
        return {
            "changed": False,
            "results": {one.host: one.to_data() for one in outcomes},
            "failed_hosts": [one.host for one in outcomes if one.error is not None],
            "table": lines,
        }


def _results(variables: c.Mapping[str, t.Any], names: c.Iterable[str]) -> list[c.Mapping[str, t.Any]]:
    return [variables[name] for name in names if isinstance(variables.get(name), c.Mapping)]
