# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel NBD: images as block devices, served by one ``qemu-nbd`` each.

A device that serves has a ``pid`` file below ``/sys/block/nbdN`` (Linux, drivers/block/nbd.c); the number in it means
nothing in a job's own PID namespace, so that whose server it is, that server tells. The servers are children that die
with the thread that started them; the kernel then lets go of the device by itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import re
import subprocess
import tempfile
import time
import typing as t

from ..protocol.errors import JobError, environment, transient
from .command import clean_environment, confined, last_lines
from .qemu import json_name

_SYS_BLOCK = pathlib.Path("/sys/block")
#: For a device to come up or to go. Seconds.
_TIMEOUT = 30.0
#: How much is read of what a server says. Bytes.
_SAID = 65536
#: linux/nbd.h. What ``qemu-nbd --disconnect`` asks for besides would hit whoever has taken the device meanwhile.
_NBD_DISCONNECT = 0xAB08
#: What qemu-nbd says when its device serves, and what when somebody else has just taken that (QEMU, qemu-nbd.c and
#: nbd/client.c).
_CONNECTED, _TAKEN = b"is now connected to", re.compile("Failed to set NBD socket|busy", re.IGNORECASE)
#: The kernel asks it of whoever sets a device up or lets it go.
_CAPABILITIES = ("sys_admin",)


def present() -> bool:
    """Whether this host's kernel has NBD devices. Whether they can be used, :meth:`NbdServer.connect` tells."""
    return (_SYS_BLOCK / "nbd0").exists()


class NbdServer:
    """NBD devices of this process."""

    def __init__(self, folder: pathlib.Path) -> None:
        """``folder``: an existing one of one's own, for sockets."""
        self._folder = folder
        self._children: dict[int, _Child] = {}

    def connect(self, options: t.Mapping[str, t.Any], *, writable: bool) -> pathlib.Path:
        """Show the image with QEMU's blockdev ``options`` as a free NBD device, and return that.

        Raises:
            JobError: class ``environment``, no device is free or usable; the image cannot be opened.
        """
        problem = "all devices are taken"
        for number in sorted(int(folder.name[3:]) for folder in _SYS_BLOCK.glob("nbd*")):
            with contextlib.ExitStack() as undo:
                if not _lock(number, undo) or (_SYS_BLOCK / f"nbd{number}/pid").exists():
                    continue
                messages = undo.enter_context(tempfile.TemporaryFile())
                process = self._start(number, options, messages, writable=writable)
                undo.callback(process.wait)
                undo.callback(process.kill)
                if _wait_for(process, messages, number):
                    self._children[number] = _Child(process, messages, undo.pop_all())
                    return pathlib.Path(f"/dev/nbd{number}")
                problem = last_lines(_said(messages))
            if not _TAKEN.search(problem):
                break
        raise environment(
            "NoNbdDevice",
            f"A disk image cannot be attached by NBD: {problem}.",
            "End what holds /dev/nbd* devices, or load the module with more of them (nbds_max).",
        )

    def close(self) -> None:
        """Disconnect the devices; when it returns, all writes are in the images.

        Raises:
            JobError: class ``transient``, a server did not end well, so that writes may be lost.
        """
        for number, child in list(self._children.items()):
            try:
                with open(f"/dev/nbd{number}", "rb", buffering=0) as device:
                    fcntl.ioctl(device, _NBD_DISCONNECT)
                status = child.process.wait(_TIMEOUT)
            except OSError as error:
                raise _lost(number, f"cannot be told to end: {error.strerror}") from error
            except subprocess.TimeoutExpired:
                raise _lost(number, "did not end") from None
            if status != 0:
                raise _lost(number, f"ended with status {status}: {last_lines(_said(child.messages))}")
            self._children.pop(number).held.close()

    def kill(self) -> None:
        """End all servers at once; the kernel fails what is still written to their devices."""
        for child in self._children.values():
            child.held.close()
        self._children.clear()

    def _start(
        self, number: int, options: t.Mapping[str, t.Any], messages: t.IO[bytes], *, writable: bool
    ) -> subprocess.Popen[bytes]:
        """Start a server that says to ``messages`` what it has to say."""
        # Unless it is verbose, it leaves a server behind in the background that is nobody's child (qemu-nbd.c).
        command: list[str | pathlib.Path] = ["qemu-nbd", f"--connect=/dev/nbd{number}", "--verbose"]
        command += ["--cache=writeback", *([] if writable else ["--read-only"])]
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Its own choice of a socket would be everybody's who tries the device; and a socket's name must be short.
            command += [f"--socket=/proc/self/fd/{folder}/nbd{number}", json_name(options)]
            return subprocess.Popen(
                confined(command, capabilities=_CAPABILITIES),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                pass_fds=[folder],
                env=clean_environment(),
            )
        finally:
            os.close(folder)


@dataclasses.dataclass(frozen=True)
class _Child:
    """A server."""

    process: subprocess.Popen[bytes]
    messages: t.IO[bytes]
    """What it says."""
    held: contextlib.ExitStack
    """Ends it where it still runs, and gives back what it had."""


def _lock(number: int, undo: contextlib.ExitStack) -> bool:
    """Take the device's lock, to be given back by ``undo``; whether it was free.

    Two that set a device up or take it down at the same time spoil it for each other: the kernel refuses one of them,
    but not at every moment. The lock is on the device's folder in sysfs, which is there wherever the device is; it
    takes no place that can be written.
    """
    folder = os.open(_SYS_BLOCK / f"nbd{number}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    undo.callback(os.close, folder)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _said(messages: t.IO[bytes]) -> bytes:
    # Where the file is written to next is shared with the server.
    return os.pread(messages.fileno(), _SAID, 0)


def _wait_for(process: subprocess.Popen[bytes], messages: t.IO[bytes], number: int) -> bool:
    """Wait until the server's device can be read; False where it ends, or takes too long."""
    deadline = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if _CONNECTED in _said(messages) and _serves(number):
            return True
        time.sleep(0.01)
    return False


def _serves(number: int) -> bool:
    """Whether the device can be read."""
    folder = _SYS_BLOCK / f"nbd{number}"
    try:
        return (folder / "pid").exists() and int((folder / "size").read_text(encoding="ascii")) > 0
    except (OSError, ValueError):
        return False


def _lost(number: int, what: str) -> JobError:
    return transient("NbdServerLost", f"The server of /dev/nbd{number} {what}.", "Try again.")
