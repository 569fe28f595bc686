# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""RAID members by superblocks that mdadm's own programs read alike."""

from __future__ import annotations

import dataclasses
import pathlib
import struct
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import raid
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.raid import Member

from tests.guests import volumes
from tests.guests.specs import MIB, SPECS, ServerSpec

SIZE = 64 * MIB
ARRAY = "01234567:89abcdef:01234567:89abcdef"


@pytest.fixture
def member(tmp_path: pathlib.Path) -> pathlib.Path:
    """The second member of an array, in a file."""
    spec = SPECS["debian12-raid"]
    assert isinstance(spec, ServerSpec)
    path = tmp_path / "member"
    block = volumes._superblock(spec, volumes.Volumes("", array=ARRAY), SIZE - MIB, MIB, 1)
    path.write_bytes(bytes(4096) + block.ljust(SIZE - 4096, b"\0"))
    return path


def change(path: pathlib.Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(4096 + offset)
        file.write(data)


def test_a_member(member: pathlib.Path) -> None:
    """As mdadm sees it, too."""
    found = raid.read_member(member, 0, SIZE)
    assert found == Member(ARRAY, "0", 1, 2, 1, 20, MIB, SIZE - MIB)
    told = subprocess.run(["mdadm", "--examine", member], capture_output=True, text=True, check=True).stdout
    for line in (f"Array UUID : {ARRAY}", "Raid Level : raid1", "Device Role : Active device 1", "Events : 20"):
        assert line in told


def test_a_member_that_is_not_whole(member: pathlib.Path) -> None:
    good = raid.read_member(member, 0, SIZE)
    assert good is not None
    change(member, 8, struct.pack("<I", 0x2))
    assert raid.read_member(member, 0, SIZE) == dataclasses.replace(good, role=None)
    change(member, 8, struct.pack("<I", 0x4))
    assert raid.read_member(member, 0, SIZE) == dataclasses.replace(good, reshaping=True)
    change(member, 8, struct.pack("<I", 0))
    change(member, 256 + 2, struct.pack("<H", 0xFFFE))
    assert raid.read_member(member, 0, SIZE) == dataclasses.replace(good, role=None)


def test_no_member(tmp_path: pathlib.Path, member: pathlib.Path) -> None:
    blank = tmp_path / "blank"
    blank.write_bytes(bytes(MIB))
    assert raid.read_member(blank, 0, MIB) is None
    assert raid.read_member(blank, 0, 512) is None
    # A superblock that lies where none of its version does is an old one.
    change(member, 144, struct.pack("<Q", 16))
    assert raid.read_member(member, 0, SIZE) is None
