# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine as a KubeVirt VirtualMachine (kubevirt.io/v1; https://kubevirt.io/api-reference/)."""

from __future__ import annotations

import re
import shlex
import typing as t

from .machine import Machine, MachineDisk

_MIB = 1024**2


def virtual_machine(machine: Machine) -> str:
    """Return the manifest as YAML, with comments that say how its disks get filled and how it is started.

    The machine is halted, so that nothing boots before its disks are there. Of a disk that is a block device there is a
    claim for a volume of mode Block, which whoever runs the cluster makes of that device. Where the job does not say
    where the cards are plugged in, the first is on the pod's network, of which a pod has one, and the others name
    NetworkAttachmentDefinitions. The comments list these.
    """
    import yaml

    spec: dict[str, t.Any] = {
        "domain": _domain(machine),
        "networks": [_network(machine, index) for index in range(len(machine.nics))],
        "volumes": [{"name": f"disk{index}", **_volume_source(machine, index)} for index in range(len(machine.disks))],
    }
    document = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": machine.name, "labels": {"app.kubernetes.io/managed-by": "hyper2kvm"}},
        "spec": {
            "runStrategy": "Halted",
            "template": {"metadata": {"labels": {"kubevirt.io/domain": machine.name}}, "spec": spec},
        },
    }
    claims = [_claim(machine, index) for index, disk in enumerate(machine.disks) if disk.is_device]
    text = "---\n".join(yaml.safe_dump(one, sort_keys=False, default_flow_style=False) for one in [*claims, document])
    return "".join(f"# {line}".rstrip() + "\n" for line in _how_to(machine)) + text


def _how_to(machine: Machine) -> list[str]:
    lines = _filling(machine)
    lines += ["", "Then apply this file and start the machine:", "", f"  virtctl start {machine.name}"]
    for index in range(len(machine.nics)):
        if attachment(machine, index) is None:
            lines += [
                "",
                f"nic{index} is masqueraded: the guest is reached at the pod's address, and must take its own",
                "(10.0.2.2) by DHCP. For an address that is fixed inside the guest, give it a bridge and a multus",
                "network instead (guest.network.map of the job).",
            ]
    named = (attachment(machine, index) for index in range(len(machine.nics)))
    attachments = list(dict.fromkeys(name for name in named if name is not None))
    if attachments:
        lines += ["", "NetworkAttachmentDefinitions that must exist in that namespace: " + ", ".join(attachments) + "."]
    return lines


def _filling(machine: Machine) -> list[str]:
    if any(disk.is_device for disk in machine.disks):
        return [
            "The disks lie on block devices of the host that converted them, and need not be copied. Make of each a",
            "PersistentVolume of volumeMode Block (a local volume of that host, or its LUN) with the claim",
            "named here as its claimRef:",
            "",
            *(f"  {_volume(machine, index)}: {disk.path}" for index, disk in enumerate(machine.disks)),
        ]
    lines = [
        "The disks are DataVolumes of the Containerized Data Importer. Fill them once, in the machine's namespace and",
        "from the folder of this file:",
        "",
    ]
    for index, disk in enumerate(machine.disks):
        upload = ["virtctl", "image-upload", "dv", _volume(machine, index)]
        upload += [f"--size={_size(disk)}", f"--image-path={disk.path.name}"]
        lines.append(f"  {shlex.join(upload)}")
    return lines


def _domain(machine: Machine) -> dict[str, t.Any]:
    features: dict[str, t.Any] = {"acpi": {"enabled": True}}
    bootloader: dict[str, t.Any] = {"bios": {}}
    if machine.firmware == "uefi":
        bootloader = {"efi": {"secureBoot": machine.secure_boot}}
    if machine.secure_boot:
        features["smm"] = {"enabled": True}
    return {
        "machine": {"type": "q35"},
        "cpu": {"cores": machine.cpus, "model": "host-model"},
        "memory": {"guest": f"{-(-machine.memory_bytes // _MIB)}Mi"},
        "firmware": {"bootloader": bootloader},
        "features": features,
        "devices": {
            "autoattachSerialConsole": True,
            "rng": {},
            "disks": [_disk(machine, index) for index in range(len(machine.disks))],
            "interfaces": [
                {
                    "name": f"nic{index}",
                    "model": "virtio",
                    "macAddress": nic.mac,
                    **({"masquerade": {}} if attachment(machine, index) is None else {"bridge": {}}),
                }
                for index, nic in enumerate(machine.nics)
            ],
        },
    }


def _disk(machine: Machine, index: int) -> dict[str, t.Any]:
    disk, order = machine.disks[index], machine.boot_order[index] + 1
    element: dict[str, t.Any] = {"name": f"disk{index}", "bootOrder": order, "disk": {"bus": "virtio"}}
    if disk.logical_block_size != 512:
        size = disk.logical_block_size
        element["blockSize"] = {"custom": {"logical": size, "physical": size}}
    return element


def _network(machine: Machine, index: int) -> dict[str, t.Any]:
    name = attachment(machine, index)
    return {"name": f"nic{index}", **({"pod": {}} if name is None else {"multus": {"networkName": name}})}


def attachment(machine: Machine, index: int) -> str | None:
    """Return the NetworkAttachmentDefinition of card ``index``; None: it is on the pod's network.

    What the job says; else the pod's network for the first card, and the source's network as a Kubernetes name.
    """
    place = machine.places[index]
    if place is not None and (place.multus or place.pod):
        return place.multus
    if index == 0 and not any(other is not None and other.pod for other in machine.places):
        return None
    slug = re.sub(r"[^a-z0-9]+", "-", machine.nics[index].network.lower()).strip("-")
    return slug[:63].strip("-") or f"nic{index}"


def _volume(machine: Machine, index: int) -> str:
    return f"{machine.name}-disk{index}"


def _volume_source(machine: Machine, index: int) -> dict[str, t.Any]:
    name = _volume(machine, index)
    if machine.disks[index].is_device:
        return {"persistentVolumeClaim": {"claimName": name}}
    return {"dataVolume": {"name": name}}


def _claim(machine: Machine, index: int) -> dict[str, t.Any]:
    """The claim for a device. Its class is empty: it gets the volume that somebody makes for it, not a new one."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": _volume(machine, index)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "volumeMode": "Block",
            "storageClassName": "",
            "resources": {"requests": {"storage": _size(machine.disks[index])}},
        },
    }


def _size(disk: MachineDisk) -> str:
    return f"{-(-disk.virtual_size // _MIB)}Mi"
