# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Inspect, plan and fix a guest in a process of its own, which shares no mount with the test.

``python -m tests.hostile.carry_out INPUT_ROOT WORKDIR DISK…`` prints the result, or the error, as JSON.
"""

from __future__ import annotations

import json
import pathlib
import sys
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import SilentReporter, private_mounts
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.pipeline import FIX, INSPECT, PLAN, run_stages

_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0vbHVlcyBhcmUgbm90IGFsd2F5cyBrZXlzIGJ1dCBv me@example"


def _job(disks: list[str]) -> models.MigrationJob:
    return validation.parse_job(
        {
            "apiVersion": "hyper2kvm.io/v1",
            "kind": "MigrationJob",
            "metadata": {"name": "hostile"},
            "spec": {
                "operation": "plan",
                "source": {"disks": [{"path": disk} for disk in disks]},
                "guest": {
                    "hostname": "changed",
                    "timezone": "Europe/Berlin",
                    "network": {"macs": ["52:54:00:11:22:33"]},
                    "sshKeys": [{"user": "root", "keys": [_KEY]}, {"user": "admin", "keys": [_KEY]}],
                },
            },
        }
    )


def main() -> None:
    """Do it."""
    input_root, workdir, *disks = sys.argv[1:]
    private_mounts()
    roots = Roots(input=pathlib.Path(input_root), output=pathlib.Path(workdir), scratch=pathlib.Path(workdir))
    answer: dict[str, t.Any]
    try:
        done = run_stages((INSPECT, PLAN, FIX), _job(disks), roots, SilentReporter(), pathlib.Path(workdir))
        answer = {"result": done.to_document()}
    except JobError as error:
        answer = {"error": {"class": error.error_class.value, "reason": error.reason, "text": str(error)}}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
