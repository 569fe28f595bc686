# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Snapshots and differencing disks, headers that lie, and names that lead elsewhere. QEMU compares the results."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import struct
import subprocess
import typing as t
import uuid

import hypothesis
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import vhd, vhdx
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.file_range import FileRange
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage, Source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import (
    check_container,
    check_manifest,
    open_source,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.unpack import Unpacker
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from disk_files import identical, make_raw, qemu_img
from hypothesis import strategies as st
from image_files import (
    MIB,
    PARENT_ID,
    VHD_BLOCK,
    Vhdx,
    Writes,
    applied,
    cowd_extent,
    crc32c,
    differencing_vhd,
    sesparse_extent,
    vhd_footer,
    vmdk_descriptor,
)

SIZE = 22 * MIB + 512
WRITES: Writes = {
    0: b"a" * 512,
    5 * MIB - 1024: b"b" * 4096,
    7 * MIB + 512: bytes(1024),
    SIZE - 512: b"e" * 512,
}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "input"
    folder.mkdir()
    return folder


def opened(root: pathlib.Path, name: str, **fields: t.Any) -> Source:
    unpacker = Unpacker(root.parent / "unpacked", lambda _done, _total: None, lambda: False)
    return open_source(models.SourceSpec(path=name, **fields), root, unpacker)


def refused(root: pathlib.Path, name: str, words: str, **fields: t.Any) -> JobError:
    with pytest.raises(JobError, match=words) as caught:
        opened(root, name, **fields)
    assert caught.value.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)
    return caught.value


def copied(image: DiskImage, target: pathlib.Path) -> pathlib.Path:
    copy_disk(
        image,
        target,
        fmt=models.TargetFormat.QCOW2,
        workdir=target.parent,
    )
    return target


def shows(root: pathlib.Path, name: str, raw: pathlib.Path, **fields: t.Any) -> DiskImage:
    """The copy of a source, and what an attachment of it shows, are ``raw``."""
    (image,) = opened(root, name, **fields).images
    assert image.virtual_size == raw.stat().st_size
    target = root.parent / "copy.qcow2"
    target.unlink(missing_ok=True)
    assert identical(raw, "raw", copied(image, target), "qcow2")
    with attach({"disk": image}, writable=False, workdir=root.parent) as attachment:
        assert attachment.disks["disk"].device.read_bytes() == raw.read_bytes()
    return image


def write(path: pathlib.Path, fmt: str, writes: Writes) -> None:
    commands = [c for o, d in writes.items() for c in ("-c", f"write -P {d[0]} {o} {len(d)}")]
    subprocess.run(["qemu-io", "-f", fmt, *commands, str(path)], check=True, stdout=subprocess.DEVNULL)


def vmdk_cid(path: pathlib.Path) -> str:
    found = re.search(rb"\nCID=([0-9a-f]{1,8})\n", path.read_bytes())
    assert found
    return found.group(1).decode()


# -- chains that QEMU reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subformat",
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"],
)
def test_vmdk_snapshots(root: pathlib.Path, subformat: str) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vmdk", "-o", f"subformat={subformat}", raw, root / "base.vmdk")
    for number, parent in ((1, "base.vmdk"), (2, "vm-1.vmdk")):
        child = root / f"vm-{number}.vmdk"
        qemu_img("create", "-q", "-f", "vmdk", "-b", parent, "-F", "vmdk", child)
        # As VMware names it; QEMU's own reading of the CID is not what is tested.
        write(child, "vmdk", {MIB * number: bytes([number]) * 4096, 3 * MIB: bytes([number]) * 512})
        raw = applied(raw, {MIB * number: bytes([number]) * 4096, 3 * MIB: bytes([number]) * 512}, raw)
    image = shows(root, "vm-2.vmdk", raw)
    assert [layer.path.name for layer in image.chain] == ["vm-2.vmdk", "vm-1.vmdk", "base.vmdk"]
    assert {path.name for path in image.extents} >= {"vm-1.vmdk", "base.vmdk"}


