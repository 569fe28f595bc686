# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a benchmark finds, and what all of them need."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import tarfile
import time
import typing as t

ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number."""

    what: str
    value: float
    unit: str = ""
    limit: float | None = None
    """At most this; None: reported only."""

    @property
    def missed(self) -> bool:
        """Whether it is past its limit."""
        return self.limit is not None and self.value > self.limit

    @property
    def text(self) -> str:
        """For people."""
        limit = "" if self.limit is None else f"  (at most {self.limit:g}{self.unit})"
        return f"{self.value:.2f}{self.unit}{limit}{'  MISSED' if self.missed else ''}"


def timed(work: t.Callable[[], object]) -> float:
    """Wall seconds of ``work``, begun when nothing waits to be written."""
    os.sync()
    began = time.monotonic()
    work()
    return time.monotonic() - began


def disk_of(ova: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Unpack the one disk of an OVA into ``folder``."""
    with tarfile.open(ova) as archive:
        (member,) = [m for m in archive.getmembers() if m.name.endswith(".vmdk")]
        archive.extract(member, folder, filter="data")
    return folder / member.name


def convert(source: pathlib.Path, fmt: str, target: pathlib.Path, target_format: str = "qcow2") -> None:
    """The peer: ``qemu-img convert`` without further options."""
    target.unlink(missing_ok=True)
    subprocess.run(["qemu-img", "convert", "-f", fmt, "-O", target_format, source, target], check=True)
