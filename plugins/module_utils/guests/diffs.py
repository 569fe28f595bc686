# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Differences of a guest's files for a person's eyes: no terminal escapes, no secrets, no megabytes."""

from __future__ import annotations

import difflib
import re

from . import paths

_DIFF_LIMIT = 64 * 1024
_CONTEXT_LINES = 2
# Settings whose value is a secret, in the files that fixers touch: password=…, password_pbkdf2 root grub.…, psk=…
_SECRET = re.compile(
    r"(?i)((?:pass(?:word|wd|phrase)|psk|secret|private[-_]?key|credential)[\w.-]*\s*[=:\s]\s*)(\S.*)$"
)


def describe_binary(old: bytes | None, new: bytes | None) -> str:
    """Return a line about data that is no text; nothing where both sides are text."""
    if not any(data is not None and b"\0" in data[:65536] for data in (old, new)):
        return ""
    sizes = ["nothing" if data is None else f"{len(data)} bytes" for data in (old, new)]
    return f"binary data: {sizes[0]} -> {sizes[1]}"


def text_diff(path: str, old: bytes | None, new: bytes | None) -> str:
    """Return a unified diff with everything that could steer a terminal escaped, secrets masked, of bounded size.

    Args:
        path: as it is shown.
        old: content before; None where there was nothing.
        new: content after; None where there will be nothing.
    """
    lines = difflib.unified_diff(
        _lines(old),
        _lines(new),
        "/dev/null" if old is None else f"a{path}",
        "/dev/null" if new is None else f"b{path}",
        lineterm="",
        n=_CONTEXT_LINES,
    )
    shown: list[str] = []
    size = 0
    for line in lines:
        size += len(line) + 1
        if size > _DIFF_LIMIT:
            shown.append("(the rest is left out)")
            break
        shown.append(line)
    if not shown and old != new:
        return "(differs in masked values or in the last line's end only)"
    return "".join(f"{line}\n" for line in shown)


def _lines(data: bytes | None) -> list[str]:
    text = (data or b"").decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    # Tabs are harmless and make configuration readable.
    return [_SECRET.sub(r"\1***", "\t".join(map(paths.printable, line.split("\t")))) for line in lines]
