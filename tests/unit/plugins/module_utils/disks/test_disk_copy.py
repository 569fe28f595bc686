# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Copies and digests of every format. ``qemu-img`` makes the images and compares the results."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import subprocess
import sys
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import CopyResult, copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.digest import digest_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from disk_files import GRAIN, StreamVmdk, identical, make_raw, qemu_img

from tests.tools.machine import forget_peak, peak_kib

SIZE = 22 * 1024**2 + 512
REPOSITORY = pathlib.Path(__file__).parents[5]

FORMATS: dict[str, tuple[str, list[str]]] = {
    "raw": ("raw", []),
    "stream.vmdk": ("vmdk", ["-o", "subformat=streamOptimized"]),
    "sparse.vmdk": ("vmdk", ["-o", "subformat=monolithicSparse"]),
    "flat.vmdk": ("vmdk", ["-o", "subformat=monolithicFlat"]),
    "v3.qcow2": ("qcow2", []),
    "v2.qcow2": ("qcow2", ["-o", "compat=0.10"]),
    "deflate.qcow2": ("qcow2", ["-c"]),
    "zstd.qcow2": ("qcow2", ["-c", "-o", "compression_type=zstd"]),
    "clusters-2m.qcow2": ("qcow2", ["-o", "cluster_size=2M"]),
    "clusters-4k.qcow2": ("qcow2", ["-o", "cluster_size=4k"]),
    "clusters-2m-deflate.qcow2": ("qcow2", ["-c", "-o", "cluster_size=2M"]),
    "extended.qcow2": ("qcow2", ["-o", "extended_l2=on,cluster_size=128k"]),
    "split-sparse.vmdk": ("vmdk", ["-o", "subformat=twoGbMaxExtentSparse"]),
    "split-flat.vmdk": ("vmdk", ["-o", "subformat=twoGbMaxExtentFlat"]),
    "fixed.vhd": ("vpc", ["-o", "subformat=fixed,force_size=on"]),
    "dynamic.vhd": ("vpc", ["-o", "subformat=dynamic,force_size=on"]),
    "dynamic.vhdx": ("vhdx", ["-o", "subformat=dynamic"]),
    "fixed.vhdx": ("vhdx", ["-o", "subformat=fixed"]),
    "dynamic.vdi": ("vdi", []),
    "static.vdi": ("vdi", ["-o", "static=on"]),
    "metadata.qcow2": ("qcow2", ["-o", "preallocation=metadata"]),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_raw(tmp_path_factory.mktemp("raw") / "disk.raw", SIZE)


def image_of(path: pathlib.Path, kind: str, digest: str | None = None) -> DiskImage:
    spec = models.SourceSpec(type=models.SourceType(kind), path=path.name, digest=digest)
    return open_source(spec, path.parent).images[0]


def copy(image: DiskImage, target: pathlib.Path, **changes: t.Any) -> CopyResult:
    options: dict[str, t.Any] = {
        "fmt": models.TargetFormat.QCOW2,
        "workdir": target.parent,
    }
    return copy_disk(image, target, **{**options, **changes})


def digest(path: pathlib.Path, fmt: str) -> str:
    return digest_disk(path, fmt, workdir=path.parent)


def defined_digest(raw: pathlib.Path) -> str:
    """The content digest, word for word as it is defined."""
    size = raw.stat().st_size
    whole = hashlib.sha256(b"hyper2kvm content-v1\0" + size.to_bytes(8, "big"))
    with raw.open("rb") as file:
        for region in range(-(-size // (4 * 1024**2))):
            part = hashlib.sha256()
            used = False
            for number in range(region * 64, region * 64 + 64):
                file.seek(number * GRAIN)
                block = file.read(GRAIN)
                if block.strip(b"\0"):
                    used = True
                    part.update(number.to_bytes(8, "big") + block)
            if used:
                whole.update(region.to_bytes(8, "big") + part.digest())
    return "sha256:" + whole.hexdigest()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("target_format", ["qcow2", "raw"])
def test_every_source_format(raw: pathlib.Path, tmp_path: pathlib.Path, name: str, target_format: str) -> None:
    kind, options = FORMATS[name]
    source, target = tmp_path / name, tmp_path / "copy"
    qemu_img("convert", "-f", "raw", "-O", kind, *options, raw, source)
    seen: list[tuple[int, int]] = []
    result = copy(
        image_of(source, "vhd" if kind == "vpc" else kind),
        target,
        fmt=models.TargetFormat(target_format),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert identical(raw, "raw", target, target_format)
    if target_format == "qcow2":
        assert "No errors" in qemu_img("check", "-f", "qcow2", target)
    # No more than the blocks with data, their tables, and what is rounded up.
    assert target.stat().st_blocks * 512 < 60 * GRAIN < SIZE / 5
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0
    assert result.source_digest == defined_digest(raw) == digest(target, target_format) == digest(raw, "raw")


@pytest.mark.parametrize("target_format", ["qcow2", "raw"])
def test_a_file_that_ends_within_a_sector(tmp_path: pathlib.Path, target_format: str) -> None:
    """A dump may have any length; the disk is as long as its last whole sector, and reads as zeros beyond the file."""
    source, target = tmp_path / "dump.raw", tmp_path / "copy"
    source.write_bytes(random.Random(1).randbytes(GRAIN + 4465))
    image = image_of(source, "raw")
    assert image.virtual_size % 512 == 0 and image.virtual_size > source.stat().st_size
    result = copy(image, target, fmt=models.TargetFormat(target_format))
    assert identical(source, "raw", target, target_format)
    os.truncate(source, image.virtual_size)
    assert result.source_digest == digest(target, target_format) == defined_digest(source)


@pytest.mark.parametrize("last", [bytes(GRAIN), b"end".ljust(GRAIN, b"\0")], ids=["zeros", "data"])
def test_a_last_grain_that_the_disk_cuts_short(tmp_path: pathlib.Path, last: bytes) -> None:
    capacity = 8 * GRAIN + 3 * 512
    for number, stored in enumerate((last, last[: 3 * 512])):
        vmdk = StreamVmdk({0: b"\1" * GRAIN, 8: stored}, capacity=capacity).build(tmp_path / f"{number}.vmdk")
        target = tmp_path / f"{number}.qcow2"
        result = copy(image_of(vmdk, "vmdk"), target)
        assert identical(vmdk, "vmdk", target, "qcow2")
        assert result.source_digest == digest(target, "qcow2")


def test_tables_beyond_the_first(tmp_path: pathlib.Path) -> None:
    """More than one L2 table (512 MiB each), with one in the middle that is not needed."""
    raw = make_raw(tmp_path / "disk.raw", 64 * 1024**2)
    with raw.open("r+b") as file:
        file.truncate(1700 * 1024**2)
        for place in (513, 1699):
            file.seek(place * 1024**2)
            file.write(b"far")
    result = copy(image_of(raw, "raw"), tmp_path / "copy.qcow2")
    assert identical(raw, "raw", tmp_path / "copy.qcow2", "qcow2")
    assert "No errors" in qemu_img("check", "-f", "qcow2", tmp_path / "copy.qcow2")
    assert result.source_digest == digest(tmp_path / "copy.qcow2", "qcow2")


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_compressed_target(raw: pathlib.Path, tmp_path: pathlib.Path, compression: str) -> None:
    target = tmp_path / "copy.qcow2"
    result = copy(image_of(raw, "raw"), target, compression=models.Compression(compression))
    assert identical(raw, "raw", target, "qcow2")
    assert f"compression type: {compression}" in qemu_img("info", target)
    assert "0.00% compressed" not in qemu_img("check", target)
    assert result.source_digest == digest(target, "qcow2")


@pytest.mark.parametrize("target_format", ["qcow2", "raw"])
def test_preallocated_target(tmp_path: pathlib.Path, target_format: str) -> None:
    raw = make_raw(tmp_path / "small.raw", 20 * 1024**2)
    target = tmp_path / "copy"
    result = copy(
        image_of(raw, "raw"),
        target,
        fmt=models.TargetFormat(target_format),
        allocation=models.Allocation.PREALLOCATED,
    )
    assert identical(raw, "raw", target, target_format)
    assert target.stat().st_blocks * 512 >= 20 * 1024**2
    assert result.source_digest == digest(target, target_format)


def test_digest_sees_a_single_bit_and_a_moved_block(tmp_path: pathlib.Path) -> None:
    first, second, moved = (tmp_path / name for name in ("a.raw", "b.raw", "c.raw"))
    data = bytearray(10 * 1024**2)
    data[7 * GRAIN + 99] = 1
    first.write_bytes(data)
    data[7 * GRAIN + 99] = 3
    second.write_bytes(data)
    data[7 * GRAIN + 99], data[8 * GRAIN + 99] = 0, 1
    moved.write_bytes(data)
    assert len({digest(path, "raw") for path in (first, second, moved)}) == 3


def test_holes_and_written_zeros_have_one_digest(tmp_path: pathlib.Path) -> None:
    hole, zeros, longer = (tmp_path / name for name in ("hole.raw", "zeros.raw", "longer.raw"))
    for path, size in ((hole, 5 * GRAIN + 512), (longer, 5 * GRAIN + 1024)):
        with path.open("wb") as file:
            file.truncate(size)
    zeros.write_bytes(bytes(5 * GRAIN + 512))
    assert digest(hole, "raw") == digest(zeros, "raw") == defined_digest(zeros)
    assert digest(longer, "raw") != digest(hole, "raw")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "backwards"])
def test_manifest_digest_is_checked_in_the_copy(tmp_path: pathlib.Path, algorithm: str, reverse: bool) -> None:
    grains = {n: bytes([n % 250 + 1]) * GRAIN for n in range(0, 1024, 3)}
    vmdk = StreamVmdk(grains, reverse=reverse).build(tmp_path / "disk.vmdk")
    right = f"{algorithm}:{hashlib.new(algorithm, vmdk.read_bytes()).hexdigest()}"
    image = image_of(vmdk, "vmdk")
    with_digest = DiskImage(**{**vars(image), "manifest_digest": right})
    copy(with_digest, tmp_path / "copy.qcow2")
    assert identical(vmdk, "vmdk", tmp_path / "copy.qcow2", "qcow2")
    # A byte that the copy has no use for: between the descriptor and the first grain.
    content = bytearray(vmdk.read_bytes())
    content[60_000] = 1
    vmdk.write_bytes(content)
    with pytest.raises(JobError, match="is not what was exported"):
        copy(with_digest, tmp_path / "second.qcow2")


def test_manifest_digest_where_qemu_reads(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "small-clusters.qcow2"
    qemu_img("convert", "-O", "qcow2", "-o", "cluster_size=4k", raw, source)
    right = f"sha256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    copy(image_of(source, "qcow2", right), tmp_path / "copy.qcow2")
    with pytest.raises(JobError, match="is not what was exported"):
        copy(image_of(source, "qcow2", "sha256:" + "0" * 64), tmp_path / "second.qcow2")


def test_an_existing_target_is_never_written(raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    for changes in ({}, {"fmt": models.TargetFormat.RAW}, {"compression": models.Compression.ZLIB}):
        with pytest.raises(FileExistsError):
            copy(image_of(raw, "raw"), target, **changes)
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("compression", ["none", "zlib"])
def test_cancel_ends_the_copy_soon(tmp_path: pathlib.Path, compression: str) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(1024**2) * 64)
    asked: list[float] = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 3

    with pytest.raises(JobError) as caught:
        copy(
            image_of(raw, "raw"),
            tmp_path / "copy.qcow2",
            compression=models.Compression(compression),
            cancelled=cancelled,
            bandwidth=4 * 1024**2,
        )
    assert caught.value.reason == "Cancelled"
    assert asked[-1] - asked[0] < 5


def test_bandwidth_is_held(tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(24 * 1024**2))
    began = time.monotonic()
    copy(image_of(raw, "raw"), tmp_path / "copy.qcow2", bandwidth=16 * 1024**2)
    # The first region goes at once, and the last one's share is not waited for.
    assert time.monotonic() - began > 20 / 16 * 0.95


def test_a_full_disk_is_an_error_of_the_system(tmp_path: pathlib.Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(os.urandom(8 * 1024**2))
    program = (
        "import pathlib, resource, signal, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import test_disk_copy as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
        "try:\n"
        "    t.copy(t.image_of(pathlib.Path(sys.argv[2]), 'raw'), pathlib.Path(sys.argv[3]))\n"
        "except OSError as error:\n"
        "    print(type(error).__name__, error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(pathlib.Path(__file__).parent), str(raw), str(tmp_path / "copy.qcow2")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".collections")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "OSError 27"


def test_without_isal_the_same_comes_out(tmp_path: pathlib.Path) -> None:
    vmdk = StreamVmdk({n: f"grain {n}".encode().ljust(GRAIN, b".") for n in range(200)}).build(tmp_path / "d.vmdk")
    expected = copy(image_of(vmdk, "vmdk"), tmp_path / "fast.qcow2").source_digest
    program = (
        "import pathlib, sys\n"
        "sys.modules['isal'] = None\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import test_disk_copy as t\n"
        "vmdk = pathlib.Path(sys.argv[2])\n"
        "print(t.copy(t.image_of(vmdk, 'vmdk'), vmdk.with_suffix('.qcow2')).source_digest)\n"
        "bad = bytearray(vmdk.read_bytes()); bad[128 * 512 + 40] ^= 1; vmdk.write_bytes(bad)\n"
        "try:\n"
        "    t.copy(t.image_of(vmdk, 'vmdk'), vmdk.with_suffix('.bad'))\n"
        "except t.JobError as error:\n"
        "    print(error.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(pathlib.Path(__file__).parent), str(vmdk)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".collections")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [expected, "BadVmdk"]


def test_memory_does_not_grow_with_the_disk(tmp_path: pathlib.Path) -> None:
    """A 32 TiB disk with some data at its end: tables are walked and written, not kept."""
    source = tmp_path / "huge.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", source, str(32 * 1024**4))
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 {32 * 1024**4 - 1024**2} 1M", "-c", "write -P 8 0 1M", source],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    forget_peak()
    before = peak_kib()
    copy(image_of(source, "qcow2"), tmp_path / "copy.qcow2")
    assert peak_kib() - before < 60 * 1024
    assert "No errors" in qemu_img("check", "-f", "qcow2", tmp_path / "copy.qcow2")
    assert identical(source, "qcow2", tmp_path / "copy.qcow2", "qcow2")
