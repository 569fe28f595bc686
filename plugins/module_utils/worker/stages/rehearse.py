# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""rehearse: boot the fixed overlays before a byte is copied."""

from __future__ import annotations

import json

from ...guests.boottest.accelerator import probe_accelerator
from ...protocol import models
from ..job_context import JobContext, Skipped
from ..layout import allocated_bytes
from .boot import EXPECTED_SECONDS, boot_and_judge, check_source

#: What a copy moves at the least, in bytes per second, on storage that is worth migrating to.
_COPY_RATE = 100 * 1024**2


def run(context: JobContext) -> str:
    """Fill in the result's ``rehearsal`` and, for the operation rehearse, its verdict.

    All digests that are known are compared before anything is booted: those of the job, and an OVA's manifest.

    Raises:
        JobError: the guest does not boot; reason and suggestion say why and what to do. Or the source is not what its
            digests say.
    """
    context.close_guest()
    if context.spec.operation is models.Operation.REHEARSE:
        context.result.rehearsal_key = context.rehearsal_key()
    else:
        why = _needless(context)
        if why:
            return Skipped(why)
    check_source(context, "rehearse")
    result = boot_and_judge(context, "rehearse", [(path, "qcow2") for path in context.overlays])
    context.result.rehearsal = result
    return f"booted in {result.seconds:.0f} s"


def _needless(context: JobContext) -> str:
    """Why this conversion, or offline repair, need not rehearse; empty: it must."""
    policy = context.spec.verify.rehearse
    if policy is models.RehearsePolicy.NEVER:
        return "the job says never"
    if policy is models.RehearsePolicy.ALWAYS:
        return ""
    if not context.spec.verify.boot:
        return "the job wants no boot test"
    if _rehearsed_before(context):
        return f"rehearsed before ({context.layout.rehearsal.name}), and nothing changed since"
    copy_seconds = allocated_bytes(context.source) / _COPY_RATE
    boot_seconds = EXPECTED_SECONDS[probe_accelerator().name]
    if copy_seconds < boot_seconds:
        return f"copying takes about {copy_seconds:.0f} s, less than a boot test"
    return ""


def _rehearsed_before(context: JobContext) -> bool:
    try:
        document = json.loads(context.layout.rehearsal.read_text(encoding="utf-8"))
        earlier = models.JobResult.model_validate(document)
    except (OSError, ValueError):
        return False
    return earlier.verdict.startswith("boots") and earlier.rehearsal_key == context.rehearsal_key()
