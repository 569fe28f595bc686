# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""streamOptimized VMDKs as VMware writes them, whole and broken. QEMU is the oracle."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import struct
import tempfile
import zlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import CopyResult, copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from disk_files import GRAIN, SECTOR, StreamVmdk, identical, qemu_img, readable
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.machine import forget_peak, peak_kib

CHANCE = random.Random(7)
GRAINS = {
    0: b"boot sector ".ljust(GRAIN, b"b"),
    1: CHANCE.randbytes(GRAIN),  # deflates to more than its size
    5: bytes(GRAIN),
    63: b"last of a region".ljust(GRAIN, b"\0"),
    64: b"first of the next".rjust(GRAIN, b"x"),
    600: b"second table".ljust(GRAIN, b"t"),
    1023: b"end of the disk".ljust(GRAIN, b"e"),
}


def convert(vmdk: pathlib.Path, target: pathlib.Path) -> CopyResult:
    source = open_source(models.SourceSpec(path=vmdk.name), vmdk.parent)
    return copy_disk(
        source.images[0],
        target,
        fmt=models.TargetFormat.QCOW2,
        workdir=target.parent,
    )


def refused(vmdk: pathlib.Path, words: str) -> JobError:
    with pytest.raises(JobError, match=words) as caught:
        convert(vmdk, vmdk.with_suffix(".qcow2"))
    assert caught.value.error_class is ErrorClass.INVALID
    assert caught.value.suggestion
    return caught.value


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"version": 1},
        {"reverse": True},
        {"cleared": {0, 63, 1023}},
        {"cleared": {0, 1, 5, 63, 64}},
        {"capacity": 64 * 1024**2 - 3 * SECTOR},
        {"capacity": 200 * 1024**2 + SECTOR},
        {"entries": 128},
        {"grain_sectors": 128, "grains": {}},
    ],
    ids=lambda change: "-".join(change) or "plain",
)
def test_copies_are_what_qemu_reads(tmp_path: pathlib.Path, change: dict[str, object]) -> None:
    vmdk = StreamVmdk(**{"grains": GRAINS, **change}).build(tmp_path / "disk.vmdk")  # type: ignore[arg-type]
    copied = convert(vmdk, tmp_path / "copy.qcow2")
    assert identical(vmdk, "vmdk", tmp_path / "copy.qcow2", "qcow2")
    assert "No errors" in qemu_img("check", "-f", "qcow2", tmp_path / "copy.qcow2")
    assert copied.virtual_size == int(str(change.get("capacity", 64 * 1024**2)))


def test_last_grain_may_be_short(tmp_path: pathlib.Path) -> None:
    last = b"short".ljust(GRAIN - 3 * SECTOR, b"s")
    vmdk = StreamVmdk(grains={1023: last}, capacity=64 * 1024**2 - 3 * SECTOR).build(tmp_path / "disk.vmdk")
    convert(vmdk, tmp_path / "copy.qcow2")
    convert_by_qemu = tmp_path / "peer.raw"
    with convert_by_qemu.open("wb") as file:
        file.seek(1023 * GRAIN)
        file.write(last)
    assert identical(convert_by_qemu, "raw", tmp_path / "copy.qcow2", "qcow2")


