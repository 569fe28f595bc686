# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Definitions of the target machine, judged by the tools and schemas of those who read them."""

from __future__ import annotations

import pathlib
import re
import subprocess
import typing as t
import xml.etree.ElementTree as ET

import jsonschema
import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.definitions import kubevirt, libvirt, networks, ovmf
from ansible_collections.hyper2kvm.core.plugins.module_utils.definitions.machine import (
    Machine,
    MachineDisk,
    derived_mac,
    libvirt_command,
    machine_for,
    qemu_command,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Firmware, Hardware, Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

GIB = 1024**3


#: One map for many VMs: a network that this one lacks is no error.
MAP = [
    {"source": "VM Network", "bridge": "br0", "multus": "prod/lan"},
    {"source": "Storage", "network": "storage"},
    {"source": "DMZ 7", "network": "dmz", "pod": True},
    {"source": "elsewhere", "network": "far"},
    {"bridge": "br9", "multus": "rest"},
]


def _machine(
    firmware: Firmware = "bios",
    *,
    secure_boot: bool = False,
    nics: t.Sequence[Nic] = (),
    disks: int = 1,
    block_size: int = 512,
    devices: bool = False,
    network: models.NetworkSpec | None = None,
    boot_disk: int = 0,
) -> Machine:
    hardware = Hardware(cpus=2, memory_bytes=2 * GIB, firmware=firmware, secure_boot=secure_boot, nics=tuple(nics))
    return machine_for(
        hardware,
        name="web01",
        firmware=firmware,
        network=network or models.NetworkSpec(),
        disks=[
            (
                MachineDisk(pathlib.Path(f"/dev/vg0/web01-{i}"), "raw", 8 * GIB, block_size, is_device=True)
                if devices
                else MachineDisk(pathlib.Path(f"/out/web01-{i}.qcow2"), "qcow2", 8 * GIB, block_size)
            )
            for i in range(disks)
        ],
        boot_disk=boot_disk,
    )


VARIANTS = {
    "bios": _machine(),
    "uefi": _machine("uefi", nics=[Nic(network="VM Network"), Nic(network="VM Network")], disks=2),
    "secure-boot": _machine("uefi", secure_boot=True, block_size=4096),
    "many-disks": _machine(disks=28),
    "devices": _machine(devices=True, disks=2),
    "mapped": _machine(
        nics=[Nic(network="VM Network"), Nic(network="Storage"), Nic(network="DMZ 7"), Nic(network="Lab")],
        network=models.NetworkSpec.model_validate({"map": MAP}),
    ),
}


@pytest.fixture(params=list(VARIANTS), name="machine")
def _variants(request: pytest.FixtureRequest) -> Machine:
    return VARIANTS[request.param]


def _domain(machine: Machine) -> ET.Element:
    return ET.fromstring(libvirt.domain_xml(machine))


def _manifest(machine: Machine) -> dict[str, t.Any]:
    *_claims, document = yaml.safe_load_all(kubevirt.virtual_machine(machine))
    return t.cast("dict[str, t.Any]", document)


# -- libvirt -----------------------------------------------------------------------------------------------------------


def test_libvirts_own_schema_takes_the_domain(machine: Machine, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(libvirt.domain_xml(machine))
    done = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_domain_keeps_hardware_and_disk_order() -> None:
    domain = _domain(VARIANTS["uefi"])
    assert domain.findtext("vcpu") == "2"
    assert domain.findtext("memory") == str(2 * 1024**2)
    disks = domain.findall("devices/disk")
    assert [d.find("source").get("file") for d in disks] == ["/out/web01-0.qcow2", "/out/web01-1.qcow2"]  # type: ignore[union-attr]
    assert [d.find("boot").get("order") for d in disks] == ["1", "2"]  # type: ignore[union-attr]
    assert [d.find("target").get("dev") for d in disks] == ["vda", "vdb"]  # type: ignore[union-attr]


def test_disks_on_devices_are_block_disks_and_claims_for_block_volumes() -> None:
    machine = VARIANTS["devices"]
    disks = _domain(machine).findall("devices/disk")
    assert [d.get("type") for d in disks] == ["block", "block"]
    assert [d.find("source").attrib for d in disks] == [{"dev": "/dev/vg0/web01-0"}, {"dev": "/dev/vg0/web01-1"}]  # type: ignore[union-attr]
    text = kubevirt.virtual_machine(machine)
    *claims, document = yaml.safe_load_all(text)
    assert [claim["spec"]["volumeMode"] for claim in claims] == ["Block", "Block"]
    assert {claim["spec"]["resources"]["requests"]["storage"] for claim in claims} == {"8192Mi"}
    volumes = document["spec"]["template"]["spec"]["volumes"]
    assert [v["persistentVolumeClaim"]["claimName"] for v in volumes] == [c["metadata"]["name"] for c in claims]
    comments = text.split("apiVersion", maxsplit=1)[0]
    assert "web01-disk1: /dev/vg0/web01-1" in comments and "image-upload" not in comments


def test_disks_beyond_z_get_two_letters() -> None:
    targets = [element.get("dev") for element in _domain(VARIANTS["many-disks"]).findall("devices/disk/target")]
    assert targets[25:] == ["vdz", "vdaa", "vdab"]


def test_secure_boot_is_asked_for_only_where_the_source_had_it() -> None:
    def features(machine: Machine) -> dict[str | None, str | None]:
        return {f.get("name"): f.get("enabled") for f in _domain(machine).findall("os/firmware/feature")}

    assert features(VARIANTS["secure-boot"]) == {"enrolled-keys": "yes", "secure-boot": "yes"}
    assert features(VARIANTS["uefi"]) == {"enrolled-keys": "no", "secure-boot": "no"}
    assert features(VARIANTS["bios"]) == {}
    assert not _machine("bios", secure_boot=True).secure_boot


def test_disks_with_4k_sectors_keep_them() -> None:
    blockio = _domain(VARIANTS["secure-boot"]).find("devices/disk/blockio")
    assert blockio is not None and blockio.get("logical_block_size") == "4096"
    assert _domain(VARIANTS["bios"]).find("devices/disk/blockio") is None


def test_the_same_machine_has_the_same_uuid() -> None:
    assert _domain(_machine()).findtext("uuid") == _domain(_machine()).findtext("uuid")
    other = _machine(nics=[Nic(mac="00:50:56:00:00:01")])
    assert _domain(other).findtext("uuid") != _domain(_machine()).findtext("uuid")


# -- KubeVirt ----------------------------------------------------------------------------------------------------------


def _closed(properties: dict[str, t.Any], *required: str) -> dict[str, t.Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_STRING = {"type": "string"}
_BOOLEAN = {"type": "boolean"}
_EMPTY = _closed({})
_NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
_LABELS = {"type": "object", "additionalProperties": _STRING}
_QUANTITY = {"type": "string", "pattern": r"^[0-9]+(Ki|Mi|Gi|Ti)?$"}
_FEATURE = _closed({"enabled": _BOOLEAN})

#: The fields that may be written, with KubeVirt's types and required fields: v1.VirtualMachine and what it refers to in
#: api/openapi-spec/swagger.json of kubevirt/kubevirt (d923fdb, 2026-08); names and nesting are the API's, the
#: table is ours. Fields outside it are refused, so each new one has to be looked up there.
KUBEVIRT_SCHEMA = _closed(
    {
        "apiVersion": {"const": "kubevirt.io/v1"},
        "kind": {"const": "VirtualMachine"},
        "metadata": _closed({"name": _NAME, "labels": _LABELS}, "name"),
        "spec": _closed(
            {
                "runStrategy": {"enum": ["Always", "Halted", "Manual", "RerunOnFailure", "Once"]},
                "template": _closed(
                    {
                        "metadata": _closed({"labels": _LABELS}),
                        "spec": _closed(
                            {
                                "domain": _closed(
                                    {
                                        "machine": _closed({"type": _STRING}, "type"),
                                        "cpu": _closed({"cores": {"type": "integer", "minimum": 1}, "model": _STRING}),
                                        "memory": _closed({"guest": _QUANTITY}),
                                        "firmware": _closed(
                                            {
                                                "bootloader": _closed(
                                                    {"bios": _EMPTY, "efi": _closed({"secureBoot": _BOOLEAN})}
                                                )
                                            }
                                        ),
                                        "features": _closed({"acpi": _FEATURE, "smm": _FEATURE}),
                                        "devices": _closed(
                                            {
                                                "autoattachSerialConsole": _BOOLEAN,
                                                "rng": _EMPTY,
                                                "disks": {
                                                    "type": "array",
                                                    "items": _closed(
                                                        {
                                                            "name": _NAME,
                                                            "bootOrder": {"type": "integer", "minimum": 1},
                                                            "disk": _closed({"bus": _STRING}),
                                                            "blockSize": _closed(
                                                                {
                                                                    "custom": _closed(
                                                                        {
                                                                            "logical": {"type": "integer"},
                                                                            "physical": {"type": "integer"},
                                                                        },
                                                                        "logical",
                                                                        "physical",
                                                                    )
                                                                }
                                                            ),
                                                        },
                                                        "name",
                                                    ),
                                                },
                                                "interfaces": {
                                                    "type": "array",
                                                    "items": _closed(
                                                        {
                                                            "name": _NAME,
                                                            "model": _STRING,
                                                            "macAddress": _STRING,
                                                            "masquerade": _EMPTY,
                                                            "bridge": _EMPTY,
                                                        },
                                                        "name",
                                                    ),
                                                },
                                            }
                                        ),
                                    },
                                    "devices",
                                ),
                                "networks": {
                                    "type": "array",
                                    "items": _closed(
                                        {
                                            "name": _NAME,
                                            "pod": _EMPTY,
                                            "multus": _closed({"networkName": _STRING}, "networkName"),
                                        },
                                        "name",
                                    ),
                                },
                                "volumes": {
                                    "type": "array",
                                    "items": _closed(
                                        {
                                            "name": _NAME,
                                            "dataVolume": _closed({"name": _STRING}, "name"),
                                            "persistentVolumeClaim": _closed({"claimName": _STRING}, "claimName"),
                                        },
                                        "name",
                                    ),
                                },
                            },
                            "domain",
                        ),
                    },
                    "spec",
                ),
            },
            "template",
        ),
    },
    "apiVersion",
    "kind",
    "metadata",
    "spec",
)


def test_kubevirts_schema_takes_the_manifest(machine: Machine) -> None:
    jsonschema.Draft202012Validator(KUBEVIRT_SCHEMA).validate(_manifest(machine))


def test_names_inside_the_manifest_agree() -> None:
    spec = _manifest(VARIANTS["uefi"])["spec"]["template"]["spec"]
    devices = spec["domain"]["devices"]
    assert [d["name"] for d in devices["disks"]] == [v["name"] for v in spec["volumes"]]
    assert [i["name"] for i in devices["interfaces"]] == [n["name"] for n in spec["networks"]]
    assert [d["bootOrder"] for d in devices["disks"]] == [1, 2]


def test_the_disk_that_boots_comes_first_in_the_order_and_nothing_else_moves() -> None:
    given, machine = _machine(disks=3), _machine(disks=3, boot_disk=1)
    disks = _domain(machine).findall("devices/disk")
    assert [int(t.cast("ET.Element", disk.find("boot")).get("order", "")) for disk in disks] == [2, 1, 3]
    devices = _manifest(machine)["spec"]["template"]["spec"]["domain"]["devices"]["disks"]
    assert [disk["bootOrder"] for disk in devices] == [2, 1, 3]
    command = qemu_command(machine, program="qemu", accelerator="tcg", cpu="max")
    assert re.findall(r"drive=disk(\d),bootindex=(\d)", command) == [("0", "1"), ("1", "0"), ("2", "2")]
    for text in (libvirt.domain_xml, kubevirt.virtual_machine):
        numbers = re.compile(r'order="\d"|bootOrder: \d')
        assert numbers.sub("", text(machine)) == numbers.sub("", text(given)) and text(machine) != text(given)


def test_a_pod_has_one_network_of_its_own() -> None:
    spec = _manifest(VARIANTS["uefi"])["spec"]["template"]["spec"]
    assert [sorted(n) for n in spec["networks"]] == [["name", "pod"], ["multus", "name"]]
    assert "vm-network" in kubevirt.virtual_machine(VARIANTS["uefi"]).split("apiVersion", maxsplit=1)[0]


def test_comments_say_how_each_disk_gets_filled() -> None:
    comments = [line for line in kubevirt.virtual_machine(VARIANTS["uefi"]).splitlines() if line.startswith("#")]
    volumes = _manifest(VARIANTS["uefi"])["spec"]["template"]["spec"]["volumes"]
    for index, volume in enumerate(volumes):
        name = volume["dataVolume"]["name"]
        command = f"virtctl image-upload dv {name} --size=8192Mi --image-path=web01-{index}.qcow2"
        assert f"#   {command}" in comments


# -- network cards -----------------------------------------------------------------------------------------------------


def test_a_machine_without_cards_gets_one_with_a_stable_address() -> None:
    (nic,) = _machine().nics
    assert nic.mac == derived_mac("web01", 0) == _machine().nics[0].mac
    assert nic.mac.startswith("52:54:00:")
    assert derived_mac("web01", 1) != nic.mac != derived_mac("web02", 0)


def test_the_sources_addresses_are_kept() -> None:
    nics = [Nic(mac="00:50:56:aa:bb:cc"), Nic()]
    assert [n.mac for n in _machine(nics=nics).nics] == ["00:50:56:aa:bb:cc", derived_mac("web01", 1)]


def test_mac_map_and_macs_are_obeyed() -> None:
    nics = [Nic(mac="00:50:56:11:22:33"), Nic(mac="00:50:56:aa:bb:cc")]
    mapped = models.NetworkSpec(mac_map=[models.MacMapping(source="00:50:56:AA:BB:CC", target="52:54:00:00:00:0A")])
    assert [n.mac for n in _machine(nics=nics, network=mapped).nics] == ["00:50:56:11:22:33", "52:54:00:00:00:0a"]
    listed = models.NetworkSpec(macs=["52:54:00:00:00:01"])
    assert [n.mac for n in _machine(nics=nics, network=listed).nics] == ["52:54:00:00:00:01", "00:50:56:aa:bb:cc"]


def test_macs_decide_how_many_cards_a_bare_disk_gets() -> None:
    network = models.NetworkSpec(macs=["52:54:00:00:00:01", "52:54:00:00:00:02"])
    assert [n.mac for n in _machine(network=network).nics] == ["52:54:00:00:00:01", "52:54:00:00:00:02"]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"macs": ["52:54:00:00:00:01", "52:54:00:00:00:02"]}, "TooManyMacs"),
        ({"mac_map": [{"source": "00:50:56:00:00:99", "target": "52:54:00:00:00:01"}]}, "MacNotFound"),
    ],
)
def test_addresses_that_do_not_fit_are_refused(network: dict[str, t.Any], reason: str) -> None:
    with pytest.raises(JobError) as caught:
        _machine(nics=[Nic(mac="00:50:56:aa:bb:cc")], network=models.NetworkSpec.model_validate(network))
    assert caught.value.reason == reason


