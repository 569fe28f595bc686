# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OVF descriptors: what the virtual machine was, as its exporter tells it.

Facts from DSP0243 (Open Virtualization Format, envelope 1 and 2), DSP0004 Annex C (programmatic units) and the CIM
classes of rasd:Item (ResourceType values); VMware's and VirtualBox's additions as they appear in exports.
"""

from __future__ import annotations

import re
import typing as t
from xml.etree import ElementTree

from ..protocol.errors import JobError, invalid, unsupported
from .model import Described, Firmware, Hardware, NamedDisk, Nic
from .xml_text import attribute_of, mac_of, parse_xml, tag_of

#: Four SCSI controllers of 64 disks, four SATA controllers of 30, four NVMe controllers of 15: vSphere's maximum.
_MAX_DISKS = 4 * (64 + 30 + 15)

_CPU, _MEMORY, _IDE, _SCSI, _ETHERNET, _FLOPPY, _CD, _DVD, _DISK, _STORAGE = 3, 4, 5, 6, 10, 14, 15, 16, 17, 20
_SERIAL, _PARALLEL, _USB, _SOUND, _OTHER = 21, 22, 23, 35, 1
_NOT_CARRIED = {
    _FLOPPY: "The floppy drive is not carried over.",
    _CD: "The CD-ROM drive is not carried over.",
    _DVD: "The CD-ROM drive is not carried over.",
    _USB: "The USB controller is not carried over.",
    _SOUND: "The sound card is not carried over.",
    _SERIAL: "The serial port's outside connection is not carried over.",
    _PARALLEL: "The parallel port is not carried over.",
}
_BUS_NAMES = {_IDE: "IDE", _SCSI: "SCSI", _STORAGE: "SATA"}
_WORDS = {"kilobytes": 10, "kb": 10, "megabytes": 20, "mb": 20, "gigabytes": 30, "gb": 30, "terabytes": 40, "tb": 40}
_POWER = re.compile(r"^byte\s*(?:\*\s*(?:(\d+)\s*\^\s*(\d+)|(\d+)))?$")


def parse_ovf(text: bytes, what: str) -> Described:
    """Parse the descriptor of one virtual machine.

    Args:
        text: XML.
        what: the file's name, for errors.

    Raises:
        JobError: class ``invalid``, it is no OVF descriptor, or one with entities (a DOCTYPE) or broken references;
            class ``unsupported``, several virtual machines, or disks that need more than their file.
    """
    envelope = parse_xml(text, lambda why: _bad(what, why))
    systems = [e for e in envelope.iter() if tag_of(e) == "VirtualSystem"]
    if tag_of(envelope) != "Envelope" or not systems:
        raise _bad(what, "it describes no virtual machine")
    if len(systems) > 1:
        raise unsupported(
            "SeveralMachines", f"{what} describes {len(systems)} virtual machines.", "Export each VM by itself."
        )
    system = systems[0]
    items = [_Item(e) for e in system.iter() if tag_of(e) in ("Item", "StorageItem", "EthernetPortItem")]
    config = {
        attribute_of(e, "key"): attribute_of(e, "value")
        for e in system.iter()
        if tag_of(e) in ("Config", "ExtraConfig")
    }
    disks = _disks(envelope, items, what)
    hardware = Hardware(
        name=_name(system),
        cpus=_cpus(items),
        memory_bytes=_memory(items, what),
        firmware=_firmware(system, config),
        secure_boot=config.get("bootOptions.efiSecureBootEnabled", "").lower() == "true",
        disk_buses=tuple(disk.bus for disk in disks),
        nics=tuple(_nic(item) for item in items if item.type == _ETHERNET),
        not_carried=_not_carried(envelope, items, config),
    )
    return Described(hardware, tuple(disks))


class _Item:
    """A rasd:Item: its properties as text."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.texts: dict[str, str] = {}
        for child in element:
            self.texts.setdefault(tag_of(child), (child.text or "").strip())
        self.type = self.number("ResourceType") or 0

    def __getitem__(self, name: str) -> str:
        return self.texts.get(name, "")

    def number(self, name: str) -> int | None:
        text = self[name]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _disks(envelope: ElementTree.Element, items: list[_Item], what: str) -> list[NamedDisk]:
    files = {attribute_of(e, "id"): e for e in envelope.iter() if tag_of(e) == "File"}
    disks = {attribute_of(e, "diskId"): e for e in envelope.iter() if tag_of(e) == "Disk"}
    by_instance = {item["InstanceID"]: item for item in items}
    found: list[tuple[tuple[int, int, int, int], NamedDisk]] = []
    buses: list[int] = []
    for item in items:
        if item.type != _DISK:
            continue
        # "ovf:/disk/ID", in OVF 0.9 without the scheme; "ovf:/file/ID" names a file without a disk element.
        kind, _slash, identifier = (
            item["HostResource"].removeprefix("ovf:").removeprefix("//").strip("/").partition("/")
        )
        disk = disks.get(identifier) if kind == "disk" else None
        reference = identifier if kind == "file" else attribute_of(disk, "fileRef") if disk is not None else ""
        if kind == "disk" and disk is None:
            raise _bad(what, f"a disk drive names the disk {identifier[:100]!r}, which it does not describe")
        if not reference:
            raise unsupported(
                "BlankDisk",
                f"{what} describes the disk {identifier[:100]!r} without a file (a blank disk).",
                "Export the VM with its disks, or remove the blank one before.",
            )
        file = files.get(reference)
        if file is None:
            raise _bad(what, f"a disk names the file {reference[:100]!r}, which is not among its references")
        if disk is not None and attribute_of(disk, "parentRef"):
            name = attribute_of(file, "href")[:200]
            raise unsupported(
                "DeltaDisk", f"{what}: {name!r} is a delta of another disk.", "Consolidate snapshots first."
            )
        controller = by_instance.get(item["Parent"])
        bus_type = controller.type if controller else 0
        if bus_type not in buses:
            buses.append(bus_type)
        order = (
            buses.index(bus_type),
            (controller.number("Address") or 0) if controller else 0,
            item.number("AddressOnParent") or 0,
            len(found),
        )
        found.append((order, _named(file, disk, _bus(controller), what)))
    if len(found) > _MAX_DISKS:
        raise unsupported(
            "TooManyDisks",
            f"{what} describes {len(found)} disks; {_MAX_DISKS} are the most.",
            "Give those that the VM takes to boot as spec.source.disks, and move the others by jobs of their own.",
        )
    return [disk for _order, disk in sorted(found, key=lambda pair: pair[0])]


