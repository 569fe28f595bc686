# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How much of each job a report takes, and the pictures of boot tests that it embeds."""

from __future__ import annotations

import dataclasses
import pathlib

from ...protocol import models

#: What all that jobs may fill without end (diffs, consoles, pictures) comes to at most, of a whole report. Bytes.
TOTAL = 24 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a report takes of one job at most."""

    diff: int
    """Characters of all its diffs."""
    console: int
    """Characters of its console's tail."""
    picture: int
    """Bytes of its screenshot."""
    text: int
    """Characters of any other text."""
    items: int
    """Entries of a list."""

    @classmethod
    def for_jobs(cls, count: int) -> Limits:
        """Return what fits for so many jobs: a share of :data:`TOTAL`, and not more than a person would read."""
        share = TOTAL // max(1, count)
        return cls(
            diff=min(share // 5, 256 << 10),
            console=min(share // 10, 64 << 10),
            # It grows by a third where it is written as text.
            picture=min(share // 2, 1 << 20),
            text=min(max(share // 50, 1000), 4000),
            items=min(max(share // 1000, 20), 200),
        )


class Pictures:
    """The screenshots below an output root."""

    def __init__(self, root: pathlib.Path | None) -> None:
        """Take the folder that artifacts' paths are relative to; None: it is not on this host."""
        self._root = None if root is None else root.resolve()

    def picture(self, path: str, limit: int) -> bytes | None:
        """Return the PNG file ``path``; None: it is not here, is none, is longer than ``limit`` or outside the root."""
        if self._root is None:
            return None
        try:
            # A document is as hostile as any: what it names must not bring another file of the host into a report.
            real = (self._root / path).resolve()
            if not real.is_relative_to(self._root) or real.suffix != ".png" or not real.is_file():
                return None
            with real.open("rb") as file:
                data = file.read(limit + 1)
        except (OSError, ValueError, RuntimeError):
            # RuntimeError: a loop of links, before Python 3.13; ValueError: a zero byte in the path.
            return None
        return data if len(data) <= limit and data.startswith(_PNG) else None


def screenshot(result: models.JobResult) -> str | None:
    """Return the path of the screenshot that counts, the last one; None: there is none."""
    paths = [artifact.path for artifact in result.artifacts if artifact.kind == "screenshot"]
    return paths[-1] if paths else None


def clip(text: str, limit: int) -> tuple[str, int]:
    """Return the beginning of ``text``, whole lines where there are some, and how many characters were cut off."""
    if len(text) <= limit:
        return text, 0
    kept = text[:limit]
    end = kept.rfind("\n") + 1
    kept = kept[:end] if end else kept
    return kept, len(text) - len(kept)
