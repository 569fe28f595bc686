# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib
import time
import typing as t

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.arguments import QUEUE, ROOTS
from ansible_collections.hyper2kvm.core.plugins.module_utils.ansible_support.documents import (
    essence,
    failure,
    guest_diffs,
    over,
    sentence,
    still_going,
    where,
)
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.blanks import without_blanks
from ansible_collections.hyper2kvm.core.plugins.plugin_utils.progress import Batch, Progress

_MODULE = "hyper2kvm.core.migration_job"
_INFO = "hyper2kvm.core.migration_job_info"
#: Options that both modules have, with their other names.
_SHARED = [name for option, spec in {**ROOTS, **QUEUE}.items() for name in (option, *spec.get("aliases", ()))]
#: Options that tell one queue from another.
_WHICH = ("state_dir", "output_root", "backend", "namespace", "kubeconfig", "context", "host")

Result = dict[str, t.Any]
Variables = dict[str, t.Any]


class ActionModule(ActionBase):  # type: ignore[misc]
    """Hands the job in, then looks how it is going until it is over, and shows that."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: Variables | None = None) -> Result:
        """Run the module without waiting, and wait here, where there is somebody to see the progress."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        args = without_blanks(self._task.args)
        if self._connection.transport in ("local", "ansible.builtin.local"):
            args.setdefault("installation", str(installation()))
        if args.get("state", "present") != "present":
            return self._execute(_MODULE, args, variables)

        wait = boolean(args.pop("wait", True))
        result = self._execute(_MODULE, {**args, "wait": False}, variables)
        if result.get("failed") or result.get("unreachable") or self._task.check_mode:
            return result
        batch = Batch.of_run(" ".join([str(self._task.delegate_to), *(str(args.get(option)) for option in _WHICH)]))
        batch.note(result["job"], variables.get("inventory_hostname"))
        return self._waited(result, args, batch, variables) if wait else result

    def _waited(self, result: Result, args: Result, batch: Batch, variables: Variables) -> Result:
        job = result["job"]
        name = job["metadata"]["name"]
        # The module has looked at these two, so they are numbers.
        timeout = float(args.get("wait_timeout", 86400))
        interval = float(args.get("progress_interval", 30))
        deadline = time.monotonic() + timeout
        shared = {option: args[option] for option in _SHARED if option in args}
        with Progress(variables.get("inventory_hostname", name), batch, interval) as progress:
            if not over(job):
                progress.show(job)
            while not over(job):
                left = deadline - time.monotonic()
                if left <= 0:
                    return _failed({**result, "job": job}, still_going(job, timeout))
                look = {
                    "name": name,
                    "wait_timeout": max(1, round(min(left, progress.patience()))),
                    "wait_while": where(job),
                    "names": progress.others(),
                }
                answer = self._execute(_INFO, {**shared, **look}, variables)
                if answer.get("failed") or answer.get("unreachable"):
                    return answer
                if not answer["jobs"]:
                    return {**result, "failed": True, "msg": f"Job {name} was removed while the task waited for it."}
                job, *others = answer["jobs"]
                progress.show(job, others)
        result["job"] = job
        if result["changed"]:
            result["diff"] = [*result.get("diff", []), *guest_diffs(job)]
        error = failure(job)
        return result if error is None else _failed(result, error)

    def _execute(self, module: str, args: Result, variables: Variables) -> Result:
        result: Result = self._execute_module(module_name=module, module_args=args, task_vars=variables)
        return result


def installation() -> pathlib.Path:
    """Return the folder that this collection is installed in."""
    return pathlib.Path(__file__).absolute().parents[2]


def _failed(result: Result, error: t.Mapping[str, t.Any]) -> Result:
    kept = {key: value for key, value in result.items() if key != "diff"}
    # A failure is printed with all its keys; migration_job_info has the whole job.
    return {**kept, "failed": True, "msg": sentence(error), "error": dict(error), "job": essence(result["job"])}
