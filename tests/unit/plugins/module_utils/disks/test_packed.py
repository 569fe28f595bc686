# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sources that are compressed or split into chunks: what is unpacked is what was packed, or an error."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import lzma
import pathlib
import typing as t
import zlib

import hypothesis
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Packing, Part, Source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import (
    check_container,
    identity_of,
    open_source,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.unpack import Unpacker
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from disk_files import identical, make_raw
from hypothesis import strategies as st
from test_formats import copied
from test_ovf import ONE_DISK, Vm
from test_source import CAPACITY, files_of_a_vm, pack

PACK: dict[str, t.Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
}
CHUNK = 40_000


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "input"
    folder.mkdir()
    return folder


def unpacker(root: pathlib.Path, cancelled: t.Callable[[], bool] = lambda: False) -> Unpacker:
    return Unpacker(root.parent / "unpacked", lambda _done, _total: None, cancelled)


def opened(root: pathlib.Path, name: str, **fields: t.Any) -> Source:
    return open_source(models.SourceSpec(path=name, **fields), root, unpacker(root))


def refused(root: pathlib.Path, name: str, words: str, **fields: t.Any) -> JobError:
    with pytest.raises(JobError, match=words) as caught:
        opened(root, name, **fields)
    return caught.value


def left_over(root: pathlib.Path) -> list[str]:
    return [path.name for path in (root.parent / "unpacked").rglob("*") if path.is_file()]


@pytest.mark.parametrize("how", PACK)
@pytest.mark.parametrize("name", ["disk.raw", "disk.vmdk", "vm.ova"])
def test_a_compressed_file(root: pathlib.Path, how: str, name: str) -> None:
    vmdk = files_of_a_vm(root)["vm-disk1.vmdk"]
    make_raw(root / "disk.raw", 3 * 1024**2)
    (root / "disk.vmdk").write_bytes(vmdk)
    pack(root / "vm.ova", files_of_a_vm(root))
    plain = opened(root, name).images[0]
    packed = root / f"{name}.{how}"
    packed.write_bytes(PACK[how]((root / name).read_bytes()))
    source = opened(root, packed.name)
    (image,) = source.images
    assert (image.format, image.virtual_size, image.subformat) == (plain.format, plain.virtual_size, plain.subformat)
    assert image.path.read_bytes() == (root / name).read_bytes() and image.path.name == name
    assert identical(copied(plain, root / "a.qcow2"), "qcow2", copied(image, root / "b.qcow2"), "qcow2")
    spec = models.SourceSpec(path=packed.name)
    assert identity_of(spec, root) == source.identity != opened(root, name).identity
    if name != "vm.ova":
        assert source.hardware.name == "disk" and packed in image.extents


@pytest.mark.parametrize("how", PACK)
def test_an_ova_that_is_compressed_under_its_own_name(root: pathlib.Path, how: str) -> None:
    ova = pack(root / "vm.ova", files_of_a_vm(root))
    ova.write_bytes(PACK[how](ova.read_bytes()))
    right = "sha256:" + hashlib.sha256(ova.read_bytes()).hexdigest()
    source = opened(root, "vm.ova", digest=right)
    assert source.hardware.name == "web01" and source.images[0].virtual_size == CAPACITY
    check_container(source, lambda _d, _t: None, lambda: False)
    with pytest.raises(JobError, match=r"vm\.ova is not what was exported"):
        check_container(opened(root, "vm.ova", digest="sha256:" + "0" * 64), lambda _d, _t: None, lambda: False)


def ovf_files(how: str) -> dict[str, bytes]:
    """An OVF package whose disk is a raw one, packed ``how``."""
    raw = bytes(4096) + b"content of the disk, which is odd" * 3000 + bytes(70_000) + b"end"
    size, attributes, name = len(raw), "", "vm-disk1.img"
    files: dict[str, bytes] = {}
    if "gzip" in how:
        stored, attributes = gzip.compress(raw, 1), 'ovf:compression="gzip"'
    elif "suffix" in how:
        stored, name = gzip.compress(raw, 1), name + ".gz"
    else:
        stored = raw
    if "chunks" in how:
        attributes += f' ovf:chunkSize="{CHUNK}"'
        for number in range(-(-len(stored) // CHUNK)):
            files[f"{name}.{number:09d}"] = stored[number * CHUNK : (number + 1) * CHUNK]
    else:
        files[name] = stored
    text = Vm(items=ONE_DISK, file_attributes=attributes).text()
    text = text.replace(b'size="1"', f'size="{len(stored)}"'.encode())
    text = text.replace(b"vm-disk1.vmdk", name.encode()).replace(b"vmdk.html", b"raw")
    files = {"vm.ovf": text, **files}
    lines = [f"SHA256({n})= {hashlib.sha256(d).hexdigest()}" for n, d in files.items()]
    return {**files, "vm.mf": "\n".join(lines).encode(), "expected": raw.ljust(-(-size // 512) * 512, b"\0")}


@pytest.mark.parametrize("how", ["gzip", "suffix", "chunks", "gzip chunks", "suffix chunks"])
@pytest.mark.parametrize("kind", ["ova", "folder"])
def test_packed_disks_of_a_package(root: pathlib.Path, how: str, kind: str) -> None:
    files = ovf_files(how)
    expected = root.parent / "expected.raw"
    expected.write_bytes(files.pop("expected"))
    if kind == "ova":
        pack(root / "vm.ova", files)
    else:
        (root / "vm").mkdir()
        for name, data in files.items():
            (root / "vm" / name).write_bytes(data)
    name = "vm.ova" if kind == "ova" else "vm"
    source = opened(root, name)
    (image,) = source.images
    assert image.path.name == "vm-disk1.img" and not [w for w in source.warnings if "manifest" in w]
    assert identical(expected, "raw", copied(image, root / "copy.qcow2"), "qcow2")
    assert identity_of(models.SourceSpec(path=name), root) == source.identity
    # What was unpacked once is used again, until its source changes.
    inode = image.path.stat().st_ino
    assert opened(root, name).images[0].path.stat().st_ino == inode
    with pytest.raises(JobError, match="cannot be read in place"):
        open_source(models.SourceSpec(path=name), root)


@pytest.mark.parametrize("how", ["gzip", "chunks", "gzip chunks"])
def test_the_manifest_of_packed_disks(root: pathlib.Path, how: str) -> None:
    files = ovf_files(how)
    del files["expected"]
    last = [name for name in files if name.startswith("vm-disk1")][-1]
    wrong = "0" * 64
    files["vm.mf"] = files["vm.mf"].replace(hashlib.sha256(files[last]).hexdigest().encode(), wrong.encode())
    pack(root / "vm.ova", files)
    assert refused(root, "vm.ova", "not what was exported").reason == "ChecksumMismatch"
    assert left_over(root) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("vm-disk1.img.000000000"), "lacks the file"),
        (lambda f: f.pop("vm-disk1.img.000000001"), "chunks of"),
        (lambda f: f.pop(max(n for n in f if n.startswith("vm-disk1"))), "chunks of"),
        (lambda f: f.update({"vm-disk1.img.000000001": b"short"}), "chunks of"),
    ],
)
def test_chunks_that_are_missing(root: pathlib.Path, change: t.Callable[[dict[str, bytes]], t.Any], words: str) -> None:
    files = ovf_files("chunks")
    del files["vm.mf"]
    change(files)
    pack(root / "vm.ova", files)
    refused(root, "vm.ova", words)


@pytest.mark.parametrize("how", PACK)
def test_damaged_and_endless_files(root: pathlib.Path, how: str) -> None:
    packed = bytearray(PACK[how](bytes(range(256)) * 4096))
    name = f"disk.raw.{how}"
    for content in (b"", packed[:5], packed[:-1], packed[:-10], bytes(packed) + b"junk", b"no such thing" * 99):
        (root / name).write_bytes(content)
        assert refused(root, name, "cannot be unpacked").error_class is ErrorClass.INVALID
    packed[len(packed) // 2] ^= 1
    (root / name).write_bytes(packed)
    refused(root, name, "cannot be unpacked")
    assert left_over(root) == []
    # Several members or streams are one file.
    (root / name).write_bytes(PACK[how](b"a" * 512) + PACK[how](b"b" * 512))
    assert opened(root, name).images[0].path.read_bytes() == b"a" * 512 + b"b" * 512


def test_a_bomb_takes_no_space_and_can_be_cancelled(root: pathlib.Path) -> None:
    (root / "bomb.raw.gz").write_bytes(gzip.compress(bytes(300 * 1024**2)))
    (image,) = opened(root, "bomb.raw.gz").images
    assert image.virtual_size == 300 * 1024**2 and image.path.stat().st_blocks * 512 < 1024**2
    with pytest.raises(JobError) as caught:
        part = Part(root / "bomb.raw.gz")
        unpacker(root, lambda: True).unpack(Packing((part,), "gzip"), "other.raw")
    assert caught.value.reason == "Cancelled"
    assert left_over(root) == ["bomb.raw"]


def test_a_full_scratch_folder_is_told(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import unpack

    monkeypatch.setattr(unpack, "_RESERVE", 1 << 62)
    (root / "disk.raw.gz").write_bytes(gzip.compress(b"x" * 4096))
    error = refused(root, "disk.raw.gz", "no room")
    assert (error.reason, error.error_class) == ("NoSpace", ErrorClass.ENVIRONMENT)
    assert left_over(root) == []


def test_what_a_guest_wrote_is_not_unpacked(root: pathlib.Path) -> None:
    """A raw disk that begins like a gzip file is a raw disk."""
    (root / "disk.raw").write_bytes(gzip.compress(b"x" * 4096).ljust(4096, b"\0"))
    (image,) = opened(root, "disk.raw").images
    assert image.path == root / "disk.raw" and image.virtual_size == 4096


def test_names_in_what_is_packed_stay_there(root: pathlib.Path) -> None:
    (root / "flat").write_bytes(bytes(1024))
    text = '# Disk DescriptorFile\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2 FLAT "flat" 0\n'
    (root / "disk.vmdk.gz").write_bytes(gzip.compress(text.encode()))
    refused(root, "disk.vmdk.gz", "cannot be opened")


@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.binary(max_size=3000), change=st.integers(0, 4000), how=st.sampled_from(sorted(PACK)))
def test_any_damage_is_told_or_harmless(tmp_path: pathlib.Path, data: bytes, change: int, how: str) -> None:
    packed = bytearray(PACK[how](data))
    packed[change % len(packed)] ^= 0x55
    (tmp_path / "disk").write_bytes(packed)
    compression: t.Literal["gzip", "xz"] = "gzip" if how == "gz" else "xz"
    with contextlib.suppress(JobError):
        path = unpacker(tmp_path).unpack(Packing((Part(tmp_path / "disk"),), compression), "disk.raw")
        assert zlib.crc32(path.read_bytes()) == zlib.crc32(data)
