# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guest's serial console: read as it comes, made harmless, kept within bounds."""

from __future__ import annotations

import codecs
import pathlib
import re
import typing as t

from ...disks.closing import Closing
from .. import paths

#: How much of a console is kept in the file, and how much of its end in memory. Characters.
_FILE_LIMIT = 2 * 1024**2
_WINDOW = 128 * 1024
_CUT_NOTICE = "\n[the console's further output was not kept]\n"

#: ECMA-48 control sequences, string sequences (OSC, DCS …) and two-character escapes; line ends; text.
_CSI = r"\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])"
_STRING = r"[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
_SHORT = r"[ -/]*[0-Z\\^-~]"
_ESCAPE = rf"\x1b(?:{_CSI}|{_STRING}|{_SHORT})"
_TOKEN = re.compile(rf"{_ESCAPE}|(?P<newline>\r?\n)|(?P<return>\r)|(?P<text>[^\x1b\r\n]+)|\x1b")
_WHOLE_ESCAPE = re.compile(_ESCAPE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: A sequence that is not whole yet waits for its rest, but no longer than this.
_PENDING_LIMIT = 256
#: Of a PC's text screen.
_ROWS = 25


class Cleaner:
    """Turns a terminal's bytes into lines of plain text; sequences may be split over several calls."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._row = 1
        self._returned = False

    def feed(self, data: bytes) -> str:
        """Return what can be told of ``data`` by now.

        Going to another row, or back to the row's begin, begins a new line, as firmware and boot loaders place their
        text that way; everything else that is not text is left out.
        """
        text = self._pending + self._decoder.decode(data)
        self._pending = ""
        start = text.rfind("\x1b")
        if start >= 0 and len(text) - start < _PENDING_LIMIT and not _WHOLE_ESCAPE.match(text, start):
            text, self._pending = text[:start], text[start:]
        return "".join(self._plain(match) for match in _TOKEN.finditer(text))

    def _plain(self, token: re.Match[str]) -> str:
        if token["newline"]:
            self._returned = False
            # On the last row a line feed scrolls.
            self._row = min(self._row + 1, _ROWS)
            return "\n"
        if token["return"]:
            # Where the cursor is placed next decides whether this begins a line.
            self._returned = True
        if token["text"]:
            text = _CONTROL.sub("", token["text"])
            returned, self._returned = self._returned and bool(text), self._returned and not text
            return f"\n{text}" if returned else text
        if token["final"] in ("H", "f"):
            self._returned = False
            first = token["parameters"].split(";")[0]
            row = int(first) if first.isdecimal() else 1
            moved, self._row = row != self._row, row
            return "\n" if moved else ""
        return ""


class Console(Closing):
    """What the guest wrote, in a file and, its end, in memory."""

    def __init__(self, path: pathlib.Path, hide: t.Callable[[str], str] = str) -> None:
        """Begin ``path`` anew; ``hide`` takes from the text what nobody shall see."""
        self.text = ""
        """The end of what was written, as plain text."""
        self._cleaner = Cleaner()
        self._hide = hide
        self._file = path.open("w", encoding="utf-8")
        self._kept = 0

    def feed(self, data: bytes) -> None:
        """Take in what the guest wrote."""
        fresh = self._hide(self._cleaner.feed(data))
        self.text = (self.text + fresh)[-_WINDOW:]
        if self._kept < _FILE_LIMIT:
            self._file.write(fresh[: _FILE_LIMIT - self._kept])
            self._kept += len(fresh)
            if self._kept >= _FILE_LIMIT:
                self._file.write(_CUT_NOTICE)
            self._file.flush()

    def tail(self, count: int = 30) -> list[str]:
        """Return the last ``count`` lines that are not blank, at most 300 characters each, fit to be shown."""
        lines = [paths.printable(line.rstrip()[:300].replace("\t", " ")) for line in self.text.split("\n")]
        return [line for line in lines if line.strip()][-count:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
