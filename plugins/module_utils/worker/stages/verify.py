# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""verify: look at the finished targets as they are on the disk, and boot them."""

from __future__ import annotations

import contextlib
import typing as t

from ...disks.proof import changed_regions, copy_differs, prove_target
from ...protocol.errors import JobError
from ..job_context import JobContext
from .boot import boot_and_judge


def run(context: JobContext) -> str:
    """Fill in the targets' and the copies' digests, the result's ``boot_test`` and verdict."""
    fmt = context.layout.format.value
    partials = [context.partial(index) for index in range(len(context.source.images))]
    for index, partial in enumerate(partials):
        digests = context.result.disks[index].digests
        with copies_anew(context), context.copy_log(index) as log:
            proof = prove_target(
                context.copied_image(index),
                log,
                changed_regions(context.overlay(index)),
                progress=lambda done, total: context.report("verify", done, total),
                cancelled=context.reporter.cancelled,
                workdir=context.workdir,
            )
            if proof.copied != digests.source:
                raise copy_differs(partial, "its log does not hold all that was read")
        digests.copied, digests.target = proof.copied, proof.target
    if not context.spec.verify.boot:
        context.result.verdict = "not-verified"
        return "not booted: the job says so"
    result = boot_and_judge(context, "verify", [(partial, fmt) for partial in partials])
    context.result.boot_test = result
    return f"booted in {result.seconds:.0f} s"


@contextlib.contextmanager
def copies_anew(context: JobContext) -> t.Iterator[None]:
    """Have the next attempt copy from the begin where the copy turns out to differ from what was read."""
    try:
        yield
    except JobError as error:
        if error.reason == "CopyDiffers":
            context.forget_copies()
        raise
