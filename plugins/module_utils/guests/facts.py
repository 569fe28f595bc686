# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest is: the portrait that inspection draws, and that fixers decide by. Plain data."""

from __future__ import annotations

import dataclasses
import typing as t

from ..disks.model import Filesystem, Firmware
from . import paths

BootloaderKind = t.Literal["grub2", "grub-legacy", "systemd-boot", "extlinux", "refind", "unified", ""]
InitramfsTool = t.Literal[
    "initramfs-tools", "dracut", "mkinitcpio", "mkinitrd", "make-initrd", "booster", "mkinitfs", ""
]
LayerKind = t.Literal["vlan", "bond", "bridge"]
DriverPlace = t.Literal["initramfs", "builtin", "module", "missing"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted: its image is there."""

    version: str
    """As ``uname -r`` would say; the name of its folder of modules."""
    path: str
    initramfs: str = ""
    """Empty: it has none."""
    modules: str = ""
    """Folder of its modules, ``/lib/modules/<version>``; empty: there is none."""
    default: bool = False
    """Whether the boot loader takes it when nobody chooses; as far as its configuration tells."""
    drivers: dict[str, DriverPlace] = dataclasses.field(default_factory=dict)
    """Where each of the virtio drivers is."""
    unified: bool = False
    """Whether kernel, initramfs and command line are one EFI program, which is not changed: it may be signed."""


@dataclasses.dataclass(frozen=True)
class BootEntry:
    """One entry of the boot loader's menu that starts a kernel."""

    title: str
    kernel: str
    """Its path in the guest; as the entry spells it where nothing is there."""
    initramfs: tuple[str, ...] = ()
    """Paths in the guest, in the order in which they are loaded; without those that are not there."""
    options: str = ""
    """The kernel's command line, as far as the entry gives it."""
    default: bool = False
    """Whether it is taken when nobody chooses."""


@dataclasses.dataclass(frozen=True)
class Bootloader:
    """What loads the kernel."""

    kind: BootloaderKind = ""
    """``unified``: the firmware, or systemd-boot without entries of its own, starts unified kernel images."""
    configs: tuple[str, ...] = ()
    """Its configuration files, as they are read at boot."""
    entries: tuple[BootEntry, ...] = ()
    """Its menu, in order."""
    esp: str = ""
    """Where the EFI system partition is in the guest's tree; empty: there is none."""
    fallback_loader: bool | None = None
    """UEFI: whether ``\\EFI\\BOOT`` holds a loader; None: not a UEFI guest, or its ESP cannot be read."""


@dataclasses.dataclass(frozen=True)
class Mount:
    """A line of the guest's fstab."""

    spec: str
    """First field as written: ``/dev/sda1``, ``UUID=…``."""
    mountpoint: str
    type: str
    options: str
    filesystem: Filesystem | None = None
    """What the first field means; None where it is no disk, or one that is not there."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """A network interface that the guest's configuration names, or matches by MAC."""

    name: str
    """Empty where it is matched by MAC alone."""
    source: str
    """The file that says so."""
    mac: str = ""
    """Lower case, colons; empty where the configuration gives none."""
    dhcp: bool = False
    addresses: tuple[str, ...] = ()
    """Static ones, with their prefix length where it is given."""


@dataclasses.dataclass(frozen=True)
class LayeredInterface:
    """A network interface that the guest makes on top of others."""

    name: str
    kind: LayerKind
    source: str
    """The file that says so."""
    below: tuple[str, ...] = ()
    """Names of the interfaces that it is made of, as far as the configuration tells."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """Software that binds the guest to its old hypervisor, or helps it on the new one."""

    name: str
    enabled: bool


@dataclasses.dataclass(frozen=True)
class Risk:
    """Something that may go wrong, and what to do about it."""

    reason: str
    """A CamelCase word that programs may test."""
    message: str
    suggestion: str = ""


@dataclasses.dataclass
class GuestFacts:
    """A guest's portrait."""

    os_id: str = ""
    """``ID`` of os-release, lower case."""
    os_like: tuple[str, ...] = ()
    version: str = ""
    pretty_name: str = ""
    arch: str = ""
    """``x86_64``, ``aarch64``, ``i686`` …"""
    hostname: str = ""
    timezone: str = ""
    machine_id: bool = False
    """Whether it has an identity of its own in /etc/machine-id."""
    firmware: Firmware | None = None
    """How its disks boot; None: they boot both ways."""
    init: t.Literal["systemd", "sysvinit", "busybox", "openrc", ""] = ""
    systemd_version: int | None = None
    root: Filesystem | None = None
    filesystems: tuple[Filesystem, ...] = ()
    mounts: tuple[Mount, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    bootloader: Bootloader = dataclasses.field(default_factory=Bootloader)
    initramfs_tool: InitramfsTool = ""
    interfaces: tuple[Interface, ...] = ()
    layers: tuple[LayeredInterface, ...] = ()
    """VLANs, bonds and bridges."""
    network_tools: tuple[str, ...] = ()
    """Programs for which there is network configuration: ``ifupdown``, ``netplan`` …"""
    services: tuple[str, ...] = ()
    """What is started at boot: systemd's units that are enabled, scripts of OpenRC's or of the run levels."""
    tools: tuple[Tool, ...] = ()
    selinux: t.Literal["enforcing", "permissive", "disabled", ""] = ""
    """Empty: the guest has no SELinux."""
    apparmor: bool = False
    """Whether the guest has profiles of AppArmor, which go by paths and need nothing."""
    risks: tuple[Risk, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """The risks as sentences."""
        return [paths.printable(f"{risk.message} {risk.suggestion}".strip()) for risk in self.risks]

    def to_document(self) -> dict[str, t.Any]:
        """Return the portrait as JSON-able data: camelCase names, sizes in bytes, no terminal escapes."""
        document = t.cast("dict[str, t.Any]", _plain(dataclasses.asdict(self)))
        document["warnings"] = self.warnings
        return document


def _plain(value: t.Any) -> t.Any:
    if isinstance(value, dict):
        return {_camel(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return paths.printable(value) if isinstance(value, str) else value


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.title() for part in rest)
