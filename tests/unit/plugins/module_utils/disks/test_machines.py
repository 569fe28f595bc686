# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMX, .vbox and Hyper-V's XML: the hardware and the disks that they tell, and what an attacker would write."""

from __future__ import annotations

import contextlib
import pathlib
import typing as t

import hypothesis
import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.hyperv import parse_hyperv
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic, Source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.vbox import parse_vbox
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.vmx import parse_vmx
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from disk_files import qemu_img
from hypothesis import strategies as st

MIB = 1024**2

VMX = """.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = "web|2201"
numvcpus = "4"
memSize = "8192"
firmware = "efi"
uefi.secureBoot.enabled = "TRUE"
nvram = "web01.nvram"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "data.vmdk"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "system.vmdk"
scsi0:2.present = "FALSE"
scsi0:2.fileName = "gone.vmdk"
sata0.present = "TRUE"
sata0:0.present = "TRUE"
sata0:0.fileName = "logs.vmdk"
sata0:1.deviceType = "cdrom-image"
sata0:1.fileName = "/vmfs/volumes/isos/debian.iso"
ethernet1.present = "TRUE"
ethernet1.virtualDev = "e1000"
ethernet1.addressType = "static"
ethernet1.address = "00:50:56:00:00:0B"
ethernet1.networkName = "Backup"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.addressType = "vpx"
ethernet0.generatedAddress = "00:50:56:ab:10:21"
ethernet0.networkName = "VM Network"
ethernet2.present = "FALSE"
sound.present = "FALSE"
vtpm.present = "TRUE"
"""

VBOX = """<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
 <Machine uuid="{11111111-1111-1111-1111-111111111111}" name="web01" OSType="Debian_64">
  <MediaRegistry><HardDisks>
   <HardDisk uuid="{aaaaaaaa-0000-0000-0000-000000000001}" location="data.vmdk" format="VMDK" type="Normal"/>
   <HardDisk uuid="{aaaaaaaa-0000-0000-0000-000000000002}" location="system.vdi" format="VDI">%s</HardDisk>
  </HardDisks></MediaRegistry>
  <Hardware>
   <CPU count="2"/><Memory RAMSize="2048"/>%s
   <Network>
    <Adapter slot="1" enabled="true" MACAddress="080027000002" type="82540EM"><NAT/></Adapter>
    <Adapter slot="0" enabled="true" MACAddress="080027AABBCC" type="virtio">
     <DisabledModes/><BridgedInterface name="eno1"/></Adapter>
    <Adapter slot="2" enabled="false" MACAddress="080027000003" type="82540EM"/>
   </Network>
   <AudioAdapter controller="HDA" enabled="true"/>
   <StorageControllers>
    <StorageController name="SATA" type="AHCI" PortCount="3">
     <AttachedDevice type="HardDisk" port="1" device="0"><Image uuid="{aaaaaaaa-0000-0000-0000-000000000001}"/>
     </AttachedDevice>
     <AttachedDevice type="HardDisk" port="0" device="0"><Image uuid="{%s}"/></AttachedDevice>
     <AttachedDevice type="DVD" port="2" device="0"/>
    </StorageController>
   </StorageControllers>
  </Hardware>
 </Machine>
</VirtualBox>
"""
SYSTEM_UUID = "aaaaaaaa-0000-0000-0000-000000000002"

