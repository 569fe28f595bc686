# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drawing a guest's portrait from its files. Nothing of the guest is run, and nothing is changed."""

from __future__ import annotations

import dataclasses
import re
import typing as t

from ..disks.model import Filesystem, Firmware
from ..protocol.errors import ErrorClass, JobError
from . import efi, paths
from .bootloader import find_bootloader
from .devices import Devices, is_unstable
from .facts import GuestFacts, InitramfsTool, Kernel, Mount, Risk
from .fstab import parse
from .initramfs.survey import driver_places, unified_driver_places
from .kernels import find_kernels
from .netconfig import read_interfaces, shell_values
from .netlayers import network_tools, read_layers
from .reading import Reading
from .roots import ESP_TYPES, MountedGuest
from .tools import find_tools

# GPT: where GRUB's core image lies on a disk that boots by BIOS.
_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
# ELF e_machine (System V ABI, gabi 4.1 and its supplements).
_MACHINES = {
    0x3E: "x86_64",
    0x03: "i686",
    0xB7: "aarch64",
    0x28: "armv7l",
    0x15: "ppc64",
    0x16: "s390x",
    0xF3: "riscv64",
}
_PROGRAMS = ("/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/usr/bin/env", "/bin/busybox")
_INITRAMFS_TOOLS: tuple[tuple[InitramfsTool, tuple[str, ...]], ...] = (
    ("initramfs-tools", ("/usr/sbin/mkinitramfs",)),
    ("dracut", ("/usr/bin/dracut", "/sbin/dracut", "/usr/sbin/dracut")),
    ("mkinitcpio", ("/usr/bin/mkinitcpio",)),
    ("booster", ("/usr/bin/booster",)),
    ("mkinitfs", ("/sbin/mkinitfs", "/usr/sbin/mkinitfs")),
    ("make-initrd", ("/usr/sbin/make-initrd",)),
    ("mkinitrd", ("/sbin/mkinitrd",)),
)
_NO_DISK = re.compile(r"^(proc|sysfs|tmpfs|devpts|devtmpfs|none|nfs|cifs|overlay|cgroup.*|\S*:/\S*|//\S+)$")
_REMOVABLE = re.compile(r"^/dev/(sr\d+|scd\d+|cdrom\d*|dvd\d*|fd\d*|floppy\d*)$")


def inspect(guest: MountedGuest, filesystems: t.Sequence[Filesystem]) -> GuestFacts:
    """Return the portrait of a mounted guest.

    Args:
        guest: as :func:`.roots.mount_guest` gives it.
        filesystems: all that was found on its disks.

    Raises:
        JobError: a file that matters is none that an operating system would make.
    """
    tree = guest.tree
    facts = GuestFacts(root=guest.root, filesystems=tuple(filesystems))
    _identity(tree, facts)
    facts.arch = _architecture(tree)
    facts.init = _init(tree)
    facts.systemd_version = _systemd_version(tree)
    facts.mounts = _mounts(tree, Devices(tuple(filesystems)), guest.root)
    facts.bootloader = find_bootloader(tree)
    facts.kernels = tuple(_with_drivers(tree, k) for k in find_kernels(tree, facts.bootloader.entries))
    facts.initramfs_tool = next((n for n, found in _INITRAMFS_TOOLS if any(tree.exists(p) for p in found)), "")
    if guest.esp:
        fallback = efi.loaders(tree, efi.find(tree, guest.esp, "EFI", "BOOT"))
        facts.bootloader = dataclasses.replace(facts.bootloader, esp=guest.esp, fallback_loader=bool(fallback))
    facts.firmware = _firmware(tree, guest, filesystems)
    facts.layers = read_layers(tree)
    made = {layer.name for layer in facts.layers}
    facts.interfaces = tuple(card for card in read_interfaces(tree) if card.name not in made)
    facts.network_tools = network_tools(tree)
    facts.services = _services(tree)
    facts.tools = find_tools(tree)
    facts.selinux = _selinux(tree)
    facts.apparmor = bool(tree.names("/etc/apparmor.d"))
    facts.risks = tuple(
        Risk("Unmounted", warning, "Check that filesystem in the guest, if its data matter.")
        for warning in guest.warnings
    ) + tuple(_risks(tree, facts))
    return facts