def test_two_cards_cannot_share_an_address() -> None:
    nics = [Nic(mac="00:50:56:aa:bb:cc"), Nic(mac="00:50:56:aa:bb:cc")]
    with pytest.raises(JobError) as caught:
        _machine(nics=nics)
    assert caught.value.reason == "DuplicateMac"


def _sources(machine: Machine) -> list[dict[str, str]]:
    return [dict(source.attrib) for source in _domain(machine).findall("devices/interface/source")]


def test_cards_are_plugged_in_where_the_job_says() -> None:
    machine = VARIANTS["mapped"]
    assert _sources(machine) == [{"bridge": "br0"}, {"network": "storage"}, {"network": "dmz"}, {"bridge": "br9"}]
    assert [e.get("type") for e in _domain(machine).findall("devices/interface")] == [
        "bridge",
        "network",
        "network",
        "bridge",
    ]
    spec = _manifest(machine)["spec"]["template"]["spec"]
    assert [network.get("multus", {}).get("networkName", "pod") for network in spec["networks"]] == [
        "prod/lan",
        "storage",
        "pod",
        "rest",
    ]
    ways = [next(way for way in ("masquerade", "bridge") if way in i) for i in spec["domain"]["devices"]["interfaces"]]
    assert ways == ["bridge", "bridge", "masquerade", "bridge"]
    comments = kubevirt.virtual_machine(machine).split("apiVersion", maxsplit=1)[0]
    assert "prod/lan, storage, rest." in comments and "nic2 is masqueraded" in comments