HYPERV = """<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
 <_2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778_>
  <Connection><AltSwitchName type="string">Production</AltSwitchName></Connection>
  <FriendlyName type="string">Network Adapter</FriendlyName>
  <MacAddress type="string">00-15-5D-00-04-05</MacAddress>
 </_2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778_>
 <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <controller0>
   <drive0><pathname type="string">C:\\VMs\\web01\\system.vhdx</pathname><type type="string">VHD</type></drive0>
   <drive1><pathname type="string">C:\\isos\\debian.iso</pathname><type type="string">ISO</type></drive1></controller0>
 </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
 <_aaaaaaaa-1111-2222-3333-444444444444_>
  <ChannelInstanceGuid type="string">{aaaaaaaa-1111-2222-3333-444444444444}</ChannelInstanceGuid>
  <controller0>
   <drive1><pathname type="string">D:\\logs.vhd</pathname><type type="string">VHD</type></drive1>
   <drive0><pathname type="string">D:\\data.vhdx</pathname><type type="string">VHD</type></drive0>
   <drive2><pathname type="string"></pathname><type type="string">NONE</type></drive2>
  </controller0>
 </_aaaaaaaa-1111-2222-3333-444444444444_>
 <manifest>
  <vdev001><device type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</device>
   <instance type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</instance></vdev001>
  <vdev002><device type="string">d422512d-2bf2-4752-809d-7b82b5fcb1b4</device>
   <instance type="string">AAAAAAAA-1111-2222-3333-444444444444</instance></vdev002>
 </manifest>
 <properties><name type="string">web01</name><subtype type="integer">%d</subtype></properties>
 <secure_boot_enabled type="bool">True</secure_boot_enabled>
 <settings>
  <memory><bank><size type="integer">4096</size></bank></memory>
  <processors><count type="integer">2</count></processors>
 </settings>
</configuration>
"""


def vbox(*, snapshot: str = "", hardware: str = "", system: str = SYSTEM_UUID) -> str:
    return VBOX % (snapshot, hardware, system)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "input"
    (folder / "vm").mkdir(parents=True)
    return folder


def opened(root: pathlib.Path, path: str, **fields: t.Any) -> Source:
    return open_source(models.SourceSpec(path=path, **fields), root)


def refused(root: pathlib.Path, path: str, words: str, **fields: t.Any) -> JobError:
    with pytest.raises(JobError, match=words) as caught:
        opened(root, path, **fields)
    return caught.value


def disks(folder: pathlib.Path, **sizes: int) -> None:
    """Images by file name (``_`` for ``.``), with so many MiB."""
    kinds = {"vhd": "vpc"}
    for name, size in sizes.items():
        stem, _underscore, suffix = name.partition("_")
        more = ["-o", "force_size=on"] if suffix == "vhd" else []
        qemu_img("create", "-q", "-f", kinds.get(suffix, suffix), *more, folder / f"{stem}.{suffix}", f"{size}M")


def test_vmx(root: pathlib.Path) -> None:
    disks(root / "vm", system_vmdk=8, data_vmdk=16, logs_vmdk=24)
    (root / "vm" / "web01.vmx").write_text(VMX)
    source = opened(root, "vm/web01.vmx")
    assert [i.virtual_size // MIB for i in source.images] == [8, 16, 24]
    assert [i.name for i in source.images] == ["disk0", "disk1", "disk2"]
    hardware = source.hardware
    assert (hardware.name, hardware.cpus, hardware.memory_bytes) == ('web"01', 4, 8192 * MIB)
    assert (hardware.firmware, hardware.secure_boot) == ("uefi", True)
    assert hardware.disk_buses == ("pvscsi", "pvscsi", "SATA")
    assert hardware.nics == (
        Nic("VM Network", "vmxnet3", "00:50:56:ab:10:21"),
        Nic("Backup", "e1000", "00:50:56:00:00:0b"),
    )
    assert [w for w in ("TPM", "CD-ROM", "NVRAM") if any(w in s for s in hardware.not_carried)] == [
        "TPM",
        "CD-ROM",
        "NVRAM",
    ]
    assert not any("sound" in sentence for sentence in hardware.not_carried)
    before = source.identity
    (root / "vm" / "web01.vmx").write_text(VMX + "\n")
    assert opened(root, "vm/web01.vmx").identity != before


def test_vmx_order_firmware_and_snapshot(root: pathlib.Path) -> None:
    disks(root / "vm", system_vmdk=8, data_vmdk=16, logs_vmdk=24)
    qemu_img("create", "-q", "-f", "vmdk", "-b", root / "vm" / "system.vmdk", "-F", "vmdk", root / "vm/system-1.vmdk")
    text = VMX.replace("system.vmdk", "system-1.vmdk").replace('firmware = "efi"\n', 'bios.hddOrder = "sata0:0"\n')
    (root / "vm" / "web01.vmx").write_text(text)
    source = opened(root, "vm/web01.vmx")
    assert [i.virtual_size // MIB for i in source.images] == [24, 8, 16]
    assert source.hardware.firmware == "bios" and source.images[1].backing is not None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("system.vmdk", "../../canary.vmdk", "refused"),
        ("system.vmdk", "/etc/passwd", "refused"),
        ("system.vmdk", "nbd:localhost:1", "refused"),
        ("system.vmdk", "json:{}", "refused"),
        ("system.vmdk", "link.vmdk", "refused"),
        ("system.vmdk", "missing.vmdk", "cannot be opened"),
        ("system.vmdk", "system.bin", "format"),
        ('memSize = "8192"', 'memSize = "99999999999999"', "memory"),
        ('numvcpus = "4"', 'encryption.keySafe = "vmware:key/list"', "encrypted"),
        ("Version", "Nothing", "can be read"),
    ],
)
def test_hostile_vmx(root: pathlib.Path, old: str, new: str, words: str) -> None:
    disks(root / "vm", system_vmdk=8, data_vmdk=16, logs_vmdk=24)
    (root.parent / "canary.vmdk").write_bytes((root / "vm" / "system.vmdk").read_bytes())
    (root / "vm" / "link.vmdk").symlink_to("../../canary.vmdk")
    (root / "vm" / "system.bin").write_bytes(bytes(512))
    text = VMX.replace(old, new) if old != "Version" else VMX.replace("config.version", "x").replace("virtualHW", "y")
    (root / "vm" / "web01.vmx").write_text(text)
    refused(root, "vm/web01.vmx", words)


