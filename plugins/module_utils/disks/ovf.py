# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""OVF descriptors: what the virtual machine was, as its exporter tells it.

Facts from DSP0243 (Open Virtualization Format, envelope 1 and 2), DSP0004 Annex C (programmatic units) and the CIM
classes of rasd:Item (ResourceType values); VMware's and VirtualBox's additions as they appear in exports.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
import xml.parsers.expat
from xml.etree import ElementTree

from ..protocol.errors import JobError, invalid, unsupported
from .model import Firmware, Hardware, Nic

#: Nothing real is larger; an attacker's could be.
MAX_SIZE = 16 * 1024**2
_MAX_DEPTH = 100
#: A machine has some dozens of items with a dozen properties each; every element costs hundreds of bytes of memory.
_MAX_ELEMENTS = 100_000
#: A name is given with its namespace, which is written once and would be copied for each.
_MAX_NAME = 1024
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
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


@dataclasses.dataclass(frozen=True)
class OvfDisk:
    """A disk of the virtual machine, in boot order. Bytes."""

    href: str
    """As the references name it: relative to the descriptor."""
    format: str
    """The format's URI."""
    capacity: int | None
    bus: str


@dataclasses.dataclass(frozen=True)
class Ovf:
    """What a descriptor says."""

    hardware: Hardware
    disks: tuple[OvfDisk, ...]


def parse_ovf(text: bytes, what: str) -> Ovf:
    """Parse the descriptor of one virtual machine.

    Args:
        text: XML.
        what: the file's name, for errors.

    Raises:
        JobError: class ``invalid``, it is no OVF descriptor, or one with entities (a DOCTYPE) or broken references;
            class ``unsupported``, several virtual machines, or disks that need more than their file.
    """
    envelope = _parse_xml(text, what)
    systems = [e for e in envelope.iter() if _tag(e) == "VirtualSystem"]
    if _tag(envelope) != "Envelope" or not systems:
        raise _bad(what, "it describes no virtual machine")
    if len(systems) > 1:
        raise unsupported(
            "SeveralMachines", f"{what} describes {len(systems)} virtual machines.", "Export each VM by itself."
        )
    system = systems[0]
    items = [_Item(e) for e in system.iter() if _tag(e) in ("Item", "StorageItem", "EthernetPortItem")]
    config = {
        _attribute(e, "key"): _attribute(e, "value") for e in system.iter() if _tag(e) in ("Config", "ExtraConfig")
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
    return Ovf(hardware, tuple(disks))


class _Item:
    """A rasd:Item: its properties as text."""

    def __init__(self, element: ElementTree.Element) -> None:
        self.texts: dict[str, str] = {}
        for child in element:
            self.texts.setdefault(_tag(child), (child.text or "").strip())
        self.type = self.number("ResourceType") or 0

    def __getitem__(self, name: str) -> str:
        return self.texts.get(name, "")

    def number(self, name: str) -> int | None:
        text = self[name]
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _parse_xml(text: bytes, what: str) -> ElementTree.Element:
    """Parse without entities: a DOCTYPE is refused, so there is nothing to expand and nothing to fetch."""
    if len(text) > MAX_SIZE:
        raise _bad(what, "it is larger than 16 MiB")
    builder = ElementTree.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate(namespace_separator="}")
    depth = elements = 0

    def refuse(*_arguments: t.Any) -> None:
        raise _bad(what, "it has a DOCTYPE, which no exporter writes and which could make it read other files")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth += 1
        elements += 1
        if depth > _MAX_DEPTH:
            raise _bad(what, f"it is nested deeper than {_MAX_DEPTH} levels")
        if elements > _MAX_ELEMENTS or max(map(len, (tag, *attributes))) > _MAX_NAME:
            raise _bad(what, f"it has more than {_MAX_ELEMENTS} elements, or names of more than {_MAX_NAME} characters")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text, True)
        return builder.close()
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        raise _bad(what, f"it is no XML ({error})") from error


