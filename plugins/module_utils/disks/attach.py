# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disk images as files and block devices of this host.

Each disk becomes one flat file (a FUSE export of QEMU's storage daemon) or block device (kernel NBD); each partition
that is asked for becomes a loop device over its range of it. Partitions are never scanned for by the kernel.
"""

# False alarm: contextlib throws into the generator, so that the inner context ends.
# pylint: disable=contextmanager-generator-missing-cleanup
from __future__ import annotations

import contextlib
import functools
import pathlib
import shutil
import tempfile
import typing as t

from ..protocol.errors import JobError, transient
from . import nbd
from .file_range import sync_file
from .loop import LoopDevice
from .model import DiskImage, Partition
from .overlay import create_overlay
from .qemu import WITHOUT_SCHEMA, blockdev, check_qcow2, file_blockdev
from .sectors import sector_size
from .storage_daemon import FOLDER_PREFIX, StorageDaemon

Layer: t.TypeAlias = "pathlib.Path | DiskImage"


class AttachedDisk:
    """One attached disk. Valid until its attachment ends."""

    def __init__(self, name: str, device: pathlib.Path, *, writable: bool) -> None:
        self.name = name
        """As in :attr:`.model.DiskImage.name`."""
        self.device = device
        """The whole disk: a flat file or a block device."""
        self._writable = writable
        self._loops: dict[tuple[int, int], LoopDevice] = {}

    @functools.cached_property
    def sector_size(self) -> int:
        """Bytes of a logical sector: 512, or 4096."""
        return sector_size(self.device)

    def partition_device(self, partition: Partition) -> pathlib.Path:
        """Return a block device that is ``partition``; the same one each time.

        Raises:
            JobError: loop devices cannot be used here.
        """
        key = (partition.start, partition.size)
        if key not in self._loops:
            self._loops[key] = LoopDevice(
                self.device,
                partition.start,
                partition.size,
                writable=self._writable,
                block_size=self.sector_size,
            )
        return self._loops[key].device

    def close(self, *, check: bool) -> None:
        """Give the loop devices back; with ``check`` a failed one is an error, and all is written out before."""
        for loop in self._loops.values():
            if check:
                if self._writable:
                    loop.sync()
                loop.detach()
            else:
                with contextlib.suppress(Exception):
                    loop.detach()
        self._loops.clear()
        if check and self._writable:
            _sync(self.device)


class Attachment:
    """Attached disks, by name."""

    def __init__(self, disks: dict[str, AttachedDisk]) -> None:
        self.disks = disks


class _Server(t.Protocol):
    """What shows images as files or devices: :class:`.storage_daemon.StorageDaemon` or :class:`.nbd.NbdServer`."""

    def close(self) -> None:
        """End in order; when it returns, all writes are in the images."""

    def kill(self) -> None:
        """End at once."""


@contextlib.contextmanager
def attach(
    layers: t.Mapping[str, Layer], *, writable: bool, workdir: pathlib.Path, prefer_file: bool = False
) -> t.Iterator[Attachment]:
    """Attach the disks of a guest for as long as the context lasts.

    When the context is left normally, its user having unmounted everything (with ``syncfs`` checked), this makes sure
    that every write arrived: devices synced and gone, exports deleted, their server ended well, images checked and
    synced. When it is left by an exception, everything is torn down without those checks.

    Args:
        layers: for each disk name a qcow2 file of our own (overlay, copy), or a source's image (read-only only).
        writable: whether the qcow2 files take writes.
        workdir: an existing folder for mount points, which are gone afterwards.
        prefer_file: show flat files rather than block devices, where both can be had.

    Raises:
        JobError: it cannot be attached here; or, at the end, a write may be lost: the images must not be used then.
    """
    if writable and any(isinstance(layer, DiskImage) for layer in layers.values()):
        raise ValueError("a source's image is never attached for writing")
    folder = pathlib.Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=workdir))
    try:
        options = {name: _options(name, layer, folder, writable=writable) for name, layer in layers.items()}
        server, devices = _serve(options, folder, writable=writable, prefer_file=prefer_file)
        disks = {name: AttachedDisk(name, device, writable=writable) for name, device in devices.items()}
        try:
            yield Attachment(disks)
        except BaseException:
            _abandon(disks, server)
            raise
        try:
            for disk in disks.values():
                disk.close(check=True)
            server.close()
        except BaseException:
            _abandon(disks, server)
            raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if writable:
        for layer in layers.values():
            if not isinstance(layer, pathlib.Path):
                raise AssertionError("isinstance(layer, pathlib.Path)")
            check_qcow2(layer)
            _sync(layer)


@contextlib.contextmanager
def attach_devices(devices: t.Mapping[str, pathlib.Path], *, writable: bool) -> t.Iterator[Attachment]:
    """Have block devices of this host as the disks of a guest, for as long as the context lasts.

    When it is left normally, all is written out and the loop devices over them are gone.

    Raises:
        JobError: at the end, a write may be lost.
    """
    disks = {name: AttachedDisk(name, device, writable=writable) for name, device in devices.items()}
    try:
        yield Attachment(disks)
    except BaseException:
        for disk in disks.values():
            disk.close(check=False)
        raise
    for disk in disks.values():
        disk.close(check=True)


@contextlib.contextmanager
def export_flat(image: Layer, workdir: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """Show ``image`` as one flat, read-only file, whose holes are the image's.

    Where there is no FUSE it is a block device, which has no holes: readers then read zeros.

    Raises:
        JobError: it cannot be attached here.
    """
    with attach({"disk": image}, writable=False, workdir=workdir, prefer_file=True) as attachment:
        yield attachment.disks["disk"].device


def _options(name: str, layer: Layer, folder: pathlib.Path, *, writable: bool) -> dict[str, t.Any]:
    if isinstance(layer, DiskImage):
        if any(image.format in WITHOUT_SCHEMA for image in layer.chain):
            # QMP's schema lacks what the driver needs to be told; the name of a backing file may tell it.
            overlay = folder / f"{name}.qcow2"
            create_overlay(overlay, layer)
            return {**file_blockdev(overlay, "qcow2"), "read-only": True}
        return blockdev(layer)
    return {**file_blockdev(layer, "qcow2"), "read-only": not writable}


def _serve(
    options: dict[str, dict[str, t.Any]], folder: pathlib.Path, *, writable: bool, prefer_file: bool
) -> tuple[_Server, dict[str, pathlib.Path]]:
    """Start what shows the images: kernel NBD or FUSE, the other one where the first cannot be used."""
    ways = [_serve_by_nbd, _serve_by_fuse] if nbd.present() else [_serve_by_fuse]
    if prefer_file:
        ways.reverse()
    for way in ways[:-1]:
        with contextlib.suppress(JobError):
            return way(options, folder, writable=writable)
    return ways[-1](options, folder, writable=writable)


def _serve_by_nbd(
    options: dict[str, dict[str, t.Any]], folder: pathlib.Path, *, writable: bool
) -> tuple[_Server, dict[str, pathlib.Path]]:
    server = nbd.NbdServer(folder)
    try:
        return server, {name: server.connect(image, writable=writable) for name, image in options.items()}
    except BaseException:
        server.kill()
        raise


def _serve_by_fuse(
    options: dict[str, dict[str, t.Any]], folder: pathlib.Path, *, writable: bool
) -> tuple[_Server, dict[str, pathlib.Path]]:
    daemon = StorageDaemon()
    try:
        devices = {}
        for index, (name, image) in enumerate(options.items()):
            mountpoint = folder.resolve() / f"{name}.raw"
            mountpoint.touch()
            devices[name] = daemon.export(f"disk{index}", image, mountpoint, writable=writable)
        return daemon, devices
    except BaseException:
        daemon.kill()
        raise


def _abandon(disks: dict[str, AttachedDisk], server: _Server) -> None:
    for disk in disks.values():
        disk.close(check=False)
    server.kill()


def _sync(path: pathlib.Path) -> None:
    try:
        sync_file(path)
    except OSError as error:
        raise transient("LostWrites", f"Writing {path} out failed: {error.strerror}.", "Check the storage.") from error
