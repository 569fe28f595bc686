# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sources that nobody looks into, that are not what their digests say, and that are booted unchanged."""

from __future__ import annotations

import hashlib
import io
import pathlib
import subprocess
import tarfile
import typing as t
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.loop import LoopDevice
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.run import BootTestRequest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import SilentReporter
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.pipeline import run_job
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.stages import boot

from tests.e2e import tiny_guests
from tests.e2e.migration import ConversionHost, job
from tests.tools.machine import sha256

MIB = 1024**2
LOGIN = "Something 1.0\n\nvm login: "
WRONG = "sha256:" + "0" * 64
OVF = """\
<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References><File ovf:id="f" ovf:href="vm.raw"/></References>
 <DiskSection><Info/><Disk ovf:diskId="d" ovf:fileRef="f" ovf:capacity="67108864" ovf:format="raw"/></DiskSection>
 <VirtualSystem ovf:id="vm"><Info/><Name>vm</Name><VirtualHardwareSection><Info/>
  <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType></Item>
  <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:Parent>1</rasd:Parent><rasd:AddressOnParent>0</rasd:AddressOnParent>
   <rasd:HostResource>ovf:/disk/d</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
 </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


def system(path: pathlib.Path, sector: int = 512) -> pathlib.Path:
    """A GPT disk with one ext4 filesystem that looks like a system, and does not boot."""
    tree = path.with_name("tree")
    for name, text in {"etc/os-release": "ID=debian\nVERSION_ID=12\n", "usr/bin/env": ""}.items():
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text(text)
    with path.open("wb") as file:
        file.truncate(32 * MIB)
    loop = LoopDevice(path, 0, 32 * MIB, writable=True, block_size=sector)
    try:
        table = f"label: gpt\nstart={MIB // sector}, size={30 * MIB // sector}, type=L\n"
        subprocess.run(["sfdisk", "-q", loop.device], input=table.encode(), check=True)
        loop.sync()
    finally:
        loop.detach()
    made = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", f"offset={MIB}", "-d", tree, path, "30m"]
    subprocess.run(made, check=True, stderr=subprocess.DEVNULL)
    return path


def package(path: pathlib.Path, disk: pathlib.Path, digest: str) -> pathlib.Path:
    """An OVA whose manifest gives ``digest`` for its disk."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (
            ("vm.ovf", OVF.encode()),
            ("vm.mf", f"SHA256(vm.raw)= {digest}\n".encode()),
            ("vm.raw", disk.read_bytes()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def error(document: dict[str, t.Any]) -> tuple[str, str]:
    """Stage and reason of a job's failure."""
    assert document["status"]["phase"] == "FAILED", document["status"]
    return document["status"]["lastError"]["stage"], document["status"]["lastError"]["reason"]


# -- guests that cannot be looked into ---------------------------------------------------------------------------------


def test_a_guest_that_cannot_be_looked_into_boots_all_the_same(host: ConversionHost) -> None:
    source = tiny_guests.write_guest(host.input / "odd.raw", LOGIN)
    before = sha256(source)

    tested, moved, wanted = host.run(
        job("tested", "odd.raw", "boot-test"),
        job("moved", "odd.raw", guest={"enabled": False}),
        job("wanted", "odd.raw"),
    )

    assert tested["status"]["phase"] == moved["status"]["phase"] == "COMPLETED", (tested["status"], moved["status"])
    for result in (host.result("tested/boot-test.json"), host.result("moved/result.json")):
        assert result["verdict"] == "boots-with-warnings"
        assert result["bootTest"]["marker"] == "login prompt 'vm login:'"
        assert any("not looked into" in warning for warning in result["warnings"])
    target = host.output / "moved/moved.qcow2"
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source, target], check=True)
    assert error(wanted) == ("inspect", "BlankDisk")
    assert sha256(source) == before


def test_a_damaged_guest_is_no_guest_that_cannot_be_looked_into(host: ConversionHost) -> None:
    disk = system(host.input / "vm.raw")
    with disk.open("r+b") as file:
        # The group descriptors, behind a sound superblock.
        file.seek(MIB + 4096)
        file.write(b"\xff" * 1024)
    (done,) = host.run(job("vm", "vm.raw", "boot-test"))
    assert error(done) == ("inspect", "FilesystemDamaged")


