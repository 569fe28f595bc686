# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import collections.abc as c
import typing as t

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.blanks import without_blanks
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.report import outcome, report

#: The options that name files.
_FILES = ("path", "csv", "junit")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Prints what became of a batch's jobs, and has the module write the same into files."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        """Read the registered results of the hosts, print the table, hand the jobs on, and return what came of it."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        args = without_blanks(self._task.args)
        # What needs no file needs no connection and no module, which else would look at all options.
        if "hosts" not in args or any(option in args for option in ("jobs", "results")):
            return self._write(args, variables)
        _validated, given = self.validate_argument_spec(
            argument_spec={
                **{option: {"type": "raw"} for option in self._task.args},
                "hosts": {"type": "list", "elements": "str"},
                "variables": {"type": "list", "elements": "str", "required": True},
                "table": {"type": "bool", "default": True},
            }
        )
        found = [
            outcome(host, _results(variables["hostvars"][host], given["variables"]), check=bool(self._task.check_mode))
            for host in given["hosts"]
        ]
        outcomes = [one for one in found if one is not None]
        lines = report(outcomes)
        if given["table"]:
            _print(lines)
        result = {
            "changed": False,
            "results": {one.host: one.to_data() for one in outcomes},
            "failed_hosts": [one.host for one in outcomes if one.error is not None],
            "table": lines,
        }
        if outcomes and any(option in args for option in _FILES):
            rest = {option: value for option, value in args.items() if option not in ("hosts", "variables", "table")}
            result |= self._write({**rest, "jobs": [one.document() for one in outcomes]}, variables)
        return result

    def _write(self, args: dict[str, t.Any], variables: dict[str, t.Any]) -> dict[str, t.Any]:
        result: dict[str, t.Any] = self._execute_module(module_args=args, task_vars=variables)
        return result


def _print(lines: c.Sequence[str]) -> None:
    display = Display()
    for line in ["", *lines, ""] if lines else []:
        display.display(line)


def _results(variables: c.Mapping[str, t.Any], names: c.Iterable[str]) -> list[c.Mapping[str, t.Any]]:
    return [variables[name] for name in names if isinstance(variables.get(name), c.Mapping)]
