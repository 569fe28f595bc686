# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""copy: the source's used blocks to ``<name>.<epoch>.partial``, checked against its digests in the same read."""

from __future__ import annotations

import pathlib

from ...disks.copy import copy_disk
from ...disks.source import check_container
from ..job_context import JobContext


def run(context: JobContext) -> str:
    """Copy every disk; fill in the bytes and the source's digests of the result's disks."""
    layout, spec = context.layout, context.spec
    layout.folder.mkdir(parents=True, exist_ok=True)
    for leftover in context.partials:
        pathlib.Path(leftover).unlink(missing_ok=True)
    epoch = context.job.status.epoch
    context.partials = [str(layout.partial(i, epoch)) for i in range(len(context.source.images))]
    context.save()
    check_container(
        context.source, lambda done, size: context.report("copy", done, size, "digest"), context.reporter.cancelled
    )
    moved = 0
    for index, image in enumerate(context.source.images):
        # Of the disks to come only their size is known, not how much data it holds.
        later = sum(other.virtual_size for other in context.source.images[index + 1 :])

        def progress(done: int, data: int, moved: int = moved, later: int = later) -> None:
            context.report("copy", moved + done, moved + data + later)

        copied = copy_disk(
            image,
            pathlib.Path(context.partials[index]),
            fmt=spec.target.format,
            allocation=spec.target.allocation,
            compression=spec.target.compression,
            bandwidth=spec.limits.bandwidth_bytes_per_second,
            progress=progress,
            cancelled=context.reporter.cancelled,
            workdir=context.workdir,
        )
        disk = context.result.disks[index]
        disk.bytes_read, disk.bytes_written = copied.bytes_read, copied.bytes_written
        disk.digests.source = copied.source_digest
        moved += copied.bytes_written
    read = sum(disk.bytes_read for disk in context.result.disks)
    return f"{read / 1024**2:.0f} MiB read"