def _named(file: ElementTree.Element, disk: ElementTree.Element | None, bus: str, what: str) -> NamedDisk:
    name, compression = attribute_of(file, "href"), attribute_of(file, "compression")
    if compression not in ("", "identity", "gzip"):
        raise unsupported(
            "CompressedFile", f"{what}: {name[:200]!r} is compressed by {compression[:50]!r}.", "Unpack it first."
        )
    fmt, capacity = _format(disk, what)
    return NamedDisk(
        name,
        fmt,
        bus,
        capacity,
        compressed=compression == "gzip",
        chunk_size=_number(file, "chunkSize", what),
        size=_number(file, "size", what),
    )


def _number(element: ElementTree.Element, name: str, what: str) -> int | None:
    text = attribute_of(element, name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _bad(what, f"{text[:100]!r} is no number of bytes")
    return int(text)


def _format(disk: ElementTree.Element | None, what: str) -> tuple[str, int | None]:
    if disk is None:
        return "", None
    text = attribute_of(disk, "capacity")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return attribute_of(disk, "format"), None
    return attribute_of(disk, "format"), int(text) * _unit(
        attribute_of(disk, "capacityAllocationUnits") or "byte", what
    )


def _unit(text: str, what: str) -> int:
    """Bytes of a programmatic unit ("byte * 2^20") or of one of the words of older exporters ("MegaBytes")."""
    plain = text.strip().lower()
    if plain in _WORDS:
        return 1 << _WORDS[plain]
    found = _POWER.match(plain)
    if not found or any(len(digits or "") > 4 for digits in found.groups()[:2]):
        raise _bad(what, f"{text[:100]!r} is no unit of bytes")
    base, power, factor = found.groups()
    if base:
        if int(base) > 1024 or int(power) > 60:
            raise _bad(what, f"{text[:100]!r} is no unit of bytes")
        return int(pow(int(base), int(power)))
    return int(factor) if factor and len(factor) < 19 else 1


def _bus(controller: _Item | None) -> str:
    if controller is None:
        return ""
    return controller["ResourceSubType"] or _BUS_NAMES.get(controller.type, "")


def _name(system: ElementTree.Element) -> str:
    for child in system:
        if tag_of(child) == "Name" and (child.text or "").strip():
            return (child.text or "").strip()
    return attribute_of(system, "id")


def _cpus(items: list[_Item]) -> int:
    counts = [item.number("VirtualQuantity") or 0 for item in items if item.type == _CPU]
    return min(max(1, sum(counts)), 4096)


def _memory(items: list[_Item], what: str) -> int:
    total = 0
    for item in items:
        if item.type == _MEMORY:
            total += (item.number("VirtualQuantity") or 0) * _unit(item["AllocationUnits"] or "MegaBytes", what)
    if total > 64 * 1024**4:
        raise _bad(what, "no virtual machine has that much memory")
    return total or Hardware.memory_bytes


def _firmware(system: ElementTree.Element, config: t.Mapping[str, str]) -> Firmware | None:
    said = config.get("firmware", "").lower()
    for element in system.iter():
        # VirtualBox: <vbox:Machine><Hardware><Firmware type="EFI"/>
        if tag_of(element) == "Firmware":
            said = said or attribute_of(element, "type").lower()
    if said.startswith("efi"):
        return "uefi"
    return "bios" if said == "bios" else None


def _nic(item: _Item) -> Nic:
    return Nic(network=item["Connection"], model=item["ResourceSubType"], mac=mac_of(item["Address"]))


def _not_carried(envelope: ElementTree.Element, items: list[_Item], config: t.Mapping[str, str]) -> tuple[str, ...]:
    found = [_NOT_CARRIED[item.type] for item in items if item.type in _NOT_CARRIED]
    if any(item.type == _OTHER and "vtpm" in item["ResourceSubType"].lower() for item in items):
        found.append("The virtual TPM and the keys in it are not carried over: have recovery keys at hand.")
    hrefs = [attribute_of(e, "href").lower() for e in envelope.iter() if tag_of(e) == "File"]
    if config.get("nvram") or any(href.endswith(".nvram") for href in hrefs):
        found.append("The firmware's settings (NVRAM: boot entries, enrolled keys) are not carried over.")
    return tuple(dict.fromkeys(found))


def _bad(what: str, why: str) -> JobError:
    return invalid("BadOvf", f"{what} is not an OVF descriptor that can be read: {why}.", "Export the VM again.")
