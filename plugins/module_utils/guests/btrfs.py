# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What btrfs asks of who mounts a guest's: all devices of one filesystem, and clones one after the other.

The kernel knows a btrfs by its UUID, and remembers the devices on which it saw one, also when it is mounted no more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import re
import socket
import struct
import time
import typing as t

from ..protocol.errors import transient

# linux/btrfs.h: BTRFS_IOC_FORGET_DEV, _IOW(0x94, 5, struct btrfs_ioctl_vol_args), whose name follows 8 bytes.
_FORGET_DEVICE = 0x50009405
_ARGUMENTS = "<q4088s"
_CONTROL = pathlib.Path("/dev/btrfs-control")
_SYSFS = pathlib.Path("/sys/fs/btrfs")
_TICK = 0.1
#: How long a clone of the same template is waited for: a guest is mounted for seconds only. Seconds.
PATIENCE = 120.0


def one_at_a_time(members: int) -> bool:
    """Whether this kernel cannot have two btrfs of one UUID at once: it would show one's files as the other's.

    Linux 6.7 gives the later of two clones a UUID for the time being, if they have one device each.
    """
    return members > 1 or not (_SYSFS / "features" / "temp_fsid").exists()


class Turn:
    """The right to have the btrfs with one UUID mounted on this host; it ends with the process at the latest."""

    def __init__(self, uuid: str, what: str) -> None:
        """Wait for the turn.

        Raises:
            JobError: class ``transient``, another filesystem with this UUID stays mounted.
        """
        # A name that nobody else can take while it is bound; unlike a lock's file nothing of it is left, ever.
        self._name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        deadline = time.monotonic() + PATIENCE
        while not self._take(uuid):
            if time.monotonic() > deadline:
                self._name.close()
                raise transient(
                    "TwinMounted",
                    f"{what} has the same identity as a btrfs that this host has mounted: both are clones.",
                    "It is tried again; end what holds the other one, such as a mounted guest of a playbook.",
                )
            time.sleep(_TICK)

    def end(self) -> None:
        """Let the next one have it."""
        self._name.close()

    def _take(self, uuid: str) -> bool:
        with contextlib.suppress(OSError):
            self._name.bind(f"\0hyper2kvm-btrfs-{uuid}")
            if not (_SYSFS / re.sub(r"[^0-9a-f-]", "", uuid)).is_dir():
                return True
            # Mounted by somebody who takes no turns. A bound socket cannot be let go of but by its end.
            self._name.close()
            self._name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        return False


def forget(devices: t.Iterable[pathlib.Path]) -> None:
    """Have the kernel forget these devices of an unmounted btrfs, as far as that goes.

    Else it takes a clone's device, or the same one of another attempt, for an older copy of what it has seen.
    """
    with contextlib.suppress(OSError):
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            for device in devices:
                with contextlib.suppress(OSError):
                    fcntl.ioctl(control, _FORGET_DEVICE, bytearray(struct.pack(_ARGUMENTS, 0, os.fsencode(device))))
        finally:
            os.close(control)
