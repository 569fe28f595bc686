# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies without what was deleted: every file arrives, and little else is moved."""

from __future__ import annotations

import contextlib
import os
import pathlib
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
