# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a checker's words and exit status mean."""

from __future__ import annotations

import os
import pathlib
import types
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.command import Finished
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.fsck import check_filesystems, judge
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Partition

_XFS_BEGIN = """\
Phase 1 - find and verify superblock...
Phase 2 - using internal log
        - zero log...
        - scan filesystem freespace and inode maps...
"""
_XFS_END = """\
        - found root inode chunk
Phase 3 - for each AG...
No modify flag set, skipping filesystem flush and exiting.
"""
#: As a user's RHEL 7 guest showed it: https://github.com/libguestfs/libguestfs/pull/355.
_RHEL7 = """\
bad agbno 0 in agfl, agno 11
freeblk count 7 != flcount 6 in ag 11
sb_fdblocks 390330022, counted 390330024
"""
_BACKUP = """\
fsck.fat 4.2 (2021-01-31)
There are differences between boot sector and its backup.
This is mostly harmless. Differences: (offset:original/backup)
  65:01/00, 71:4e/58
  Not automatically fixing this.
{more}
Leaving filesystem unchanged.
/dev/loop0: 0 files, 1/129022 clusters
"""


@pytest.mark.parametrize(
    ("fstype", "status", "output", "errors", "verdict", "told"),
    [
        ("ext4", 0, "Pass 1: Checking inodes, blocks, and sizes\n", "e2fsck 1.47.0 (5-Feb-2023)\n", "sound", ""),
        ("ext4", 4, "Pass 1: x\nInode 12 ref count is 9, should be 2.  Fix? no\n", "", "damaged", "ref count is 9"),
        ("ext3", 8, "", "ext2fs_open2: Bad magic number in super-block\n", "unchecked", "Bad magic number"),
        ("xfs", 0, "", _XFS_BEGIN + _XFS_END, "sound", ""),
        ("xfs", 1, "", _XFS_BEGIN + _RHEL7 + _XFS_END, "false-alarm", "RHEL 7"),
        (
            "xfs",
            1,
            "",
            _XFS_BEGIN + _RHEL7 + "imap claims a free inode 99 is in use\n" + _XFS_END,
            "damaged",
            "inode 99",
        ),
        ("xfs", 1, "", _XFS_BEGIN + "imap claims a free inode 99 is in use\n" + _XFS_END, "damaged", "inode 99"),
        ("xfs", -9, "", _XFS_BEGIN, "unchecked", "status -9"),
        ("vfat", 1, _BACKUP.format(more=""), "", "false-alarm", "backup"),
        (
            "vfat",
            1,
            _BACKUP.format(more="Dirty bit is set. Fs was not properly unmounted."),
            "",
            "false-alarm",
            "; it was",
        ),
        ("vfat", 1, _BACKUP.format(more="Reclaimed 1 unused cluster (2048 bytes)."), "", "damaged", "Reclaimed"),
        ("btrfs", 1, "found 1 errors\n", "ERROR: errors found in fs roots\n", "damaged", "errors found in fs roots"),
    ],
)
def test_what_a_checker_means(fstype: str, status: int, output: str, errors: str, verdict: str, told: str) -> None:
    found, message = judge(fstype, Finished(status, output.encode(), errors.encode()))
    assert found == verdict and told in message, (found, message)
    assert bool(message) == (verdict != "sound")


def test_an_exit_that_says_damage_without_a_word_is_damage() -> None:
    """Nothing that was said is known to be harmless."""
    assert judge("xfs", Finished(1, b"", _XFS_BEGIN.encode()))[0] == "damaged"


def test_a_checkers_words_are_harmless_on_a_terminal() -> None:
    assert "\x1b" not in judge("ext4", Finished(4, b"\x1b[2J", b""))[1]


@pytest.mark.parametrize(
    ("program", "verdict", "told"),
    [
        ("yes Inode 12 ref count is 9 | head --bytes=5M; exit 4", "damaged", "more than 4 MiB"),
        ("kill -KILL $$", "unchecked", "status -9"),
    ],
)
def test_a_checker_that_does_not_end_well_keeps_nobody_from_the_next(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, program: str, verdict: str, told: str
) -> None:
    (tmp_path / "e2fsck").write_text(f"#!/bin/sh\n{program}\n", encoding="utf-8")
    (tmp_path / "e2fsck").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "device").write_bytes(bytes(4096))
    devices = {"disk0": tmp_path / "device", "disk1": tmp_path / "gone"}
    disks = {name: types.SimpleNamespace(partition_device=lambda _p, d=device: d) for name, device in devices.items()}
    found = [Filesystem(Partition(name, 1, 0, 4096), "ext4") for name in devices]
    first, second = check_filesystems(t.cast("t.Any", types.SimpleNamespace(disks=disks)), found)
    assert first.verdict == verdict and told in first.message
    assert second.verdict == "unchecked" and "cannot be read" in second.message
