# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kubernetes Events about jobs: what to tell of a change, and the object that tells it. Pure."""

from __future__ import annotations

import datetime

from ..backends.kube.api import micro_time
from ..backends.kube.resources import EVENTS, JOBS, Object
from ..protocol import models
from ..protocol.lifecycle import Phase

REPORTER = "hyper2kvm.io/operator"
#: The API server takes no longer note.
_MAX_NOTE = 1024


def assigned(namespace: str, name: str, uid: str, status: models.JobStatus, reporter: str) -> Object:
    """Return the Event of a job's last assignment to a node; it has been assigned."""
    note = f"attempt {len(status.attempts)} on node {status.attempts[-1].worker}"
    return _event((namespace, name, uid), f"assigned-{status.epoch}", ("Normal", "Assigned", "Assign", note), reporter)


def ended(namespace: str, name: str, uid: str, status: models.JobStatus, reporter: str) -> Object:
    """Return the Event that a job is over."""
    if status.phase is Phase.COMPLETED:
        told = ("Normal", "Complete", "Finish", _completed(status))
    elif status.phase is Phase.CANCELLED:
        told = ("Normal", "Cancelled", "Cancel", "it was cancelled")
    else:
        error = status.last_error
        words = "for an unknown reason" if error is None else f"{error.reason}: {error.told} {error.suggestion}"
        told = ("Warning", "Failed", "Finish", words.strip())
    return _event((namespace, name, uid), "ended", told, reporter)


def _completed(status: models.JobStatus) -> str:
    verdict = (status.result or {}).get("verdict")
    disks = [artifact.path for artifact in status.artifacts if artifact.kind == "disk"]
    return "; ".join([str(verdict or "every stage ended well"), *disks])


def _event(job: tuple[str, str, str], suffix: str, told: tuple[str, str, str, str], reporter: str) -> Object:
    namespace, name, uid = job
    kind, reason, action, note = told
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        # Always the same for the same news, so that nobody tells it twice.
        "metadata": {"name": f"{name}.{uid}.{suffix}", "namespace": namespace},
        "eventTime": micro_time(datetime.datetime.now(datetime.timezone.utc)),
        "reportingController": REPORTER,
        "reportingInstance": reporter,
        "type": kind,
        "reason": reason,
        "action": action,
        "note": note if len(note.encode()) <= _MAX_NOTE else note[: _MAX_NOTE // 4],
        "regarding": {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.kind,
            "namespace": namespace,
            "name": name,
            "uid": uid,
        },
    }
