# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The engine's own copy of a streamOptimized VMDK against ``qemu-img convert``, in rounds side by side."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import statistics
import subprocess
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.commit import commit_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.digest import digest_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.qemu import blockdev, json_name
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models


@dataclasses.dataclass
class Ratios:
    """Medians over the rounds; wall and processor seconds of ours ÷ those of ``qemu-img convert`` without a sync."""

    copy: float
    """The copy alone, with the manifest's and the content digest in it, and synced."""
    copy_processor: float
    whole: float
    """With the copy's digest, the commit of 8 MiB of changes, and the target's digest."""
    whole_processor: float


def copy_ratios(ova: pathlib.Path, folder: pathlib.Path, rounds: int) -> Ratios:
    """Copy the first disk of ``ova`` below ``folder``, ours and QEMU's in turn, and compare the images once."""
    image = open_source(models.SourceSpec(path=ova.name), ova.parent).images[0]
    ours, peer, overlay = folder / "ours.qcow2", folder / "peer.qcow2", folder / "overlay.qcow2"
    create_overlay(overlay, image)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1G 8M", overlay], check=True, stdout=subprocess.DEVNULL)
    copies: list[tuple[float, float]] = []
    wholes: list[tuple[float, float]] = []
    for number in range(rounds):
        ours.unlink(missing_ok=True)
        peer.unlink(missing_ok=True)
        os.sync()
        convert = ["qemu-img", "convert", "-O", "qcow2", json_name(blockdev(image)), str(peer)]
        theirs = _timed(lambda convert=convert: subprocess.run(convert, check=True))  # type: ignore[misc]
        os.sync()
        copy = _timed(lambda: _copy(image, ours, folder))
        if number == 0:
            subprocess.run(["qemu-img", "compare", "-q", str(ours), str(peer)], check=True)
        rest = _timed(lambda: _finish(ours, overlay, folder))
        copies.append((copy[0] / theirs[0], copy[1] / theirs[1]))
        wholes.append(((copy[0] + rest[0]) / theirs[0], (copy[1] + rest[1]) / theirs[1]))
        shown = ", ".join(
            f"{n} {w:.2f} s ({p:.2f})" for n, (w, p) in {"qemu-img": theirs, "copy": copy, "rest": rest}.items()
        )
        print(f"  round {number + 1}: wall (processor): {shown}")
    return Ratios(*(statistics.median(r[i] for r in ratios) for ratios in (copies, wholes) for i in (0, 1)))


def _copy(image: DiskImage, target: pathlib.Path, folder: pathlib.Path) -> None:
    copy_disk(
        image,
        target,
        fmt=models.TargetFormat.QCOW2,
        allocation=models.Allocation.SPARSE,
        compression=models.Compression.NONE,
        bandwidth=None,
        progress=lambda _done, _total: None,
        cancelled=lambda: False,
        workdir=folder,
    )


def _finish(target: pathlib.Path, overlay: pathlib.Path, folder: pathlib.Path) -> None:
    _digest(target, folder)
    commit_overlay(overlay, target, "qcow2")
    _digest(target, folder)


def _digest(target: pathlib.Path, folder: pathlib.Path) -> None:
    digest_disk(target, "qcow2", progress=lambda _done, _total: None, cancelled=lambda: False, workdir=folder)


def _timed(work: t.Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and processor seconds of this process and its children."""
    began, before = time.monotonic(), os.times()
    work()
    after = os.times()
    return time.monotonic() - began, sum(after[:4]) - sum(before[:4])
