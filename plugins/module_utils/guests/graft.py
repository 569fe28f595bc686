# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a filesystem must offer to be shown in a guest's tree without being mounted."""

from __future__ import annotations

import os
import typing as t


class Graft(t.Protocol):
    """A filesystem of the guest that this host cannot mount, shown at a place in the tree.

    Paths are relative to that place and begin with ``/``. It has files and folders only.
    """

    def lstat(self, path: str) -> os.stat_result:
        """Raise FileNotFoundError where there is nothing."""

    def listdir(self, path: str) -> list[str]:
        """Names in a folder."""

    def read(self, path: str, limit: int) -> bytes:
        """At most ``limit`` bytes of a file."""

    def free_bytes(self) -> int:
        """How much can still be written. Bytes."""

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file; its folder exists."""

    def mkdir(self, path: str) -> None:
        """Create a folder."""

    def remove(self, path: str) -> None:
        """Remove a file."""
