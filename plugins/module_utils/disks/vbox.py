# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VirtualBox's ``.vbox``: a virtual machine's settings, with the registry of its disks.

Facts from VirtualBox's schema of settings (VirtualBox-settings.xsd, versions 1.11 to 1.19).
"""

from __future__ import annotations

from xml.etree import ElementTree

from ..protocol.errors import JobError, invalid, unsupported
from .model import Described, Firmware, Hardware, NamedDisk, Nic
from .xml_text import attribute_of, children_of, mac_of, parse_xml, tag_of, whole_number

_MIB = 1024**2
_MAX_MEMORY = 64 * 1024**4
#: How an adapter is connected: the element within it, and the attribute with the network's name.
_NETWORKS = {
    "BridgedInterface": "name",
    "HostOnlyInterface": "name",
    "InternalNetwork": "name",
    "NATNetwork": "name",
    "NAT": "network",
}
#: Sections of the hardware that are switched by an attribute ``enabled``.
_NOT_CARRIED = {
    "AudioAdapter": "The sound card is not carried over.",
    "Controller": "The USB controller is not carried over.",
    "Port": "The serial or parallel port's outside connection is not carried over.",
}
_DRIVES = {
    "DVD": "The CD-ROM drive is not carried over.",
    "Floppy": "The floppy drive is not carried over.",
}


def parse_vbox(text: bytes, what: str) -> Described:
    """Parse the settings of one virtual machine.

    Args:
        text: XML.
        what: the file's name, for errors.

    Raises:
        JobError: class ``invalid``, it is no such file, has a DOCTYPE or broken references; class ``unsupported``, the
            virtual machine is encrypted, or its disks are snapshots.
    """
    document = parse_xml(text, lambda why: _bad(what, why))
    machines = children_of(document, "Machine")
    if tag_of(document) != "VirtualBox" or len(machines) != 1:
        raise _bad(what, "it describes no virtual machine")
    (machine,) = machines
    hardware = children_of(machine, "Hardware")
    if len(hardware) != 1:
        raise _bad(what, "it describes no hardware")
    disks = _disks(machine, hardware[0], what)
    return Described(
        Hardware(
            name=attribute_of(machine, "name"),
            cpus=_cpus(hardware[0]),
            memory_bytes=_memory(hardware[0], what),
            firmware=_firmware(hardware[0]),
            disk_buses=tuple(disk.bus for disk in disks),
            nics=_nics(hardware[0]),
            not_carried=_not_carried(machine, hardware[0]),
        ),
        disks,
    )


def _controllers(machine: ElementTree.Element, hardware: ElementTree.Element) -> list[ElementTree.Element]:
    """They moved from the machine into its hardware with version 1.15."""
    return [c for e in (hardware, machine) for c in children_of(e, "StorageControllers", "StorageController")]


def _disks(machine: ElementTree.Element, hardware: ElementTree.Element, what: str) -> tuple[NamedDisk, ...]:
    registry = {
        attribute_of(e, "uuid"): (e, depth)
        for top in children_of(machine, "MediaRegistry", "HardDisks")
        for e, depth in _walk(top, 0)
        if tag_of(e) == "HardDisk"
    }
    disks = []
    for controller in _controllers(machine, hardware):
        attached = [d for d in children_of(controller, "AttachedDevice") if attribute_of(d, "type") == "HardDisk"]
        attached.sort(key=lambda d: [whole_number(attribute_of(d, name)) or 0 for name in ("port", "device")])
        for device in attached:
            for image in children_of(device, "Image"):
                identifier = attribute_of(image, "uuid")
                if identifier not in registry:
                    raise _bad(what, f"a drive holds the disk {identifier[:50]!r}, which is not in its registry")
                element, depth = registry[identifier]
                disks.append(_disk(element, depth, attribute_of(controller, "type"), what))
    return tuple(disks)


def _walk(element: ElementTree.Element, depth: int) -> list[tuple[ElementTree.Element, int]]:
    """All below ``element``, with the depth: a disk within a disk is a snapshot of it."""
    return [pair for child in element for pair in [(child, depth), *_walk(child, depth + 1)]]


def _disk(element: ElementTree.Element, depth: int, bus: str, what: str) -> NamedDisk:
    name = attribute_of(element, "location")
    if depth:
        raise unsupported(
            "SnapshotDisk",
            f"{what}: the disk {name[:200]!r} is a snapshot.",
            "Delete the VM's snapshots in VirtualBox, which merges them into their disks.",
        )
    if any(attribute_of(p, "name") == "CRYPT/KeyStore" for p in children_of(element, "Property")):
        raise unsupported(
            "EncryptedImage", f"{what}: the disk {name[:200]!r} is encrypted.", "Decrypt it: VBoxManage encryptmedium."
        )
    return NamedDisk(name, attribute_of(element, "format"), bus)


def _cpus(hardware: ElementTree.Element) -> int:
    counts = [whole_number(attribute_of(e, "count")) or 1 for e in children_of(hardware, "CPU")]
    return min(max(1, *counts), 4096) if counts else 1


def _memory(hardware: ElementTree.Element, what: str) -> int:
    size = sum(whole_number(attribute_of(e, "RAMSize")) or 0 for e in children_of(hardware, "Memory")) * _MIB
    if size > _MAX_MEMORY:
        raise _bad(what, "no virtual machine has that much memory")
    return size or Hardware.memory_bytes


def _firmware(hardware: ElementTree.Element) -> Firmware:
    """Without a word of it VirtualBox starts by BIOS. Since version 1.20 the element is within another one."""
    for element in hardware.iter():
        if tag_of(element) == "Firmware" and attribute_of(element, "type").upper().startswith("EFI"):
            return "uefi"
    return "bios"


def _nics(hardware: ElementTree.Element) -> tuple[Nic, ...]:
    cards = [e for e in children_of(hardware, "Network", "Adapter") if attribute_of(e, "enabled").lower() == "true"]
    cards.sort(key=lambda e: whole_number(attribute_of(e, "slot")) or 0)
    return tuple(Nic(_network(e), attribute_of(e, "type"), mac_of(attribute_of(e, "MACAddress"))) for e in cards)


def _network(adapter: ElementTree.Element) -> str:
    for child in adapter:
        if tag_of(child) in _NETWORKS:
            return attribute_of(child, _NETWORKS[tag_of(child)]) or tag_of(child)
    return ""


def _not_carried(machine: ElementTree.Element, hardware: ElementTree.Element) -> tuple[str, ...]:
    found = [
        _NOT_CARRIED[tag_of(e)]
        for e in hardware.iter()
        if tag_of(e) in _NOT_CARRIED and attribute_of(e, "enabled").lower() != "false"
    ]
    found += [
        _DRIVES[attribute_of(device, "type")]
        for controller in _controllers(machine, hardware)
        for device in children_of(controller, "AttachedDevice")
        if attribute_of(device, "type") in _DRIVES
    ]
    for element in hardware.iter():
        if tag_of(element) == "TrustedPlatformModule" and attribute_of(element, "type") not in ("", "None"):
            found.append("The virtual TPM and the keys in it are not carried over: have recovery keys at hand.")
    if _firmware(hardware) == "uefi":
        found.append("The firmware's settings (NVRAM: boot entries, enrolled keys) are not carried over.")
    return tuple(dict.fromkeys(found))


def _bad(what: str, why: str) -> JobError:
    return invalid(
        "BadVbox",
        f"{what} is not a .vbox file that can be read: {why}.",
        "Copy it from the VM's folder again, or export the VM as an OVA.",
    )
