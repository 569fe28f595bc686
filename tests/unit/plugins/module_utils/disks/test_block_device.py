# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block devices as targets: what may be written, what is found on them, what is zeroed."""

from __future__ import annotations

import os
import pathlib
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import block_device
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.block_device import (
    BlockDevice,
    open_allowed,
    wipe_unfinished,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copylog import RegionRecord
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.usage import writer_of
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError

MIB = 1024**2
BLOCK = 64 * 1024
SIZE = 16 * MIB
#: What another one has left on the device.
OLD = b"\xaa" * SIZE


@pytest.fixture
def device(tmp_path: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """A loop device of 16 MiB that is full of a stranger's data."""
    file = tmp_path / "device.img"
    file.write_bytes(OLD)
    done = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
    path = pathlib.Path(done.stdout.strip())
    yield path
    subprocess.run(["losetup", "--detach", path], check=True)


def unseen(_done: int, _total: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("punching", [True, False])
@pytest.mark.parametrize("disk_size", [SIZE, SIZE - 5 * MIB - 512])
def test_what_no_block_of_the_copy_holds_reads_as_zeros(
    device: pathlib.Path, disk_size: int, punching: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not punching:
        # A mode that no device knows: as on a disk that cannot punch holes, a range of zeros is written.
        monkeypatch.setattr(block_device, "_PUNCH_HOLE", 0x40)
    last = (disk_size - 1) // BLOCK
    blocks = {0, 1, 5, 63, 64, 130, last}
    records = [
        RegionRecord(number, b"d" * 32, 0, sum(1 << (block - number * 64) for block in blocks if block // 64 == number))
        for number in range(-(-disk_size // (4 * MIB)))
        if any(block // 64 == number for block in blocks)
    ]
    seen: list[int] = []
    with BlockDevice(device) as target:
        target.zero_gaps(
            records, disk_size, progress=lambda place, size: seen.append(place * 100 // size), cancelled=lambda: False
        )
    content = device.read_bytes()
    for number in range(SIZE // BLOCK):
        begin = number * BLOCK
        kept = max(0, min(BLOCK, disk_size - begin)) if number in blocks else 0
        assert content[begin : begin + BLOCK] == OLD[:kept] + bytes(BLOCK - kept), number
    assert seen == sorted(seen) and seen


def test_zeroing_stops_when_it_is_cancelled(device: pathlib.Path) -> None:
    with BlockDevice(device) as target, pytest.raises(JobError, match="cancelled"):
        target.zero_gaps([], SIZE, progress=unseen, cancelled=lambda: True)
    assert device.read_bytes() == OLD


@pytest.mark.parametrize(
    ("place", "data", "found"),
    [
        (0, b"", ""),
        (8 * MIB, b"x", ""),
        (MIB - 1, b"x", "data in its first MiB"),
        (SIZE - 1, b"x", "data in its last MiB"),
        (4096 - 10, b"SWAPSPACE2", "data in its first MiB"),
        (64 * 1024 + 64, b"_BHRfS_M", "btrfs"),
    ],
)
def test_a_device_is_blank_or_told(device: pathlib.Path, place: int, data: bytes, found: str) -> None:
    with device.open("wb") as disk:
        disk.write(bytes(SIZE))
        disk.seek(place)
        disk.write(data)
    with BlockDevice(device) as target:
        assert target.content() == found


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["mkfs.ext4", "-q", "-F"], "ext4"),
        (["mkswap", "-q"], "swap"),
        (["sh", "-c", "echo label: gpt | sfdisk -q $0"], "a partition table (gpt)"),
        (["sh", "-c", "printf ',,83' | sfdisk -q $0"], "a partition table (dos)"),
    ],
)
def test_what_is_on_a_device_is_named(device: pathlib.Path, command: list[str], found: str) -> None:
    subprocess.run([*command, device], check=True)
    with BlockDevice(device) as target:
        assert target.content() == found


def test_a_device_is_held_by_one_alone(device: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BlockDevice(device):
        with pytest.raises(JobError, match="open for writing") as caught:
            BlockDevice(device)
        assert caught.value.reason == "DeviceInUse"
        # As from another PID namespace, whose processes are not seen: the kernel refuses it.
        monkeypatch.setattr(block_device, "writer_of", lambda path: None)
        with pytest.raises(JobError, match="mounted, swap, or held") as caught:
            BlockDevice(device)
        assert (caught.value.reason, caught.value.error_class) == ("DeviceInUse", ErrorClass.ENVIRONMENT)
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True, stderr=subprocess.DEVNULL)


def test_a_writer_is_seen_by_whatever_node_it_has_the_device(device: pathlib.Path, tmp_path: pathlib.Path) -> None:
    node = tmp_path / "node"
    os.mknod(node, 0o600 | 0o060000, device.stat().st_rdev)
    with node.open("r+b"):
        assert "open for writing" in (writer_of(device) or "")
    assert writer_of(device) is None


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        ("{folder}/vg0/*", True),
        ("{folder}/*/web01", True),
        ("{folder}/*", False),
        ("{folder}/vg1/*", False),
        ("{device}", True),
        ("/dev/loop[0-9]*", True),
        ("/dev/*/web01", False),
    ],
)
def test_a_pattern_allows_names_and_what_they_lead_to(
    device: pathlib.Path, tmp_path: pathlib.Path, pattern: str, allowed: bool
) -> None:
    name = tmp_path / "vg0/web01"
    name.parent.mkdir()
    name.symlink_to(device)
    wanted = pattern.format(folder=tmp_path, device=device)
    if allowed:
        with open_allowed(str(name), ["/dev/none", wanted], []) as target:
            assert (target.name, target.path, target.size) == (name, device, SIZE)
        return
    for patterns in ([wanted], []):
        with pytest.raises(JobError, match="may not write") as caught:
            open_allowed(str(name), patterns, [])
        assert (caught.value.reason, caught.value.error_class) == ("DeviceNotAllowed", ErrorClass.ENVIRONMENT)


def test_what_is_no_block_device_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (
        (tmp_path / "file", "NotABlockDevice"),
        (tmp_path, "NotABlockDevice"),
        (pathlib.Path("/dev/null"), "NotABlockDevice"),
        (tmp_path / "none", "NoSuchDevice"),
        (tmp_path / "loop", "NoSuchDevice"),
    ):
        with pytest.raises(JobError) as caught:
            open_allowed(str(name), [str(name)], [])
        assert caught.value.reason == reason, name


def test_a_loop_device_of_the_workers_own_folders_is_refused(device: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught:
        open_allowed(str(device), [str(device)], [tmp_path])
    assert caught.value.reason == "WorkersOwnDevice"
    open_allowed(str(device), [str(device)], [tmp_path / "other"]).close()


def test_only_the_very_device_that_was_written_is_wiped(device: pathlib.Path) -> None:
    with BlockDevice(device) as target:
        identity = target.identity
    with pytest.raises(JobError, match="another device"):
        wipe_unfinished(device, f"{identity}0")
    assert device.read_bytes() == OLD
    wipe_unfinished(device, identity)
    assert device.read_bytes() == bytes(MIB) + OLD[: -2 * MIB] + bytes(MIB)


def test_the_identity_is_another_after_the_device_was_made_anew(device: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with BlockDevice(device) as target:
        before = target.identity
    with BlockDevice(device) as target:
        assert target.identity == before
    subprocess.run(["losetup", "--detach", device], check=True)
    subprocess.run(["losetup", device, tmp_path / "device.img"], check=True)
    with BlockDevice(device) as target:
        assert target.identity != before
