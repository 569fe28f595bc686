# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies that are cut off and go on, and the proof of what came out of them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import target as target_module
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.commit import commit_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import CopyResult, copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copylog import CopyLog, RegionRecord
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.digest import image_of as finished_image
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.proof import (
    Proof,
    changed_regions,
    prove_changed_regions,
    prove_target,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from disk_files import GRAIN, StreamVmdk, identical, qemu_img
from hypothesis import given
from hypothesis import strategies as st

MIB = 1024**2
REGION = 4 * MIB
KEY = {"source": "sha256:1"}
WATCH: dict[str, t.Any] = {"progress": lambda _done, _total: None, "cancelled": lambda: False}


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small disks logged several times on the way."""
    monkeypatch.setattr(target_module._File, "_SYNC_EACH", 2 * MIB)


@pytest.fixture(params=["vmdk", "raw"])
def source(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    """A disk of 64 MiB with data in every region, and zeros in between."""
    grains = {n: os.urandom(20) * 3276 + b"grain %010d" % n for n in range(1024) if n % 3}
    grains = {n: data.ljust(GRAIN, b"e")[:GRAIN] for n, data in grains.items()}
    vmdk = StreamVmdk(grains).build(tmp_path / "disk.vmdk")
    if request.param == "vmdk":
        return vmdk
    qemu_img("convert", "-O", "raw", vmdk, tmp_path / "disk.raw")
    return tmp_path / "disk.raw"


class Cut(Exception):
    """The process died here, as far as the copy is concerned."""


def copy(source: pathlib.Path, target: pathlib.Path, log: CopyLog, fmt: str = "qcow2", **changes: t.Any) -> CopyResult:
    options: dict[str, t.Any] = {
        "fmt": models.TargetFormat(fmt),
        "workdir": target.parent,
        "log": log,
        **changes,
    }
    return copy_disk(image_of(source), target, **options)


def image_of(source: pathlib.Path) -> t.Any:
    return open_source(models.SourceSpec(path=source.name), source.parent).images[0]


def cut_after(mib: int) -> dict[str, t.Any]:
    def progress(done: int, _total: int) -> None:
        if done >= mib * MIB:
            raise Cut

    return {"progress": progress}


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_a_copy_goes_on_where_it_was(source: pathlib.Path, tmp_path: pathlib.Path, fmt: str) -> None:
    target = tmp_path / "target"
    with CopyLog(tmp_path / "whole.log", KEY) as log:
        whole = copy(source, tmp_path / "whole", log, fmt)
    read = []
    for mib in (12, 25, 33):
        with CopyLog(tmp_path / "log", KEY) as log, pytest.raises(Cut):
            copy(source, target, log, fmt, **cut_after(mib))
    with CopyLog(tmp_path / "log", KEY) as log:
        # Three attempts came to 33 MiB of 43; each began where the log of the one before ended.
        assert 10 <= log.last < 15
        done = copy(source, target, log, fmt)
        read.append(done.bytes_read)
    assert done.source_digest == whole.source_digest and done.bytes_written == whole.bytes_written
    assert read[0] < whole.bytes_read * 3 / 4
    assert identical(source, source.suffix[1:], target, fmt)
    if fmt == "qcow2":
        assert "No errors" in qemu_img("check", "-f", "qcow2", target)
        # What was written and not logged is left unused, and is no more than what is under way at once.
        assert target.stat().st_size <= (tmp_path / "whole").stat().st_size + 3 * 6 * REGION


def test_what_is_logged_is_not_read_again(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with CopyLog(tmp_path / "log", KEY) as log:
        copy(source, tmp_path / "target", log)
    with CopyLog(tmp_path / "log", KEY) as log:
        assert copy(source, tmp_path / "target", log).bytes_read == 0
    assert identical(source, source.suffix[1:], tmp_path / "target", "qcow2")


@pytest.mark.parametrize("source", ["raw"], indirect=True)
def test_what_cannot_go_on_begins_anew(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """qemu-img writes compressed targets, and begins each at its begin."""
    target, compressed = tmp_path / "target", {"compression": models.Compression.ZLIB}
    with CopyLog(tmp_path / "log", KEY) as log, pytest.raises(Cut):
        copy(source, target, log, **compressed, **cut_after(12))
    with CopyLog(tmp_path / "log", KEY) as log:
        assert not log.resumable
        copy(source, target, log, **compressed)
    assert identical(source, "raw", target, "qcow2")


def test_a_log_of_another_copy_is_forgotten(tmp_path: pathlib.Path) -> None:
    records = [RegionRecord(n, bytes([n]) * 32, n * MIB, 3) for n in range(5)]
    with CopyLog(tmp_path / "log", KEY) as log:
        log.begin("inode 77", resumable=True)
        log.append(records)
    with CopyLog(tmp_path / "log", KEY) as log:
        assert (log.target, log.last, list(log.records())) == ("inode 77", 4, records)
    with CopyLog(tmp_path / "log", {"source": "sha256:2"}) as log:
        assert (log.target, log.last, list(log.records())) == (None, -1, [])


@given(st.integers(0, 300), st.binary(max_size=200))
def test_a_torn_log_ends_at_its_last_whole_record(cut: int, junk: bytes) -> None:
    records = [RegionRecord(n, bytes([n]) * 32, n * MIB, 3) for n in range(5)]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "log")
        with CopyLog(path, KEY) as log:
            log.begin("inode 77", resumable=True)
            log.append(records)
        data = path.read_bytes()
        begin = len(data) - 5 * 60
        path.write_bytes(data[: begin + cut] + junk)
        with CopyLog(path, KEY) as log:
            kept = list(log.records())
            assert kept[: cut // 60] == records[: cut // 60]
            # The bytes that were torn off may have come back by chance, in order.
            assert kept == records[: len(kept)]
            following = RegionRecord(9, b"n" * 32, 9 * MIB, 1)
            log.append([following])
            assert list(log.records()) == [*kept, following]


@pytest.fixture
def copied(source: pathlib.Path, tmp_path: pathlib.Path) -> t.Iterator[tuple[pathlib.Path, pathlib.Path, CopyLog]]:
    """A copy, an overlay with changes in two regions, one of them free before, and the copy's log."""
    overlay = tmp_path / "overlay.qcow2"
    create_overlay(overlay, image_of(source))
    writes = ["-c", f"write -P 7 {9 * MIB} 4k", "-c", f"write -P 9 {41 * MIB} 64k"]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, overlay], check=True, stdout=subprocess.DEVNULL)
    with CopyLog(tmp_path / "log", KEY) as log:
        copy(source, tmp_path / "target.qcow2", log)
        yield tmp_path / "target.qcow2", overlay, log


