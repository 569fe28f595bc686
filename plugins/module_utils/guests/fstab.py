# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The format of fstab(5), as text that can be edited without touching what is not meant."""

from __future__ import annotations

import dataclasses
import re

_FIELDS = re.compile(r"^(\s*)(\S+)(\s+)(\S+)(\s+)(\S+)(?:(\s+)(\S+))?")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True)
class FstabLine:
    """One filesystem. Fields are unescaped (``\\040`` is a space)."""

    index: int
    """Of the line within the file, from 0."""
    spec: str
    mountpoint: str
    type: str
    options: str

    @property
    def option_list(self) -> list[str]:
        """The options, one by one."""
        return [option for option in self.options.split(",") if option]

    def option(self, name: str) -> str | None:
        """Return the value of ``name=value``; None where it is not given."""
        values = [o.partition("=")[2] for o in self.option_list if o.partition("=")[0] == name]
        return values[-1] if values else None


def parse(text: str) -> list[FstabLine]:
    """Return the filesystems of an fstab; comments and lines that are none are left out."""
    lines = []
    for index, line in enumerate(text.split("\n")):
        match = _FIELDS.match(line)
        if match is None or match[2].startswith("#"):
            continue
        spec, mountpoint, fstype, options = (_plain(match[n] or "defaults") for n in (2, 4, 6, 8))
        lines.append(FstabLine(index, spec.strip('"'), mountpoint, fstype, options))
    return lines


def replace_specs(text: str, specs: dict[int, str]) -> str:
    """Return ``text`` with the first field of some lines (by index) replaced; all else stays byte for byte."""
    lines = text.split("\n")
    for index, spec in specs.items():
        match = _FIELDS.match(lines[index])
        if match is None:
            raise AssertionError("match is not None")
        lines[index] = match[1] + spec + lines[index][match.end(2) :]
    return "\n".join(lines)


def add_option(text: str, index: int, option: str) -> str:
    """Return ``text`` with an option added to the line at ``index``; all else stays byte for byte."""
    lines = text.split("\n")
    match = _FIELDS.match(lines[index])
    if match is None:
        raise AssertionError("match is not None")
    end = match.end(8) if match[8] else match.end(6)
    lines[index] = lines[index][:end] + (f",{option}" if match[8] else f" defaults,{option}") + lines[index][end:]
    return "\n".join(lines)


def _plain(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