def test_a_map_without_a_source_is_for_cards_whose_network_has_no_name_too() -> None:
    network = models.NetworkSpec.model_validate({"map": [{"bridge": "br9"}]})
    assert _sources(_machine(network=network)) == [{"bridge": "br9"}]


def test_networks_that_are_not_mapped_are_told() -> None:
    both = list(models.Definition)
    told = networks.unmapped(VARIANTS["uefi"], both)
    assert len(told) == 2 and "'VM Network'" in told[0] and "libvirt's network default and the pod's network" in told[0]
    assert "NetworkAttachmentDefinition vm-network" in told[1]
    assert networks.unmapped(VARIANTS["uefi"], []) == networks.unmapped(VARIANTS["bios"], both) == []
    (told_of_storage,) = networks.unmapped(VARIANTS["mapped"], both)
    assert "'Storage'" in told_of_storage and "libvirt" not in told_of_storage


def test_a_pod_has_no_two_networks_of_its_own() -> None:
    network = models.NetworkSpec.model_validate({"map": [{"source": "VM Network", "pod": True}]})
    with pytest.raises(JobError) as caught:
        _machine(nics=[Nic(network="VM Network")] * 2, network=network)
    assert caught.value.reason == "PodNetworkTwice"


# -- start command -----------------------------------------------------------------------------------------------------


