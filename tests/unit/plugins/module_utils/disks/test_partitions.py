# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partition tables from the disk itself."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.loop import LoopDevice
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Partition
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.partitions import read_partitions
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

MIB = 1024**2


def disk(path: pathlib.Path, table: str, size: int = 64 * MIB) -> pathlib.Path:
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True, stderr=subprocess.DEVNULL)
    return path


def test_gpt(tmp_path: pathlib.Path) -> None:
    path = disk(
        tmp_path / "disk1",
        "label: gpt\n"
        "size=8MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=11111111-2222-3333-4444-555555555555, name=ESP\n"
        'size=16MiB, type=L, name="a \'b"\n',
    )
    first, second = read_partitions(path, "disk0")
    assert first == Partition(
        disk="disk0",
        number=1,
        start=MIB,
        size=8 * MIB,
        type_id="c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        partuuid="11111111-2222-3333-4444-555555555555",
        label="ESP",
    )
    assert (second.number, second.start, second.size, second.label) == (2, 9 * MIB, 16 * MIB, "a 'b")


def test_gpt_of_a_disk_with_4k_sectors(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    loop = LoopDevice(path, 0, 64 * MIB, writable=True, block_size=4096)
    try:
        subprocess.run(
            ["sfdisk", "-q", loop.device],
            input="label: gpt\nstart=256, size=2048, type=U\nstart=2304, size=8192, type=L\n",
            text=True,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        loop.sync()
    finally:
        loop.detach()
    found = [(p.number, p.start, p.size) for p in read_partitions(path, "disk0")]
    assert found == [(1, MIB, 8 * MIB), (2, 9 * MIB, 32 * MIB)]
    assert str(path) not in "".join(
        p.read_text() for p in pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
    ), "a loop device is left"


def test_a_table_of_another_kind(tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught:
        read_partitions(disk(tmp_path / "disk.raw", "label: sun\n"), "disk0")
    assert caught.value.reason == "UnknownPartitionTable"


def test_mbr_with_logical_partitions(tmp_path: pathlib.Path) -> None:
    path = disk(
        tmp_path / "disk.raw",
        "label: dos\nlabel-id: 0xff025a63\n"
        "size=8MiB, type=83, bootable\nsize=40MiB, type=5\n"
        "start=10MiB, size=4MiB, type=82\nstart=16MiB, size=4MiB, type=7\n",
    )
    found = read_partitions(path, "disk0")
    assert [(p.number, p.type_id, p.bootable) for p in found] == [
        (1, "83", True),
        (5, "82", False),
        (6, "07", False),
    ]
    assert [p.partuuid for p in found] == ["ff025a63-01", "ff025a63-05", "ff025a63-06"]


def test_no_table(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(5 * MIB)
    assert read_partitions(path, "data") == [Partition(disk="data", number=0, start=0, size=5 * MIB)]


def test_partition_beyond_the_end(tmp_path: pathlib.Path) -> None:
    path = disk(tmp_path / "disk.raw", "label: dos\nsize=8MiB\nsize=40MiB\n")
    with path.open("r+b") as file:
        file.truncate(20 * MIB)
    with pytest.raises(JobError, match="Partition 2 of disk0"):
        read_partitions(path, "disk0")
