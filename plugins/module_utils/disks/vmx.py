# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMX, VMware's configuration of a virtual machine: lines of ``key = "value"``.

Facts from VMware's documentation of configuration file options and from files as ESXi and Workstation write them.
"""

from __future__ import annotations

import re

from ..protocol.errors import JobError, invalid, unsupported
from .model import Described, Firmware, Hardware, NamedDisk, Nic
from .xml_text import mac_of, whole_number

#: Nothing real is larger. Bytes.
MAX_SIZE = 1024**2

_LINE = re.compile(r'^\s*([A-Za-z0-9_.:-]+)\s*=\s*"([^"]*)"\s*$')
_ESCAPE = re.compile(r"\|([0-9A-Fa-f]{2})")
_DEVICE = re.compile(r"^(scsi|sata|nvme|ide)(\d{1,3}):(\d{1,3})$")
_CARD = re.compile(r"^ethernet(\d{1,3})$")
#: VMware's BIOS tries the buses in this order, unless ``bios.hddOrder`` names disks.
_BUSES = ("scsi", "sata", "nvme", "ide")
_BUS_NAMES = {"scsi": "SCSI", "sata": "SATA", "nvme": "NVMe", "ide": "IDE"}
_MAX_MEMORY = 64 * 1024**4
_NOT_CARRIED = (
    ("vtpm.present", "The virtual TPM and the keys in it are not carried over: have recovery keys at hand."),
    ("sound.present", "The sound card is not carried over."),
    ("usb.present", "The USB controller is not carried over."),
    ("floppy0.present", "The floppy drive is not carried over."),
    ("serial0.present", "The serial port's outside connection is not carried over."),
    ("parallel0.present", "The parallel port is not carried over."),
    ("pcipassthru0.present", "The PCI devices that are passed through are not carried over."),
)


def parse_vmx(text: bytes, what: str) -> Described:
    """Parse the configuration of one virtual machine.

    Args:
        text: the file.
        what: its name, for errors.

    Raises:
        JobError: class ``invalid``, it is no VMX; class ``unsupported``, the virtual machine is encrypted.
    """
    settings = _settings(text, what)
    if "encryption.keysafe" in settings or "encryption.data" in settings:
        raise unsupported(
            "EncryptedMachine", f"{what} is the configuration of an encrypted virtual machine.", "Decrypt the VM first."
        )
    devices = {key.rpartition(".")[0] for key in settings}
    disks = _disks(settings, devices)
    return Described(
        Hardware(
            name=settings.get("displayname", ""),
            cpus=min(max(1, whole_number(settings.get("numvcpus", "")) or 1), 4096),
            memory_bytes=_memory(settings, what),
            firmware=_firmware(settings),
            secure_boot=_is_true(settings, "uefi.secureboot.enabled"),
            disk_buses=tuple(disk.bus for disk in disks),
            nics=_nics(settings, devices),
            not_carried=_not_carried(settings, devices),
        ),
        disks,
    )


def _settings(text: bytes, what: str) -> dict[str, str]:
    """Values by key in lower case; of two the later one counts."""
    settings: dict[str, str] = {}
    for line in text.decode("utf-8-sig", "replace").splitlines():
        found = _LINE.match(line)
        if found:
            settings[found.group(1).lower()] = _ESCAPE.sub(lambda m: chr(int(m.group(1), 16)), found.group(2))
    if "config.version" not in settings and "virtualhw.version" not in settings:
        raise _bad(what, "it names neither config.version nor virtualHW.version")
    return settings


def _is_true(settings: dict[str, str], key: str) -> bool:
    return settings.get(key, "").lower() == "true"


def _disks(settings: dict[str, str], devices: set[str]) -> tuple[NamedDisk, ...]:
    first = [name.strip().lower() for name in settings.get("bios.hddorder", "").split(",")]
    found: list[tuple[tuple[int, int, int, int], NamedDisk]] = []
    for device in devices:
        place = _DEVICE.match(device)
        if not place or not _is_present(settings, device) or _is_cd(settings, device):
            continue
        name = settings.get(f"{device}.filename", "")
        if not name:
            continue
        bus, controller, unit = place.group(1), int(place.group(2)), int(place.group(3))
        order = (first.index(device) if device in first else len(first), _BUSES.index(bus), controller, unit)
        model = settings.get(f"{bus}{controller}.virtualdev", "")
        found.append((order, NamedDisk(name, "", model or _BUS_NAMES[bus])))
    return tuple(disk for _order, disk in sorted(found, key=lambda pair: pair[0]))


def _is_present(settings: dict[str, str], device: str) -> bool:
    """A device is there unless the file says otherwise; without its controller it is not."""
    controller = device.partition(":")[0]
    said = settings.get(f"{device}.present", "true").lower() == "true"
    # IDE controllers are always there, and not written down.
    return said and (controller.startswith("ide") or settings.get(f"{controller}.present", "true").lower() == "true")


def _is_cd(settings: dict[str, str], device: str) -> bool:
    kind = settings.get(f"{device}.devicetype", "").lower()
    return "cdrom" in kind or settings.get(f"{device}.filename", "").lower().endswith(".iso")


def _memory(settings: dict[str, str], what: str) -> int:
    size = (whole_number(settings.get("memsize", "")) or 0) * 1024**2
    if size > _MAX_MEMORY:
        raise _bad(what, "no virtual machine has that much memory")
    return size or Hardware.memory_bytes


def _firmware(settings: dict[str, str]) -> Firmware:
    """Without a word of it VMware starts by BIOS."""
    return "uefi" if settings.get("firmware", "").lower() == "efi" else "bios"


def _nics(settings: dict[str, str], devices: set[str]) -> tuple[Nic, ...]:
    cards = sorted((int(found.group(1)), device) for device in devices for found in [_CARD.match(device)] if found)
    return tuple(
        Nic(
            network=settings.get(f"{card}.networkname", settings.get(f"{card}.connectiontype", "")),
            model=settings.get(f"{card}.virtualdev", ""),
            mac=_mac(settings, card),
        )
        for _number, card in cards
        if settings.get(f"{card}.present", "true").lower() == "true"
    )


def _mac(settings: dict[str, str], card: str) -> str | None:
    static, generated = settings.get(f"{card}.address", ""), settings.get(f"{card}.generatedaddress", "")
    by_hand = settings.get(f"{card}.addresstype", "").lower() == "static"
    return mac_of(static if by_hand else generated) or mac_of(generated) or mac_of(static)


def _not_carried(settings: dict[str, str], devices: set[str]) -> tuple[str, ...]:
    found = [sentence for key, sentence in _NOT_CARRIED if _is_true(settings, key)]
    if any(_DEVICE.match(d) and _is_present(settings, d) and _is_cd(settings, d) for d in devices):
        found.append("The CD-ROM drive is not carried over.")
    if settings.get("nvram"):
        found.append("The firmware's settings (NVRAM: boot entries, enrolled keys) are not carried over.")
    return tuple(found)


def _bad(what: str, why: str) -> JobError:
    return invalid(
        "BadVmx", f"{what} is not a VMX file that can be read: {why}.", "Copy it from the VM's folder again."
    )
