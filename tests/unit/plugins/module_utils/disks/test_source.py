# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sources as users have them, and as attackers would."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import subprocess
import tarfile
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import (
    check_container,
    check_given,
    check_manifest,
    has_writer,
    open_source,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from disk_files import GRAIN, StreamVmdk, make_raw, qemu_img
from test_ovf import ONE_DISK, Vm, disk, item

GRAINS = {0: b"boot".ljust(GRAIN, b"b"), 9: b"data".ljust(GRAIN, b"d")}
# The virtual size that the OVF of these tests tells.
CAPACITY = 1024**3


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "input"
    folder.mkdir()
    return folder


def opened(root: pathlib.Path, path: str, **fields: t.Any) -> Source:
    return open_source(models.SourceSpec(path=path, **fields), root)


def refused(root: pathlib.Path, path: str, words: str, **fields: t.Any) -> JobError:
    with pytest.raises(JobError, match=words) as caught:
        opened(root, path, **fields)
    assert caught.value.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)
    return caught.value


def files_of_a_vm(folder: pathlib.Path, algorithm: str = "sha256", **vm: t.Any) -> dict[str, bytes]:
    vmdk = StreamVmdk(GRAINS, capacity=CAPACITY).build(folder / "made.vmdk").read_bytes()
    (folder / "made.vmdk").unlink()
    files = {"vm.ovf": Vm(items=ONE_DISK, **vm).text(), "vm-disk1.vmdk": vmdk}
    lines = [f"{algorithm.upper()}({n})= {hashlib.new(algorithm, d).hexdigest()}" for n, d in files.items()]
    return {**files, "vm.mf": "\n".join(lines).encode()}