@pytest.mark.parametrize("parent", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("child", [[], ["-o", "compat=0.10"], ["-o", "extended_l2=on,cluster_size=64k"]])
def test_qcow2_backing_files(root: pathlib.Path, parent: str, child: list[str]) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    (root / "base").mkdir()
    qemu_img("convert", "-O", parent, raw, root / "base" / "disk")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base/disk", "-F", parent, root / "middle.qcow2", str(SIZE))
    (root / "top").mkdir()
    qemu_img("create", "-q", "-f", "qcow2", *child, "-b", "../middle.qcow2", "-F", "qcow2", root / "top" / "d.qcow2")
    write(root / "top" / "d.qcow2", "qcow2", WRITES)
    shows(root, "top/d.qcow2", applied(raw, WRITES, raw))


@pytest.mark.parametrize("kind", ["vmfsSparse", "seSparse"])
def test_snapshots_of_esxi(root: pathlib.Path, kind: str) -> None:
    size = 22 * MIB
    raw = make_raw(root.parent / "disk.raw", size)
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, root / "base.vmdk")
    writes = {0: b"a" * 4096, 5 * MIB: b"b" * 8192, size - 4096: b"e" * 4096}
    extent, build, word = {
        "vmfsSparse": ("vm-000001-delta.vmdk", cowd_extent, "VMFSSPARSE"),
        "seSparse": ("vm-000001-sesparse.vmdk", sesparse_extent, "SESPARSE"),
    }[kind]
    build(root / extent, size, writes)
    parent = (vmdk_cid(root / "base.vmdk"), "base.vmdk")
    vmdk_descriptor(root / "vm-000001.vmdk", kind, f'RW {size // 512} {word} "{extent}"', parent=parent)
    shows(root, "vm-000001.vmdk", applied(raw, writes, raw))
    vmdk_descriptor(root / "vm-000001.vmdk", kind, f'RW {size // 512 + 1} {word} "{extent}"', parent=parent)
    refused(root, "vm-000001.vmdk", "though vm-000001.vmdk says")


# -- differencing disks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subformat", ["fixed", "dynamic"])
def test_differencing_vhd(root: pathlib.Path, subformat: str) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vpc", "-o", f"subformat={subformat},force_size=on", raw, root / "base.vhd")
    with FileRange(root / "base.vhd") as file:
        parent = uuid.UUID(bytes=vhd.read_vhd(file).unique_id)
    second = uuid.uuid4()
    differencing_vhd(root / "a.avhd", SIZE, WRITES, r".\base.vhd", parent=parent, unique=second)
    more = {2 * VHD_BLOCK - 512: b"z" * 1024, 0: b"A" * 512}
    differencing_vhd(root / "b.avhd", SIZE, more, r".\a.avhd", parent=second)
    shown = applied(applied(raw, WRITES, raw), more, raw)
    image = shows(root, "b.avhd", shown)
    assert image.format == "qcow2" and {p.name for p in image.extents} == {"b.avhd", "a.avhd", "base.vhd"}
    before = image.path.stat().st_ino
    assert opened(root, "b.avhd").images[0].path.stat().st_ino == before
    # Only what changed was written anew.
    assert image.path.stat().st_size < 8 * MIB
    os.utime(root / "a.avhd")
    assert opened(root, "b.avhd").images[0].path != image.path
    differencing_vhd(root / "b.avhd", SIZE, more, r".\a.avhd", parent=uuid.uuid4())
    refused(root, "b.avhd", "is not the disk that the snapshot")


def test_differencing_vhdx(root: pathlib.Path) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vhdx", raw, root / "base.vhdx")
    with FileRange(root / "base.vhdx") as file:
        parent = vhdx.read_vhdx(file).data_write_id
    whole = {9: b"w" * MIB}
    vm = root / "vm" / "Snapshots"
    vm.mkdir(parents=True)
    Vhdx(SIZE, WRITES, r"..\..\base.vhdx", parent, whole=whole, zeroed=(2, 3)).build(vm / "a.avhdx")
    zeros = {2 * MIB: bytes(2 * MIB)}
    shown = applied(raw, {**WRITES, 9 * MIB: whole[9], **zeros}, raw)
    shows(root, "vm/Snapshots/a.avhdx", shown)
    more = {MIB + 512: b"m" * 512}
    Vhdx(SIZE, more, r".\a.avhdx", str(PARENT_ID)).build(vm / "b.avhdx")
    shows(root, "vm/Snapshots/b.avhdx", applied(shown, more, shown))
    Vhdx(SIZE, more, r".\a.avhdx", str(uuid.uuid4())).build(vm / "b.avhdx")
    refused(root, "vm/Snapshots/b.avhdx", "is not the disk that the snapshot")