def test_vbox(root: pathlib.Path) -> None:
    disks(root / "vm", system_vdi=8, data_vmdk=16)
    (root / "vm" / "web01.vbox").write_text(vbox(hardware='<Firmware type="EFI"/>'))
    source = opened(root, "vm/web01.vbox")
    assert [(i.format, i.virtual_size // MIB) for i in source.images] == [("vdi", 8), ("vmdk", 16)]
    hardware = source.hardware
    assert (hardware.name, hardware.cpus, hardware.memory_bytes) == ("web01", 2, 2048 * MIB)
    assert hardware.firmware == "uefi" and hardware.disk_buses == ("AHCI", "AHCI")
    assert hardware.nics == (
        Nic("eno1", "virtio", "08:00:27:aa:bb:cc"),
        Nic("NAT", "82540EM", "08:00:27:00:00:02"),
    )
    assert any("CD-ROM" in s for s in hardware.not_carried) and any("sound" in s for s in hardware.not_carried)
    assert parse_vbox(vbox().encode(), "x").hardware.firmware == "bios"


@pytest.mark.parametrize(
    ("changes", "old", "new", "words"),
    [
        (
            {"snapshot": '<HardDisk uuid="{b}" location="Snapshots/b.vdi" format="VDI"/>', "system": "b"},
            "",
            "",
            "snapshot",
        ),
        ({"system": "c"}, "", "", "not in its registry"),
        ({"snapshot": '<Property name="CRYPT/KeyStore" value="x"/>'}, "", "", "encrypted"),
        ({}, "system.vdi", "../../canary.vdi", "refused"),
        ({}, "system.vdi", "/etc/passwd", "refused"),
        ({}, "system.vdi", "http://h/x", "refused"),
        ({}, 'system.vdi" format="VDI"', 'system.hdd" format="Parallels"', "has the format"),
        ({}, '<?xml version="1.0"?>', '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>', "DOCTYPE"),
        ({}, 'RAMSize="2048"', 'RAMSize="99999999999999"', "memory"),
        ({}, "AttachedDevice", "NoDevice", "without disks"),
        ({}, "VirtualBox", "Other", "no virtual machine"),
    ],
)
def test_hostile_vbox(root: pathlib.Path, changes: dict[str, str], old: str, new: str, words: str) -> None:
    disks(root / "vm", system_vdi=8, data_vmdk=16)
    (root.parent / "canary.vdi").write_bytes((root / "vm" / "system.vdi").read_bytes())
    (root / "vm" / "system.hdd").write_bytes(bytes(512))
    (root / "vm" / "web01.vbox").write_text(vbox(**changes).replace(old, new) if old else vbox(**changes))
    refused(root, "vm/web01.vbox", words)


@pytest.mark.parametrize("generation", [0, 1])
@pytest.mark.parametrize("folder", ["Virtual Hard Disks", "Virtual Machines", ""])
def test_hyperv(root: pathlib.Path, generation: int, folder: str) -> None:
    """As an export lays it out, and as people copy it together."""
    (root / "vm" / "Virtual Machines").mkdir()
    (root / "vm" / folder).mkdir(exist_ok=True)
    disks(root / "vm" / folder, system_vhdx=8, data_vhdx=16, logs_vhd=24)
    path = root / "vm" / "Virtual Machines" / "11111111-2222-3333-4444-555555555555.xml"
    path.write_bytes((HYPERV % generation).encode("utf-16"))
    source = opened(root, str(path))
    assert [(i.format, i.virtual_size // MIB) for i in source.images] == [("vhdx", 8), ("vhdx", 16), ("vhd", 24)]
    hardware = source.hardware
    assert (hardware.name, hardware.cpus, hardware.memory_bytes) == ("web01", 2, 4096 * MIB)
    assert (hardware.firmware, hardware.secure_boot) == (("bios", False), ("uefi", True))[generation]
    assert hardware.disk_buses == ("IDE", "SCSI", "SCSI")
    assert hardware.nics == (Nic("Production", "Network Adapter", "00:15:5d:00:04:05"),)
    assert any("CD-ROM" in sentence for sentence in hardware.not_carried)


@pytest.mark.parametrize(
    "name", [r"..\..\canary.vhdx", r"\\server\share\canary.vhdx", "link.vhdx", "nbd:x.vhdx", "..", ""]
)
def test_hostile_hyperv(root: pathlib.Path, name: str) -> None:
    disks(root.parent, canary_vhdx=8)
    (root / "vm" / "link.vhdx").symlink_to("../../canary.vhdx")
    text = (
        (HYPERV % 1).replace(r"C:\VMs\web01\system.vhdx", name).replace(r"D:\data.vhdx", "").replace(r"D:\logs.vhd", "")
    )
    (root / "vm" / "vm.xml").write_bytes(text.encode("utf-16"))
    refused(root, "vm/vm.xml", "refused|cannot be opened|without disks|format")


def test_binary_configuration_says_what_to_do(root: pathlib.Path) -> None:
    (root / "vm" / "a.vmcx").write_bytes(b"\1\0\0\0" * 1024)
    error = refused(root, "vm/a.vmcx", "binary configuration")
    assert "spec.source.disks" in error.suggestion and error.reason == "BinaryConfiguration"
    (root / "vm" / "a.xml").write_bytes(b"<domain/>")
    refused(root, "vm/a.xml", "Hyper-V")


_PARSERS = [(parse_vmx, VMX), (parse_vbox, vbox()), (parse_hyperv, (HYPERV % 1).replace("UTF-16", "UTF-8"))]


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(data=st.data())
@pytest.mark.parametrize(("parse", "text"), _PARSERS, ids=["vmx", "vbox", "hyperv"])
def test_nothing_but_job_errors(parse: t.Callable[[bytes, str], t.Any], text: str, data: st.DataObject) -> None:
    content = bytearray(text.encode())
    for _change in range(data.draw(st.integers(0, 6))):
        begin = data.draw(st.integers(0, len(content)))
        end = begin + data.draw(st.sampled_from([0, 1, 4, 40]))
        content[begin:end] = data.draw(st.binary(max_size=12) | st.sampled_from([b"<", b'"', b"-1", b"9" * 30, b"\0"]))
    with contextlib.suppress(JobError):
        described = parse(bytes(content), "x")
        assert 1 <= described.hardware.cpus <= 4096 and 0 < described.hardware.memory_bytes <= 64 * 1024**4


@hypothesis.given(data=st.binary(max_size=400))
@pytest.mark.parametrize("parse", [parser for parser, _text in _PARSERS])
def test_anything_at_all(parse: t.Callable[[bytes, str], t.Any], data: bytes) -> None:
    with contextlib.suppress(JobError):
        parse(data, "x")
