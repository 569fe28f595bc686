# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's root in which its own programs are run while it is built."""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import pathlib

from tests.guests.host import run


@dataclasses.dataclass(frozen=True)
class Chroot:
    """A folder that holds a Linux root."""

    root: pathlib.Path

    def run(self, args: c.Sequence[str]) -> str:
        """Run one of its programs, with a clean environment."""
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        clean = ["env", "-i", path, "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "INITRD=No"]
        return run([*clean, "chroot", str(self.root), *args])

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, and the folders above it where they are missing."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def only(self, pattern: str) -> pathlib.Path:
        """The one file below the root that matches."""
        (match,) = self.root.glob(pattern)
        return match


@contextlib.contextmanager
def entered(root: pathlib.Path) -> c.Iterator[Chroot]:
    """A root with /proc, /run and /tmp of its own; only for a private mount namespace."""
    run(["mount", "-t", "proc", "proc", root / "proc"])
    run(["mount", "-t", "tmpfs", "tmpfs", root / "run"])
    run(["mount", "-t", "tmpfs", "tmpfs", root / "tmp"])
    yield Chroot(root)
    for where in ("tmp", "run", "proc"):
        run(["umount", root / where])