QEMU = {"program": "qemu-system-x86_64", "accelerator": "kvm", "cpu": "host"}


def test_the_command_for_libvirt_quotes_for_the_shell() -> None:
    command = libvirt_command(_machine(), pathlib.Path("/out/my vms/web01.libvirt.xml"))
    assert command == "virsh define '/out/my vms/web01.libvirt.xml' && virsh start web01"


def test_the_command_for_qemu_takes_what_is_there() -> None:
    command = qemu_command(VARIANTS["uefi"], **QEMU)
    assert command.startswith("qemu-system-x86_64 ")
    assert str(ovmf.find_ovmf(secure_boot=False).code) in command
    assert "file=/out/web01-0.qcow2" in command
    assert "accel=kvm -cpu host " in command
    assert "pflash" not in qemu_command(VARIANTS["bios"], **QEMU)


def test_the_command_for_qemu_needs_no_firmware_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovmf, "_PLAIN", ())
    assert "/usr/share/OVMF/OVMF_CODE_4M.fd" in qemu_command(VARIANTS["secure-boot"], **QEMU)


def test_missing_firmware_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovmf, "_PLAIN", ())
    with pytest.raises(JobError) as caught:
        ovmf.find_ovmf(secure_boot=False)
    assert caught.value.reason == "NoUefiFirmware"
