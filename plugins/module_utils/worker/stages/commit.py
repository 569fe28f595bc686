# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""commit: the overlays' few megabytes onto the copies."""

from __future__ import annotations

import pathlib

from ...disks.commit import commit_overlay
from ...disks.digest import digest_disk
from ...protocol.errors import transient
from ..job_context import JobContext


def run(context: JobContext) -> str:
    """Prove that each copy is what was read, then move the fixes onto it. May be repeated."""
    written = 0
    for index, overlay in enumerate(context.overlays):
        partial = pathlib.Path(context.partials[index])
        disk = context.result.disks[index]
        if disk.digests.copied is None:
            disk.digests.copied = digest_disk(
                partial,
                context.layout.format.value,
                progress=lambda done, total: context.report("commit", done, total),
                cancelled=context.reporter.cancelled,
                workdir=context.workdir,
            )
            if disk.digests.copied != disk.digests.source:
                raise transient(
                    "CopyDiffers",
                    f"The copy of {disk.source} differs from what was read.",
                    "The storage lost or changed data; check it, then run the job again.",
                )
            context.save()
        written += overlay.stat().st_blocks * 512
        commit_overlay(overlay, partial, context.layout.format.value)
    return f"{written / 1024**2:.1f} MiB of changes"
