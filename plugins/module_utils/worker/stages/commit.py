# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""commit: the overlays' few megabytes onto the copies."""

from __future__ import annotations

from ...disks.commit import commit_overlay
from ...disks.proof import changed_regions, prove_changed_regions
from ..job_context import JobContext
from .verify import copies_anew


def run(context: JobContext) -> str:
    """Prove of what will be changed that it is what was read, then move the fixes onto the copies. May be repeated."""
    written = 0
    for index, overlay in enumerate(context.overlays):
        disk = context.result.disks[index]
        # Once a commit may have begun, the copy is no more what was read.
        if disk.name not in context.committing:
            with copies_anew(context), context.copy_log(index) as log:
                prove_changed_regions(
                    context.copied_image(index),
                    log,
                    changed_regions(overlay),
                    progress=lambda done, total: context.report("commit", done, total),
                    cancelled=context.reporter.cancelled,
                    workdir=context.workdir,
                )
            context.committing.append(disk.name)
            context.save()
        written += overlay.stat().st_blocks * 512
        commit_overlay(overlay, context.partial(index), context.layout.format.value)
    return f"{written / 1024**2:.1f} MiB of changes"