def prove(target: pathlib.Path, overlay: pathlib.Path, log: CopyLog) -> Proof:
    changed = changed_regions(overlay)
    assert changed == [9 // 4, 41 // 4]
    prove_changed_regions(finished_image(target, "qcow2"), log, changed, workdir=target.parent, **WATCH)
    commit_overlay(overlay, target, "qcow2")
    return prove_target(finished_image(target, "qcow2"), log, changed, workdir=target.parent, **WATCH)


def test_the_proof_gives_both_digests(
    source: pathlib.Path, tmp_path: pathlib.Path, copied: tuple[pathlib.Path, pathlib.Path, CopyLog]
) -> None:
    target, overlay, log = copied
    with CopyLog(tmp_path / "again.log", KEY) as again:
        wanted = copy(source, tmp_path / "again.qcow2", again).source_digest
    proof = prove(target, overlay, log)
    assert proof.copied == wanted != proof.target


@pytest.mark.parametrize("grain", [145, 322, 1009])
def test_a_byte_that_the_storage_lost_is_found(copied: tuple[pathlib.Path, pathlib.Path, CopyLog], grain: int) -> None:
    target, overlay, log = copied
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 0 {grain * GRAIN} 64k", target],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with pytest.raises(JobError) as caught:
        prove(target, overlay, log)
    assert caught.value.reason == "CopyDiffers" and caught.value.retryable


def test_data_that_nobody_wrote_are_found(copied: tuple[pathlib.Path, pathlib.Path, CopyLog]) -> None:
    target, overlay, log = copied
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 3 0 64k", target], check=True, stdout=subprocess.DEVNULL)
    with pytest.raises(JobError, match="differs from what was read"):
        prove(target, overlay, log)


def test_only_what_touches_the_ranges_is_copied(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    ranges = [(0, MIB), (20 * MIB + 70000, 20 * MIB + 200000), (60 * MIB, 64 * MIB)]
    wanted = tmp_path / "wanted.raw"
    qemu_img("convert", "-O", "raw", source, wanted)
    with wanted.open("r+b") as file:
        position = 0
        for begin, end in [*ranges, (64 * MIB, 64 * MIB)]:
            first = begin // GRAIN * GRAIN
            file.seek(position)
            file.write(bytes(first - position))
            position = -(-end // GRAIN) * GRAIN
    with CopyLog(tmp_path / "log", KEY) as log:
        done = copy(source, tmp_path / "target", log, ranges=ranges)
    assert identical(wanted, "raw", tmp_path / "target", "qcow2")
    assert done.ranges == ranges and done.bytes_written < 6 * MIB
