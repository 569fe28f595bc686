# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A terminal in which a command runs, and what a person would see in it, as text and as a page."""

from __future__ import annotations

import collections.abc as c
import contextlib
import fcntl
import html
import os
import pathlib
import pty
import select
import signal
import struct
import subprocess
import termios
import time

import pyte

_STYLE = """
body { margin: 0; background: #10141a; }
pre { margin: 0; padding: 16px 20px; color: #d6dde6; font: 15px/1.35 "DejaVu Sans Mono", "Liberation Mono", monospace; }
"""
_COLOURS = {
    "black": "#444c56",
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
}


class Terminal:
    """What a command has drawn so far."""

    def __init__(self, columns: int, rows: int) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def watch(self, seen: c.Callable[[str], bool], seconds: float) -> str:
        """Read until what is on the screen is ``seen``, and return it."""
        deadline = time.monotonic() + seconds
        while not seen(self.text):
            assert time.monotonic() < deadline, f"it was not shown in time:\n{self.text}"
            self._read(1.0)
        return self.text

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            self._stream.feed(os.read(self._master, 65536))

    def close(self) -> None:
        """Take it away from the command."""
        os.close(self._master)
        os.close(self.slave)

    @property
    def text(self) -> str:
        """The lines on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def page(self) -> str:
        """Return the screen as HTML."""
        lines = []
        for number in range(self._screen.lines):
            row = self._screen.buffer[number]
            cells = [row[column] for column in range(self._screen.columns)]
            lines.append("".join(_cell(cell) for cell in cells).rstrip())
        text = "\n".join(lines).rstrip()
        return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><pre>{text}</pre>\n'


def _cell(cell: pyte.screens.Char) -> str:
    text = html.escape(cell.data)
    colour = _COLOURS.get(cell.fg)
    return f'<span style="color: {colour}">{text}</span>' if colour else text


@contextlib.contextmanager
def running(
    command: c.Sequence[str | pathlib.Path],
    folder: pathlib.Path,
    environment: c.Mapping[str, str],
    size: tuple[int, int],
) -> c.Iterator[Terminal]:
    """Run a command in a terminal of ``size`` (columns, rows); it is interrupted when the block ends."""
    terminal = Terminal(*size)
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        start_new_session=True,
    )
    try:
        yield terminal
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGINT)
        terminal.watch(lambda _text: child.poll() is not None, 60)
        terminal.close()
