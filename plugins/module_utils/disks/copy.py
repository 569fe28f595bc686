# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The copy: a source's data to a target file, read once, checked and hashed in that same read, and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import tempfile
import typing as t

from ..protocol.models import Allocation, Compression, TargetFormat
from .attach import export_flat
from .block_device import BlockDevice
from .blockmap import BlockMap, RawMap, RestrictedMap, native_map
from .command import never, unseen
from .copylog import CopyLog, RegionRecord, file_identity
from .file_range import FileRange, sync_file
from .manifest import check_range
from .model import DiskImage
from .qcow2 import read_header
from .qemu import blockdev, json_name, run_img
from .scan import ScanResult, Sink, ignore, scan
from .target import DeviceTarget, Qcow2Target, RawTarget

#: A night and more, for qemu-img; it is cancelled by its caller, not by a clock. Seconds.
_TIMEOUT = 14 * 24 * 3600.0
_COROUTINES = "8"
#: ioctl(2) FICLONE: share all of a file's blocks with another one (linux/fs.h).
_FICLONE = 0x40049409
#: How many regions are logged at once where the log tells of a reading alone.
_LOGGED_AT_ONCE = 1024

Ranges: t.TypeAlias = "t.Sequence[tuple[int, int]]"
"""Parts of a virtual disk: begins and ends in bytes, ascending, not overlapping."""


@dataclasses.dataclass(frozen=True)
class CopyResult:
    """What a copy did. Bytes."""

    bytes_read: int
    """Of the source's file, for its data, by this attempt."""
    bytes_written: int
    """Data in the target's file, of all attempts; 0 where it shares the source's blocks."""
    source_digest: str
    """``sha256:…``: the content digest (see :mod:`.scan`) of what was read."""
    virtual_size: int
    allocated_bytes: int
    """What the source's image holds, read or not."""
    ranges: Ranges | None = None
    """What was read, where that was not the whole disk."""

    @classmethod
    def of(cls, read: ScanResult, bytes_written: int, virtual_size: int, ranges: Ranges | None = None) -> CopyResult:
        """Return what a copy did that ``read`` so."""
        return cls(read.bytes_read, bytes_written, read.digest, virtual_size, read.allocated_bytes, ranges)


def copy_disk(
    image: DiskImage,
    target: pathlib.Path,
    *,
    fmt: TargetFormat,
    workdir: pathlib.Path,
    allocation: Allocation = Allocation.SPARSE,
    compression: Compression = Compression.NONE,
    bandwidth: int | None = None,
    progress: t.Callable[[int, int], None] = unseen,
    cancelled: t.Callable[[], bool] = never,
    ranges: Ranges | None = None,
    log: CopyLog | None = None,
) -> CopyResult:
    """Copy a source's disk to the file ``target``, which is on the disk when this returns.

    Sparse VMDKs, plain qcow2 and raw images are read, and sparse qcow2 and raw targets written, by this program's own
    code, in parallel; other images are read through a flat export; compressed and preallocated qcow2 is written by
    ``qemu-img``. An image that has the target's format already shares its blocks with the target where the filesystem
    can do that, and is then only read.

    Args:
        image: as the source was opened; where it has a ``manifest_digest``, that is compared in the same read.
        target: must not exist, but for a copy that ``log`` tells of.
        fmt: of the target.
        workdir: an existing folder for mount points.
        allocation: whether blocks without data are reserved.
        compression: of a qcow2 target.
        bandwidth: upper bound of what is read of the source, in bytes per second.
        progress: gets bytes done and in all, of the virtual disk's data (not of its holes).
        cancelled: asked at least each second; True ends the copy.
        ranges: copy what touches these, and leave the rest of the target zeros; None: the whole disk. Copied all the
            same is what comes for nothing (shared blocks) and what ``qemu-img`` writes.
        log: where the copy's progress is kept, so that a later call goes on with it. What it holds of ``target`` is
            taken as copied.

    Raises:
        JobError: class ``invalid``, the source is damaged or not what its manifest says; class ``transient``, it
            cannot be read, or the copy was cancelled.
        OSError: the target exists or cannot be written (no space). What was written so far stays.
    """
    with contextlib.ExitStack() as stack:
        if log is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hyper2kvm-copy-", dir=workdir))
            log = stack.enter_context(CopyLog(pathlib.Path(folder, "log"), {}))
        if log.target is not None and not log.resumable:
            target.unlink(missing_ok=True)
            log.forget()
        read = _Reading(image, bandwidth, progress, cancelled, workdir)
        if compression is not Compression.NONE or (fmt is TargetFormat.QCOW2 and allocation is Allocation.PREALLOCATED):
            return _by_qemu(read, target, allocation, compression, log)
        if log.target is None and allocation is Allocation.SPARSE and _share_blocks(image, target, fmt, log):
            return _shared(read, log)
        with _target(target, image.virtual_size, fmt, allocation, log) as sink:
            result = read.scan(sink=sink, ranges=ranges, recorded=log.records())
            sink.finish()
        return CopyResult.of(result, result.bytes_written, image.virtual_size, ranges)


def copy_to_device(
    image: DiskImage,
    device: BlockDevice,
    *,
    workdir: pathlib.Path,
    log: CopyLog,
    bandwidth: int | None,
    progress: t.Callable[[int, int], None],
    zeroing: t.Callable[[int, int], None],
    cancelled: t.Callable[[], bool],
    ranges: Ranges | None,
) -> CopyResult:
    """Copy a source's disk onto a block device that has room for it; everything else there reads as zeros after it.

    Arguments and errors are those of :func:`copy_disk`, and ``zeroing`` gets, after the copy, the place on the device
    up to which what was not written is zeroed, and the device's size.
    """
    read = _Reading(image, bandwidth, progress, cancelled, workdir)
    with DeviceTarget(device, log) as sink:
        result = read.scan(sink=sink, ranges=ranges, recorded=log.records())
        sink.finish()
    device.zero_gaps(log.records(), image.virtual_size, progress=zeroing, cancelled=cancelled)
    return CopyResult.of(result, result.bytes_written, image.virtual_size, ranges)


