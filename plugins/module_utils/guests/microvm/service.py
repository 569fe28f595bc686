# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first process of a micro-VM: it makes the machine fit to work, and does what the worker asks for.

The code that looks into the guest is the same that runs on a worker without a micro-VM: :class:`..session.GuestHere`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import subprocess
import tempfile
import threading
import typing as t

from ...disks.attach import attach_devices
from ...protocol.errors import ErrorClass, JobError, environment
from ..session import GuestHere
from . import messages
from .messages import Message

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_RDONLY, _MS_REMOUNT = 2, 4, 8, 1, 32
#: reboot(2).
_POWER_OFF = 0x4321FEDC
_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_console", "loop")
#: How often the worker hears that the machine is alive. Seconds.
_BEAT = 2.0

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the machine until it is to end."""
    try:
        _prepare()
        with open(_port(), "r+b", buffering=0) as port:
            Service(port).run()
    finally:
        os.sync()
        _libc.reboot(_POWER_OFF)


class Service:
    """Answers requests, one after the other."""

    def __init__(self, port: t.BinaryIO) -> None:
        self._port = port
        self._writing = threading.Lock()
        self._session: GuestHere | None = None
        self._workdir = pathlib.Path(tempfile.mkdtemp())

    def run(self) -> None:
        """Answer until the disks are let go of, or the worker is gone."""
        self._send(messages.Ready())
        threading.Thread(target=self._beat, daemon=True).start()
        for line in iter(_lines(self._port).__next__, None):
            request = messages.load(line)
            self._send(self._answer(request))
            if isinstance(request, messages.Close):
                return

    def _answer(self, request: Message) -> Message:
        try:
            return self._do(request)
        except JobError as error:
            return messages.Failure.of(error)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            return messages.Failure(ErrorClass.INTERNAL, "SystemError", f"In the micro-VM: {error.strerror}{where}.")
        except Exception as error:
            import traceback

            traceback.print_exc()  # to the console, whose end the worker keeps
            told = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
            return messages.Failure(ErrorClass.INTERNAL, "InternalError", f"A mistake in the program: {told}.")

    def _do(self, request: Message) -> Message:
        if isinstance(request, messages.Probe):
            devices = {name: _disk(name) for name in request.disks}
            attachment = attach_devices(devices, writable=request.writable)
            if self._session is not None:
                self._session.abandon(AssertionError("other disks are asked for"))
            keys = [sent.key() for sent in request.keys]
            self._session = GuestHere(attachment, writable=request.writable, workdir=self._workdir, keys=keys)
            return self._session.probe()
        if self._session is None:
            raise AssertionError("the disks are attached first")
        if isinstance(request, messages.Mount):
            return self._session.mount()
        if isinstance(request, messages.PlanFixes):
            return self._session.plan(request.request())
        if isinstance(request, messages.Apply):
            self._session.apply()
        elif isinstance(request, messages.Instrument):
            return messages.Instrumented(self._session.instrument(request.token, emulated=request.emulated))
        elif isinstance(request, messages.MapUsed):
            return self._session.used(request.sizes)
        elif isinstance(request, messages.Examine):
            return self._session.examine()
        elif isinstance(request, messages.Close):
            self._session.close()
        else:
            raise environment("MicroVmTalk", "The worker asked for what the micro-VM does not know.")
        return messages.Done()

    def _beat(self) -> None:
        wait = threading.Event()
        while not wait.wait(_BEAT):
            self._send(messages.Beat())

    def _send(self, message: Message) -> None:
        data = memoryview(messages.dump(message))
        with self._writing:
            while data:
                data = data[self._port.write(data) or 0 :]


def _lines(port: t.BinaryIO) -> t.Iterator[bytes]:
    buffer = b""
    while piece := os.read(port.fileno(), 65536):
        buffer += piece
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            yield line


def _prepare() -> None:
    for kind, place in (
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ):
        flags = _MS_NOSUID | _MS_NOEXEC | (0 if kind == "devtmpfs" else _MS_NODEV)
        _mount(kind, place, kind, flags)
    # What the machine is made of stays as it is.
    _mount("none", "/", None, _MS_REMOUNT | _MS_RDONLY)
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/run", TMPDIR="/tmp")
    pathlib.Path("/proc/sys/kernel/modprobe").write_text("/usr/sbin/modprobe", encoding="ascii")
    subprocess.run(["/usr/sbin/modprobe", "--all", *_DRIVERS], check=True)


def _mount(source: str, place: str, kind: str | None, flags: int) -> None:
    name = None if kind is None else kind.encode()
    if _libc.mount(source.encode(), place.encode(), name, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {kind or 'read-only'}: {os.strerror(ctypes.get_errno())}", place)


def _port() -> pathlib.Path:
    return pathlib.Path("/dev", _named("/sys/class/virtio-ports/*/name", messages.PORT).name)


def _disk(serial: str) -> pathlib.Path:
    return pathlib.Path("/dev", _named("/sys/block/vd*/serial", serial).name)


def _named(pattern: str, name: str) -> pathlib.Path:
    """Return the device whose file in /sys says ``name``; drivers may take a moment to find theirs."""
    pause = threading.Event()
    for _attempt in range(600):
        for file in pathlib.Path("/").glob(pattern.lstrip("/")):
            with contextlib.suppress(OSError):
                if file.read_text(encoding="utf-8", errors="replace").strip() == name:
                    return file.parent
        pause.wait(0.1)
    raise environment("MicroVmDevices", f"The micro-VM has no device {name}.")
