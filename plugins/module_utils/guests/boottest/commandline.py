# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's command line for a boot test: the hardware that the guest will have on KVM, and no way out."""

from __future__ import annotations

import dataclasses
import datetime
import json
import typing as t

from ...definitions.machine import boot_order
from ...definitions.ovmf import find_ovmf
from ...disks.model import Firmware, Nic
from . import confinement
from .accelerator import Accelerator
from .emulator import CONSOLE, MONITOR, REPORT, SCREENSHOT

Bus = t.Literal["virtio", "pvscsi"]

#: Name of the layer that holds a UEFI machine's variables.
VARIABLES = "variables"

#: Network cards beyond the first few say nothing about booting, and each takes a PCI slot.
NIC_LIMIT = 8


@dataclasses.dataclass(frozen=True)
class Hardware:
    """What the virtual machine is made of."""

    firmware: Firmware
    secure_boot: bool
    nics: tuple[Nic, ...]
    memory_bytes: int
    cpus: int
    bus: Bus
    """``virtio``, or ``pvscsi``: VMware's own disk controller and network card, which QEMU emulates."""
    logical_block_sizes: tuple[int, ...]
    """Of the disks, bytes."""
    boot_disk: int = 0
    """The place of the one that boots."""


def command(
    hardware: Hardware, accelerator: Accelerator, disks: t.Sequence[str], descriptors: t.Mapping[str, int]
) -> list[str]:
    """Return the command line.

    Args:
        hardware: the machine.
        accelerator: what it runs on.
        disks: names of the disks, in the machine's order; with UEFI there is a further layer ``VARIABLES``.
        descriptors: the numbers of the descriptors, by name: the disks' NBD connections and :mod:`.emulator`'s.

    Raises:
        JobError: class ``environment``, QEMU or the firmware is not installed.
    """
    machine = ["q35", f"accel={accelerator.name}", "graphics=off"]  # off: SeaBIOS shows its screen on the serial port
    arguments = [confinement.find_program(), *confinement.BASE_ARGUMENTS, "-S", "-no-shutdown", "-boot", "strict=on"]
    arguments += ["-cpu", accelerator.cpu, "-smp", str(hardware.cpus), "-m", f"{hardware.memory_bytes // 1024**2}M"]
    arguments += ["-rtc", f"base={_clock()},clock=vm", "-device", "VGA"]
    arguments += ["-chardev", f"socket,id=monitor,fd={descriptors[MONITOR]}", "-mon", "chardev=monitor,mode=control"]
    for name in (CONSOLE, REPORT):
        arguments += ["-chardev", f"socket,id={name},fd={descriptors[name]}", "-serial", f"chardev:{name}"]
    arguments += ["-add-fd", f"fd={descriptors[SCREENSHOT]},set=1"]
    if hardware.firmware == "uefi":
        machine += ["pflash0=code", f"pflash1={VARIABLES}", *(["smm=on"] if hardware.secure_boot else [])]
        arguments += _firmware(hardware, descriptors)
    arguments += ["-machine", ",".join(machine)]
    arguments += _disks(hardware, disks, descriptors)
    arguments += _nics(hardware)
    if hardware.bus == "virtio":
        arguments += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
    return arguments


def _clock() -> str:
    """Noon of the present day, UTC.

    Fixed, so that no scheduled job of a clone of a production machine comes due; near the present, so that neither
    filesystems nor certificates seem to come from the future.
    """
    today = datetime.datetime.now(datetime.timezone.utc).date()
    return f"{today.isoformat()}T12:00:00"


def _firmware(hardware: Hardware, descriptors: t.Mapping[str, int]) -> list[str]:
    code = {
        "driver": "file",
        "filename": str(find_ovmf(secure_boot=hardware.secure_boot).code),
        "node-name": "code",
        "read-only": True,
    }
    arguments = ["-blockdev", json.dumps(code), "-blockdev", _nbd(VARIABLES, descriptors)]
    if hardware.secure_boot:
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    # Without a bootable disk OVMF would try the network for minutes.
    for family in ("IPv4", "IPv6"):
        arguments += ["-fw_cfg", f"name=opt/org.tianocore/{family}PXESupport,string=no"]
    return arguments


def _nbd(name: str, descriptors: t.Mapping[str, int]) -> str:
    server = {"type": "fd", "str": str(descriptors[name])}
    return json.dumps({"driver": "nbd", "node-name": name, "export": name, "server": server})


def _disks(hardware: Hardware, disks: t.Sequence[str], descriptors: t.Mapping[str, int]) -> list[str]:
    arguments = ["-device", "pvscsi,id=scsi"] if hardware.bus == "pvscsi" else []
    order = boot_order(len(disks), hardware.boot_disk)
    for index, (name, block) in enumerate(zip(disks, hardware.logical_block_sizes, strict=True)):
        size = f"logical_block_size={block},physical_block_size={block}"
        device = "virtio-blk-pci" if hardware.bus == "virtio" else f"scsi-hd,bus=scsi.0,scsi-id={index}"
        arguments += ["-blockdev", _nbd(name, descriptors)]
        arguments += ["-device", f"{device},drive={name},bootindex={order[index]},{size}"]
    return arguments


def _nics(hardware: Hardware) -> list[str]:
    model = "virtio-net-pci" if hardware.bus == "virtio" else "vmxnet3"
    arguments = []
    for index, nic in enumerate(hardware.nics[:NIC_LIMIT]):
        address = f",mac={nic.mac}" if nic.mac else ""
        # A link and a DHCP server, but no route to anywhere. No ROM: nothing is to boot from the network.
        arguments += ["-netdev", f"user,id=nic{index},restrict=on"]
        arguments += ["-device", f"{model},netdev=nic{index},romfile={address}"]
    return arguments