def firmware_by_partitions(filesystems: t.Sequence[Filesystem]) -> Firmware | None:
    """Return how the disks of a guest boot whose files cannot be seen; None: both ways may work, or nothing tells."""
    types = {f.partition.type_id for f in filesystems}
    if not filesystems or "ef" in types or _BIOS_BOOT in types:
        return None
    return "uefi" if types & set(ESP_TYPES) else "bios"


def _identity(tree: Reading, facts: GuestFacts) -> None:
    release = shell_values(tree.text("/etc/os-release") or tree.text("/usr/lib/os-release"))
    facts.os_id = release.get("ID", "").lower()
    facts.os_like = tuple(release.get("ID_LIKE", "").lower().split())
    facts.version = release.get("VERSION_ID", "")
    facts.pretty_name = release.get("PRETTY_NAME", "") or release.get("NAME", "")
    if not release:
        for name, path in (
            ("debian", "/etc/debian_version"),
            ("rhel", "/etc/redhat-release"),
            ("suse", "/etc/SuSE-release"),
        ):
            line = tree.text(path).strip().split("\n")[0]
            if line:
                number = re.search(r"\d[\w.]*", line)
                facts.os_id, facts.version = name, number[0] if number else ""
                facts.pretty_name = line if name != "debian" else f"Debian {line}"
                break
    facts.pretty_name = facts.pretty_name or "an unknown Linux"
    facts.hostname = (tree.text("/etc/hostname").strip() or _old_hostname(tree)).split("\n")[0]
    facts.timezone = _timezone(tree)
    facts.machine_id = re.fullmatch(r"[0-9a-f]{32}", tree.text("/etc/machine-id").strip()) is not None


def _old_hostname(tree: Reading) -> str:
    return shell_values(tree.text("/etc/sysconfig/network")).get("HOSTNAME", "") or tree.text("/etc/HOSTNAME").strip()


def _timezone(tree: Reading) -> str:
    if tree.is_symlink("/etc/localtime"):
        dummy, found, zone = tree.readlink("/etc/localtime").partition("/zoneinfo/")
        if found:
            return zone
    return tree.text("/etc/timezone").strip()


def _architecture(tree: Reading) -> str:
    for program in _PROGRAMS:
        if tree.is_file(program):
            with open(tree.open_fd(program), "rb") as file:
                head = file.read(20)
            if head[:4] == b"\x7fELF" and len(head) == 20:
                machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
                return _MACHINES.get(machine, f"elf-{machine:#x}") + ("le" if machine == 0x15 and head[5] == 1 else "")
    return ""


def _init(tree: Reading) -> t.Literal["systemd", "sysvinit", "busybox", "openrc", ""]:
    if tree.exists("/usr/lib/systemd/systemd") or tree.exists("/lib/systemd/systemd"):
        return "systemd"
    if tree.exists("/sbin/openrc"):
        return "openrc"
    if paths.split(tree.resolve("/sbin/init"))[1] == "busybox":
        return "busybox"
    return "sysvinit" if tree.exists("/etc/inittab") or tree.is_dir("/etc/init.d") else ""


def _systemd_version(tree: Reading) -> int | None:
    for path in (
        tree.glob("/usr/lib*/systemd/libsystemd-shared-*.so")
        + tree.glob("/usr/lib/*/systemd/libsystemd-shared-*.so")
        + tree.glob("/lib/systemd/libsystemd-shared-*.so")
    ):
        match = re.search(r"shared-(\d+)", path)
        if match:
            return int(match[1])
    # Before 231 there is no such library; Debian's package database tells.
    match = re.search(r"(?m)^Package: systemd\n(?:[^\n]+\n)*?Version: (\d+)", tree.text("/var/lib/dpkg/status"))
    return int(match[1]) if match else None


def _mounts(tree: Reading, devices: Devices, root: Filesystem) -> tuple[Mount, ...]:
    return tuple(
        Mount(
            line.spec,
            line.mountpoint,
            line.type,
            line.options,
            root if line.mountpoint == "/" else devices.find(line.spec, line.type),
        )
        for line in parse(tree.text("/etc/fstab"))
    )


def _firmware(tree: Reading, guest: MountedGuest, filesystems: t.Sequence[Filesystem]) -> Firmware | None:
    """Return how the disks boot; None where they boot both ways, or nothing tells."""
    types = {f.partition.type_id for f in filesystems}
    if not types & set(ESP_TYPES):
        return "bios"
    uefi = bool(guest.esp) and bool(
        efi.vendors(tree, guest.esp) or efi.loaders(tree, efi.find(tree, guest.esp, "EFI", "BOOT"))
    )
    bios = any(tree.is_dir(f"/boot/{grub}/i386-pc") for grub in ("grub", "grub2"))
    if not guest.esp or uefi:
        return None if bios and (_BIOS_BOOT in types or "ef" in types) else "uefi"
    return "bios" if bios else "uefi"


