# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Debian server as it ran on VMware: everything about its hardware is written down as ``/dev/sda`` and ``ens192``."""

from __future__ import annotations

import collections.abc as c
import pathlib
import uuid

from tests.guests import grub
from tests.guests.chroot import Chroot, entered
from tests.guests.disk import Slice, mounted
from tests.guests.host import BuildError, run
from tests.guests.specs import ROOT_PASSWORD, GuestSpec

#: What an initramfs needs on VMware: pvscsi, the LSI controllers, SATA, PIIX, the disk and network drivers.
VMWARE_MODULES = ("vmw_pvscsi", "mptspi", "mptsas", "ahci", "ata_piix", "sd_mod", "vmxnet3")
_FILESYSTEM_MODULES = {
    "ext4": ("ext4", "crc32c_generic", "crc32c_intel"),
    "xfs": ("xfs", "crc32c_generic", "crc32c_intel"),
    "btrfs": ("btrfs", "crc32c_generic", "crc32c_intel"),
}
_INTERFACES = "/etc/network/interfaces"


def fill(spec: GuestSpec, tarball: pathlib.Path, disk: pathlib.Path, slices: c.Sequence[Slice]) -> None:
    """Unpack the packages into the guest's filesystems and make a bootable server of them."""
    with mounted(disk, slices, disk.with_name("root")) as root:
        run(["tar", "--extract", "--file", tarball, "--directory", root, "--xattrs", "--xattrs-include=*"])
        with entered(root) as guest:
            _install_loader_package(guest, spec)
            _write_identity(guest, spec)
            write_fstab(guest, slices)
            _write_network(guest, spec)
            make_initramfs(guest, spec, VMWARE_MODULES + _FILESYSTEM_MODULES[spec.filesystem])
            write_grub_defaults(guest, spec)
            if spec.firmware == "uefi":
                grub.install_uefi(guest, disk, slices)
            else:
                grub.install_bios(guest, disk, slices)
            grub.configure(guest, spec, slices)


def make_initramfs(guest: Chroot, spec: GuestSpec, modules: c.Iterable[str]) -> None:
    """Let the guest's own initramfs-tools make the initramfs for VMware's hardware, and nothing else.

    ``MODULES=dep`` would look at the machine that builds: the image is made from the list, then the policy is set.
    """
    guest.write(
        "/etc/initramfs-tools/modules",
        "# List of modules that you want to include in your initramfs.\n"
        "# They will be loaded at boot time in the order below.\n" + "".join(f"{name}\n" for name in modules),
    )
    policy = "/etc/initramfs-tools/conf.d/driver-policy"
    guest.write(policy, "# Driver inclusion policy selected during installation\nMODULES=list\n")
    guest.write("/etc/initramfs-tools/conf.d/compress", f"COMPRESS={spec.initramfs_compression}\n")
    version = guest.only("boot/vmlinuz-*").name.removeprefix("vmlinuz-")
    # The root device is not to be seen here, so the hook for fsck is told what is on it.
    guest.run(["env", f"FSTYPE={spec.filesystem}", "update-initramfs", "-c", "-k", version])
    inside = guest.run(["lsinitramfs", f"/boot/initrd.img-{version}"])
    if "virtio" in inside or "vmw_pvscsi" not in inside:
        raise BuildError("the initramfs is not VMware's: it has virtio or lacks pvscsi")
    guest.write(policy, f"# Driver inclusion policy selected during installation\nMODULES={spec.initramfs_policy}\n")


def _install_loader_package(guest: Chroot, spec: GuestSpec) -> None:
    package = guest.only("var/cache/grub-efi-amd64_*.deb")
    if spec.firmware == "uefi":
        guest.run(["dpkg", "--purge", "grub-pc"])
        guest.run(["dpkg", "--install", f"/var/cache/{package.name}"])
    package.unlink()


