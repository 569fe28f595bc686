# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One micro-VM: a QEMU process, confined as a boot test's is, and the talk with the service in it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
import socket
import subprocess
import tempfile
import time
import typing as t

from ...disks.closing import Closing
from ...disks.command import cancelled_error, clean_environment, last_lines
from ...disks.qemu import json_name
from ...protocol.errors import JobError, transient
from ..boottest import confinement
from ..boottest.accelerator import Accelerator, probe_accelerator
from ..boottest.layerserver import Layer, LayerServer
from ..boottest.memory import granted_memory
from . import messages
from .image import MachineFiles
from .messages import Message

#: LUKS' key derivation may take a gigabyte; what is not touched costs nothing.
_MEMORY = 2 * 1024**3
#: QEMU itself writes no file. Bytes.
_FILE_LIMIT = 1024**2
#: Until the machine has something to say at all, also where its processor is emulated; between two of its beats; and
#: for one request. Seconds.
_START, _SILENCE, _REQUEST = 600.0, 120.0, 1800.0
#: For the machine to end by itself. Seconds.
_END = 60.0
_TICK = 0.2
_READ = 1024**2
#: How much of the end of the console is kept for an error's text. Bytes.
_CONSOLE = 16 * 1024
#: Nothing is printed that nobody reads: under emulation each letter costs.
_KERNEL_ARGUMENTS = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off random.trust_cpu=on"

#: What QEMU is handed besides its disks, as names of descriptors.
_KERNEL, _INITRAMFS, _PORT, _SCREEN = "kernel", "initramfs", "port", "screen"

_A = t.TypeVar("_A", bound=Message)


