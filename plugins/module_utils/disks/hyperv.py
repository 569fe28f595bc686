# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hyper-V's configuration of a virtual machine, as its export up to Windows Server 2012 R2 has it: XML.

Facts from such files: ``configuration`` holds a section of each device (``_<GUID>_``), and ``manifest`` tells by
``vdev<N>`` which class of device each is. Later versions write binary ``.vmcx`` files, whose layout is not published.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..protocol.errors import JobError, invalid
from .model import Described, Hardware, NamedDisk, Nic
from .xml_text import children_of, mac_of, parse_xml, tag_of, whole_number

_IDE, _SCSI = "83f8638b-8dca-4152-9eda-2ca8b33039b4", "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
_BUS_NAMES = {_IDE: "IDE", _SCSI: "SCSI"}
_SECTION = re.compile(r"^_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_$")
_NUMBERED = re.compile(r"^(?:controller|drive)(\d{1,4})$")
_MIB = 1024**2
_MAX_MEMORY = 64 * 1024**4
_DRIVES = {
    "ISO": "The CD-ROM drive is not carried over.",
    "VFD": "The floppy drive is not carried over.",
}


def parse_hyperv(text: bytes, what: str) -> Described:
    """Parse the configuration of one virtual machine.

    Args:
        text: XML, UTF-16 as Hyper-V writes it.
        what: the file's name, for errors.

    Raises:
        JobError: class ``invalid``, it is no such file, or has a DOCTYPE.
    """
    document = parse_xml(text, lambda why: _bad(what, why))
    if tag_of(document) != "configuration" or not children_of(document, "properties"):
        raise _bad(what, "it describes no virtual machine")
    second = _text(document, "properties", "subtype") == "1"
    disks = _disks(document)
    not_carried = [_DRIVES[kind] for kind in _kinds(document) if kind in _DRIVES]
    if second:
        not_carried.append("The firmware's settings (NVRAM: boot entries, enrolled keys) are not carried over.")
    hardware = Hardware(
        name=_text(document, "properties", "name"),
        cpus=min(max(1, whole_number(_text(document, "settings", "processors", "count")) or 1), 4096),
        memory_bytes=_memory(document, what),
        firmware="uefi" if second else "bios",
        secure_boot=second and _text(document, "secure_boot_enabled").lower() == "true",
        disk_buses=tuple(disk.bus for disk in disks),
        nics=_nics(document),
        not_carried=tuple(dict.fromkeys(not_carried)),
    )
    return Described(hardware, disks)


def _text(element: ElementTree.Element, *names: str) -> str:
    return next(((e.text or "").strip() for e in children_of(element, *names)), "")


def _classes(document: ElementTree.Element) -> dict[str, str]:
    """The class of the device of each section, by the GUID in the section's name."""
    found = {}
    for device in children_of(document, "manifest"):
        for entry in device:
            if tag_of(entry).startswith("vdev"):
                found[_text(entry, "instance").lower().strip("{}")] = _text(entry, "device").lower().strip("{}")
    return found


def _sections(document: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    """The devices' sections with the class of each; the first of a class bears its GUID."""
    classes = _classes(document)
    found = []
    for element in document:
        name = _SECTION.match(tag_of(element).lower())
        if name:
            found.append((classes.get(name.group(1), name.group(1)), element))
    return found


def _drives(document: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    """All drives, with the class of their controller: IDE before SCSI, as Hyper-V boots; then by place."""
    found = []
    for kind, section in _sections(document):
        if kind not in _BUS_NAMES:
            continue
        for controller, place in _numbered(section):
            for drive, unit in _numbered(controller):
                found.append((list(_BUS_NAMES).index(kind), place, unit, kind, drive))
    return [(kind, drive) for _bus, _place, _unit, kind, drive in sorted(found, key=lambda f: f[:3])]


def _numbered(element: ElementTree.Element) -> list[tuple[ElementTree.Element, int]]:
    matches = [(child, _NUMBERED.match(tag_of(child).lower())) for child in element]
    return [(child, int(match.group(1))) for child, match in matches if match]


def _kinds(document: ElementTree.Element) -> list[str]:
    return [_text(drive, "type").upper() for _kind, drive in _drives(document)]


def _disks(document: ElementTree.Element) -> tuple[NamedDisk, ...]:
    return tuple(
        NamedDisk(_text(drive, "pathname"), "", _BUS_NAMES[kind])
        for kind, drive in _drives(document)
        if _text(drive, "type").upper() == "VHD" and _text(drive, "pathname")
    )


def _memory(document: ElementTree.Element, what: str) -> int:
    size = (whole_number(_text(document, "settings", "memory", "bank", "size")) or 0) * _MIB
    if size > _MAX_MEMORY:
        raise _bad(what, "no virtual machine has that much memory")
    return size or Hardware.memory_bytes


def _nics(document: ElementTree.Element) -> tuple[Nic, ...]:
    """Whatever has an address is a card; a synthetic one is a section of its own, legacy ones are within theirs."""
    found = []
    for _kind, section in _sections(document):
        for element in section.iter():
            address = _text(element, "MacAddress")
            if address:
                connection = _text(element, "Connection", "AltSwitchName") or _text(element, "AltSwitchName")
                found.append(Nic(connection, _text(element, "FriendlyName"), mac_of(address)))
    return tuple(found)


def _bad(what: str, why: str) -> JobError:
    return invalid(
        "BadHyperV",
        f"{what} is not the configuration of a Hyper-V virtual machine: {why}.",
        "Give the XML file in the folder 'Virtual Machines' of the export, or the disks as spec.source.disks.",
    )
