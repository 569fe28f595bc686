# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""copy: the source's used blocks to ``<name>.<epoch>.partial``, checked against its digests in the same read.

What an earlier attempt copied is taken up: its partial file is renamed, and its log (:mod:`...disks.copylog`) tells how
far it came. That what is taken up is good is proven later, when the whole copy is compared with what was read.
"""

from __future__ import annotations

import pathlib
import typing as t

from ...disks.copy import CopyResult, Ranges, copy_disk, copy_to_device
from ...disks.copylog import CopyLog, file_identity
from ...disks.source import check_container, has_writer, identity_of
from ...disks.used_blocks import ddrescue_map, read_map
from ...guests.session import GuestSession, UsedBlocks
from ...protocol import models
from ...protocol.errors import ErrorClass, JobError, invalid
from ..job_context import JobContext, write_durably


def run(context: JobContext) -> str:
    """Copy every disk; fill in the bytes, the digests of what was read and its map of the result's disks."""
    context.layout.folder.mkdir(parents=True, exist_ok=True)
    _refuse_changing_source(context)
    check_container(
        context.source,
        lambda done, size: context.report("copy", done, size, "digest"),
        context.reporter.cancelled,
        context.spec.limits.bandwidth_bytes_per_second,
    )
    _map(context)
    moved = 0
    for index, image in enumerate(context.source.images):
        ranges = read_map(context.map_file(index))
        # Of the disks to come only their size is known, not how much data it holds.
        later = sum(other.virtual_size for other in context.source.images[index + 1 :])
        size = 0

        def progress(done: int, data: int, moved: int = moved, later: int = later) -> None:
            nonlocal size
            size = data
            context.report("copy", moved + done, moved + data + later)

        with context.copy_log(index) as log:
            whole = list(ranges) == [(0, image.virtual_size)]
            copied = _copy(context, index, None if whole else ranges, log, progress)
        disk = context.result.disks[index]
        disk.bytes_read, disk.bytes_written = copied.bytes_read, copied.bytes_written
        disk.allocated_bytes = copied.allocated_bytes
        disk.digests.source = copied.source_digest
        disk.map = str(context.layout.map(index).relative_to(context.roots.output)) if copied.ranges else None
        moved += size
        context.save()
    _refuse_changing_source(context)
    read = sum(disk.bytes_read for disk in context.result.disks)
    return f"{read / 1024**2:.0f} MiB read"


def _copy(
    context: JobContext, index: int, ranges: Ranges | None, log: CopyLog, progress: t.Callable[[int, int], None]
) -> CopyResult:
    image, spec = context.source.images[index], context.spec
    bandwidth, cancelled = spec.limits.bandwidth_bytes_per_second, context.reporter.cancelled
    if context.devices:
        device = context.devices[index]
        # On record before the first byte: whoever ends the job for good wipes it.
        context.device_identities[str(device.name)] = device.identity
        context.save()
        return copy_to_device(
            image,
            device,
            workdir=context.workdir,
            log=log,
            bandwidth=bandwidth,
            progress=progress,
            zeroing=lambda done, size: context.report("copy", done, size, f"zeroing the rest of {device.name}"),
            cancelled=cancelled,
            ranges=ranges,
        )
    _adopt(context, index, log)
    return copy_disk(
        image,
        context.partial(index),
        fmt=spec.target.format,
        workdir=context.workdir,
        allocation=spec.target.allocation,
        compression=spec.target.compression,
        bandwidth=bandwidth,
        progress=progress,
        cancelled=cancelled,
        ranges=ranges,
        log=log,
    )


def _map(context: JobContext) -> None:
    """Work out, once for all attempts, what of each disk is worth copying."""
    if context.mapped:
        return
    for index, (image, ranges) in enumerate(zip(context.source.images, _used(context), strict=True)):
        write_durably(context.map_file(index), ddrescue_map(ranges, image.virtual_size))
    context.mapped = True
    context.save()


def _used(context: JobContext) -> list[Ranges]:
    whole: list[Ranges] = [[(0, image.virtual_size)] for image in context.source.images]
    if context.spec.target.contents is models.Contents.ALL:
        return whole
    sizes = {image.name: image.virtual_size for image in context.source.images}

    def work(guest: GuestSession) -> UsedBlocks:
        guest.probe()
        return guest.used(sizes)

    try:
        guest, used = context.with_guest(work, writable=False, stage="copy")
    except JobError as error:
        if error.error_class is ErrorClass.TRANSIENT:
            raise
        # What nobody can look into is copied as it is.
        context.warn(f"What was deleted in the guest is copied as well: {error.message}")
        return whole
    guest.close()
    for warning in used.warnings:
        context.warn(warning)
    return [used.ranges[image.name] for image in context.source.images]


def _adopt(context: JobContext, index: int, log: CopyLog) -> None:
    """Give what an earlier attempt copied this attempt's name; remove what nothing can be done with."""
    disk, epoch = context.source.images[index].name, context.job.status.epoch
    recorded = [pathlib.Path(name) for name in context.partials.get(disk, [])]
    partial = context.layout.partial(index, epoch)
    # Both names are on record while the file may have either.
    context.partials[disk] = [str(path) for path in dict.fromkeys([*recorded, partial])]
    context.save()
    found = next((path for path in recorded if log.target is not None and _identity(path) == log.target), None)
    if found is None:
        log.forget()
        for path in recorded:
            path.unlink(missing_ok=True)
    elif found != partial:
        found.replace(partial)
    context.partials[disk] = [str(partial)]
    context.save()


def _identity(path: pathlib.Path) -> str | None:
    try:
        return file_identity(path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None


def _refuse_changing_source(context: JobContext) -> None:
    """A copy of a disk that changes is no copy, and the fixed overlay fits only what it was made over.

    Raises:
        JobError: class ``invalid``, somebody writes to the source or has changed it.
    """
    writer = has_writer(context.source)
    if writer is not None:
        raise invalid(
            "SourceInUse",
            f"The source is being written: {writer}.",
            "Shut the VM down and export it again; a copy of a disk that changes is no copy.",
        )
    if identity_of(context.spec.source, context.roots.input) != context.source.identity:
        raise invalid(
            "SourceChanged",
            f"The source of {context.job.metadata.name} changed while it was read.",
            "Export the VM again while nothing writes to it, then submit the job anew.",
        )
