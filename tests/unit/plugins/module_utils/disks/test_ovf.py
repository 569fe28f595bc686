# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OVF descriptors: VMware's, VirtualBox's, and an attacker's."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.manifest import parse_manifest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Described, Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.ovf import parse_ovf
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError
from hypothesis import given, settings
from hypothesis import strategies as st

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
 xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vbox="http://www.virtualbox.org/ovf/machine">
"""
URI = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"


def item(kind: int, instance: int, **properties: str) -> str:
    inside = "".join(f"<rasd:{name}>{value}</rasd:{name}>" for name, value in properties.items())
    own = f"<rasd:InstanceID>{instance}</rasd:InstanceID><rasd:ResourceType>{kind}</rasd:ResourceType>"
    return f"<Item>{own}{inside}</Item>"


def disk(instance: int, number: int, parent: int, unit: int) -> str:
    return item(17, instance, HostResource=f"ovf:/disk/d{number}", Parent=str(parent), AddressOnParent=str(unit))


@dataclasses.dataclass
class Vm:
    items: str = ""
    config: str = ""
    disks: int = 1
    file_attributes: str = ""
    disk_attributes: str = ""
    more_files: str = ""
    name: str = "<Name>web01</Name>"

    def text(self) -> bytes:
        files = "".join(
            f'<File ovf:href="vm-disk{n}.vmdk" ovf:id="f{n}" ovf:size="1" {self.file_attributes}/>'
            for n in range(1, self.disks + 1)
        )
        disks = "".join(
            f'<Disk ovf:diskId="d{n}" ovf:fileRef="f{n}" ovf:capacity="{n}" ovf:capacityAllocationUnits="byte * 2^30"'
            f' ovf:format="{URI}" {self.disk_attributes}/>'
            for n in range(1, self.disks + 1)
        )
        return (
            f"{HEAD}<References>{files}{self.more_files}</References><DiskSection>{disks}</DiskSection>"
            f'<VirtualSystem ovf:id="vm">{self.name}<VirtualHardwareSection>{self.items}{self.config}'
            "</VirtualHardwareSection></VirtualSystem></Envelope>"
        ).encode()

    def parse(self) -> Described:
        return parse_ovf(self.text(), "vm.ovf")


ONE_DISK = item(6, 3, Address="0", ResourceSubType="VirtualSCSI") + disk(4, 1, 3, 0)


def test_hardware_of_a_vmware_export() -> None:
    parsed = Vm(
        items=item(3, 1, VirtualQuantity="4", AllocationUnits="hertz * 10^6")
        + item(4, 2, VirtualQuantity="2048", AllocationUnits="byte * 2^20")
        + ONE_DISK
        + item(10, 5, Address="00:50:56:AB:10:21", Connection="VM Network", ResourceSubType="VmxNet3")
        + item(10, 6, Connection="Backup", ResourceSubType="E1000"),
        config='<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>'
        '<vmw:Config vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>',
    ).parse()
    hardware = parsed.hardware
    assert (hardware.name, hardware.cpus, hardware.memory_bytes) == ("web01", 4, 2 * 1024**3)
    assert (hardware.firmware, hardware.secure_boot) == ("uefi", True)
    assert hardware.nics == (
        Nic("VM Network", "VmxNet3", "00:50:56:ab:10:21"),
        Nic("Backup", "E1000", None),
    )
    assert hardware.disk_buses == ("VirtualSCSI",)
    assert [(d.name, d.capacity, d.format) for d in parsed.disks] == [("vm-disk1.vmdk", 1024**3, URI)]


def test_firmware_that_is_not_told_stays_open() -> None:
    assert Vm(items=ONE_DISK).parse().hardware.firmware is None
    assert Vm(items=ONE_DISK, config='<vmw:Config vmw:key="firmware" vmw:value="bios"/>').parse().hardware.firmware == (
        "bios"
    )


def test_virtualbox_export() -> None:
    parsed = Vm(
        items=item(3, 1, VirtualQuantity="2")
        + item(4, 2, VirtualQuantity="512", AllocationUnits="MegaBytes")
        + item(20, 3, Address="0", ResourceSubType="AHCI")
        + item(17, 4, HostResource="/disk/d1", Parent="3", AddressOnParent="0")
        + item(10, 5, Connection="NAT", ResourceSubType="E1000", Address="080027C0FFEE"),
        config='<vbox:Machine><Hardware><Firmware type="EFI"/></Hardware></vbox:Machine>',
    ).parse()
    assert parsed.hardware.memory_bytes == 512 * 1024**2
    assert parsed.hardware.firmware == "uefi"
    assert parsed.hardware.disk_buses == ("AHCI",)
    assert parsed.hardware.nics[0].mac == "08:00:27:c0:ff:ee"


def test_disks_are_ordered_by_controller_and_unit() -> None:
    items = (
        item(6, 30, Address="1", ResourceSubType="lsilogic")
        + item(6, 20, Address="0", ResourceSubType="VirtualSCSI")
        + disk(4, 3, 30, 0)
        + disk(5, 2, 20, 1)
        + disk(6, 1, 20, 0)
    )
    parsed = Vm(items=items, disks=3).parse()
    assert [d.name for d in parsed.disks] == ["vm-disk1.vmdk", "vm-disk2.vmdk", "vm-disk3.vmdk"]
    assert parsed.hardware.disk_buses == ("VirtualSCSI", "VirtualSCSI", "lsilogic")


def test_what_is_not_carried_is_said() -> None:
    parsed = Vm(
        items=ONE_DISK
        + item(1, 7, ResourceSubType="vmware.vtpm")
        + item(35, 8)
        + item(23, 9)
        + item(14, 10)
        + item(15, 11)
        + item(1, 12, ResourceSubType="vmware.vmci")
        + item(24, 13),
        more_files='<File ovf:href="vm-file1.nvram" ovf:id="n"/>',
    ).parse()
    said = " ".join(parsed.hardware.not_carried)
    for word in ("TPM", "sound", "USB", "floppy", "CD-ROM", "NVRAM"):
        assert word in said
    assert len(parsed.hardware.not_carried) == 6


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "http://example.org/x.dtd">',
    ],
)
def test_entities_are_refused(prolog: str) -> None:
    text = Vm(items=ONE_DISK).text().replace(b"<Envelope", prolog.encode() + b"<Envelope")
    with pytest.raises(JobError, match="DOCTYPE") as caught:
        parse_ovf(text, "vm.ovf")
    assert caught.value.error_class is ErrorClass.INVALID


@pytest.mark.parametrize(
    ("vm", "words"),
    [
        (Vm(items=ONE_DISK, file_attributes='ovf:compression="bzip2"'), "compressed"),
        (Vm(items=ONE_DISK, file_attributes='ovf:chunkSize="many"'), "no number"),
        (Vm(items=ONE_DISK, disk_attributes='ovf:parentRef="d0"'), "delta"),
        (Vm(items=disk(4, 9, 3, 0)), "does not describe"),
        (Vm(items=item(17, 4, HostResource="ovf:/file/nothing")), "not among"),
        (Vm(items=item(17, 4)), "blank"),
        (Vm(items=ONE_DISK + item(4, 2, VirtualQuantity="1", AllocationUnits="byte * 2^9999")), "unit"),
        (Vm(items=ONE_DISK + item(4, 2, VirtualQuantity="1", AllocationUnits="bushels")), "unit"),
        (Vm(items=ONE_DISK + item(4, 2, VirtualQuantity="9" * 15, AllocationUnits="byte * 2^40")), "memory"),
    ],
)
def test_what_cannot_be_honoured_is_refused(vm: Vm, words: str) -> None:
    with pytest.raises(JobError, match=words):
        vm.parse()


def test_several_machines_are_refused() -> None:
    text = Vm(items=ONE_DISK).text().replace(b"</Envelope>", b'<VirtualSystem ovf:id="b"/></Envelope>')
    with pytest.raises(JobError, match="2 virtual machines"):
        parse_ovf(text, "vm.ovf")


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(JobError, match="deeper"):
        parse_ovf(b"<a>" * 100_000, "vm.ovf")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_descriptors_never_crash(data: st.DataObject) -> None:
    text = bytearray(Vm(items=ONE_DISK + item(4, 2, VirtualQuantity="1"), config="<vmw:Config vmw:key='a'/>").text())
    for _change in range(data.draw(st.integers(1, 5))):
        begin = data.draw(st.integers(0, len(text)))
        end = min(len(text), begin + data.draw(st.integers(0, 12)))
        text[begin:end] = data.draw(
            st.one_of(st.binary(max_size=6), st.just(b"&lt;"), st.just(b"-1"), st.just(b"9" * 30))
        )
    try:
        parse_ovf(bytes(text), "vm.ovf")
    except JobError as error:
        assert error.error_class in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_never_crash(text: bytes) -> None:
    with pytest.raises(JobError):
        parse_ovf(text, "vm.ovf")
    parse_manifest(text)


def test_manifest_lines() -> None:
    sha1, sha256 = "da39a3ee5e6b4b0d3255bfef95601890afd80709", "ab" * 32
    text = f"SHA256(a (1).vmdk)= {sha256.upper()}\r\nSHA1 (a.ovf) = {sha1}\r\n\r\nMD5(x)= 00\r\nSHA1(b)= 1234\r\n"
    digests, warnings = parse_manifest(text.encode())
    assert digests == {"a (1).vmdk": f"sha256:{sha256}", "a.ovf": f"sha1:{sha1}"}
    assert len(warnings) == 2
