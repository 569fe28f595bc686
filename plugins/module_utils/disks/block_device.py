# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices as targets: which may be written, what is on them, and what must not stay there."""

from __future__ import annotations

import collections.abc as c
import contextlib
import ctypes
import errno
import os
import pathlib
import re
import stat
import typing as t

from ..protocol.errors import JobError, environment, invalid
from .blockmap import BLOCK, REGION
from .closing import Closing
from .command import cancelled_error, run_command
from .copylog import RegionRecord
from .usage import writer_of

#: Where a disk tells of itself: the begin and the end. Bytes.
EDGE = 1024**2
#: Linux' list of device numbers: through these the worker itself may show a guest's disks.
_NBD_MAJOR = 43
#: What tells a disk from every other one, also after a restart of the host: files of its folder in /sys.
_LASTING = ("dm/uuid", "wwid", "device/wwid")
#: blkid(8): nothing was found; more than one thing was.
_NOTHING, _AMBIVALENT = 2, 8
# fallocate(2): punching a hole is refused by disks that cannot do it fast, a range of zeros is then written.
_PUNCH_HOLE = 0x02 | 0x01
_ZERO_RANGE = 0x10
#: What is made zeros at once, so that a slow disk leaves time to look whether to go on. Bytes.
_ZEROED_AT_ONCE = 64 * 1024**2

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class BlockDevice(Closing):
    """A block device that is held for writing: while it is open nobody can mount it or make it part of something else.

    A context manager.
    """

    def __init__(self, name: pathlib.Path) -> None:
        """Open the device ``name`` exclusively (O_EXCL).

        Raises:
            JobError: class ``invalid``, it is no block device; class ``environment``, it is in use (mounted, swap, part
                of LVM, RAID or a device-mapper device, open exclusively), or may not be written.
        """
        self.name = name
        """As the job names it."""
        self.path = _resolved(name)
        """The same without symbolic links."""
        writer = writer_of(self.path)
        if writer is not None:
            raise _in_use(name, writer)
        try:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _in_use(
                    name, "it, or a partition of it, is mounted, swap, or held by LVM, RAID or a job"
                ) from error
            raise environment(
                "DeviceUnusable",
                f"The device {name} cannot be written: {error.strerror}.",
                "See that it is there and not read-only, and that the worker is root.",
            ) from error
        try:
            self.size = os.lseek(self.descriptor, 0, os.SEEK_END)
            """Bytes."""
            self.identity = _identity(os.fstat(self.descriptor).st_rdev, self.size)
            """Tells this device from every other one that may get its name."""
        except BaseException:
            self.close()
            raise

    def content(self) -> str:
        """Return what is on the device, in words for a person; empty: it is blank.

        Blank is a device on which libblkid finds nothing, and whose first and last MiB are zeros.

        Raises:
            JobError: class ``transient``, it cannot be read.
        """
        output = run_command(
            ["blkid", "--probe", "--output=export", self.path],
            what=f"Probing {self.name}",
            accept=(0, _NOTHING, _AMBIVALENT),
        )
        text = output.decode("utf-8", "replace")
        for key, what in (("TYPE", "{}"), ("PTTYPE", "a partition table ({})")):
            found = re.search(rf"^{key}=([-\w]+)$", text, re.MULTILINE)
            if found:
                return what.format(found[1])
        for where, begin in (("first", 0), ("last", max(0, self.size - EDGE))):
            if os.pread(self.descriptor, EDGE, begin).strip(b"\0"):
                return f"data in its {where} MiB"
        return ""

    def zero_gaps(
        self,
        records: c.Iterable[RegionRecord],
        disk_size: int,
        *,
        progress: t.Callable[[int, int], None],
        cancelled: t.Callable[[], bool],
    ) -> None:
        """Make everything read as zeros that a copy has not written, and return when that is on the disk.

        Args:
            records: the copy's, in the disk's order.
            disk_size: of the disk that was copied; what the device has beyond it is zeroed as well.
            progress: gets the place on the device, and its size. Bytes.
            cancelled: asked for each 64 MiB.

        Raises:
            JobError: class ``transient``, it was cancelled.
            OSError: it cannot be written.
        """
        mode = _PUNCH_HOLE
        for begin, end in _gaps(records, disk_size, self.size):
            aligned = min(-(-begin // BLOCK) * BLOCK, end)
            self._write(bytes(aligned - begin), begin)
            for place in range(aligned, end, _ZEROED_AT_ONCE):
                if cancelled():
                    raise cancelled_error(f"Zeroing {self.name}")
                mode = self._zero(mode, place, min(_ZEROED_AT_ONCE, end - place))
                progress(place, self.size)
        os.fsync(self.descriptor)

    def wipe(self) -> None:
        """Take away what would make the device look like a disk: its first and its last MiB become zeros.

        Raises:
            OSError: it cannot be written.
        """
        zeros = bytes(min(EDGE, self.size))
        self._write(zeros, 0)
        self._write(zeros, self.size - len(zeros))
        os.fsync(self.descriptor)

    def _zero(self, mode: int, begin: int, length: int) -> int:
        """Zero a range, and return the mode for the next one."""
        if _fallocate(self.descriptor, mode, begin, length) == 0:
            return mode
        number = ctypes.get_errno()
        if mode == _PUNCH_HOLE and number == errno.EOPNOTSUPP:
            return self._zero(_ZERO_RANGE, begin, length)
        raise OSError(number, os.strerror(number), str(self.name))

    def _write(self, data: bytes, offset: int) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, memoryview(data)[done:], offset + done)

    def close(self) -> None:
        """Let go of the device."""
        os.close(self.descriptor)


def open_allowed(name: str, allowed: c.Iterable[str], private: c.Collection[pathlib.Path]) -> BlockDevice:
    """Open a device that a job names.

    Args:
        name: absolute, without ``..``; may be a link, such as an LVM volume's name.
        allowed: patterns of absolute paths, ``*`` within a part of the path; the name as it is, or as it is without
            links, must match one.
        private: the worker's folders; no loop device of a file below them is taken.

    Raises:
        JobError: class ``environment``, this worker may not write it; others as :class:`BlockDevice`.
    """
    path, real = pathlib.Path(name), pathlib.Path(os.path.realpath(name))
    if not any(candidate.match(pattern) for pattern in allowed for candidate in (path, real)):
        raise environment(
            "DeviceNotAllowed",
            f"This worker may not write to {name}.",
            f"Start it with --target-device {name} (the role conversion_host: "
            "hyper2kvm_conversion_host_target_devices), or name a device that it may write.",
        )
    _refuse_own(path, _resolved(path), private)
    return BlockDevice(path)


def wipe_unfinished(name: pathlib.Path, identity: str) -> None:
    """Wipe what a job had begun to write on a device, if the name still leads to that very device.

    Raises:
        JobError: it leads to another one by now, or is in use.
        OSError: it cannot be written.
    """
    with BlockDevice(name) as device:
        if device.identity != identity:
            raise environment(
                "OtherDevice",
                f"{name} is another device than the one that was written.",
                "Look at what took its name; it was not touched. Then submit the job again.",
            )
        device.wipe()


def _resolved(name: pathlib.Path) -> pathlib.Path:
    try:
        path = name.resolve(strict=True)
        mode = path.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise environment("NoSuchDevice", f"There is no device {name}.", "Make it, or correct its name.") from error
    if not stat.S_ISBLK(mode):
        raise invalid(
            "NotABlockDevice",
            f"spec.target.devices: {name} is no block device.",
            "Name block devices there; files are written below the output root, without target.devices.",
        )
    return path


def _refuse_own(name: pathlib.Path, path: pathlib.Path, private: c.Collection[pathlib.Path]) -> None:
    own = os.major(path.stat().st_rdev) == _NBD_MAJOR
    # Of a loop device and its partitions alike.
    with contextlib.suppress(OSError):
        file = (_sys_folder(path.stat().st_rdev)[0] / "loop/backing_file").read_text(encoding="utf-8").strip()
        own = own or any(pathlib.Path(file).is_relative_to(folder) for folder in private)
    if own:
        raise invalid(
            "WorkersOwnDevice",
            f"spec.target.devices: {name} is of the kind through which the worker reads its images.",
            "Name a device that does not show a file of the worker's folders and is no NBD device.",
        )


def _sys_folder(number: int) -> tuple[pathlib.Path, str]:
    """Return a disk's folder in /sys, and for a partition where on the disk it begins (sectors)."""
    folder = pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if (folder / "partition").exists():
        return folder.parent, (folder / "start").read_text(encoding="ascii").strip()
    return folder, ""


def _identity(number: int, size: int) -> str:
    folder, start = _sys_folder(number)
    for name in _LASTING:
        with contextlib.suppress(OSError):
            told = (folder / name).read_text(encoding="utf-8", errors="replace").strip()
            if told:
                return f"{told} {start or 'whole'} {size}"
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    try:
        # Counts the disks that this host has seen since its start; since Linux 5.15.
        sequence = (folder / "diskseq").read_text(encoding="ascii").strip()
    except OSError:
        sequence = "-"
    return f"{boot} {os.major(number)}:{os.minor(number)} {sequence} {size}"


def _gaps(records: c.Iterable[RegionRecord], disk_size: int, device_size: int) -> c.Iterator[tuple[int, int]]:
    """Yield the parts of the device that hold none of the disk's blocks with data."""
    position = 0
    for record in records:
        place, blocks = record.number * REGION, record.blocks
        while blocks:
            if blocks & 1:
                if place > position:
                    yield position, place
                position = min(place + BLOCK, disk_size)
            blocks >>= 1
            place += BLOCK
    if position < device_size:
        yield position, device_size


def _in_use(name: pathlib.Path, how: str) -> JobError:
    return environment(
        "DeviceInUse",
        f"The device {name} is in use: {how}.",
        "Unmount it or take it out of what uses it, or name another device.",
    )
