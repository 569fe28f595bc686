# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's own copy against ``qemu-img convert``, in rounds side by side."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import statistics
import subprocess
import time

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.file_range import sync_file
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from bench.deleted import guest_with_deleted_files
from bench.figures import ROUNDS, Figure, convert, disk_of, timed
from bench.jobs import run, running_worker
from tests.e2e.migration import ConversionHost
from tests.guests import build

MIB = 1024**2
#: Of the demo guest's disk, by name: QEMU's format, ours, and options of ``qemu-img convert``.
SOURCES: dict[str, tuple[str, str, list[str]]] = {
    "monolithicSparse VMDK": ("vmdk", "vmdk", ["-o", "subformat=monolithicSparse"]),
    "qcow2": ("qcow2", "qcow2", []),
    "compressed qcow2": ("qcow2", "qcow2", ["-c"]),
    "raw": ("raw", "raw", []),
    "dynamic VHD": ("vpc", "vhd", []),
    "VHDX": ("vhdx", "vhdx", []),
    "VDI": ("vdi", "vdi", []),
}


def stream_optimized(scratch: pathlib.Path) -> list[Figure]:
    """An OVA's disk, in place, the manifest's and the content digest computed and the target synced."""
    ova = build("debian12") / "debian12.ova"
    vmdk = disk_of(ova, scratch)
    found = _ratios("streamOptimized", image_of(ova, "ova"), vmdk, "vmdk", scratch)
    return [
        Figure("copy of an OVA's disk ÷ qemu-img convert", found.to_convert, limit=0.7),
        Figure("copy of an OVA's disk ÷ qemu-img convert and sync", found.to_convert_and_sync),
    ]


def other_sources(scratch: pathlib.Path) -> list[Figure]:
    """The same disk in other formats. The peer's target is synced as ours is; without that it is done in memory."""
    raw = build("debian12") / "disk.raw"
    figures = []
    for name, (qemu_format, ours, options) in SOURCES.items():
        source = scratch / f"source.{ours}"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", qemu_format, *options, raw, source], check=True)
        found = _ratios(name, image_of(source, ours), source, qemu_format, scratch)
        figures += [
            Figure(f"copy of {name} ÷ qemu-img convert and sync", found.to_convert_and_sync, limit=1.05),
            Figure(f"copy of {name} ÷ qemu-img convert", found.to_convert),
        ]
        source.unlink()
    return figures


def deleted_files(scratch: pathlib.Path) -> list[Figure]:
    """A whole job on a guest whose filesystem had 2 GiB of files deleted."""
    host = ConversionHost(scratch)
    used = guest_with_deleted_files(host.input / "deleted.qcow2")
    with running_worker(host):
        done = run(host, "deleted", "deleted.qcow2", guest={"enabled": False})
    moved = sum(disk["bytesWritten"] for disk in host.result("deleted/result.json")["disks"])
    print(f"  {used / MIB:.0f} MiB used, {moved / MIB:.0f} MiB moved, {done['status']['phase']}")
    return [Figure("bytes moved ÷ bytes used, 2 GiB deleted", moved / used, limit=1.05)]


def bandwidth(scratch: pathlib.Path) -> list[Figure]:
    """How far a limited copy is from its limit."""
    raw, limit = scratch / "disk.raw", 32 * MIB
    raw.write_bytes(os.urandom(MIB) * 320)
    seconds = timed(lambda: copy(image_of(raw, "raw"), scratch / "copy.qcow2", bandwidth=limit))
    return [Figure("rate of a limited copy ÷ its limit", 320 * MIB / seconds / limit, limit=1.05)]


def side_by_side(scratch: pathlib.Path) -> list[Figure]:
    """The disks of one VM, two at once, against one after the other, each synced as it is in a job."""
    cache = build("debian12")
    images = {"streamOptimized": image_of(cache / "debian12.ova", "ova"), "raw": image_of(cache / "disk.raw", "raw")}
    return [
        Figure(f"{disks} disks ({name}), two at once ÷ one by one", _gain(name, image, disks, scratch))
        for name, image in images.items()
        for disks in (2, 4)
    ]


def _gain(name: str, image: DiskImage, disks: int, scratch: pathlib.Path) -> float:
    ratios = []
    for _round in range(ROUNDS):
        alone, together = (timed(lambda n=n: _copy_all(image, scratch, disks, n)) for n in (1, 2))  # type: ignore[misc]
        print(f"  {disks} disks, {name}: one by one {alone:.2f} s, two at once {together:.2f} s")
        ratios.append(together / alone)
    return statistics.median(ratios)


def _copy_all(image: DiskImage, scratch: pathlib.Path, disks: int, at_once: int) -> None:
    targets = [scratch / f"target{number}.qcow2" for number in range(disks)]
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda target: copy(image, target), targets))


def image_of(path: pathlib.Path, kind: str) -> DiskImage:
    """The first disk of a source."""
    return open_source(models.SourceSpec(type=models.SourceType(kind), path=path.name), path.parent).images[0]


def copy(image: DiskImage, target: pathlib.Path, bandwidth: int | None = None) -> None:
    """Copy a disk to a new qcow2 file."""
    target.unlink(missing_ok=True)
    copy_disk(
        image,
        target,
        fmt=models.TargetFormat.QCOW2,
        bandwidth=bandwidth,
        workdir=target.parent,
    )


@dataclasses.dataclass(frozen=True)
class _Ratios:
    """Our time, with the target on the disk, ÷ the peer's."""

    to_convert: float
    """Until it ends, its target in memory."""
    to_convert_and_sync: float


def _ratios(name: str, image: DiskImage, source: pathlib.Path, fmt: str, scratch: pathlib.Path) -> _Ratios:
    """Medians over the rounds."""
    ours, peer = scratch / "ours.qcow2", scratch / "peer.qcow2"
    unsynced, synced = [], []
    for number in range(ROUNDS):
        convert_seconds = timed(lambda: convert(source, fmt, peer))
        began = time.monotonic()
        sync_file(peer)
        sync_seconds = time.monotonic() - began
        copy_seconds = timed(lambda: copy(image, ours))
        if number == 0:
            subprocess.run(["qemu-img", "compare", "-q", str(ours), str(peer)], check=True)
        print(f"  {name}: qemu-img {convert_seconds:.2f} s and sync {sync_seconds:.2f} s, ours {copy_seconds:.2f} s")
        unsynced.append(copy_seconds / convert_seconds)
        synced.append(copy_seconds / (convert_seconds + sync_seconds))
    return _Ratios(statistics.median(unsynced), statistics.median(synced))
