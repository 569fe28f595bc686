# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""verify: look at the finished targets as they are on the disk, and boot them."""

from __future__ import annotations

import pathlib

from ...disks.digest import digest_disk
from ..job_context import JobContext
from .boot import boot_and_judge


def run(context: JobContext) -> str:
    """Fill in the targets' digests, the result's ``boot_test`` and verdict."""
    fmt = context.layout.format.value
    partials = [pathlib.Path(path) for path in context.partials]
    for index, partial in enumerate(partials):
        context.result.disks[index].digests.target = digest_disk(
            partial,
            fmt,
            progress=lambda done, total: context.report("verify", done, total),
            cancelled=context.reporter.cancelled,
            workdir=context.workdir,
        )
    if not context.spec.verify.boot:
        context.result.verdict = "not-verified"
        return "not booted: the job says so"
    result = boot_and_judge(context, "verify", [(partial, fmt) for partial in partials])
    context.result.boot_test = result
    return f"booted in {result.seconds:.0f} s"
