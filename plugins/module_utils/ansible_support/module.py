# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How every module runs: with the libraries that it needs, and with errors that a person can act on."""

from __future__ import annotations

import collections.abc as c
import os
import sys
import traceback
import typing as t

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.common.respawn import has_respawned, respawn_module

from ..protocol import _pydantic
from ..protocol.errors import ErrorClass, JobError

#: Where the collection's libraries live on a conversion host whose own Python has none.
VENV_PYTHON = "/opt/hyper2kvm/venv/bin/python"


class ToldError(JobError):
    """An error as a job's document tells it, whose policy may have said whether a retry makes sense."""

    def __init__(self, told: c.Mapping[str, t.Any]) -> None:
        """``told`` has the keys of a job's ``lastError``."""
        words = told["reason"], told["message"], told.get("suggestion", ""), told.get("stage", "")
        super().__init__(ErrorClass(told["class"]), *words)
        self.told = dict(told)


def run(module: AnsibleModule, body: c.Callable[[], dict[str, t.Any]]) -> None:
    """Exit ``module`` with what ``body`` returns, or fail it with the error that ``body`` raises.

    What is below the key ``warnings`` becomes Ansible's own warnings.

    Where pydantic is missing, the module runs again with :data:`VENV_PYTHON`.
    """
    _require_pydantic(module)
    try:
        result = body()
    except JobError as error:
        fail(module, error)
        return
    except Exception as error:
        failure = JobError(
            ErrorClass.INTERNAL,
            "InternalError",
            f"{type(error).__name__}: {error}",
            "This is a mistake in the collection; report it with the output of -vvv.",
        )
        fail(module, failure, exception=traceback.format_exc())
        return
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    module.exit_json(**result)


def fail(module: AnsibleModule, error: JobError, **result: t.Any) -> None:
    """Fail ``module`` with the sentence for a person and the same as data."""
    module.fail_json(msg=str(error), error=error_data(error), **result)


def error_data(error: JobError) -> dict[str, t.Any]:
    """Return the keys ``class``, ``stage``, ``reason``, ``message``, ``suggestion`` and ``retryable``.

    Of what a document tells of, there are all the keys that it has.
    """
    if isinstance(error, ToldError):
        return error.told
    return {
        "class": error.error_class.value,
        "stage": error.stage,
        "reason": error.reason,
        "message": error.message,
        "suggestion": error.suggestion,
        "retryable": error.retryable,
    }


def _require_pydantic(module: AnsibleModule) -> None:
    if _pydantic.HAS_PYDANTIC:
        return
    if os.path.exists(VENV_PYTHON) and not has_respawned() and sys.executable != VENV_PYTHON:
        respawn_module(VENV_PYTHON)
    module.fail_json(msg=missing_required_lib("pydantic >= 2.7"), exception=_pydantic.PYDANTIC_IMPORT_ERROR)
