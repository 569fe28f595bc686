# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest small and quick enough for batches, and yet honest.

Debian's kernel with a few of its modules, an initramfs that initramfs-tools made, GRUB, udev: everything that decides
whether the machine boots on other hardware is the real thing. Only the userland is busybox instead of systemd.
"""

from __future__ import annotations

import collections.abc as c
import pathlib
import re
import shutil

from tests.guests import grub
from tests.guests.chroot import Chroot, entered
from tests.guests.debian import make_initramfs, write_fstab, write_grub_defaults
from tests.guests.disk import Slice, mounted
from tests.guests.host import run
from tests.guests.specs import ROOT_PASSWORD, GuestSpec

_VMWARE_MODULES = ("vmw_pvscsi", "mptspi", "ata_piix", "sd_mod", "vmxnet3", "ext4", "crc32c_generic", "crc32c_intel")
#: What lies in /lib/modules beside them, as on every Debian, and in no initramfs.
_VIRTIO_MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
)
#: Parts of the packages' tree that nothing here asks for.
_LEFT_OUT = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/i18n",
    "./usr/share/vim",
    "./usr/lib/python3*",
    "./usr/lib/git-core",
    "./usr/lib/udev/hwdb.*",
    "./usr/share/initramfs-tools/hooks/btrfs",
    "./usr/share/initramfs-tools/hooks/dmsetup",
    "./usr/share/initramfs-tools/hooks/keymap",
    "./usr/share/initramfs-tools/hooks/xfs",
    "./usr/share/initramfs-tools/scripts/local-premount/btrfs",
    "./usr/lib/modules/*/kernel/drivers/gpu",
    "./usr/lib/modules/*/kernel/drivers/media",
    "./usr/lib/modules/*/kernel/drivers/infiniband",
    "./usr/lib/modules/*/kernel/drivers/net/wireless",
    "./usr/lib/modules/*/kernel/sound",
)
_PROGRAMS = ("usr/bin/busybox", "usr/bin/udevadm", "usr/bin/kmod", "usr/sbin/ifup")
_KEPT = (
    "boot",
    "etc/debian_version",
    "etc/default/grub",
    "etc/fstab",
    "etc/group",
    "etc/grub.d",
    "etc/initramfs-tools",
    "etc/modprobe.d",
    "etc/nsswitch.conf",
    "etc/os-release",
    "etc/passwd",
    "etc/shadow",
    "etc/udev",
    "usr/lib/os-release",
    "usr/lib/systemd/network",
    "usr/lib/udev",
    "usr/sbin/mkinitramfs",
    "usr/sbin/update-initramfs",
    "usr/share/initramfs-tools",
)
_FOLDERS = ("dev", "proc", "run", "sys", "tmp", "root", "var/log", "var/lib", "usr/bin", "usr/sbin", "usr/lib64")

_INITTAB = """\
::sysinit:/etc/init.d/rcS
::respawn:/sbin/getty 38400 console linux
::ctrlaltdel:/sbin/reboot
::shutdown:/bin/umount -a -r
"""
_START = """\
#!/bin/sh
mount -o remount,rw /
mount -a
hostname -F /etc/hostname
/lib/systemd/systemd-udevd --daemon
for bus in pci virtio net block; do udevadm trigger --action=add --subsystem-match=$bus; done
udevadm settle
mkdir -p /run/network
ifup -a
ip -4 -o address show
"""
_INTERFACES = """\
auto lo
iface lo inet loopback

auto ens192
iface ens192 inet static
\taddress {address}
\tnetmask 255.255.255.0
\tgateway {gateway}
"""


def fill(spec: GuestSpec, tarball: pathlib.Path, disk: pathlib.Path, slices: c.Sequence[Slice]) -> None:
    """Make the guest from the packages of the big one, of which it gets what is named above."""
    tree = disk.with_name("tree")
    tree.mkdir()
    left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
    run(["tar", "--extract", "--file", tarball, "--directory", tree, *left_out])
    with mounted(disk, slices, disk.with_name("root")) as root:
        with entered(tree) as packages:
            write_fstab(packages, slices)
            write_grub_defaults(packages, spec)
            packages.run(["sh", "-c", f"echo root:{ROOT_PASSWORD} | chpasswd"])
            make_initramfs(packages, spec, _VMWARE_MODULES)
            grub.install_bios(packages, disk, slices)
            grub.configure(packages, spec, slices)
            _copy(packages, root)
        guest = Chroot(root)
        guest.run(["/usr/bin/busybox", "--install", "-s"])
        guest.run(["depmod", "-a", _version(guest)])
        guest.write("/etc/hostname", f"{spec.hostname}\n")
        guest.write("/etc/hosts", f"127.0.0.1\tlocalhost\n{spec.address.split('/')[0]}\t{spec.hostname}\n")
        guest.write("/etc/issue", "Debian GNU/Linux 12 \\n \\l\n\n")
        guest.write("/etc/inittab", _INITTAB)
        guest.write("/etc/init.d/rcS", _START, 0o755)
        interfaces = _INTERFACES.format(address=spec.address.split("/")[0], gateway=spec.gateway)
        guest.write("/etc/network/interfaces", interfaces)
        for hooks in ("if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d"):
            (root / "etc/network" / hooks).mkdir()
    shutil.rmtree(tree)


def remove_kernels(disk: pathlib.Path, slices: c.Sequence[Slice]) -> None:
    """Take kernels and initramfs images from /boot, as somebody does who frees space there once too often."""
    with mounted(disk, slices, disk.with_name("root")) as root:
        for pattern in ("vmlinuz*", "initrd.img*"):
            for path in (root / "boot").glob(pattern):
                path.unlink()


def _version(guest: Chroot) -> str:
    return guest.only("boot/vmlinuz-*").name.removeprefix("vmlinuz-")


def _copy(packages: Chroot, root: pathlib.Path) -> None:
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    libraries = packages.run(["ldd", *(f"/{name}" for name in _PROGRAMS)])
    needed = {match.lstrip("/") for match in re.findall(r"(/lib\S+)", libraries)}
    for name in (*_PROGRAMS, *(f"usr/{name}" for name in needed), *_KEPT, *_modules(packages)):
        source, target = packages.root / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy2(source, target, follow_symlinks=not name.startswith("etc/"))
    for link, program in {
        "usr/lib/systemd/systemd-udevd": "/bin/udevadm",
        "usr/sbin/modprobe": "/bin/kmod",
        "usr/sbin/depmod": "/bin/kmod",
        "usr/bin/lsmod": "/bin/kmod",
        "usr/sbin/ifdown": "ifup",
        "usr/sbin/ifquery": "ifup",
    }.items():
        (root / link).symlink_to(program)


def _modules(packages: Chroot) -> set[str]:
    """The files of the modules that the guest has, with all that they need, and the lists about the built-in ones."""
    version = _version(packages)
    names = _VMWARE_MODULES + _VIRTIO_MODULES
    shown = packages.run(["modprobe", "--all", "--show-depends", "--set-version", version, *names])
    files = {f"usr{path}" for path in re.findall(r"^insmod (/lib/modules/\S+)", shown, re.MULTILINE)}
    indexes = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
    return files | {f"usr/lib/modules/{version}/{name}" for name in indexes}