class MicroVm(Closing):
    """A machine with some disks. When this is closed, or the thread that made it ends, it is gone."""

    def __init__(
        self,
        files: MachineFiles,
        layers: t.Sequence[Layer],
        folder: pathlib.Path,
        cancelled: t.Callable[[], bool],
    ) -> None:
        """Start the machine and wait until its service is ready.

        Args:
            files: what it boots.
            layers: its disks; their names are their serial numbers.
            folder: an existing folder for what is gone afterwards.
            cancelled: asked several times a second; True ends whatever is waited for.

        Raises:
            JobError: it does not start (environment, transient), or it was cancelled.
        """
        self._cancelled = cancelled
        self._buffer = b""
        self._console = b""
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._server = self._stack.enter_context(LayerServer(layers, folder))
            self._stderr = self._stack.enter_context(tempfile.TemporaryFile())
            self._process = self._start(files, probe_accelerator(), layers)
            self._stack.callback(self._kill)
            self._receive(messages.Ready, _START)
            undo.pop_all()

    def ask(self, request: messages.Request, answer: type[_A]) -> _A:
        """Have the service do something, and return what it answers.

        Raises:
            JobError: what the service says went wrong; or the machine is gone, silent or slow (transient).
        """
        data = memoryview(messages.dump(request))
        deadline = time.monotonic() + _SILENCE
        while data:
            if select.select([], [self._port], [], _TICK)[1]:
                with contextlib.suppress(BlockingIOError):
                    data = data[self._port.send(data) :]
            self._check(deadline)
        return self._receive(answer, _REQUEST)

    def finish(self) -> None:
        """Wait for the machine's end, and have all that it wrote be in its layers.

        Raises:
            JobError: class ``transient``, writes may be lost.
        """
        try:
            status = self._process.wait(_END)
        except subprocess.TimeoutExpired:
            status = -1
        if status != 0:
            raise transient("LostWrites", f"The micro-VM did not end in order ({self._words()}).", "Try again.")
        self._server.finish()

    def close(self) -> None:
        """End the machine, however it is."""
        self._stack.close()

    def _start(
        self, files: MachineFiles, accelerator: Accelerator, layers: t.Sequence[Layer]
    ) -> subprocess.Popen[bytes]:
        self._port, port = socket.socketpair()
        self._screen, screen = socket.socketpair()
        for ours in (self._port, self._screen):
            self._stack.enter_context(ours)
            ours.setblocking(False)
        with contextlib.ExitStack() as handed_over:
            descriptors = {name: connection.fileno() for name, connection in self._server.connections.items()}
            for theirs in (port, screen):
                handed_over.enter_context(theirs)
            descriptors |= {_PORT: port.fileno(), _SCREEN: screen.fileno()}
            for name, path in ((_KERNEL, files.kernel), (_INITRAMFS, files.initramfs)):
                descriptors[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                handed_over.callback(os.close, descriptors[name])
            command = _command(accelerator, layers, descriptors)
            process = subprocess.Popen(
                confinement.confined(command, _FILE_LIMIT),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=tuple(descriptors.values()),
                env=clean_environment(),
            )
        for connection in self._server.connections.values():
            connection.close()
        return process

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _receive(self, wanted: type[_A], seconds: float) -> _A:
        """Return the next message that is no beat."""
        deadline = time.monotonic() + seconds
        heard = time.monotonic() + (seconds if wanted is messages.Ready else _SILENCE)
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                message = messages.load(line)
                heard = time.monotonic() + _SILENCE
                if isinstance(message, messages.Failure):
                    raise message.error()
                if isinstance(message, wanted):
                    return message
                if not isinstance(message, messages.Beat):
                    raise transient("MicroVmTalk", "A micro-VM answered what nobody asked.", "Try again.")
            self._check(min(deadline, heard))
            ready = select.select([self._port, self._screen], [], [], _TICK)[0]
            if self._port in ready:
                self._buffer += self._read(self._port)
                if len(self._buffer) > messages.LINE_LIMIT:
                    raise transient("MicroVmTalk", "A micro-VM talks without end.", "Try again.")
            if self._screen in ready:
                self._console = (self._console + self._read(self._screen))[-_CONSOLE:]

    def _read(self, connection: socket.socket) -> bytes:
        try:
            piece = connection.recv(_READ)
        except BlockingIOError:
            return b""
        except OSError:
            piece = b""
        if not piece:
            self._process.wait(_END)
            raise self._lost("ended")
        return piece

    def _check(self, deadline: float) -> None:
        if self._cancelled():
            raise cancelled_error("The work in a micro-VM")
        if time.monotonic() > deadline:
            raise self._lost("does not answer")
        if self._process.poll() is not None:
            raise self._lost("ended")

    def _lost(self, what: str) -> JobError:
        return self._server.failed() or transient(
            "MicroVmLost", f"The micro-VM {what} ({self._words()}).", "Try again."
        )

    def _words(self) -> str:
        self._stderr.seek(0)
        said = self._stderr.read(_CONSOLE)
        return last_lines(said + b"\n" + self._console, 5)


def _command(accelerator: Accelerator, layers: t.Sequence[Layer], descriptors: t.Mapping[str, int]) -> list[str]:
    """Return QEMU's command line: a kernel, some disks, a serial port to talk through, and nothing else."""
    arguments = [confinement.find_program(), *confinement.BASE_ARGUMENTS, "-no-reboot"]
    arguments += ["-machine", f"q35,accel={accelerator.name},graphics=off,usb=off", "-cpu", accelerator.cpu]
    arguments += ["-smp", "1", "-m", f"{granted_memory(_MEMORY) // 1024**2}M"]
    arguments += [
        "-kernel",
        f"/proc/self/fd/{descriptors[_KERNEL]}",
        "-initrd",
        f"/proc/self/fd/{descriptors[_INITRAMFS]}",
    ]
    arguments += ["-append", _KERNEL_ARGUMENTS]
    arguments += ["-chardev", f"socket,id=screen,fd={descriptors[_SCREEN]}", "-serial", "chardev:screen"]
    arguments += ["-device", "virtio-serial-pci", "-chardev", f"socket,id=port,fd={descriptors[_PORT]}"]
    arguments += ["-device", f"virtserialport,chardev=port,name={messages.PORT}"]
    for layer in layers:
        name = layer.name
        server = {"type": "fd", "str": str(descriptors[name])}
        node = {"driver": "nbd", "node-name": name, "export": name, "server": server, "read-only": not layer.writable}
        arguments += ["-blockdev", json_name(node).removeprefix("json:")]
        # The guest's kernel hears of an error, whatever it is; else the machine would stand still.
        arguments += ["-device", f"virtio-blk-pci,drive={name},serial={name},werror=report,rerror=report"]
    return arguments
