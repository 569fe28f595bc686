# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What docs/tutorial.md has people write and type, and what it says that they will see."""

from __future__ import annotations

import dataclasses
import re

_STEP = re.compile(
    r"(?:<!-- (?P<note>file|not run): (?P<what>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
#: Stands for any text within a line; alone on a line for any lines.
ANYTHING = "…"


@dataclasses.dataclass(frozen=True)
class File:
    """A file that is to be written."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """A command that is to be typed."""

    line: str
    output: str
    """With :data:`ANYTHING` where it differs from machine to machine."""

    def matches(self, output: str) -> bool:
        """Whether this is what the page shows."""
        wanted = "".join(
            r"(?:.*\n)*?" if line == ANYTHING else re.escape(line).replace(ANYTHING, r".*?") + r"[ ]*\n"
            for line in self.output.splitlines()
        )
        return re.fullmatch(wanted, output if output.endswith("\n") or not output else f"{output}\n") is not None


def steps(page: str) -> list[File | Command]:
    """The page's steps in order, but for those that are marked as not run."""
    found: list[File | Command] = []
    for match in _STEP.finditer(page):
        if match["note"] == "file":
            found.append(File(match["what"], match["text"]))
        elif match["language"] == "console" and match["note"] is None:
            parts = re.split(r"^# ", match["text"], flags=re.M)[1:]
            found += [Command(*one.partition("\n")[::2]) for one in parts]
    return found