def _write_identity(guest: Chroot, spec: GuestSpec) -> None:
    guest.write("/etc/hostname", f"{spec.hostname}\n")
    guest.write(
        "/etc/hosts",
        f"127.0.0.1\tlocalhost\n{spec.address.split('/')[0]}\t{spec.hostname}.example.com\t{spec.hostname}\n\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    )
    guest.write("/etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    guest.write("/etc/timezone", "Etc/UTC\n")
    guest.run(["sh", "-c", f"echo root:{ROOT_PASSWORD} | chpasswd"])
    guest.run(["systemctl", "enable", "open-vm-tools.service", "ssh.service", "getty@tty1.service"])
    # Without a route or LVM, all that these ever do is to take time from the guest's start.
    timers = ["apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "e2scrub_all.timer"]
    guest.run(["systemctl", "disable", "unattended-upgrades.service", "e2scrub_reap.service", *timers])


def write_fstab(guest: Chroot, slices: c.Sequence[Slice]) -> None:
    lines = [
        "# /etc/fstab: static file system information.",
        "# <file system> <mount point> <type> <options> <dump> <pass>",
    ]
    for part in sorted(slices, key=lambda part: part.mountpoint):
        if part.filesystem == "btrfs":
            lines.append(f"{part.device} / btrfs defaults,subvol=@ 0 0")
            lines.append(f"{part.device} /home btrfs defaults,subvol=@home 0 0")
            continue
        options, check = {
            "vfat": ("umask=0077", "0 1"),
            "swap": ("sw", "0 0"),
            "xfs": ("defaults", "0 0"),
            "ext4": ("errors=remount-ro" if part.mountpoint == "/" else "defaults", "0 1"),
        }[part.filesystem]
        lines.append(f"{part.device} {part.mountpoint} {part.filesystem} {options} {check}")
        if part.filesystem == "swap":
            guest.write("/etc/initramfs-tools/conf.d/resume", f"RESUME={part.device}\n")
    lines.append("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0")
    guest.write("/etc/fstab", "\n".join(lines) + "\n")
    for part in slices:
        if part.filesystem == "vfat":
            (guest.root / part.mountpoint.lstrip("/")).mkdir(parents=True, exist_ok=True)


def _write_network(guest: Chroot, spec: GuestSpec) -> None:
    guest.write("/etc/resolv.conf", f"search example.com\nnameserver {spec.gateway}\n")
    if spec.network_tool == "systemd-networkd":
        guest.write(_INTERFACES, "# Handled by systemd-networkd.\nauto lo\niface lo inet loopback\n")
        guest.write(
            "/etc/systemd/network/10-lan.network",
            f"[Match]\nName=ens192\n\n[Network]\nAddress={spec.address}\nGateway={spec.gateway}\nDNS={spec.gateway}\n",
        )
        guest.run(["systemctl", "enable", "systemd-networkd.service"])
        return
    guest.write(
        _INTERFACES,
        f"""# This file describes the network interfaces available on your system
# and how to activate them. For more information, see interfaces(5).

source /etc/network/interfaces.d/*

# The loopback network interface
auto lo
iface lo inet loopback

# The primary network interface
allow-hotplug ens192
iface ens192 inet static
\taddress {spec.address}
\tgateway {spec.gateway}
\tdns-nameservers {spec.gateway}
\tdns-search example.com
""",
    )


def write_grub_defaults(guest: Chroot, spec: GuestSpec) -> None:
    """Debian's own file, with device names instead of UUIDs and a text console, as many servers have it."""
    path = guest.root / "etc/default/grub"
    payload = "\nGRUB_GFXPAYLOAD_LINUX=text" if spec.firmware == "bios" else ""  # UEFI has no text mode
    text = path.read_text(encoding="utf-8")
    for old, new in {
        "GRUB_TIMEOUT=5": "GRUB_TIMEOUT=1",
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet"': 'GRUB_CMDLINE_LINUX_DEFAULT="quiet nomodeset"',
        "#GRUB_TERMINAL=console": f"GRUB_TERMINAL=console{payload}",
        "#GRUB_DISABLE_LINUX_UUID=true": "GRUB_DISABLE_LINUX_UUID=true",
    }.items():
        if old not in text:
            raise BuildError(f"/etc/default/grub has no line {old}")
        text = text.replace(old, new)
    guest.write("/etc/default/grub", text)
