# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot test's virtual machine: one QEMU process, its consoles and its monitor."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import selectors
import socket
import subprocess
import tempfile
import typing as t

from ...disks.closing import Closing
from ...disks.command import clean_environment, last_lines
from ...protocol.errors import JobError
from . import confinement
from .monitor import Event, Monitor, MonitorLost

#: QEMU itself writes no file but the screenshot. Bytes.
_FILE_LIMIT = 64 * 1024**2
_READ = 65536

#: What QEMU is handed besides its disks, as names of descriptors.
MONITOR, CONSOLE, REPORT, SCREENSHOT = "monitor", "console", "report", "screenshot"


@dataclasses.dataclass
class News:
    """What came from the machine since the last look."""

    console: bytes = b""
    report: bytes = b""
    events: list[Event] = dataclasses.field(default_factory=list)
    ended: bool = False
    """QEMU's process is gone, or about to be."""


class QemuEnded(Exception):
    """The machine is gone, or stands still for good; the message says what QEMU said."""


class Emulator(Closing):
    """A running QEMU; a context manager that ends it."""

    def __init__(
        self,
        command: t.Callable[[t.Mapping[str, int]], list[str]],
        disks: t.Mapping[str, socket.socket],
        screenshot: pathlib.Path,
    ) -> None:
        """Start QEMU, unprivileged.

        Args:
            command: makes the command line from the numbers of the descriptors that QEMU gets, by name.
            disks: NBD connections by name; QEMU has them from now on.
            screenshot: where :meth:`take_screenshot` puts a PNG; an empty file until then.

        Raises:
            QemuEnded: QEMU does not start.
            JobError: it is not installed, or does not answer.
        """
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._stderr = self._stack.enter_context(tempfile.TemporaryFile())
            ours: dict[str, socket.socket] = {}
            theirs = {name: connection.fileno() for name, connection in disks.items()}
            with contextlib.ExitStack() as handed_over:
                for name in (MONITOR, CONSOLE, REPORT):
                    ours[name], other = socket.socketpair()
                    self._stack.enter_context(ours[name])
                    theirs[name] = handed_over.enter_context(other).fileno()
                theirs[SCREENSHOT] = os.open(screenshot, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                handed_over.callback(os.close, theirs[SCREENSHOT])
                self._process = subprocess.Popen(
                    confinement.confined(command(theirs), _FILE_LIMIT),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    pass_fds=tuple(theirs.values()),
                    env=clean_environment(),
                )
            for connection in disks.values():
                connection.close()
            self._monitor = Monitor(ours[MONITOR])
            self._consoles = {name: ours[name] for name in (CONSOLE, REPORT)}
            self._selector = self._stack.enter_context(selectors.DefaultSelector())
            for name, connection in ours.items():
                self._selector.register(connection, selectors.EVENT_READ, name)
            try:
                self._monitor.start()
            except MonitorLost:
                raise QemuEnded(self.last_words()) from None
            undo.pop_all()

    def wait(self, seconds: float) -> News:
        """Wait until the machine has something to tell, at most ``seconds``, and return it."""
        news = News()
        for key, _mask in self._selector.select(seconds):
            if key.data != MONITOR:
                piece = self._read(self._consoles[key.data])
                if key.data == CONSOLE:
                    news.console = piece
                else:
                    news.report = piece
        try:
            news.events = self._monitor.events()
        except MonitorLost:
            news.ended = True
        return news

    def start_clock(self) -> None:
        """Let the machine run; until now it stood still.

        Raises:
            QemuEnded: QEMU is gone.
            JobError: QEMU refuses.
        """
        try:
            self._monitor.execute("cont")
        except MonitorLost:
            raise QemuEnded(self.last_words()) from None

    def type(self, text: bytes) -> None:
        """Have somebody type ``text`` on the machine's serial console."""
        with contextlib.suppress(OSError):
            self._consoles[CONSOLE].sendall(text)

    def status(self) -> str:
        """QEMU's run state: ``running``, ``io-error``, ``internal-error`` …; empty: QEMU is gone."""
        try:
            return str(self._monitor.execute("query-status")["status"])
        except MonitorLost:
            return ""

    def take_screenshot(self) -> bool:
        """Write the machine's screen to the file named at the start; False where QEMU cannot."""
        try:
            self._monitor.execute("screendump", filename="/dev/fdset/1", format="png")
        except (JobError, MonitorLost):
            return False
        return True

    def last_words(self) -> str:
        """The last lines of QEMU's own messages, once it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._stderr.seek(0)
        return last_lines(self._stderr.read(_READ))

    def close(self) -> None:
        """End QEMU, however it is."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()
        self._stack.close()

    def _read(self, connection: socket.socket) -> bytes:
        try:
            piece = connection.recv(_READ)
        except OSError:
            piece = b""
        if not piece:
            self._selector.unregister(connection)
        return piece