# -- what is booted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sector", [512, 4096])
def test_a_boot_test_boots_the_source_and_not_what_mounting_made_of_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, sector: int
) -> None:
    for name in ("input", "output", "work"):
        (tmp_path / name).mkdir()
    source = system(tmp_path / "input" / "vm.raw", sector)
    same: list[bool] = []

    def look(request: BootTestRequest, *dummy: t.Any) -> models.BootTestResult:
        for path, fmt in request.disks:
            compared = ["qemu-img", "compare", "-q", "-f", fmt, "-F", "raw", path, source]
            same.append(subprocess.run(compared, check=False).returncode == 0)
        assert request.logical_block_sizes == [sector]
        return models.BootTestResult(verdict="booted")

    monkeypatch.setattr(boot, "boot_test", look)
    parsed = validation.parse_job(job("vm", "vm.raw", "boot-test"))
    roots = Roots(input=tmp_path / "input", output=tmp_path / "output", scratch=tmp_path / "work")
    run_job(parsed, roots, SilentReporter(), tmp_path / "work")
    assert same == [True]


def test_a_disk_with_4k_sectors_stays_one(host: ConversionHost) -> None:
    system(host.input / "vm.raw", 4096)
    (done,) = host.run(job("vm", "vm.raw", guest={"enabled": False}, verify={"boot": False}))
    assert done["status"]["phase"] == "COMPLETED", done["status"]
    result = host.result("vm/result.json")
    assert result["disks"][0]["sectorBytes"] == 4096
    assert [found["type"] for found in result["guest"]["filesystems"]] == ["ext4"]
    domain = ElementTree.parse(host.output / "vm/vm.libvirt.xml")
    blockio = domain.find("devices/disk/blockio")
    assert blockio is not None and blockio.get("logical_block_size") == "4096"
    machine = yaml.safe_load((host.output / "vm/vm.kubevirt.yaml").read_text())
    (disk,) = machine["spec"]["template"]["spec"]["domain"]["devices"]["disks"]
    assert disk["blockSize"] == {"custom": {"logical": 4096, "physical": 4096}}


def test_a_repair_is_rehearsed_where_the_job_says_always(host: ConversionHost) -> None:
    system(host.input / "vm.raw")
    (done,) = host.run(
        job(
            "vm",
            "vm.raw",
            "fix",
            target={"format": "raw"},
            verify={"boot": False, "rehearse": "always", "timeoutSeconds": 15},
        )
    )
    assert error(done) == ("rehearse", "Timeout")
    assert host.files() == {"vm/fix-rehearse/console.log", "vm/fix-rehearse/screenshot.png"}


# -- digests -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "stage", "more"),
    [
        ("inspect", "inspect", {}),
        ("plan", "inspect", {}),
        ("boot-test", "verify", {}),
        ("rehearse", "rehearse", {"guest": {"enabled": False}}),
        ("convert", "rehearse", {"guest": {"enabled": False}, "verify": {"rehearse": "always"}}),
        ("convert", "copy", {"guest": {"enabled": False}, "verify": {"rehearse": "never"}}),
    ],
)
def test_an_image_with_another_digest_is_neither_booted_nor_moved(
    host: ConversionHost, operation: str, stage: str, more: dict[str, t.Any]
) -> None:
    if operation in ("inspect", "plan"):
        system(host.input / "vm.raw")
    else:
        tiny_guests.write_guest(host.input / "vm.raw", LOGIN)
    document = job("vm", "vm.raw", operation, **more)
    document["spec"]["source"]["digest"] = WRONG
    (done,) = host.run(document)
    assert error(done) == (stage, "ChecksumMismatch")
    assert not [name for name in host.files() if not name.endswith(".partial")]


def test_a_manifest_is_compared_before_a_boot(host: ConversionHost) -> None:
    disk = tiny_guests.write_guest(host.output.parent / "vm.raw", LOGIN)
    package(host.input / "right.ova", disk, hashlib.sha256(disk.read_bytes()).hexdigest())
    package(host.input / "wrong.ova", disk, "0" * 64)
    right, wrong = host.run(job("right", "right.ova", "boot-test"), job("wrong", "wrong.ova", "boot-test"))
    assert right["status"]["phase"] == "COMPLETED", right["status"]
    assert error(wrong) == ("verify", "ChecksumMismatch")


def test_the_right_digest_is_no_hindrance(host: ConversionHost) -> None:
    source = system(host.input / "vm.raw")
    document = job("vm", "vm.raw", "plan")
    document["spec"]["source"]["digest"] = f"sha256:{sha256(source)}"
    (done,) = host.run(document)
    assert done["status"]["phase"] == "COMPLETED", done["status"]