def test_grains_of_other_sizes_go_through_qemu(tmp_path: pathlib.Path) -> None:
    grains = {n: bytes([n + 1]) * (8 * SECTOR) for n in (0, 1, 7, 100)}
    vmdk = StreamVmdk(grains=grains, grain_sectors=8, capacity=4 * 1024**2).build(tmp_path / "disk.vmdk")
    convert(vmdk, tmp_path / "copy.qcow2")
    assert identical(vmdk, "vmdk", tmp_path / "copy.qcow2", "qcow2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tail": b"junk" * 128}, "footer"),
        ({"footer_marker": 2}, "footer"),
        ({"end_of_stream": b"\1".ljust(SECTOR, b"\0")}, "footer"),
        ({"gd_in_footer": 0xFFFFFFFFFFFFFFFF}, "grain directory"),
        ({"gd_in_footer": 1 << 40}, "truncated"),
        ({"header_capacity": 0}, "capacity"),
        ({"parent": "12345678"}, "does not name its parent"),
        ({"descriptor_cut": "CID"}, "lacks cid"),
        ({"descriptor_cut": "parentCID"}, "lacks parentcid"),
        ({"overhead": 1 << 40}, "truncated"),
        ({"descriptor_tail": 'parentFileNameHint="/etc/passwd"\n'}, "refused: it is not below"),
        ({"grain_sectors": 100}, "grain"),
        ({"entries": 0, "gd_in_footer": 3, "grains": {}}, "grain table"),
        ({"lbas": {63: 64}}, "marker"),
        ({"lbas": {63: 1 << 50}}, "marker"),
        ({"sizes": {63: 200_000}}, "marker"),
        ({"packed": {63: zlib.compress(b"x" * GRAIN)[:-1] + b"!"}}, "inflate"),
        ({"packed": {63: zlib.compress(b"x" * GRAIN)[:-20]}}, "inflate"),
        ({"packed": {63: zlib.compress(b"x" * GRAIN) + b"junk"}}, "inflate"),
        ({"packed": {63: zlib.compress(b"x" * (GRAIN - SECTOR))}}, "inflate"),
        ({"packed": {63: zlib.compress(b"x" * (GRAIN + 1))}}, "inflate"),
        ({"packed": {63: b""}}, "inflate"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_broken_files_are_refused(tmp_path: pathlib.Path, change: dict[str, object], words: str) -> None:
    disk = dataclasses.replace(StreamVmdk(GRAINS), **change)  # type: ignore[arg-type]
    if disk.entries == 0:
        vmdk = StreamVmdk({}).build(tmp_path / "disk.vmdk")
        content = bytearray(vmdk.read_bytes())
        for header in (0, len(content) - 2 * SECTOR):
            struct.pack_into("<I", content, header + 44, 0)
        vmdk.write_bytes(content)
    else:
        vmdk = disk.build(tmp_path / "disk.vmdk")
    error = None
    try:
        convert(vmdk, tmp_path / "copy.qcow2")
    except JobError as caught:
        error = caught
    assert error is not None and words in error.message.lower()
    assert error.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)


def test_every_truncation_is_noticed(tmp_path: pathlib.Path) -> None:
    whole = StreamVmdk(GRAINS).build(tmp_path / "disk.vmdk").read_bytes()
    cut = tmp_path / "cut.vmdk"
    for size in (0, 3, 511, 512, 5_000, 70_000, len(whole) // 2, len(whole) - 1536, len(whole) - 512):
        cut.write_bytes(whole[:size])
        with pytest.raises(JobError):
            convert(cut, tmp_path / "copy.qcow2")


def test_a_bomb_takes_no_memory(tmp_path: pathlib.Path) -> None:
    bomb = zlib.compress(bytes(120 * 1024**2), 9)
    assert len(bomb) < 2 * GRAIN
    vmdk = StreamVmdk(GRAINS, packed={0: bomb, 63: bomb, 600: bomb}).build(tmp_path / "disk.vmdk")
    del bomb
    forget_peak()
    before = peak_kib()
    refused(vmdk, "inflate")
    assert peak_kib() - before < 20 * 1024


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_crashes(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        vmdk = StreamVmdk({0: b"a" * GRAIN, 70: b"b" * GRAIN}, capacity=8 * 1024**2).build(
            pathlib.Path(folder) / "disk.vmdk"
        )
        content = bytearray(vmdk.read_bytes())
        # Headers, descriptor, markers and tables: everything in front and behind, little of the overhead between.
        places = st.one_of(
            st.integers(0, 1200),
            st.integers(128 * SECTOR, len(content) - 1),
            st.integers(len(content) - 1536, len(content) - 1),
        )
        for _change in range(data.draw(st.integers(1, 4))):
            content[data.draw(places)] = data.draw(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]))
        vmdk.write_bytes(content)
        target = pathlib.Path(folder) / "copy.qcow2"
        try:
            convert(vmdk, target)
        except JobError as error:
            assert error.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED), error
            return
        # What both take must be the same disk; QEMU also refuses some files for fields that no copy needs.
        if readable(vmdk, "vmdk"):
            assert identical(vmdk, "vmdk", target, "qcow2")
