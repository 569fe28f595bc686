# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job document says to people. Plain data, so that a controller without pydantic can read it too."""

from __future__ import annotations

import collections.abc as c
import re
import typing as t

Job = c.Mapping[str, t.Any]

#: Control characters but tab and newline: a guest's console may hold what a terminal obeys.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")


def status(job: Job) -> c.Mapping[str, t.Any]:
    """Return the job's status, empty where it has none."""
    return job.get("status") or {}


def result(job: Job) -> c.Mapping[str, t.Any]:
    """Return the job's result document, empty where it has none."""
    return status(job).get("result") or {}


def over(job: Job) -> bool:
    """Whether the job will never change again."""
    return status(job).get("phase") in _TERMINAL


def where(job: Job) -> str:
    """Return a word that changes whenever a person would say that the job is somewhere else."""
    return f"{status(job).get('phase', '')}/{status(job).get('stage') or ''}"


def essence(job: Job) -> dict[str, t.Any]:
    """Return the part of a job that a person needs who is told that it failed."""
    told = {key: result(job)[key] for key in ("verdict", "warnings", "notCarried") if key in result(job)}
    return {
        "metadata": {"name": job["metadata"]["name"], "uid": job["metadata"].get("uid")},
        "spec": {key: job["spec"][key] for key in ("operation", "source")},
        "status": {"phase": status(job).get("phase"), "stage": status(job).get("stage"), "result": told},
    }


def waiting(job: Job) -> str:
    """Return why a job waits, for people; empty where it does not say."""
    return "; ".join(_reason(reason) for reason in status(job).get("waiting") or [])


def failure(job: Job) -> dict[str, t.Any] | None:
    """Return why a job that is over did not end well, as the keys of ``lastError``; None if it did."""
    name = job["metadata"]["name"]
    phase = status(job).get("phase")
    if phase == "CANCELLED":
        return _error("invalid", "Cancelled", f"Job {name} was cancelled.", "Submit it again to go on.")
    if phase != "FAILED":
        return None
    found = status(job).get("lastError")
    return dict(found) if found else _error("internal", "Unknown", f"Job {name} failed without saying why.", "")


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey."""
    return _CONTROL.sub("?", text)


def sentence(error: c.Mapping[str, t.Any]) -> str:
    """Return an error's text for people."""
    stage = f"{error['stage']}: " if error.get("stage") else ""
    return printable(" ".join(part for part in (f"{stage}{error['message']}", error.get("suggestion") or "") if part))


def still_going(job: Job, timeout: float) -> dict[str, t.Any]:
    """Return the error of a wait that took too long."""
    reasons = waiting(job)
    why = f" ({reasons})" if reasons else ""
    return _error(
        "transient",
        "WaitTimeout",
        f"Job {job['metadata']['name']} is {status(job).get('phase')}{why} after {timeout:g} s of waiting.",
        "It goes on by itself; run the task again to wait on, or give a longer wait_timeout.",
        retryable=True,
    )


def guest_diffs(job: Job) -> list[dict[str, t.Any]]:
    """Return an entry of Ansible's ``diff`` for each change of the guest that the job's result tells."""
    return [guest_diff(change) for change in result(job).get("changes") or []]


def guest_diff(change: c.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return the entry of Ansible's ``diff`` for one change of the guest."""
    diff = change.get("diff") or ""
    text = f"{change['kind']} {change['path']}: {change['why']} ({change['fixer']})\n{diff}".rstrip("\n") + "\n"
    return {"before_header": change["path"], "after_header": change["path"], "prepared": text}


def _reason(reason: c.Mapping[str, t.Any]) -> str:
    names = ", ".join(reason.get("examples") or [])
    more = ", …" if names and reason.get("count", 0) > len(reason["examples"]) else ""
    return f"{names}{more} {reason['message']}".strip()


def _error(
    error_class: str, reason: str, message: str, suggestion: str, *, retryable: bool = False
) -> dict[str, t.Any]:
    return {
        "class": error_class,
        "stage": "",
        "reason": reason,
        "message": message,
        "suggestion": suggestion,
        "retryable": retryable,
    }
