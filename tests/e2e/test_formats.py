# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One guest in formats that are read in place, in several files, over a parent, or not before they are unpacked."""

from __future__ import annotations

import collections.abc as c
import gzip
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.copy import copy_disk
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

from tests.e2e.migration import ConversionHost, job
from tests.guests import build
from tests.tools.machine import leftovers

VMX = """config.version = "8"
displayName = "tiny"
numvcpus = "2"
memsize = "512"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "{disk}"
ethernet0.present = "TRUE"
ethernet0.generatedAddress = "00:50:56:ab:10:99"
"""


def convert(disk: pathlib.Path, target: pathlib.Path, *options: str) -> pathlib.Path:
    target.parent.mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", *options, disk, target], check=True)
    return target


def a_vhdx(disk: pathlib.Path, root: pathlib.Path) -> str:
    return convert(disk, root / "tiny.vhdx", "vhdx").name


def a_dynamic_vhd(disk: pathlib.Path, root: pathlib.Path) -> str:
    return convert(disk, root / "tiny.vhd", "vpc", "-o", "force_size=on").name


def a_vmx_with_a_snapshot(disk: pathlib.Path, root: pathlib.Path) -> str:
    convert(disk, root / "vm" / "tiny.vmdk", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    snapshot = root / "vm" / "tiny-000001.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", "-b", "tiny.vmdk", "-F", "vmdk", snapshot], check=True)
    (root / "vm" / "tiny.vmx").write_text(VMX.format(disk=snapshot.name), encoding="utf-8")
    return "vm/tiny.vmx"


def a_compressed_ova(disk: pathlib.Path, root: pathlib.Path) -> str:
    with (disk.parent / "tiny.ova").open("rb") as plain, gzip.open(root / "tiny.ova.gz", "wb", 1) as packed:
        shutil.copyfileobj(plain, packed)
    return "tiny.ova.gz"


@pytest.mark.parametrize("make", [a_vhdx, a_dynamic_vhd, a_vmx_with_a_snapshot, a_compressed_ova])
def test_a_guest_in_another_format(host: ConversionHost, make: c.Callable[[pathlib.Path, pathlib.Path], str]) -> None:
    disk = build("tiny") / "disk.raw"
    source = make(disk, host.input)
    host.add(disk, "expected.raw")

    done, expected = host.run(
        job("tiny", source, verify={"boot": False}),
        job("expected", "expected.raw", verify={"boot": False}),
    )

    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    assert expected["status"]["phase"] == "COMPLETED", expected["status"].get("lastError")
    result = host.result("tiny/result.json")
    # The digest is the content's, whatever the format.
    assert (
        result["disks"][0]["digests"]["source"] == host.result("expected/result.json")["disks"][0]["digests"]["source"]
    )
    assert result["disks"][0]["digests"]["copied"] == result["disks"][0]["digests"]["source"]
    if make is a_vmx_with_a_snapshot:
        assert (result["hardware"]["cpus"], result["hardware"]["memoryBytes"]) == (2, 512 * 1024**2)
        assert result["hardware"]["nics"][0]["mac"] == "00:50:56:ab:10:99"
    assert not list(host.output.rglob("unpacked*"))
    assert leftovers(host.output.parent) == []


@pytest.fixture
def reflinks(tmp_path: pathlib.Path) -> c.Iterator[pathlib.Path]:
    """A folder on a filesystem whose files can share blocks."""
    image, folder = tmp_path / "xfs", tmp_path / "folder"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(320 * 1024**2)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    subprocess.run(["mount", "-o", "loop,nosuid,nodev", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("snapshot", [False, True], ids=["whole", "snapshot"])
def test_a_snapshot_is_copied_where_a_whole_image_would_share_its_blocks(
    reflinks: pathlib.Path, snapshot: bool
) -> None:
    disk = reflinks / "disk.raw"
    disk.write_bytes(b"base" * 256 * 1024)
    convert(disk, reflinks / "base.qcow2", "qcow2")
    top = reflinks / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", top], check=True)
    source = models.SourceSpec(path="top.qcow2" if snapshot else "base.qcow2")
    copied = copy_disk(
        open_source(source, reflinks).images[0],
        reflinks / "copy.qcow2",
        fmt=models.TargetFormat.QCOW2,
        workdir=reflinks,
    )
    assert (copied.bytes_written == 0) is not snapshot
    (reflinks / "base.qcow2").unlink()
    top.unlink()
    compare = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", disk, reflinks / "copy.qcow2"]
    subprocess.run(compare, check=True)
