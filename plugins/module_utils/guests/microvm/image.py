# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that a micro-VM starts from, made once of what the worker has installed, and kept as long as that stays."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile

from .kernel import KernelFiles, find_kernel, uncompressed
from .tree import Parts, archive, collect

_KERNEL, _INITRAMFS = "kernel", "initramfs"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where a worker's micro-VMs come from."""

    kernel_root: pathlib.Path
    """What stands for ``/`` when a kernel is looked for."""
    cache: pathlib.Path
    """A folder for the machines' files; it is made where it is missing, and may be removed at any time."""


@dataclasses.dataclass(frozen=True)
class MachineFiles:
    """What QEMU starts: everybody may read them."""

    kernel: pathlib.Path
    initramfs: pathlib.Path
    version: str


def machine_files(settings: Settings) -> MachineFiles:
    """Return the machine's files; the first call on a worker makes them, which takes seconds.

    Raises:
        JobError: class ``environment``, there is no kernel, or something indispensable is not installed.
        OSError: the cache cannot be written.
    """
    kernel = find_kernel(settings.kernel_root)
    parts = collect(kernel)
    place = settings.cache / f"{kernel.version}-{_identity(parts)}"
    if not place.is_dir():
        settings.cache.mkdir(parents=True, exist_ok=True)
        with (settings.cache / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.is_dir():
                _make(parts, kernel, place)
                _remove_others(settings.cache, place)
    return MachineFiles(place / _KERNEL, place / _INITRAMFS, kernel.version)


def _make(parts: Parts, kernel: KernelFiles, place: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(prefix="new-", dir=place.parent) as folder:
        fresh = pathlib.Path(folder, "files")
        fresh.mkdir()
        for name, data in (
            (_KERNEL, uncompressed(kernel) or kernel.image.read_bytes()),
            (_INITRAMFS, archive(parts)),
        ):
            (fresh / name).write_bytes(data)
            # QEMU reads them as nobody.
            (fresh / name).chmod(0o644)
        fresh.replace(place)


def _remove_others(cache: pathlib.Path, place: pathlib.Path) -> None:
    """Remove what was made of former files; a machine that runs has its own open, or in memory."""
    for other in cache.iterdir():
        if other.is_dir() and other != place and not other.name.startswith("new-"):
            shutil.rmtree(other, ignore_errors=True)


def _identity(parts: Parts) -> str:
    """A digest that changes with any file that goes into the machine."""
    told = []
    for path in parts.used():
        stat = os.stat(path)
        told.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    names = [sorted(parts.copies), sorted(parts.links.items()), sorted(parts.sources), sorted(parts.drivers)]
    return hashlib.sha256(json.dumps([told, names]).encode()).hexdigest()[:16]
