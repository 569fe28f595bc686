# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine as a libvirt domain (https://libvirt.org/formatdomain.html)."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET

from .machine import Machine

#: Where cards are plugged in of which the job says nothing: distributions call their network so.
DEFAULT_NETWORK = "default"


def domain_xml(machine: Machine) -> str:
    """Return the definition: q35, virtio, the firmware that the guest has, a serial console, the guest agent's channel.

    The UUID derives from the name and the network cards, so that defining the same machine again replaces it.
    """
    domain = ET.Element("domain", type="kvm")
    _text(domain, "name", machine.name)
    _text(domain, "uuid", str(_uuid(machine)))
    _text(domain, "memory", str(machine.memory_bytes // 1024), unit="KiB")
    _text(domain, "vcpu", str(machine.cpus))
    _add_os(domain, machine)
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if machine.secure_boot:
        ET.SubElement(features, "smm", state="on")
    ET.SubElement(domain, "cpu", mode="host-model")
    clock = ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")
    ET.SubElement(clock, "timer", name="hpet", present="no")
    _add_devices(domain, machine)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode") + "\n"


def _uuid(machine: Machine) -> uuid.UUID:
    identity = ["hyper2kvm", machine.name, *(nic.mac or "" for nic in machine.nics)]
    return uuid.uuid5(uuid.NAMESPACE_URL, "/".join(identity))


def _add_os(domain: ET.Element, machine: Machine) -> None:
    uefi = machine.firmware == "uefi"
    os_element = ET.SubElement(domain, "os", {"firmware": "efi"} if uefi else {})
    _text(os_element, "type", "hvm", arch="x86_64", machine="q35")
    if uefi:
        # Said in both directions: left open, libvirt may choose a build whose keys refuse the guest's unsigned loader.
        firmware = ET.SubElement(os_element, "firmware")
        wanted = "yes" if machine.secure_boot else "no"
        ET.SubElement(firmware, "feature", enabled=wanted, name="enrolled-keys")
        ET.SubElement(firmware, "feature", enabled=wanted, name="secure-boot")


def _add_devices(domain: ET.Element, machine: Machine) -> None:
    devices = ET.SubElement(domain, "devices")
    for index, (disk, order) in enumerate(zip(machine.disks, machine.boot_order, strict=True)):
        kind, attribute = ("block", "dev") if disk.is_device else ("file", "file")
        element = ET.SubElement(devices, "disk", type=kind, device="disk")
        ET.SubElement(element, "driver", name="qemu", type=disk.format, discard="unmap")
        ET.SubElement(element, "source", {attribute: str(disk.path)})
        ET.SubElement(element, "target", dev=f"vd{_letters(index)}", bus="virtio")
        if disk.logical_block_size != 512:
            size = str(disk.logical_block_size)
            ET.SubElement(element, "blockio", logical_block_size=size, physical_block_size=size)
        ET.SubElement(element, "boot", order=str(order + 1))
    for nic, place in zip(machine.nics, machine.places, strict=True):
        bridge = place.bridge if place else None
        element = ET.SubElement(devices, "interface", type="bridge" if bridge else "network")
        ET.SubElement(element, "mac", address=nic.mac or "")
        where = {"bridge": bridge} if bridge else {"network": (place and place.network) or DEFAULT_NETWORK}
        ET.SubElement(element, "source", where)
        ET.SubElement(element, "model", type="virtio")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", type="isa-serial", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    ET.SubElement(devices, "input", type="tablet", bus="usb")
    graphics = ET.SubElement(devices, "graphics", type="vnc", port="-1", autoport="yes")
    ET.SubElement(graphics, "listen", type="address", address="127.0.0.1")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga")
    ET.SubElement(devices, "memballoon", model="virtio")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")


def _letters(index: int) -> str:
    """``a`` … ``z``, ``aa`` …: the kernel's letters of disk ``index``."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