def test_differencing_disks_are_not_merged_without_a_place_for_it(root: pathlib.Path) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vhdx", raw, root / "base.vhdx")
    with FileRange(root / "base.vhdx") as file:
        parent = vhdx.read_vhdx(file).data_write_id
    Vhdx(SIZE, WRITES, r".\base.vhdx", parent).build(root / "a.avhdx")
    with pytest.raises(JobError, match="cannot be read in place") as caught:
        open_source(models.SourceSpec(path="a.avhdx"), root)
    assert caught.value.error_class is ErrorClass.UNSUPPORTED
    assert not (root.parent / "unpacked").exists()


@pytest.mark.parametrize("subformat", ["fixed", "dynamic"])
def test_a_digest_is_of_the_file(root: pathlib.Path, subformat: str) -> None:
    """Also where the image is less than its file."""
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vpc", "-o", f"subformat={subformat},force_size=on", raw, root / "disk.vhd")
    right = "sha256:" + hashlib.sha256((root / "disk.vhd").read_bytes()).hexdigest()
    for digest in (right, "sha256:" + "0" * 64):
        source = opened(root, "disk.vhd", digest=digest)
        expected = contextlib.nullcontext() if digest == right else pytest.raises(JobError, match="not what was export")
        with expected:
            check_manifest(source, lambda _done, _total: None, lambda: False)
        with expected:
            check_container(source, lambda _done, _total: None, lambda: False)
            copied(source.images[0], root.parent / f"{digest[-4:]}.qcow2")


def test_a_digest_of_the_snapshot_alone_is_refused(root: pathlib.Path) -> None:
    make_raw(root / "base.raw", MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", root / "chain.qcow2")
    digest = "sha256:" + hashlib.sha256((root / "chain.qcow2").read_bytes()).hexdigest()
    assert refused(root, "chain.qcow2", "in other files as well", digest=digest).reason == "DigestOfDescriptor"


# -- names that lead elsewhere -----------------------------------------------------------------------------------------

_NAMES = ["/etc/passwd", "../canary", "../../canary", "json:{}", "nbd:localhost:1", "http://h/x", "link", "missing"]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("kind", ["qcow2", "vmdk", "vhd", "vhdx"])
def test_parents_outside_the_root(root: pathlib.Path, kind: str, name: str) -> None:
    (root.parent / "canary").write_bytes(bytes(MIB))
    (root / "link").symlink_to("../canary")
    path = root / f"child.{kind}"
    windows = name.replace("/", "\\")
    if kind == "qcow2":
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "raw", path, "1M")
    elif kind == "vmdk":
        vmdk_descriptor(path, "monolithicFlat", 'RW 1 FLAT "flat" 0\nRW 1 FLAT "flat" 1', parent=("12345678", name))
        (root / "flat").write_bytes(bytes(1024))
    elif kind == "vhd":
        differencing_vhd(path, MIB, {}, windows)
    else:
        Vhdx(MIB, {}, windows, str(PARENT_ID)).build(path)
    # What is absolute in Windows is looked for beside the disk, where there is no such file.
    refused(root, path.name, "refused|cannot be opened")


def test_chains_without_an_end(root: pathlib.Path) -> None:
    for child, parent in (("a", "b"), ("b", "a")):
        qemu_img(
            "create", "-q", "-u", "-f", "qcow2", "-b", f"{parent}.qcow2", "-F", "qcow2", root / f"{child}.qcow2", "1M"
        )
    refused(root, "a.qcow2", "without an end")
    differencing_vhd(root / "self.vhd", MIB, {}, r".\self.vhd")
    refused(root, "self.vhd", "without an end")
    for number in range(40):
        name = f"n{number + 1}.qcow2"
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", root / f"n{number}.qcow2", "1M")
    refused(root, "n0.qcow2", "without an end")


