# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Devices of the kernel's device-mapper that vanish with their owner.

Each is created, opened, and at once marked for removal (dmsetup's ``--deferred``; Linux 3.13), so that it goes as soon
as nothing has it open any more, also after a SIGKILL. Names are random: what a guest calls its volumes, which a host or
another guest may call its own the same, decides nothing here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import stat
import time
import typing as t

from ..protocol.errors import JobError, environment, transient
from .command import run_command

#: What makes and removes devices and their nodes, and keeps keys from being swapped out.
CAPABILITIES = ("sys_admin", "mknod", "ipc_lock")
_PREFIX = "hyper2kvm-"
_FOLDER = pathlib.Path("/dev/mapper")
#: How long something may still hold a device that is to go. Seconds.
_RELEASE_TIMEOUT = 10.0


class MappedDevice:
    """A device-mapper device, for as long as this object holds it open."""

    def __init__(self, create: t.Callable[[str], None]) -> None:
        """Have ``create`` make a device of the name that it is given.

        Raises:
            JobError: as ``create``; or the device cannot be opened.
        """
        require()
        self._parts: list[MappedDevice] = []
        self.name = _PREFIX + secrets.token_hex(8)
        create(self.name)
        try:
            self.device = _node(self.name)
            self._descriptor = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            _dmsetup("remove", self.name)
            raise environment("NoDeviceMapper", f"A volume's device cannot be opened: {error.strerror}.") from error
        _dmsetup("remove", "--deferred", self.name)

    def holds(self, parts: t.Sequence[MappedDevice]) -> None:
        """Have devices, of which this one is made, be given back with it."""
        self._parts = list(parts)

    def sync(self) -> None:
        """Write out what the kernel still holds of the device.

        Raises:
            JobError: class ``transient``, data were lost.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise transient("LostWrites", f"Writing to a volume failed: {error.strerror}.", "Try again.") from error

    def detach(self) -> None:
        """Give the device back, and wait until the kernel has let go of it. Does nothing the second time.

        Raises:
            JobError: class ``transient``, something still uses the device (it stays until that ends).
        """
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        deadline = time.monotonic() + _RELEASE_TIMEOUT
        while _folder_of(self.name) is not None:
            if time.monotonic() > deadline:
                raise transient("DeviceBusy", f"{self.device} is still in use.", "See what has it mounted or open.")
            time.sleep(0.01)
        # Where no udev does it.
        with contextlib.suppress(OSError):
            (_FOLDER / self.name).unlink()
        for part in self._parts:
            part.detach()


def mapped(table: t.Sequence[str], *, writable: bool) -> MappedDevice:
    """Return a device of the lines of ``table`` (dmsetup(8): start, length, target and its arguments; sectors).

    Raises:
        JobError: the kernel has no device-mapper, or not this target (environment); the table is refused.
    """
    access = [] if writable else ["--readonly"]

    def create(name: str) -> None:
        _dmsetup("create", name, *access, stdin="".join(f"{line}\n" for line in table).encode())

    return MappedDevice(create)


def table_of(device: MappedDevice) -> str:
    """Return the kernel's table of a device, without keys (dmsetup(8), "table")."""
    output = run_command(["dmsetup", "table", device.name], what="Reading a volume's table", capabilities=CAPABILITIES)
    return output.decode("utf-8", "replace")


def require() -> None:
    """See that the kernel has a device-mapper.

    Raises:
        JobError: class ``environment``, it has none.
    """
    if (_FOLDER / "control").exists():
        return
    with contextlib.suppress(JobError):
        run_command(["modprobe", "dm_mod"], what="Loading the device-mapper", capabilities=("sys_module",))
    if not (_FOLDER / "control").exists():
        raise no_device_mapper("it has no device-mapper")


def no_device_mapper(why: str) -> JobError:
    """The error of a kernel that cannot open volumes."""
    return environment(
        "NoDeviceMapper",
        f"The guest has volumes of LVM, LUKS or RAID, which are not opened by this worker's kernel: {why.rstrip('.')}.",
        "Load the kernel module dm_mod, give the worker a kernel for micro-VMs, or use a worker that has either.",
    )


def _dmsetup(*args: str, stdin: bytes | None = None) -> None:
    run_command(
        ["dmsetup", *args],
        what="Opening a volume",
        capabilities=CAPABILITIES,
        stdin=stdin,
        failure=lambda _reason, message: no_device_mapper(message),
    )


def _folder_of(name: str) -> pathlib.Path | None:
    """A device's folder in /sys; None: there is none of that name."""
    for file in pathlib.Path("/sys/block").glob("dm-*/dm/name"):
        with contextlib.suppress(OSError):
            if file.read_text(encoding="ascii", errors="replace").strip() == name:
                return file.parents[1]
    return None


def _node(name: str) -> pathlib.Path:
    """The device by the name that the kernel gives it; in containers without devtmpfs its node has to be made first.

    Raises:
        OSError: it is gone, or no node can be made.
    """
    folder = _folder_of(name)
    if folder is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    node = pathlib.Path("/dev", folder.name)
    if not node.exists():
        major, minor = map(int, (folder / "dev").read_text(encoding="ascii").split(":"))
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(major, minor))
    return node
