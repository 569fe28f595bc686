# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the local queue knows of its host: a clock that nobody steps, processes that are not mixed up, filesystems.

Format facts: proc(5) for ``/proc/<pid>/stat``, statfs(2) and linux/magic.h for the filesystems' numbers.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import fcntl
import functools
import os
import pathlib
import signal
import time
import typing as t

from ..protocol import errors

#: Filesystems on which several machines, or a machine and its host, may see a file: no shared memory, weak locks.
_NETWORK_FILESYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x00C36400: "CephFS",
    0x01021997: "9p",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x786F4256: "VirtualBox shared folder",
    0xAAD7AAEA: "PanFS",
}
_FUSE = 0x65735546
#: FUSE filesystems that live on this machine alone.
_LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs"})


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the kernel's identity of this boot."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boottime() -> float:
    """Return the seconds since boot, suspend included. No clock step touches it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def now() -> datetime.datetime:
    """Return the present instant by the wall clock, for people; nothing is ever decided by it alone."""
    return datetime.datetime.now(datetime.timezone.utc)


@dataclasses.dataclass(frozen=True)
class Instant:
    """A point in time that survives clock steps (by the boot's clock) and reboots (by the wall clock)."""

    boot: str
    since_boot: float
    wall: float

    @classmethod
    def after(cls, seconds: float, since: float | None = None) -> Instant:
        """Return the instant ``seconds`` after ``since`` (as :func:`boottime` gives it; None: from now)."""
        left = seconds if since is None else since + seconds - boottime()
        return cls(boot_id(), boottime() + left, time.time() + left)

    def left(self) -> float:
        """Return the seconds until this instant; negative once it has passed."""
        if self.boot == boot_id():
            return self.since_boot - boottime()
        return self.wall - time.time()

    def passed(self) -> bool:
        """Whether the instant lies behind."""
        return self.left() <= 0

    def of_this_boot(self) -> bool:
        """Whether the machine has not been restarted since."""
        return self.boot == boot_id()

    def dump(self) -> str:
        """Return the text that :meth:`load` takes."""
        return f"{self.boot} {self.since_boot:.3f} {self.wall:.3f}"

    @classmethod
    def load(cls, text: str) -> Instant:
        """Return the instant that :meth:`dump` wrote."""
        boot, since_boot, wall = text.split(" ")
        return cls(boot, float(since_boot), float(wall))


def pid_namespace() -> int:
    """Return the inode number of this process's PID namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


@dataclasses.dataclass(frozen=True)
class ProcessId:
    """One process for good: a PID is reused, a PID with its start time is not."""

    pid: int
    started: int
    """In clock ticks since boot, as the kernel gives it."""
    boot: str
    namespace: int
    """Of the ``/proc`` in which ``pid`` counts."""

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the process of that PID, which must be a child of ours, or this process itself."""
        process = look_at(pid)
        if process is None:
            raise AssertionError("process is not None")
        return cls(pid, process.started, boot_id(), pid_namespace())

    def alive(self) -> bool | None:
        """Whether the process still runs; None where this cannot be told from here (another PID namespace)."""
        if self.boot != boot_id():
            return False
        if self.namespace != pid_namespace():
            return None
        process = look_at(self.pid)
        return process is not None and process.started == self.started and process.state not in "ZX"

    def kill(self, patience: float = 5.0) -> bool:
        """Kill the process for good, and return whether it is known to be dead."""
        deadline = time.monotonic() + patience
        while self.alive():
            try:
                os.kill(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                break
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        return self.alive() is False

    def dump(self) -> str:
        """Return the text that :meth:`load` takes."""
        return f"{self.pid} {self.started} {self.boot} {self.namespace}"

    @classmethod
    def load(cls, text: str) -> ProcessId:
        """Return the process that :meth:`dump` wrote."""
        pid, started, boot, namespace = text.split(" ")
        return cls(int(pid), int(started), boot, int(namespace))


class Process(t.NamedTuple):
    """What the kernel tells of a process."""

    state: str
    """One letter: R, S, D, T (stopped), Z …"""
    parent: int
    started: int
    """In clock ticks since boot."""


def look_at(pid: int) -> Process | None:
    """Return what the kernel tells of a process, or None if there is none of that PID."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in parentheses and may hold anything; the third is the state.
    fields = text.rpartition(")")[2].split()
    return Process(fields[0], int(fields[1]), int(fields[19]))


def lock_file(descriptor: int, patience: float) -> bool:
    """Take an exclusive lock on an open file; False if others held it all the time. Seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def refuse_network_filesystem(folder: pathlib.Path) -> None:
    """Make sure that SQLite may live in ``folder``.

    Raises:
        JobError: (environment) the folder lies on a network filesystem, where locks and shared memory do not hold.
    """
    kind = _network_filesystem(folder)
    if kind is not None:
        raise errors.environment(
            "StateOnNetworkFilesystem",
            f"The state folder {folder} lies on a network filesystem ({kind}), where the queue's locks do not hold.",
            "Give a state folder on a local disk (--state-dir).",
        )


def _network_filesystem(folder: pathlib.Path) -> str | None:
    # struct statfs begins with f_type, a long on the machines that run this.
    buffer = ctypes.create_string_buffer(512)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(folder), buffer) != 0:
        number = ctypes.get_errno()
        raise errors.environment(
            "StateUnreadable",
            f"The state folder {folder} cannot be looked at: {os.strerror(number)}.",
            "Check its path.",
        )
    magic = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
    if magic == _FUSE:
        kind = _mount_type(folder)
        return None if kind in _LOCAL_FUSE else kind
    return _NETWORK_FILESYSTEMS.get(magic)


def _mount_type(folder: pathlib.Path) -> str:
    """Return the filesystem type of the mount that holds ``folder``, by its device number; ``fuse`` if unknown."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        before, dummy, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "fuse"
