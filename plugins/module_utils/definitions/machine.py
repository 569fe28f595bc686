# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual machine that a target becomes: what every definition, and the boot test, is made from."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shlex
import typing as t

from ..disks.model import Firmware, Hardware, Nic
from ..protocol import models
from ..protocol.errors import invalid
from .ovmf import installed_or_usual_ovmf

#: QEMU's and KVM's conventional prefix of MAC addresses.
_KVM_PREFIX = "52:54:00"


@dataclasses.dataclass(frozen=True)
class MachineDisk:
    """One disk of the machine."""

    path: pathlib.Path
    """Absolute."""
    format: str
    """``qcow2`` or ``raw``."""
    virtual_size: int
    """Bytes."""
    logical_block_size: int = 512
    """Bytes; 4096 for disks with 4 KiB sectors."""
    is_device: bool = False
    """Whether ``path`` is a block device; all disks of a machine are, or none."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """A virtual machine on KVM. Every network card has a MAC address."""

    name: str
    cpus: int
    memory_bytes: int
    firmware: Firmware
    disks: tuple[MachineDisk, ...]
    """In the source's order."""
    nics: tuple[Nic, ...]
    places: tuple[models.NetworkMapping | None, ...]
    """Where the job plugs each card in; None: it does not say."""
    secure_boot: bool = False
    boot_disk: int = 0
    """The place in ``disks`` of the one that boots."""

    @property
    def boot_order(self) -> list[int]:
        """Of each disk, when the firmware tries it; 0 is first."""
        return boot_order(len(self.disks), self.boot_disk)


def boot_order(count: int, first: int) -> list[int]:
    """Return, of each of ``count`` disks, when the firmware tries it: ``first`` first, the others as they come.

    >>> boot_order(3, 1)
    [1, 0, 2]
    """
    return [0 if index == first else index + (index < first) for index in range(count)]


def machine_for(
    hardware: Hardware,
    *,
    name: str,
    firmware: Firmware,
    network: models.NetworkSpec,
    disks: t.Sequence[MachineDisk],
    boot_disk: int = 0,
) -> Machine:
    """Return the machine for a source's ``hardware``.

    Sources that tell of no network card get one, or as many as ``network.macs`` names. A card's address is, in this
    order: the job's (``macs``, then ``macMap``), the source's, one derived from the machine's name and the card's
    position, so that it is the same at each run.

    Raises:
        JobError: class ``invalid``, the job's addresses or places do not fit the source's cards.
    """
    nics = hardware.nics or tuple(Nic() for dummy in network.macs or (None,))
    return Machine(
        name=name,
        cpus=max(1, hardware.cpus),
        memory_bytes=hardware.memory_bytes,
        firmware=firmware,
        secure_boot=hardware.secure_boot and firmware == "uefi",
        disks=tuple(disks),
        boot_disk=boot_disk,
        nics=_with_addresses(nics, name, network),
        places=_places(nics, network.map),
    )


def derived_mac(name: str, index: int) -> str:
    """Return the address of card ``index`` of the machine ``name`` where nothing else gives one."""
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    return ":".join([_KVM_PREFIX, *(f"{byte:02x}" for byte in digest[:3])])


def _with_addresses(nics: t.Sequence[Nic], name: str, network: models.NetworkSpec) -> tuple[Nic, ...]:
    if len(network.macs) > len(nics):
        raise invalid(
            "TooManyMacs",
            f"spec.guest.network.macs names {len(network.macs)} addresses, the source has {len(nics)} network cards.",
            "Give one address for each card, in the source's order.",
        )
    mapped = {entry.source.lower(): entry.target.lower() for entry in network.mac_map}
    present = {nic.mac for nic in nics if nic.mac}
    unknown = sorted(set(mapped) - present)
    if unknown:
        raise invalid(
            "MacNotFound",
            f"spec.guest.network.macMap names {', '.join(unknown)}, which no network card of the source has "
            f"({', '.join(sorted(present)) or 'it tells no addresses'}).",
            "Correct the address, or give the target's addresses in spec.guest.network.macs.",
        )
    chosen: list[Nic] = []
    for index, nic in enumerate(nics):
        if index < len(network.macs):
            mac = network.macs[index].lower()
        elif nic.mac is not None:
            mac = mapped.get(nic.mac, nic.mac)
        else:
            mac = derived_mac(name, index)
        if any(mac == other.mac for other in chosen):
            raise invalid("DuplicateMac", f"Two network cards would have the address {mac}.", "Give each its own.")
        chosen.append(dataclasses.replace(nic, mac=mac))
    return tuple(chosen)


def _places(
    nics: t.Sequence[Nic], mappings: t.Sequence[models.NetworkMapping]
) -> tuple[models.NetworkMapping | None, ...]:
    by_source = {mapping.source: mapping for mapping in mappings}
    places = tuple(by_source.get(nic.network or None) or by_source.get(None) for nic in nics)
    if sum(place is not None and place.pod for place in places) > 1:
        raise invalid(
            "PodNetworkTwice",
            "spec.guest.network.map gives several network cards the pod's network, of which a pod has one.",
            "Give the others a NetworkAttachmentDefinition, by multus.",
        )
    return places


def libvirt_command(machine: Machine, definition: pathlib.Path) -> str:
    """Return the shell command that hands the machine's ``definition`` to libvirt and starts it. It takes KVM."""
    return f"virsh define {shlex.quote(str(definition))} && virsh start {shlex.quote(machine.name)}"


def qemu_command(machine: Machine, *, program: str, accelerator: str, cpu: str) -> str:
    """Return the shell command that starts the machine with QEMU alone, its console on the terminal.

    The cards are on networks of QEMU's own, and UEFI's variables are forgotten at the end: it is for looking.

    Args:
        machine: what to start.
        program: QEMU.
        accelerator: ``kvm`` or ``tcg``, and ``cpu`` the model that goes with it: that ``/dev/kvm`` is there does not
            mean that it works.
        cpu: see ``accelerator``.
    """
    arguments = [program, "-machine", f"q35,accel={accelerator}", "-cpu", cpu, "-smp", str(machine.cpus)]
    arguments += ["-m", str(machine.memory_bytes // 1024**2)]
    if machine.firmware == "uefi":
        ovmf = installed_or_usual_ovmf()
        for path, option in ((ovmf.code, "readonly=on"), (ovmf.variables, "snapshot=on")):
            arguments += ["-drive", f"if=pflash,format=raw,{option},file={_qemu_quoted(path)}"]
    for index, (disk, order) in enumerate(zip(machine.disks, machine.boot_order, strict=True)):
        arguments += ["-drive", f"if=none,id=disk{index},format={disk.format},file={_qemu_quoted(disk.path)}"]
        size = f"logical_block_size={disk.logical_block_size},physical_block_size={disk.logical_block_size}"
        arguments += ["-device", f"virtio-blk-pci,drive=disk{index},bootindex={order},{size}"]
    for index, nic in enumerate(machine.nics):
        arguments += ["-netdev", f"user,id=nic{index}", "-device", f"virtio-net-pci,netdev=nic{index},mac={nic.mac}"]
    return shlex.join([*arguments, "-nographic"])


def _qemu_quoted(path: pathlib.Path) -> str:
    """QEMU's option parser ends a value at a comma; two stand for one."""
    return str(path).replace(",", ",,")
