# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel NBD: images as block devices, served by one ``qemu-nbd`` each.

A device that serves has a ``pid`` file below ``/sys/block/nbdN`` (Linux, drivers/block/nbd.c). The servers are
children that die with the thread that started them; the kernel then lets go of the device by itself.
"""

from __future__ import annotations

import pathlib
import subprocess
import tempfile
import time
import typing as t

from ..protocol.errors import JobError, environment, transient
from .command import clean_environment, confined, last_lines, run_command
from .qemu import json_name

_SYS_BLOCK = pathlib.Path("/sys/block")
#: For a device to come up or to go. Seconds.
_TIMEOUT = 30.0
#: The kernel asks it of whoever sets a device up or lets it go.
_CAPABILITIES = ("sys_admin",)


def present() -> bool:
    """Whether this host's kernel has NBD devices. Whether they can be used, :meth:`NbdServer.connect` tells."""
    return (_SYS_BLOCK / "nbd0").exists()


class NbdServer:
    """NBD devices of this process."""

    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def connect(self, options: t.Mapping[str, t.Any], *, writable: bool) -> pathlib.Path:
        """Show the image with QEMU's blockdev ``options`` as a free NBD device, and return that.

        Raises:
            JobError: class ``environment``, no device is free or usable; the image cannot be opened.
        """
        problem = "all devices are taken"
        for folder in sorted(_SYS_BLOCK.glob("nbd*"), key=lambda f: int(f.name[3:])):
            if (folder / "pid").exists():
                continue
            number = int(folder.name[3:])
            failure = self._try_connect(number, options, writable=writable)
            if failure is None:
                return pathlib.Path(f"/dev/nbd{number}")
            problem = failure
            if "busy" not in failure.lower():
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
            command = ["qemu-nbd", "--disconnect", f"/dev/nbd{number}"]
            run_command(command, what="Detaching a disk", capabilities=_CAPABILITIES)
            try:
                status = child.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise _lost(number, "did not end") from None
            if status != 0:
                raise _lost(number, f"ended with status {status}")
            del self._children[number]

    def kill(self) -> None:
        """End all servers at once; the kernel fails what is still written to their devices."""
        for child in self._children.values():
            child.kill()
            child.wait()
        self._children.clear()

    def _try_connect(self, number: int, options: t.Mapping[str, t.Any], *, writable: bool) -> str | None:
        """Return None once the device serves, else what qemu-nbd said."""
        command: list[str | pathlib.Path] = ["qemu-nbd", f"--connect=/dev/nbd{number}", "--cache=writeback"]
        command += [json_name(options)] if writable else ["--read-only", json_name(options)]
        with tempfile.TemporaryFile() as messages:
            child = subprocess.Popen(
                confined(command, capabilities=_CAPABILITIES),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=messages,
                env=clean_environment(),
            )
            deadline = time.monotonic() + _TIMEOUT
            while child.poll() is None and time.monotonic() < deadline:
                if _serves(number, child.pid):
                    self._children[number] = child
                    return None
                time.sleep(0.01)
            child.kill()
            child.wait()
            messages.seek(0)
            return last_lines(messages.read(65536))


def _serves(number: int, server: int) -> bool:
    """Whether the device is up, and served by the process ``server`` and nobody else."""
    try:
        thread = (_SYS_BLOCK / f"nbd{number}" / "pid").read_text(encoding="ascii").strip()
        size = int((_SYS_BLOCK / f"nbd{number}" / "size").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return False
    return size > 0 and pathlib.Path(f"/proc/{server}/task/{thread}").exists()


def _lost(number: int, what: str) -> JobError:
    return transient("NbdServerLost", f"The server of /dev/nbd{number} {what}.", "Try again.")
