# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QMP, QEMU's monitor protocol (docs/interop/qmp-spec.rst), over a connected socket.

Only what a boot test needs: commands one at a time, and the events that come meanwhile.
"""

from __future__ import annotations

import json
import select
import socket
import time
import typing as t

from ...protocol.errors import transient

_TIMEOUT = 30.0
_LINE_LIMIT = 16 * 1024**2

Event = t.Mapping[str, t.Any]


class MonitorLost(Exception):
    """QEMU closed the monitor: it ended."""


class Monitor:
    """One QMP session."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = b""
        self._events: list[Event] = []

    def start(self) -> None:
        """Read the greeting and leave negotiation mode.

        Raises:
            MonitorLost: QEMU ended before.
            JobError: class ``transient``, QEMU does not answer.
        """
        self._message()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: t.Any) -> t.Any:
        """Run ``command`` and return what it returns.

        Raises:
            MonitorLost: QEMU ended.
            JobError: class ``transient``, QEMU refused it or does not answer.
        """
        line = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        try:
            self.connection.sendall(line.encode())
        except OSError as error:
            raise MonitorLost from error
        while True:
            message = self._message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise transient("QemuRefused", f"QEMU refused {command}: {message['error'].get('desc')}.")
            self._events.append(message)

    def events(self) -> list[Event]:
        """Return the events that arrived since the last call; does not wait.

        Raises:
            MonitorLost: QEMU ended, and all its events were returned before.
        """
        lost = False
        while select.select([self.connection], [], [], 0)[0]:
            try:
                self._receive()
            except MonitorLost:
                lost = True
                break
        while b"\n" in self._buffer:
            self._events.append(self._line())
        if lost and not self._events:
            raise MonitorLost
        events, self._events = self._events, []
        return events

    def _message(self) -> dict[str, t.Any]:
        deadline = time.monotonic() + _TIMEOUT
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self.connection], [], [], left)[0]:
                raise transient("QemuSilent", f"QEMU's monitor did not answer in {_TIMEOUT:.0f} s.")
            self._receive()
        return self._line()

    def _receive(self) -> None:
        try:
            piece = self.connection.recv(65536)
        except OSError as error:
            raise MonitorLost from error
        if not piece:
            raise MonitorLost
        self._buffer += piece
        if len(self._buffer) > _LINE_LIMIT:
            raise transient("QemuRefused", "QEMU's monitor sent a message without end.")

    def _line(self) -> dict[str, t.Any]:
        line, self._buffer = self._buffer.split(b"\n", 1)
        message: dict[str, t.Any] = json.loads(line)
        return message
