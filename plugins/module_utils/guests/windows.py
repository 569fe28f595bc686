# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Windows recognised: release, architecture, and what would stand in the way of moving it. Nothing is mounted.

Facts: the registry's ``Microsoft\\Windows NT\\CurrentVersion``; the first four bytes of hiberfil.sys, by which ntfs-3g
knows a hibernated volume too (Fast Startup hibernates at each shutdown); libblkid's type of a BitLocker volume.
"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import typing as t

from ..disks.command import confined
from ..disks.model import Filesystem
from ..protocol.errors import JobError
from .hive import Hive
from .pe import machine_of

_SOFTWARE = (
    "/Windows/System32/config/SOFTWARE",
    "/WINDOWS/system32/config/software",
    "/WINNT/system32/config/software",
)
_KERNEL = ("/Windows/System32/ntoskrnl.exe", "/WINDOWS/system32/ntoskrnl.exe", "/WINNT/system32/ntoskrnl.exe")
_CURRENT_VERSION = r"Microsoft\Windows NT\CurrentVersion"
#: "Windows 10" is what its successor calls itself there too.
_FIRST_BUILD_OF_11 = 22000
_HIVE_LIMIT = 512 * 1024**2
_HEAD = 64 * 1024
_PATIENCE = 60
_HIBERNATED = (b"hibr", b"HIBR")


@dataclasses.dataclass(frozen=True)
class WindowsFacts:
    """What a Windows is. Empty where nothing tells."""

    filesystem: Filesystem
    name: str = "Windows"
    build: str = ""
    arch: str = ""
    hibernated: bool = False
    """By the user, or by Fast Startup."""

    @property
    def sentence(self) -> str:
        """The system in words: ``Windows Server 2022 Standard (build 20348, x86_64)``."""
        more = ", ".join(filter(None, [f"build {self.build}" if self.build else "", self.arch]))
        return f"{self.name} ({more})" if more else self.name


def recognise(device: pathlib.Path, filesystem: Filesystem) -> WindowsFacts | None:
    """Return what Windows is on an NTFS volume; None where there is none, or this host has nothing to read NTFS by.

    Args:
        device: the partition.
        filesystem: what blkid found on it.
    """
    try:
        software = _first(device, _SOFTWARE, _HIVE_LIMIT)
        kernel = _first(device, _KERNEL, _HEAD)
        if not software and not kernel:
            return None
        hibernated = _read(device, "/hiberfil.sys", 4) in _HIBERNATED
    except JobError:
        return None
    name, build = _release(software)
    return WindowsFacts(filesystem, name, build, machine_of(kernel), hibernated)


def _release(software: bytes) -> tuple[str, str]:
    try:
        values = Hive(software).values(_CURRENT_VERSION)
    except ValueError:
        return "Windows", ""
    name = str(values.get("ProductName", "Windows"))
    build = str(values.get("CurrentBuild") or values.get("CurrentBuildNumber") or "")
    if build.isdigit() and int(build) >= _FIRST_BUILD_OF_11 and "Server" not in name:
        name = name.replace("Windows 10", "Windows 11")
    return name, build


def _first(device: pathlib.Path, names: t.Iterable[str], limit: int) -> bytes:
    return next((data for name in names if (data := _read(device, name, limit))), b"")


def _read(device: pathlib.Path, name: str, limit: int) -> bytes:
    """Return at most ``limit`` bytes of a file; nothing where there is none.

    Raises:
        JobError: the program is not installed (environment).
    """
    child = subprocess.Popen(
        confined(["timeout", str(_PATIENCE), "ntfscat", "--force", str(device), name]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        data = t.cast(t.IO[bytes], child.stdout).read(limit)
        child.kill()
    return data
