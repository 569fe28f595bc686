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
import sys
import tempfile
import typing as t

from .kernel import KernelFiles, find_kernel, uncompressed
from .tree import archive, collect, own_code, tools

_KERNEL, _INITRAMFS, _MADE_OF = "kernel", "initramfs", "made-of.json"
#: Begins the name of what is not whole yet.
_NEW = "new-"


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
    known = next((place for place in _places(settings.cache) if _holds(place, kernel)), None)
    if known is None:
        settings.cache.mkdir(parents=True, exist_ok=True)
        with (settings.cache / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = next((place for place in _places(settings.cache) if _holds(place, kernel)), None)
            if known is None:
                known = _make(settings.cache, kernel)
                _remove_others(settings.cache, known)
    return MachineFiles(known / _KERNEL, known / _INITRAMFS, kernel.version)


def _places(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path.parent for path in cache.glob(f"*/{_MADE_OF}") if not path.parent.parent.name.startswith(_NEW))


def _holds(place: pathlib.Path, kernel: KernelFiles) -> bool:
    """Whether what a machine was made of is as it was then."""
    try:
        made = json.loads((place / _MADE_OF).read_text(encoding="utf-8"))
        return bool(made["origin"] == _origin(kernel) and made["files"] == _identities(made["files"]))
    except (OSError, ValueError, KeyError):
        return False


def _origin(kernel: KernelFiles) -> dict[str, t.Any]:
    """What decides which files there are to be looked at."""
    return {"kernel": str(kernel.image), "python": sys.executable, "tools": tools(), "code": sorted(own_code())}


def _identities(paths: t.Iterable[str]) -> dict[str, list[int]]:
    """What tells that a file is the one that it was.

    Raises:
        OSError: it is gone.
    """
    stats = {path: os.stat(path) for path in paths}
    return {path: [stat.st_size, stat.st_mtime_ns, stat.st_ino] for path, stat in stats.items()}


def _make(cache: pathlib.Path, kernel: KernelFiles) -> pathlib.Path:
    origin, parts = _origin(kernel), collect(kernel)
    made = {"origin": origin, "files": _identities(map(str, parts.used()))}
    text = json.dumps(made, indent=1)
    place = cache / f"{kernel.version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory(prefix=_NEW, dir=cache) as folder:
        fresh = pathlib.Path(folder, "files")
        fresh.mkdir()
        for name, data in (
            (_KERNEL, uncompressed(kernel) or kernel.image.read_bytes()),
            (_INITRAMFS, archive(parts)),
            (_MADE_OF, text.encode()),
        ):
            (fresh / name).write_bytes(data)
            # QEMU reads them as nobody.
            (fresh / name).chmod(0o644)
        fresh.replace(place)
    return place


def _remove_others(cache: pathlib.Path, place: pathlib.Path) -> None:
    """Remove what was made of former files, and what a killed process left; the caller has the lock.

    A machine that runs has its own open, or in memory.
    """
    for other in cache.iterdir():
        if other.is_dir() and other != place:
            shutil.rmtree(other, ignore_errors=True)