def _disks(envelope: ElementTree.Element, items: list[_Item], what: str) -> list[OvfDisk]:
    files = {_attribute(e, "id"): e for e in envelope.iter() if _tag(e) == "File"}
    disks = {_attribute(e, "diskId"): e for e in envelope.iter() if _tag(e) == "Disk"}
    by_instance = {item["InstanceID"]: item for item in items}
    found: list[tuple[tuple[int, int, int, int], OvfDisk]] = []
    buses: list[int] = []
    for item in items:
        if item.type != _DISK:
            continue
        # "ovf:/disk/ID", in OVF 0.9 without the scheme; "ovf:/file/ID" names a file without a disk element.
        kind, _slash, identifier = (
            item["HostResource"].removeprefix("ovf:").removeprefix("//").strip("/").partition("/")
        )
        disk = disks.get(identifier) if kind == "disk" else None
        reference = identifier if kind == "file" else _attribute(disk, "fileRef") if disk is not None else ""
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
        _refuse_packed(file, disk, what)
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
        found.append((order, OvfDisk(_attribute(file, "href"), *_format(disk, what), _bus(controller))))
    if len(found) > _MAX_DISKS:
        raise unsupported("TooManyDisks", f"{what} describes {len(found)} disks; {_MAX_DISKS} are the most.")
    return [disk for _order, disk in sorted(found, key=lambda pair: pair[0])]


def _refuse_packed(file: ElementTree.Element, disk: ElementTree.Element | None, what: str) -> None:
    name = _attribute(file, "href")
    if _attribute(file, "chunkSize"):
        raise unsupported("ChunkedFile", f"{what}: {name!r} is split into chunks.", "Export the VM without chunks.")
    if _attribute(file, "compression") not in ("", "identity"):
        raise unsupported("CompressedFile", f"{what}: {name!r} is compressed as a whole.", "Unpack it first.")
    if disk is not None and _attribute(disk, "parentRef"):
        raise unsupported("DeltaDisk", f"{what}: {name!r} is a delta of another disk.", "Consolidate snapshots first.")


def _format(disk: ElementTree.Element | None, what: str) -> tuple[str, int | None]:
    if disk is None:
        return "", None
    text = _attribute(disk, "capacity")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return _attribute(disk, "format"), None
    return _attribute(disk, "format"), int(text) * _unit(_attribute(disk, "capacityAllocationUnits") or "byte", what)


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
        if _tag(child) == "Name" and (child.text or "").strip():
            return (child.text or "").strip()
    return _attribute(system, "id")


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
        if _tag(element) == "Firmware":
            said = said or _attribute(element, "type").lower()
    if said.startswith("efi"):
        return "uefi"
    return "bios" if said == "bios" else None


def _nic(item: _Item) -> Nic:
    mac = item["Address"].lower().replace("-", ":")
    if re.fullmatch(r"[0-9a-f]{12}", mac):
        mac = ":".join(mac[i : i + 2] for i in range(0, 12, 2))
    return Nic(network=item["Connection"], model=item["ResourceSubType"], mac=mac if _MAC.match(mac) else None)


def _not_carried(envelope: ElementTree.Element, items: list[_Item], config: t.Mapping[str, str]) -> tuple[str, ...]:
    found = [_NOT_CARRIED[item.type] for item in items if item.type in _NOT_CARRIED]
    if any(item.type == _OTHER and "vtpm" in item["ResourceSubType"].lower() for item in items):
        found.append("The virtual TPM and the keys in it are not carried over: have recovery keys at hand.")
    hrefs = [_attribute(e, "href").lower() for e in envelope.iter() if _tag(e) == "File"]
    if config.get("nvram") or any(href.endswith(".nvram") for href in hrefs):
        found.append("The firmware's settings (NVRAM: boot entries, enrolled keys) are not carried over.")
    return tuple(dict.fromkeys(found))


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _attribute(element: ElementTree.Element, name: str) -> str:
    """The attribute of that local name, of whatever namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return ""


def _bad(what: str, why: str) -> JobError:
    return invalid("BadOvf", f"{what} is not an OVF descriptor that can be read: {why}.", "Export the VM again.")
