# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether filesystems are sound, as their own checkers tell, which look and repair nothing.

A checker's complaint is not always damage: some are known to come of filesystems that are as their kernel wants them.
Those are listed here, and are told as what they are. Exit statuses: e2fsck(8), xfs_repair(8), btrfs-check(8) and
fsck.fat(8).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import time
import typing as t

from ..protocol.errors import JobError
from .attach import Attachment
from .command import Finished, last_lines, never, run_to_end
from .journal import needs_replay
from .model import Filesystem

Verdict = t.Literal["sound", "false-alarm", "damaged", "unchecked"]

#: For all filesystems of a guest together: those of many TB have millions of inodes to be read, and a micro-VM's answer
#: is waited for half an hour. Seconds.
_TIMEOUT = 1500.0


@dataclasses.dataclass(frozen=True)
class Checked:
    """What its checker said of a filesystem."""

    place: str
    type: str
    verdict: Verdict
    message: str = ""
    """Why, for a person; empty where it is sound."""


@dataclasses.dataclass(frozen=True)
class _Alarm:
    """Complaints that are no damage."""

    lines: str
    """Matches each of them."""
    why: str


@dataclasses.dataclass(frozen=True)
class _Checker:
    command: tuple[str, ...]
    sound: frozenset[int]
    damaged: frozenset[int]
    """Exit statuses; any other says that it could not check."""
    talk: str = r"$."
    """Matches what it prints of a sound filesystem."""
    alarms: tuple[_Alarm, ...] = ()


_EXT = _Checker(
    ("e2fsck", "-f", "-n"),
    frozenset({0}),
    frozenset({4}),
    r"e2fsck \d|Pass \d|.*WARNING: Filesystem still has errors|\S+: \d+/\d+ files ",
)
_CHECKERS: t.Mapping[str, _Checker] = {
    "ext2": _EXT,
    "ext3": _EXT,
    "ext4": _EXT,
    "xfs": _Checker(
        ("xfs_repair", "-n", "-P"),
        frozenset({0}),
        frozenset({1}),
        r"Phase \d|\s*- |No modify flag set|Cannot get host filesystem geometry|Repair may fail if there is a sector|"
        r"the image and the host filesystem",
        (
            _Alarm(
                r"bad agbno \d+ in agfl, agno \d+|freeblk count \d+ != flcount \d+ in ag \d+|"
                r"sb_fdblocks \d+, counted \d+",
                "RHEL 7's kernel lays its list of free blocks out as newer programs do not expect "
                "(https://github.com/libguestfs/libguestfs/pull/355)",
            ),
        ),
    ),
    "btrfs": _Checker(("btrfs", "check", "--readonly"), frozenset({0}), frozenset({1})),
    "vfat": _Checker(
        ("fsck.fat", "-n"),
        frozenset({0}),
        frozenset({1}),
        r"fsck\.fat \d|Leaving filesystem unchanged|\S+: \d+ files, ",
        (
            _Alarm(
                r"There are differences between boot sector and its backup|This is mostly harmless|\s*\d+:[0-9a-f]+/|"
                r"\s*Not automatically fixing this",
                "the backup of the boot sector is older than the boot sector, which is what counts",
            ),
            _Alarm(
                r"Dirty bit is set|\s*Automatically removing dirty bit",
                "it was not unmounted before the machine stopped, and shows no damage of it",
            ),
        ),
    ),
}


def check_filesystems(
    attachment: Attachment, filesystems: t.Iterable[Filesystem], cancelled: t.Callable[[], bool] = never
) -> list[Checked]:
    """Check each filesystem that has a checker; nothing is mounted meanwhile, and nothing is written.

    What goes wrong with one of them is told as its verdict, and keeps nobody from the next.

    Args:
        attachment: the disks, and the volumes on them that are open.
        filesystems: what their partitions and volumes hold.
        cancelled: asked several times a second.

    Raises:
        JobError: it was cancelled.
    """
    deadline = time.monotonic() + _TIMEOUT
    checked = []
    for found in filesystems:
        if found.type in _CHECKERS:
            verdict, message = _check(attachment, found, deadline - time.monotonic(), cancelled)
            checked.append(Checked(found.place, found.type, verdict, message))
    return checked


def _check(
    attachment: Attachment, filesystem: Filesystem, seconds: float, cancelled: t.Callable[[], bool]
) -> tuple[Verdict, str]:
    partition = filesystem.partition
    device = attachment.disks[partition.disk].partition_device(partition)
    if filesystem.members != 1:
        return "unchecked", "it lies on several disks"
    command: list[str | pathlib.Path] = [*_CHECKERS[filesystem.type].command, device]
    try:
        if needs_replay(device, filesystem.type):
            # What is in the journal would look like damage.
            return "unchecked", "its journal is still to be replayed"
        what = f"Checking {filesystem.place}"
        return judge(filesystem.type, run_to_end(command, what=what, timeout=seconds, cancelled=cancelled))
    except OSError as error:
        return "unchecked", f"it cannot be read ({error.strerror})"
    except JobError as error:
        if error.reason == "Cancelled":
            raise
        # Of a sound filesystem no checker has so much to say.
        return ("damaged" if error.reason == "TooMuchOutput" else "unchecked"), error.message


def judge(fstype: str, done: Finished) -> tuple[Verdict, str]:
    """Return what it means that the checker of a type of filesystem ended so, and why.

    Args:
        fstype: as blkid names it; one that has a checker.
        done: how the checker ended.
    """
    checker = _CHECKERS[fstype]
    if done.status in checker.sound:
        return "sound", ""
    text = (done.output + b"\n" + done.errors).decode("utf-8", "replace")
    complaints = [line for line in text.splitlines() if line.strip() and not re.match(checker.talk, line)]
    if done.status not in checker.damaged:
        return "unchecked", f"{checker.command[0]} could not check it (status {done.status}): {_told(complaints)}"
    known = [alarm for alarm in checker.alarms if any(re.match(alarm.lines, line) for line in complaints)]
    others = [line for line in complaints if not any(re.match(alarm.lines, line) for alarm in known)]
    if known and not others:
        return "false-alarm", "; ".join(alarm.why for alarm in known)
    return "damaged", f"{checker.command[0]}: {_told(others)}"


def _told(lines: t.Sequence[str]) -> str:
    """The first of a checker's complaints: what is behind them mostly follows from these."""
    return last_lines("\n".join(lines[:3]).encode())
