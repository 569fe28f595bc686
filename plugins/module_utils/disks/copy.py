# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The copy: a source's data to a new target file, read once, checked and hashed in that same read."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import typing as t

from ..protocol.models import Allocation, Compression, TargetFormat
from .attach import export_flat
from .blockmap import BlockMap, RawMap, native_map
from .file_range import FileRange, sync_file
from .manifest import check_range
from .model import DiskImage
from .qemu import blockdev, json_name, run_img
from .scan import ScanResult, Sink, scan
from .target import Qcow2Target, RawTarget

#: A night and more, for qemu-img; it is cancelled by its caller, not by a clock. Seconds.
_TIMEOUT = 14 * 24 * 3600.0
_COROUTINES = "8"


@dataclasses.dataclass(frozen=True)
class CopyResult:
    """What a copy did. Bytes."""

    bytes_read: int
    """Of the source's file, for its data."""
    bytes_written: int
    """Data in the target's file."""
    source_digest: str
    """``sha256:…``: the content digest (see :mod:`.scan`) of what was read."""
    virtual_size: int


def copy_disk(
    image: DiskImage,
    target: pathlib.Path,
    *,
    fmt: TargetFormat,
    allocation: Allocation,
    compression: Compression,
    bandwidth: int | None,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    workdir: pathlib.Path,
) -> CopyResult:
    """Copy a source's disk to the new file ``target``, which is on the disk when this returns.

    Sparse VMDKs, plain qcow2 and raw images are read, and sparse qcow2 and raw targets written, by this program's own
    code, in parallel; other images are read through a flat export; compressed and preallocated qcow2 is written by
    ``qemu-img``.

    Args:
        image: as the source was opened; where it has a ``manifest_digest``, that is compared in the same read.
        target: must not exist.
        fmt: of the target.
        allocation: whether blocks without data are reserved.
        compression: of a qcow2 target.
        bandwidth: upper bound of what is read of the source, in bytes per second.
        progress: gets bytes done and in all, of the virtual disk's data (not of its holes).
        cancelled: asked at least each second; True ends the copy.
        workdir: an existing folder for mount points.

    Raises:
        JobError: class ``invalid``, the source is damaged or not what its manifest says; class ``transient``, it
            cannot be read, or the copy was cancelled.
        OSError: the target exists or cannot be written (no space). What was written so far stays.
    """
    if fmt is TargetFormat.QCOW2 and (compression is not Compression.NONE or allocation is Allocation.PREALLOCATED):
        return _by_qemu(image, target, allocation, compression, bandwidth, progress, cancelled, workdir)
    with _target(target, image.virtual_size, fmt, allocation) as sink:
        result = scan_image(
            image, sink=sink, bandwidth=bandwidth, progress=progress, cancelled=cancelled, workdir=workdir
        )
        sink.finish()
    return CopyResult(result.bytes_read, result.bytes_written, result.digest, image.virtual_size)


def scan_image(
    image: DiskImage,
    *,
    sink: Sink | None,
    bandwidth: int | None,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    workdir: pathlib.Path,
) -> ScanResult:
    """Read all data of ``image`` once, by its own map or through a flat export; see :func:`.scan.scan`.

    Raises:
        JobError: see :func:`copy_disk`.
    """
    with FileRange(image.path, image.offset, image.length) as file:
        blocks = native_map(file, image.format, image.virtual_size)
        if blocks is not None:
            return _scan(file, blocks, image, image.manifest_digest, sink, bandwidth, progress, cancelled)
        if image.manifest_digest:
            # QEMU does the reading here, so the file's own bytes are read once more.
            check_range(file, image.manifest_digest, progress=lambda _done: None, cancelled=cancelled)
    with export_flat(image, workdir) as flat, FileRange(flat) as file:
        return _scan(file, RawMap(file, image.virtual_size), image, None, sink, bandwidth, progress, cancelled)


def _scan(
    file: FileRange,
    blocks: BlockMap,
    image: DiskImage,
    manifest_digest: str | None,
    sink: Sink | None,
    bandwidth: int | None,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
) -> ScanResult:
    return scan(
        file,
        blocks,
        what=f"Reading {image.path.name}",
        sink=sink,
        manifest_digest=manifest_digest,
        bandwidth=bandwidth,
        progress=progress,
        cancelled=cancelled,
    )


def _target(
    path: pathlib.Path, virtual_size: int, fmt: TargetFormat, allocation: Allocation
) -> contextlib.AbstractContextManager[Qcow2Target | RawTarget]:
    if fmt is TargetFormat.QCOW2:
        return Qcow2Target(path, virtual_size)
    return RawTarget(path, virtual_size, preallocate=allocation is Allocation.PREALLOCATED)


def _by_qemu(
    image: DiskImage,
    target: pathlib.Path,
    allocation: Allocation,
    compression: Compression,
    bandwidth: int | None,
    progress: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    workdir: pathlib.Path,
) -> CopyResult:
    """First the read that hashes and checks, then qemu-img's own; progress shows each as one half."""
    if target.exists():
        raise FileExistsError(17, "File exists", str(target))
    total = 0

    def first_half(done: int, of: int) -> None:
        nonlocal total
        total = of
        progress(done // 2, of)

    result = scan_image(
        image, sink=None, bandwidth=bandwidth, progress=first_half, cancelled=cancelled, workdir=workdir
    )
    args: list[str | pathlib.Path] = ["convert", "-O", "qcow2", "-m", _COROUTINES, "-W"]
    if compression is not Compression.NONE:
        args += ["-c", "-o", f"compression_type={compression.value}"]
    if allocation is Allocation.PREALLOCATED:
        args += ["-o", "preallocation=falloc"]
    if bandwidth is not None:
        args += ["-r", str(bandwidth)]
    run_img(
        [*args, json_name(blockdev(image)), target],
        progress=lambda percent: progress(int(total * (0.5 + percent / 200)), total),
        cancelled=cancelled,
        timeout=_TIMEOUT,
    )
    sync_file(target)
    sync_file(target.parent)
    return CopyResult(result.bytes_read, target.stat().st_size, result.digest, image.virtual_size)