def _services(tree: Reading) -> tuple[str, ...]:
    folder = "/etc/systemd/system"
    wanted = [n for n in tree.names(folder) if n.endswith(".wants") and not tree.is_symlink(f"{folder}/{n}")]
    units = {unit for name in wanted for unit in tree.names(f"{folder}/{name}")}
    if not tree.exists("/usr/lib/systemd/systemd") and not tree.exists("/lib/systemd/systemd"):
        units |= {paths.split(path)[1] for path in tree.glob("/etc/runlevels/*/*")}
        levels = [path for level in (2, 3, 4, 5) for path in tree.glob(f"/etc/rc{level}.d/S*")]
        units |= {re.sub(r"^S\d*", "", paths.split(path)[1]) for path in levels}
    return tuple(sorted(units))


def _selinux(tree: Reading) -> t.Literal["enforcing", "permissive", "disabled", ""]:
    mode = shell_values(tree.text("/etc/selinux/config")).get("SELINUX", "").lower()
    return mode if mode in ("enforcing", "permissive", "disabled") else ""  # type: ignore[return-value]


def _risks(tree: Reading, facts: GuestFacts) -> t.Iterator[Risk]:
    if not facts.kernels:
        yield Risk(
            "NoKernel",
            "No kernel was found in /boot or beside its modules.",
            "Check that the guest's /boot is on one of the job's disks.",
        )
    for kernel in facts.kernels:
        yield from _kernel_risks(kernel)
    if not facts.bootloader.kind:
        yield Risk(
            "NoBootloader",
            "No configuration of a boot loader was found (GRUB, extlinux or systemd-boot).",
            "The guest may be started by a kernel that its host gives it, which KVM guests do not get.",
        )
    for mount in facts.mounts:
        if mount.filesystem is None and not _elsewhere(mount) and "nofail" not in mount.options:
            yield Risk(
                "MissingFilesystem",
                f"fstab mounts {mount.spec} at {mount.mountpoint}, which is on none of the job's disks.",
                "List all disks of the VM in the job, or take the line out of the guest's fstab.",
            )
    for filesystem in facts.filesystems:
        if filesystem.type == "swsuspend":
            yield Risk(
                "Hibernated",
                f"The swap on {filesystem.place} holds a hibernated system; it cannot wake on new hardware.",
                "Start the VM where it runs now, shut it down properly and export it again.",
            )


def _with_drivers(tree: Reading, kernel: Kernel) -> Kernel:
    """Tell where the virtio drivers are; nowhere for an initramfs that cannot be read."""
    try:
        if kernel.unified:
            places = unified_driver_places(tree, kernel.version, kernel.path, kernel.modules)
        else:
            places = driver_places(tree, kernel.version, kernel.initramfs, kernel.modules)
    except JobError as error:
        if error.error_class is ErrorClass.ENVIRONMENT:
            raise
        return kernel
    return dataclasses.replace(kernel, drivers=places)


def _kernel_risks(kernel: Kernel) -> t.Iterator[Risk]:
    if not kernel.modules:
        yield Risk(
            "NoModules",
            f"The kernel {kernel.version} has no folder of modules.",
            "Remove the kernel in the guest, or install its modules.",
        )
    if not kernel.drivers:
        yield Risk(
            "InitramfsDamaged",
            f"The initramfs {kernel.initramfs} of kernel {kernel.version} cannot be read.",
            "Rebuild it in the guest with the guest's own tool.",
        )


def _elsewhere(mount: Mount) -> bool:
    """Whether a line of fstab is none that a disk of the job must have."""
    if "noauto" in mount.options.split(",") or _REMOVABLE.match(mount.spec) or _NO_DISK.match(mount.spec):
        return True
    volatile = mount.type in ("nfs", "nfs4", "cifs", "tmpfs", "proc", "sysfs", "devpts", "overlay", "glusterfs", "ceph")
    return (
        volatile
        or mount.spec.startswith(("/dev/mapper/", "/dev/md", "/dev/zd"))
        or not (is_unstable(mount.spec) or re.match(r"^(UUID|LABEL|PARTUUID|PARTLABEL)=|^/dev/disk/by-", mount.spec))
    )