def pack(path: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def check(source: Source) -> None:
    check_manifest(source, lambda _done, _total: None, lambda: False)


@pytest.mark.parametrize("prefix", ["", "export/vm/"])
def test_ova_is_read_in_place(root: pathlib.Path, prefix: str) -> None:
    files = {prefix + name: data for name, data in files_of_a_vm(root).items()}
    ova = pack(root / "vm.ova", files)
    source = opened(root, "vm.ova")
    (image,) = source.images
    assert (image.name, image.path, image.format, image.subformat) == ("disk0", ova, "vmdk", "streamOptimized")
    assert image.length is not None and image.virtual_size == CAPACITY
    stored = ova.read_bytes()[image.offset : image.offset + image.length]
    assert stored == files[prefix + "vm-disk1.vmdk"]
    assert image.manifest_digest == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert source.hardware.name == "web01" and source.hardware.disk_buses == ("VirtualSCSI",)
    assert source.warnings == ()
    assert os.listdir(root) == ["vm.ova"]
    check(source)


@pytest.mark.parametrize("given", ["vm", "vm/vm.ovf"])
@pytest.mark.parametrize("algorithm", ["sha1", "sha512"])
def test_ovf_folder(root: pathlib.Path, given: str, algorithm: str) -> None:
    (root / "vm").mkdir()
    for name, data in files_of_a_vm(root, algorithm).items():
        (root / "vm" / name).write_bytes(data)
    source = opened(root, given)
    assert source.images[0].path == root / "vm" / "vm-disk1.vmdk"
    check(source)
    with (root / "vm" / "vm-disk1.vmdk").open("r+b") as file:
        file.seek(50_000)
        file.write(b"x")
    with pytest.raises(JobError, match="not what was exported"):
        check(opened(root, given))


def test_changed_descriptor_is_noticed_at_once(root: pathlib.Path) -> None:
    files = files_of_a_vm(root)
    files["vm.ovf"] = files["vm.ovf"].replace(b"web01", b"web02")
    pack(root / "vm.ova", files)
    assert refused(root, "vm.ova", "vm.ovf is not what was exported").reason == "ChecksumMismatch"


def test_a_digest_of_a_descriptor_alone_is_refused(root: pathlib.Path) -> None:
    """It would say nothing of the data, which lie in another file."""
    make_raw(root / "disk.raw", 4 * GRAIN)
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", root / "disk.raw", root / "vm.vmdk")
    right = "sha256:" + hashlib.sha256((root / "vm.vmdk").read_bytes()).hexdigest()
    assert refused(root, "vm.vmdk", "vm.vmdk alone", digest=right).reason == "DigestOfDescriptor"
    assert opened(root, "vm.vmdk").images[0].path.name == "vm.vmdk alone"


def test_what_the_job_says_is_compared_without_a_manifest(root: pathlib.Path) -> None:
    ova = pack(root / "vm.ova", files_of_a_vm(root))
    with ova.open("r+b") as file:
        file.seek(ova.stat().st_size // 2)
        file.write(b"x")
    now = "sha256:" + hashlib.sha256(ova.read_bytes()).hexdigest()
    check_given(opened(root, "vm.ova", digest=now), lambda _d, _t: None, lambda: False)
    make_raw(root / "disk.raw", 4 * GRAIN)
    for name in ("vm.ova", "disk.raw"):
        with pytest.raises(JobError, match="is not what was exported"):
            check_given(opened(root, name, digest="sha256:" + "0" * 64), lambda _d, _t: None, lambda: False)


def test_digest_of_a_whole_ova(root: pathlib.Path) -> None:
    ova = pack(root / "vm.ova", files_of_a_vm(root))
    right = "sha256:" + hashlib.sha256(ova.read_bytes()).hexdigest()
    check_container(opened(root, "vm.ova", digest=right), lambda _d, _t: None, lambda: False)
    wrong = opened(root, "vm.ova", digest="sha256:" + "0" * 64)
    for step in (check_container, check_manifest):
        with pytest.raises(JobError, match=r"vm\.ova is not what was exported"):
            step(wrong, lambda _d, _t: None, lambda: False)
    with pytest.raises(JobError) as caught:
        check_container(wrong, lambda _d, _t: None, lambda: True)
    assert caught.value.reason == "Cancelled"


@pytest.mark.parametrize("length", [1, 511, 513])
def test_members_of_odd_size(root: pathlib.Path, length: int) -> None:
    """The tar pads them; a raw disk's last sector is padded with zeros."""
    files = {
        "vm.ovf": Vm(items=ONE_DISK).text().replace(b"vm-disk1.vmdk", b"vm-disk1.img").replace(b"vmdk.html", b"raw"),
        "vm-disk1.img": b"\1" * length,
        "zz": b"\2" * 512,
    }
    pack(root / "vm.ova", files)
    (image,) = opened(root, "vm.ova").images
    assert (image.format, image.length, image.virtual_size) == ("raw", length, -(-length // 512) * 512)


def test_two_disks_in_the_order_of_the_controller(root: pathlib.Path) -> None:
    files = files_of_a_vm(root)
    second = StreamVmdk({}, capacity=2 * CAPACITY).build(root / "second").read_bytes()
    (root / "second").unlink()
    items = item(6, 3, Address="0", ResourceSubType="lsilogic") + disk(4, 1, 3, 1) + disk(5, 2, 3, 0)
    pack(
        root / "vm.ova",
        {
            "vm.ovf": Vm(items=items, disks=2).text(),
            "vm-disk1.vmdk": files["vm-disk1.vmdk"],
            "vm-disk2.vmdk": second,
        },
    )
    source = opened(root, "vm.ova")
    assert [i.virtual_size for i in source.images] == [2 * CAPACITY, CAPACITY]
    assert [i.name for i in source.images] == ["disk0", "disk1"]


@pytest.mark.parametrize("href", ["../canary.vmdk", "/etc/passwd", "missing.vmdk", "nbd:localhost:1"])
@pytest.mark.parametrize("kind", ["ova", "folder"])
def test_references_that_leave_the_package(root: pathlib.Path, href: str, kind: str) -> None:
    (root.parent / "canary.vmdk").write_bytes(b"canary")
    (root / "canary.vmdk").write_bytes(b"canary")
    text = Vm(items=ONE_DISK).text().replace(b"vm-disk1.vmdk", href.encode())
    if kind == "ova":
        pack(root / "vm.ova", {"vm.ovf": text})
        refused(root, "vm.ova", "lacks the file")
    else:
        (root / "vm").mkdir()
        (root / "vm" / "vm.ovf").write_bytes(text)
        refused(root, "vm", "refused|cannot be opened")


@pytest.mark.parametrize("files", [{}, {"a.ovf": b"<x/>", "b.ovf": b"<x/>"}, {"disk.vmdk": b"KDMV"}])
def test_packages_without_one_descriptor(root: pathlib.Path, files: dict[str, bytes]) -> None:
    pack(root / "vm.ova", {**files, "readme": b"x"})
    refused(root, "vm.ova", "descriptors instead of one")


def test_compressed_ova_says_what_to_do(root: pathlib.Path) -> None:
    with tarfile.open(root / "vm.ova", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("vm.ovf"))
    assert "Unpack" in refused(root, "vm.ova", "cannot be read in place").suggestion


def test_flat_vmdk_is_read_as_raw(root: pathlib.Path) -> None:
    make_raw(root / "disk.raw", 4 * 1024**2)
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", root / "disk.raw", root / "disk.vmdk")
    (image,) = opened(root, "disk.vmdk").images
    assert (image.path.name, image.format, image.subformat) == ("disk-flat.vmdk", "raw", "monolithicFlat")
    assert image.extents == (root / "disk.vmdk",)
    before = opened(root, "disk.vmdk").identity
    (root / "disk.vmdk").write_text((root / "disk.vmdk").read_text() + "# changed\n")
    assert opened(root, "disk.vmdk").identity != before


@pytest.mark.parametrize(
    ("extent", "words"),
    [
        ('RW 8192 FLAT "../canary" 0', "refused"),
        ('RW 8192 FLAT "/etc/passwd" 0', "refused"),
        ('RW 8192 FLAT "json:{}" 0', "refused"),
        ('RW 8192 FLAT "link" 0', "refused"),
        ('RW 8192 FLAT "missing" 0', "cannot be opened"),
        ('RW 8192 FLAT "short" 0', "truncated"),
        ('RW 1 FLAT "short" 0', "larger"),
        ('RW 0 FLAT "short" 0', "not possible"),
        ('RW 1 FLAT "short" 1', "not possible"),
        (f'RW {9**30} FLAT "short" 0', "larger"),
        ('RW 8192 SPARSE "short"', "does not begin as a VMDK"),
        ('RW 8192 SPARSE "../canary"', "refused"),
        ('RW 8192 SESPARSE "short"', "does not begin as an extent"),
        ('RW 1 FLAT "short" 0\nRW 2 FLAT "short" 0', "truncated"),
        ('RW 1 FLAT "short" 0\nRW 2 FLAT "link" 0', "refused"),
        ('RW 1 FLAT "short" 0\nRW 2 FLAT "inner" 0', "is a link"),
        ('RW 1 FLAT "short" 0\nRW 2 ZERO', "RW ZERO"),
        ('RW 1 FLAT "short" 0\nRDONLY 1 FLAT "short" 0', "RDONLY FLAT"),
        ('RW 1 FLAT "short" 0\nRW 1 FLAT "short" 0\nRW\n1\nFLAT\n"../canary" 0', "list of extents is broken"),
        ('RW 1 FLAT "short" 0\n\nRW 1 FLAT "short" 0', "list of extents is broken"),
        ('RW 1 FLAT "short" 0\nRW 1 FLAT "short" 0\nRW\v1 FLAT "../canary" 0\n', "list of extents is broken"),
        ('RW 1 FLAT "short" 0\nRW 99999999999 FLAT "short" 0', "truncated"),
        ("", "list of extents is broken"),
    ],
)
def test_hostile_extents(root: pathlib.Path, extent: str, words: str) -> None:
    (root.parent / "canary").write_bytes(bytes(8192 * 512))
    (root / "link").symlink_to("../canary")
    (root / "inner").symlink_to("short")
    (root / "short").write_bytes(bytes(1000))
    (root / "disk.vmdk").write_text(
        f'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n{extent}\n'
    )
    refused(root, "disk.vmdk", words)


def test_formats_are_told_and_not_believed(root: pathlib.Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", root / "evil.qcow2", "1G")
    content = (root / "evil.qcow2").read_bytes()
    (root / "evil.raw").write_bytes(content)
    source = opened(root, "evil.raw")
    assert source.images[0].format == "raw" and source.images[0].virtual_size == -(-len(content) // 512) * 512
    assert "raw disk" in source.warnings[0]
    (root / "disk.bin").write_bytes(content)
    refused(root, "disk.bin", "does not tell")
    assert opened(root, "disk.bin", type="qcow2").images[0].virtual_size == 1024**3
    refused(root, "disk.bin", "does not begin as a VMDK|no disk descriptor", type="vmdk")
    (root / "disk.qcow2").write_bytes(bytes(4096))
    refused(root, "disk.qcow2", "does not begin as a qcow2")


def test_images_that_need_other_files_are_refused(root: pathlib.Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={root / 'data.raw'}", root / "external.qcow2", "1M")
    refused(root, "external.qcow2", "external data file")
    qemu_img("create", "-q", "-f", "qcow2", root / "e.qcow2", "1M")
    with (root / "e.qcow2").open("r+b") as file:
        file.seek(32)
        file.write(b"\0\0\0\2")  # LUKS
    refused(root, "e.qcow2", "encrypted")


def test_truncated_qcow2(root: pathlib.Path) -> None:
    raw = make_raw(root / "disk.raw", 8 * 1024**2)
    qemu_img("convert", "-O", "qcow2", raw, root / "disk.qcow2")
    whole = (root / "disk.qcow2").read_bytes()
    opened(root, "disk.qcow2")
    for size in (0, 3, 50, 300, 70_000, 200_000, len(whole) // 2, len(whole) - 2 * GRAIN):
        (root / "disk.qcow2").write_bytes(whole[:size])
        refused(root, "disk.qcow2", "truncated|not a qcow2")


def test_identity_tells_any_change(root: pathlib.Path) -> None:
    make_raw(root / "a.raw", 1024**2)
    make_raw(root / "b.raw", 1024**2)
    spec = models.SourceSpec(disks=[models.DiskSpec(path="a.raw"), models.DiskSpec(path="b.raw", format="raw")])
    first = open_source(spec, root)
    assert [i.name for i in first.images] == ["disk0", "disk1"]
    assert open_source(spec, root).identity == first.identity
    os.utime(root / "b.raw", ns=(0, 1))
    changed = open_source(spec, root).identity
    assert changed != first.identity
    (root / "c.raw").write_bytes((root / "b.raw").read_bytes())
    (root / "c.raw").replace(root / "b.raw")
    os.utime(root / "b.raw", ns=(0, 1))
    assert open_source(spec, root).identity not in (changed, first.identity)


def test_a_process_that_writes_is_seen(root: pathlib.Path) -> None:
    make_raw(root / "a.raw", 1024**2)
    source = opened(root, "a.raw")
    assert has_writer(source) is None
    with (root / "a.raw").open("rb"):
        assert has_writer(source) is None
    with (root / "a.raw").open("r+b"):
        found = has_writer(source)
    assert found is not None and f"process {os.getpid()} " in found and "a.raw" in found
    assert has_writer(source) is None


def test_a_vm_that_runs_is_seen_by_its_lock(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process is out of sight: another host's, or another container's."""
    from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import usage

    make_raw(root / "a.raw", 1024**2)
    source = opened(root, "a.raw")
    monkeypatch.setattr(usage, "_process_with", lambda _path, _file: None)
    for options, seen in ((["-r"], False), ([], True)):
        with subprocess.Popen(
            ["qemu-io", *options, "-f", "raw", str(root / "a.raw")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as user:
            assert user.stdin is not None and user.stdout is not None
            # It has opened the image, and locked it, before it reads its first command.
            user.stdin.write(b"length\n")
            user.stdin.flush()
            user.stdout.readline()
            found = has_writer(source)
            user.stdin.close()
        assert (found is not None and "QEMU" in found) is seen
    assert has_writer(source) is None


def test_empty_and_odd_raw_files(root: pathlib.Path) -> None:
    (root / "empty.raw").touch()
    (root / "odd.raw").write_bytes(b"x" * 513)
    refused(root, "empty.raw", "truncated")
    assert opened(root, "odd.raw").images[0].virtual_size == 1024
    (root / "folder").mkdir()
    refused(root, "folder", "folder", type="raw")