def scan_image(
    image: DiskImage,
    *,
    workdir: pathlib.Path,
    bandwidth: int | None = None,
    progress: t.Callable[[int, int], None] = unseen,
    cancelled: t.Callable[[], bool] = never,
    ranges: Ranges | None = None,
    on_region: t.Callable[[RegionRecord], None] = ignore,
) -> ScanResult:
    """Read all data of ``image`` once, by its own map or through a flat export; see :func:`.scan.scan`.

    Raises:
        JobError: see :func:`copy_disk`.
    """
    return _Reading(image, bandwidth, progress, cancelled, workdir).scan(ranges=ranges, on_region=on_region)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How a source is read."""

    image: DiskImage
    bandwidth: int | None
    progress: t.Callable[[int, int], None]
    cancelled: t.Callable[[], bool]
    workdir: pathlib.Path

    def scan(
        self,
        *,
        sink: Sink | None = None,
        ranges: Ranges | None = None,
        on_region: t.Callable[[RegionRecord], None] = ignore,
        recorded: t.Iterable[RegionRecord] = (),
    ) -> ScanResult:
        image = self.image

        def read(file: FileRange, blocks: BlockMap, manifest_digest: str | None) -> ScanResult:
            result = scan(
                file,
                blocks if ranges is None else RestrictedMap(blocks, ranges),
                what=f"Reading {image.path.name}",
                sink=sink,
                on_region=on_region,
                recorded=recorded,
                manifest_digest=manifest_digest,
                bandwidth=self.bandwidth,
                progress=self.progress,
                cancelled=self.cancelled,
            )
            return dataclasses.replace(result, allocated_bytes=blocks.data_bytes())

        with FileRange(image.path, image.offset, image.length) as file:
            blocks = native_map(file, image.format, image.virtual_size)
            if blocks is not None:
                return read(file, blocks, image.manifest_digest)
            if image.manifest_digest:
                # QEMU does the reading here, so the file's own bytes are read once more.
                check_range(file, image.manifest_digest, bandwidth=self.bandwidth, cancelled=self.cancelled)
        with export_flat(image, self.workdir) as flat, FileRange(flat) as file:
            return read(file, RawMap(file, image.virtual_size), None)

    def scan_into(self, log: CopyLog) -> ScanResult:
        """Read everything, and log what was read."""
        pending: list[RegionRecord] = []

        def keep(record: RegionRecord) -> None:
            pending.append(record)
            if len(pending) == _LOGGED_AT_ONCE:
                log.append(pending)
                pending.clear()

        result = self.scan(on_region=keep)
        log.append(pending)
        return result


def _target(
    path: pathlib.Path, virtual_size: int, fmt: TargetFormat, allocation: Allocation, log: CopyLog
) -> contextlib.AbstractContextManager[Qcow2Target | RawTarget]:
    if fmt is TargetFormat.QCOW2:
        return Qcow2Target(path, virtual_size, log)
    return RawTarget(path, virtual_size, log, preallocate=allocation is Allocation.PREALLOCATED)


def _share_blocks(image: DiskImage, target: pathlib.Path, fmt: TargetFormat, log: CopyLog) -> bool:
    """Make ``target`` a reflink of a source that is a file of the same format; False: that cannot be done here."""
    if image.format != fmt.value or image.offset or image.length is not None or image.backing is not None:
        return False
    with FileRange(image.path) as file:
        if fmt is TargetFormat.QCOW2 and read_header(file).snapshots:
            return False
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.ioctl(descriptor, _FICLONE, file.descriptor)
            if fmt is TargetFormat.RAW:
                # QEMU takes whole sectors.
                os.ftruncate(descriptor, image.virtual_size)
            os.fsync(descriptor)
            log.begin(file_identity(os.fstat(descriptor)), resumable=False)
        except OSError as error:
            target.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            return False
        finally:
            os.close(descriptor)
    sync_file(target.parent)
    return True


def _shared(read: _Reading, log: CopyLog) -> CopyResult:
    result = read.scan_into(log)
    return CopyResult.of(result, 0, read.image.virtual_size)


def _by_qemu(
    read: _Reading, target: pathlib.Path, allocation: Allocation, compression: Compression, log: CopyLog
) -> CopyResult:
    """First the read that hashes and checks, then qemu-img's own; progress shows each as one half."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    log.begin(file_identity(target.stat()), resumable=False)
    total, progress = 0, read.progress

    def first_half(done: int, of: int) -> None:
        nonlocal total
        total = of
        progress(done // 2, of)

    result = dataclasses.replace(read, progress=first_half).scan_into(log)
    args: list[str | pathlib.Path] = ["convert", "-O", "qcow2", "-m", _COROUTINES, "-W"]
    if compression is not Compression.NONE:
        args += ["-c", "-o", f"compression_type={compression.value}"]
    if allocation is Allocation.PREALLOCATED:
        args += ["-o", "preallocation=falloc"]
    if read.bandwidth is not None:
        args += ["-r", str(read.bandwidth)]
    run_img(
        [*args, json_name(blockdev(read.image)), target],
        progress=lambda percent: progress(int(total * (0.5 + percent / 200)), total),
        cancelled=read.cancelled,
        timeout=_TIMEOUT,
    )
    sync_file(target)
    sync_file(target.parent)
    return CopyResult.of(result, target.stat().st_size, read.image.virtual_size)
