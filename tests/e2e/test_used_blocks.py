# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies without what was deleted: every file arrives, and little else is moved."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import Ranges, copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.used_blocks import used_ranges
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from tests.tools.machine import sha256

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2
SIZE = 700 * MIB
START = 2 * MIB
MAKERS = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@contextlib.contextmanager
def mounted(disk: pathlib.Path, point: pathlib.Path, options: str = "rw") -> t.Iterator[pathlib.Path]:
    """The filesystem of a disk's partition."""
    point.mkdir(exist_ok=True)
    where = f"loop,offset={START},sizelimit={SIZE - START - MIB},{options}"
    subprocess.run(["mount", "-o", where, disk, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


def fill(point: pathlib.Path) -> None:
    """Files of all sizes, and 300 MiB that are deleted again."""
    for number in range(3):
        (point / f"deleted{number}").write_bytes(os.urandom(100 * MIB))
    for number in range(200):
        (point / f"small{number}").write_bytes(os.urandom(number * 100))
    (point / "sparse").touch()
    os.truncate(point / "sparse", 2 * 1024 * MIB)
    with (point / "sparse").open("r+b") as file:
        file.seek(1024 * MIB)
        file.write(b"in the middle")
    os.sync()
    for number in range(3):
        (point / f"deleted{number}").unlink()
    (point / "large").write_bytes(os.urandom(40 * MIB))
    os.sync()


def contents(point: pathlib.Path) -> dict[str, str]:
    """Digest of every file."""
    return {path.name: sha256(path) for path in point.iterdir() if path.is_file()}


@pytest.fixture(params=MAKERS)
def disk(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """A disk with something in the gap before its partition, and a filesystem that was unmounted."""
    path = tmp_path / "disk.raw"
    partition = tmp_path / "partition"
    with partition.open("wb") as file:
        file.truncate(SIZE - START - MIB)
    subprocess.run([*MAKERS[request.param], partition], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cp", "--sparse=always", partition, path], check=True)
    with path.open("wb") as file:
        file.truncate(SIZE)
    table = f"label: gpt\nstart={START // 512}, size={(SIZE - START - MIB) // 512}\n"
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True)
    place = ["dd", f"if={partition}", f"of={path}", "bs=1M", f"seek={START // MIB}", "conv=notrunc,sparse"]
    subprocess.run(place, check=True, stderr=subprocess.DEVNULL)
    partition.unlink()
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"boot loader in the gap".ljust(65536, b"g"))
    with mounted(path, tmp_path / "point") as point:
        fill(point)
    return path


def image_of(path: pathlib.Path) -> t.Any:
    return open_source(models.SourceSpec(path=path.name), path.parent).images[0]


def ranges_of(disk: pathlib.Path) -> Ranges:
    overlay = disk.parent / "overlay.qcow2"
    create_overlay(overlay, image_of(disk))
    with attach({"disk0": overlay}, writable=False, workdir=disk.parent) as attachment:
        return used_ranges(attachment, {"disk0": SIZE}, probe(attachment), disk.parent)["disk0"]


def copy(disk: pathlib.Path, target: pathlib.Path, ranges: Ranges) -> int:
    done = copy_disk(
        image_of(disk),
        target,
        fmt=models.TargetFormat.RAW,
        workdir=target.parent,
        ranges=ranges,
    )
    return done.bytes_written


def test_every_file_arrives_and_what_was_deleted_stays(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    moved = copy(disk, tmp_path / "copy.raw", ranges_of(disk))
    with mounted(disk, tmp_path / "point", "ro") as point:
        wanted = contents(point)
        used = (os.statvfs(point).f_blocks - os.statvfs(point).f_bfree) * os.statvfs(point).f_frsize
    with mounted(tmp_path / "copy.raw", tmp_path / "point") as point:
        assert contents(point) == wanted and len(wanted) == 202
    # XFS keeps a log of its own size, which statvfs does not count as used.
    assert moved < used + 40 * MIB and moved < 200 * MIB
    with (tmp_path / "copy.raw").open("rb") as file:
        file.seek(MIB)
        assert file.read(22) == b"boot loader in the gap"


def test_an_xfs_without_checksums_arrives_whole(tmp_path: pathlib.Path) -> None:
    """As EL 6 makes it. Not every kernel mounts it any more, so it is filled, and read again, by its own tools."""
    files = {f"file{number}": tmp_path / f"file{number}" for number in range(20)}
    for number, path in enumerate(files.values()):
        path.write_bytes(os.urandom(1 + number * 300_000))
    proto = "".join(f"{name} ---644 0 0 {path}\n" for name, path in files.items())
    (tmp_path / "proto").write_text(f"/none\n0 0\nd--755 0 0\n{proto}$\n", encoding="utf-8")
    partition, disk = tmp_path / "partition", tmp_path / "disk.raw"
    # What was deleted before lies there still.
    partition.write_bytes(b"deleted " * ((SIZE - START - MIB) // 8))
    make = ["mkfs.xfs", "-q", "-f", "-K", "-m", "crc=0", "-p", tmp_path / "proto", partition]
    subprocess.run(make, check=True, capture_output=True)
    with disk.open("wb") as file:
        file.truncate(SIZE)
    table = f"label: dos\nstart={START // 512}, size={(SIZE - START - MIB) // 512}, type=83\n"
    subprocess.run(["sfdisk", "-q", disk], input=table, text=True, check=True)
    place = ["dd", f"of={disk}", "bs=1M", f"seek={START // MIB}", "conv=notrunc", "status=none"]
    subprocess.run([*place, f"if={partition}"], check=True)
    moved = copy(disk, tmp_path / "copy.raw", ranges_of(disk))
    assert moved < sum(path.stat().st_size for path in files.values()) + 40 * MIB
    with (tmp_path / "copy.raw").open("rb") as copied, partition.open("wb") as file:
        copied.seek(START)
        shutil.copyfileobj(copied, file, MIB)
        file.truncate(SIZE - START - MIB)
    subprocess.run(["xfs_repair", "-n", partition], check=True, capture_output=True)
    for name, path in files.items():
        assert _by_extents(partition, name)[: path.stat().st_size] == path.read_bytes()


def _by_extents(xfs: pathlib.Path, name: str) -> bytes:
    """A file's blocks, where xfs_db(8) says that they are: "data offset 0 startblock 12 (0/12) count 3 flag 0"."""
    commands = ["sb 0", "p blocksize agblocks", f"path /{name}", "bmap"]
    told = subprocess.run(
        ["xfs_db", "-r", *(word for command in commands for word in ("-c", command)), xfs],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    block, group = (int(re.findall(rf"{word} = (\d+)", told)[0]) for word in ("blocksize", "agblocks"))
    found = re.findall(r"offset (\d+) startblock \d+ \((\d+)/(\d+)\) count (\d+)", told)
    data = b""
    with xfs.open("rb") as file:
        for _offset, number, start, count in sorted(found, key=lambda one: int(one[0])):
            file.seek((int(number) * group + int(start)) * block)
            data += file.read(int(count) * block)
    return data


def test_a_filesystem_in_use_is_copied_whole(disk: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """As of an export of a running VM: what its journal holds is not in the maps yet."""
    snapshot = tmp_path / "snapshot.raw"
    with mounted(disk, tmp_path / "point") as point:
        (point / "written late").write_bytes(os.urandom(30 * MIB))
        with (point / "written late").open("rb") as file:
            os.fsync(file.fileno())
        subprocess.run(["cp", "--sparse=always", disk, snapshot], check=True)
        wanted = contents(point)
    ranges = ranges_of(snapshot)
    assert list(ranges) == [(0, SIZE)]
    copy(snapshot, tmp_path / "copy.raw", ranges)
    with mounted(tmp_path / "copy.raw", tmp_path / "point") as point:
        assert contents(point) == wanted


def test_what_is_no_filesystem_is_copied_whole(tmp_path: pathlib.Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["sfdisk", "-q", disk], input="label: gpt\nstart=4096, size=204800\n", text=True, check=True)
    assert list(ranges_of(disk)) == [(0, SIZE)]
