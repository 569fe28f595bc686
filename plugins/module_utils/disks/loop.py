# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Loop devices that vanish with their owner.

They are set up by the kernel's own calls (linux/loop.h): in one step with offset, size and flags (``LOOP_CONFIGURE``,
Linux 5.8), so that several processes may look for a free device at once, and with ``LO_FLAGS_AUTOCLEAR``, so that a
device is gone as soon as nothing has it open any more, also after a SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import stat
import time

from ..protocol.errors import JobError, environment, transient

_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_FLAG_READ_ONLY = 1
_FLAG_AUTOCLEAR = 4
_MAJOR = 7
#: Somebody else may take the free device first; how often to ask for another.
_ATTEMPTS = 200
#: How long udev or a probe may hold a device that is to go. Seconds.
_RELEASE_TIMEOUT = 10.0


class _Info64(ctypes.Structure):
    """``struct loop_info64``."""

    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_uint8 * 64),
        ("lo_crypt_name", ctypes.c_uint8 * 64),
        ("lo_encrypt_key", ctypes.c_uint8 * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class _Config(ctypes.Structure):
    """``struct loop_config``."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _Info64),
        ("reserved", ctypes.c_uint64 * 8),
    )


class LoopDevice:
    """A range of a file or block device as a block device of its own, for as long as this object holds it open."""

    def __init__(self, path: pathlib.Path, offset: int, size: int, *, writable: bool, block_size: int = 512) -> None:
        """Set a free loop device up over ``size`` bytes of ``path`` from ``offset`` on, with sectors of ``block_size``.

        Raises:
            JobError: class ``environment``, loop devices cannot be used here.
        """
        self._descriptor = -1
        try:
            backing = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            try:
                self._descriptor, self.number = _configure(
                    backing, path, offset, size, writable=writable, block_size=block_size
                )
            finally:
                os.close(backing)
        except OSError as error:
            raise environment(
                "NoLoopDevice",
                f"A partition cannot be attached as a loop device: {error.strerror}.",
                "The worker must be root and may need more loop devices (module parameter loop.max_loop).",
            ) from error
        self.device = pathlib.Path(f"/dev/loop{self.number}")
        self._attached_as = self._read_attachment()

    def sync(self) -> None:
        """Write out what the kernel still holds of the device.

        Raises:
            JobError: class ``transient``, data were lost.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise transient(
                "LostWrites", f"Writing to {self.device} failed: {error.strerror}.", "Try again."
            ) from error

    def detach(self) -> None:
        """Give the device back, and wait until the kernel has let go of it. Does nothing the second time.

        Raises:
            JobError: class ``transient``, something still uses the device (it stays until that ends).
        """
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._descriptor, _LOOP_CLR_FD)
        os.close(self._descriptor)
        self._descriptor = -1
        deadline = time.monotonic() + _RELEASE_TIMEOUT
        while self._attached_as and self._read_attachment() == self._attached_as:
            if time.monotonic() > deadline:
                raise transient("DeviceBusy", f"{self.device} is still in use.", "See what has it mounted or open.")
            time.sleep(0.01)

    def _read_attachment(self) -> tuple[str, str] | None:
        """What tells this use of the device from every other one, as long as it lasts."""
        folder = pathlib.Path(f"/sys/block/loop{self.number}")
        try:
            backing_file = (folder / "loop" / "backing_file").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        try:
            # Counts uses of the device; since Linux 5.15.
            return backing_file, (folder / "diskseq").read_text(encoding="ascii")
        except OSError:
            return backing_file, ""


def _configure(
    backing: int, path: pathlib.Path, offset: int, size: int, *, writable: bool, block_size: int
) -> tuple[int, int]:
    config = _Config(fd=backing, block_size=block_size)
    config.info.lo_offset = offset
    config.info.lo_sizelimit = size
    config.info.lo_flags = _FLAG_AUTOCLEAR | (0 if writable else _FLAG_READ_ONLY)
    name = os.fsencode(path)[:63]
    ctypes.memmove(config.info.lo_file_name, name, len(name))
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _attempt in range(_ATTEMPTS):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            try:
                descriptor = _open_node(number, writable=writable)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENXIO):
                    raise
                continue
            try:
                fcntl.ioctl(descriptor, _LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return descriptor, number
    finally:
        os.close(control)
    raise _all_busy()


def _open_node(number: int, *, writable: bool) -> int:
    """Open loop device ``number``; in containers without devtmpfs its node has to be made first."""
    node = f"/dev/loop{number}"
    with contextlib.suppress(FileExistsError):
        if not os.path.exists(node):
            os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(_MAJOR, number))
    return os.open(node, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)


def _all_busy() -> JobError:
    return transient("NoLoopDevice", "No loop device stayed free long enough to be taken.", "Run fewer jobs at once.")