def test_backing_format_is_not_guessed(root: pathlib.Path) -> None:
    make_raw(root / "base.raw", MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", root / "a.qcow2")
    content = (root / "a.qcow2").read_bytes()
    assert opened(root, "a.qcow2").images[0].backing is not None
    (root / "a.qcow2").write_bytes(content.replace(b"\xe2\x79\x2a\xca", b"\x11\x11\x11\x11"))
    assert "rebase" in refused(root, "a.qcow2", "does not tell the format").suggestion
    (root / "a.qcow2").write_bytes(content.replace(b"\0\0\0\3raw", b"\0\0\0\3nbd"))
    refused(root, "a.qcow2", "does not tell the format")


def test_a_snapshot_of_a_changed_parent(root: pathlib.Path) -> None:
    qemu_img("create", "-q", "-f", "vmdk", root / "base.vmdk", "4M")
    qemu_img("create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", root / "child.vmdk")
    opened(root, "child.vmdk")
    content, cid = (root / "base.vmdk").read_bytes(), vmdk_cid(root / "base.vmdk").encode()
    # QEMU writes the number without leading zeros, and nothing behind it may move.
    other = (b"2" if cid[:1] != b"2" else b"3") + cid[1:]
    (root / "base.vmdk").write_bytes(content.replace(b"CID=" + cid, b"CID=" + other, 1))
    refused(root, "child.vmdk", "was changed since")


def test_a_content_id_is_a_number(root: pathlib.Path) -> None:
    (root / "flat").write_bytes(bytes(1024))
    base = vmdk_descriptor(root / "base.vmdk", "monolithicFlat", 'RW 2 FLAT "flat" 0')
    base.write_text(base.read_text().replace("CID=fffffffe", "CID=0012abcd"))
    vmdk_descriptor(root / "child.vmdk", "twoGbMaxExtentFlat", 'RW 2 FLAT "flat" 0', parent=("12ABCD", "base.vmdk"))
    assert opened(root, "child.vmdk").images[0].backing is not None


# -- headers that lie --------------------------------------------------------------------------------------------------


def test_dynamic_vhd_of_any_creator_has_its_whole_size(root: pathlib.Path) -> None:
    """QEMU takes the geometry of a creator that it does not know, and with it less than the disk."""
    raw = make_raw(root.parent / "disk.raw", SIZE)
    qemu_img("convert", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", raw, root / "disk.vhd")
    content = bytearray((root / "disk.vhd").read_bytes())
    for place in (0, len(content) - 512):
        footer = content[place : place + 512]
        footer[28:32] = b"vbox"
        footer[56:60] = struct.pack(">HBB", 662, 4, 17)
        footer[64:68] = bytes(4)
        footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
        content[place : place + 512] = footer
    (root / "disk.vhd").write_bytes(content)
    assert f'"virtual-size": {SIZE}' not in qemu_img("info", "--output=json", "-f", "vpc", root / "disk.vhd")
    shows(root, "disk.vhd", raw)


def test_a_fixed_vhd_is_what_its_footer_says(root: pathlib.Path) -> None:
    raw = make_raw(root.parent / "disk.raw", 4 * MIB)
    (root / "disk.vhd").write_bytes(raw.read_bytes() + vhd_footer(2, 4 * MIB))
    image = shows(root, "disk.vhd", raw)
    assert (image.format, image.subformat) == ("raw", "fixed VHD")
    (root / "disk.vhd").write_bytes(raw.read_bytes() + vhd_footer(2, 4 * MIB + 512))
    refused(root, "disk.vhd", "truncated")
    (root / "disk.vhd").write_bytes(raw.read_bytes() + vhd_footer(2, 4 * MIB)[:-1] + b"x")
    refused(root, "disk.vhd", "does not end as one")


@pytest.mark.parametrize("kind", ["vpc", "vhdx", "vdi", "vmdk", "qcow2"])
def test_cut_short(root: pathlib.Path, kind: str) -> None:
    raw = make_raw(root.parent / "disk.raw", SIZE)
    options = ["-o", "force_size=on"] if kind == "vpc" else []
    qemu_img("convert", "-O", kind, *options, raw, root / "disk")
    whole = (root / "disk").read_bytes()
    told = "vhd" if kind == "vpc" else kind
    opened(root, "disk", type=told)
    for size in (0, 3, 511, 512, 2000, 70_000, 300_000, len(whole) // 2, len(whole) - 3 * MIB // 2):
        (root / "disk").write_bytes(whole[:size])
        refused(root, "disk", "truncated|can be read|cut short|not whole|does not begin", type=told)


def test_vhdx_that_was_not_closed(root: pathlib.Path) -> None:
    qemu_img("create", "-q", "-f", "vhdx", root / "base.vhdx", str(MIB))
    Vhdx(MIB, {}, r".\base.vhdx", str(PARENT_ID), log=b"x" * 16).build(root / "a.vhdx")
    assert refused(root, "a.vhdx", "was not closed").reason == "DirtyVhdx"
    Vhdx(MIB, {}, r".\base.vhdx", str(PARENT_ID), sector=4096).build(root / "a.vhdx")
    assert refused(root, "a.vhdx", "sectors of 4096 bytes").reason == "LargeSectors"


def test_vdi_snapshot(root: pathlib.Path) -> None:
    qemu_img("create", "-q", "-f", "vdi", root / "a.vdi", "4M")
    content = bytearray((root / "a.vdi").read_bytes())
    opened(root, "a.vdi")
    content[76] = 4
    (root / "a.vdi").write_bytes(content)
    assert "snapshots" in refused(root, "a.vdi", "is a snapshot").suggestion


WRITES_SMALL: Writes = {0: b"a" * 512}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    raw = make_raw(folder / "disk.raw", MIB)
    found = {}
    for kind, qemu in (("vhd", "vpc"), ("vdi", "vdi")):
        qemu_img("convert", "-O", qemu, raw, folder / kind)
        found[kind] = (folder / kind).read_bytes()
    found["vhd-child"] = differencing_vhd(folder / "child", MIB, WRITES_SMALL, r".\x").read_bytes()
    found["vhdx"] = Vhdx(MIB, WRITES_SMALL, r".\x", str(PARENT_ID)).build(folder / "x.vhdx").read_bytes()
    return found


def _whole(kind: str, content: bytearray) -> None:
    """Make the checksums right again, so that what lies behind them is reached."""
    if kind.startswith("vhd-") or kind == "vhd":
        for place, size, at in ((0, 512, 64), (512, 1024, 36), (len(content) - 512, 512, 64)):
            content[place + at : place + at + 4] = bytes(4)
            total = ~sum(content[place : place + size]) & 0xFFFFFFFF
            content[place + at : place + at + 4] = struct.pack(">I", total)
    if kind == "vhdx":
        for place, size in ((64 * 1024, 4096), (128 * 1024, 4096), (192 * 1024, 65536)):
            block = bytes(content[place : place + 4]) + bytes(4) + bytes(content[place + 8 : place + size])
            content[place + 4 : place + 8] = struct.pack("<I", crc32c(block))


#: Where each format's headers and tables begin.
PLACES = {
    "vhd": (0, 512, 1536),
    "vhd-child": (0, 512, 1088, 1536, 2560),
    "vdi": (0, 330, 1024),
    "vhdx": (64 * 1024, 192 * 1024, MIB, 2 * MIB, 2 * MIB + 65536, 2 * MIB + 65536 + 24),
}
WORDS = [b"\xff" * 8, bytes(8), b"\0\0\0\1" * 2, b"\1\0\0\0" * 2, b"\x7f" + b"\xff" * 7]


@hypothesis.settings(max_examples=150, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("kind", PLACES)
def test_hostile_headers(samples: dict[str, bytes], kind: str, data: st.DataObject, tmp_path: pathlib.Path) -> None:
    """Whatever is changed in them, nothing but JobError comes of it."""
    content = bytearray(samples[kind])
    for _change in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(PLACES[kind])) + data.draw(st.integers(0, 120))
        content[place : place + 8] = data.draw(st.sampled_from(WORDS) | st.binary(min_size=8, max_size=8))
    if data.draw(st.booleans()):
        _whole(kind, content)
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    (tmp_path / "disk").write_bytes(content)
    with contextlib.suppress(JobError):
        open_source(models.SourceSpec(path="disk", type=models.SourceType(kind.partition("-")[0])), tmp_path)
