# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests made of a few files in a folder, for tests of what is read from them and planned for them."""

from __future__ import annotations

import pathlib
import struct
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Filesystem, Nic, Partition
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import GuestFacts
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import FixRequest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.cpio import file, write_archive
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.inspection import inspect
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.planning import Plan, plan_fixes
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import MountedGuest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models

ROOT_UUID = "11111111-2222-4333-8444-555555555555"
SWAP_UUID = "66666666-7777-4888-8999-aaaaaaaaaaaa"
DATA_UUID = "bbbbbbbb-cccc-4ddd-8eee-ffffffffffff"
OLD_MAC = "00:50:56:ab:10:21"
NEW_MAC = "52:54:00:11:22:33"

GRUB_CFG = """\
### BEGIN /etc/grub.d/00_header ###
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
else
   set default="0"
fi
### BEGIN /etc/grub.d/10_linux ###
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {
\tset root='hd0,msdos1'
\tif [ x$feature_platform_search_hint = xy ]; then
\t  search --no-floppy --fs-uuid --set=root --hint-baremetal=ahci0,msdos1 11111111-2222-4333-8444-555555555555
\telse
\t  search --no-floppy --fs-uuid --set=root 11111111-2222-4333-8444-555555555555
\tfi
\tlinux\t/boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 ro  quiet resume=/dev/sda2
\tinitrd\t/boot/initrd.img-6.1.0-9-amd64
}
menuentry "Memory test" {
\tlinux16\t/boot/memtest86+.bin
}
"""


def efi_program(sections: dict[str, bytes] | None = None, *, signed: bool = False) -> bytes:
    """A program in the format of EFI, for x86-64, with these sections; signed by nobody in particular."""
    sections = sections or {".text": b"program"}
    headers = bytearray(b"MZ".ljust(0x3C, b"\0") + (0x40).to_bytes(4, "little") + b"PE\0\0")
    headers += struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    directories = bytearray(16 * 8)
    struct.pack_into("<II", directories, 4 * 8, 0x9999 * signed, 0x10 * signed)
    headers += struct.pack("<H", 0x20B).ljust(112, b"\0") + directories
    body, begin = b"", len(headers) + 40 * len(sections)
    for name, data in sections.items():
        # Raw sizes are multiples of the file's alignment.
        padded = data.ljust(-(-len(data) // 512) * 512, b"\0")
        headers += struct.pack("<8sIIII", name.encode(), len(data), 0, len(padded), begin + len(body)).ljust(40, b"\0")
        body += padded
    return bytes(headers) + body


def x86_kernel(version: str) -> bytes:
    """The begin of an x86 kernel whose header tells its version."""
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    image[0x300 : 0x300 + len(version) + 9] = f"{version} (x@y) #1".encode()[: len(version) + 9]
    return bytes(image)


def filesystem(number: int, fstype: str, uuid: str = "", disk: str = "disk0", **partition: t.Any) -> Filesystem:
    """A filesystem of 1 GiB at its number's place."""
    gib = 1024**3
    values: dict[str, t.Any] = {"partuuid": f"ff025a63-{number:02x}", "type_id": "83", **partition}
    return Filesystem(Partition(disk, number, number * gib, gib, **values), fstype, uuid)


ROOT = filesystem(1, "ext4", ROOT_UUID)
SWAP = filesystem(2, "swap", SWAP_UUID)
DATA = filesystem(1, "xfs", DATA_UUID, disk="disk1")
DISKS = (ROOT, SWAP, DATA)


class Phony:
    """A guest in a folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.filesystems: list[Filesystem] = list(DISKS)
        self.esp = ""
        folder.mkdir(exist_ok=True)

    def put(self, path: str, content: str | bytes = "", mode: int = 0o644) -> pathlib.Path:
        """Write a file of the guest."""
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)
        return file

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link in the guest."""
        link = self.folder / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def text(self, path: str) -> str:
        """Content of a file of the guest."""
        return (self.folder / path.lstrip("/")).read_text()

    def snapshot(self) -> dict[str, tuple[str, bytes, int]]:
        """Everything in the guest: kind, content or target, and mode by path."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = str(path.relative_to(self.folder))
            if path.is_symlink():
                found[name] = ("link", str(path.readlink()).encode(), 0)
            elif path.is_file():
                found[name] = ("file", path.read_bytes(), path.stat().st_mode)
            else:
                found[name] = ("other", b"", path.lstat().st_mode)
        return found

    def tree(self, *, writable: bool = True) -> GuestTree:
        """Its files."""
        return GuestTree(self.folder, writable=writable)

    def inspect(self) -> GuestFacts:
        """Its portrait."""
        with self.tree(writable=False) as tree:
            return inspect(MountedGuest(tree, self.filesystems[0], esp=self.esp), self.filesystems)

    def request(self, **spec: t.Any) -> FixRequest:
        """One network card with another address than on VMware, and what the test asks for."""
        return FixRequest(
            spec=models.GuestSpec(**spec), nics=(Nic(mac=NEW_MAC),), firmware="bios", source_nics=(Nic(mac=OLD_MAC),)
        )

    def plan(self, *only: str, request: FixRequest | None = None) -> Plan:
        """Plan some fixers, or all."""
        request = request or self.request(fixers={"only": list(only)})
        return plan_fixes(self.inspect(), self.tree(), request)

    def fix(self, *only: str, request: FixRequest | None = None) -> Plan:
        """Plan, apply, and make sure that doing it again plans nothing."""
        plan = self.plan(*only, request=request)
        with self.tree() as tree:
            plan.edits.apply(tree)
        again = self.plan(*only, request=request).edits.changes
        assert not again, f"a second conversion changes {again}"
        return plan


def debian(folder: pathlib.Path) -> Phony:
    """A server as it ran on VMware, whose kernel has virtio built in."""
    guest = Phony(folder)
    guest.put("/etc/os-release", 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    guest.put("/usr/lib/systemd/systemd", b"\x7fELF\x02\x01" + b"\0" * 12 + b"\x3e\0" + b"\0" * 40)
    guest.put("/usr/lib/systemd/libsystemd-shared-252.so")
    guest.put("/usr/lib/udev/rules.d/80-net-setup-link.rules")
    for name in ("bin", "sbin", "lib"):
        guest.link(f"/{name}", f"usr/{name}")
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
    guest.link("/sbin/init", "/lib/systemd/systemd")
    guest.put("/etc/hostname", "web01\n")
    guest.put(
        "/etc/hosts", "127.0.0.1\tlocalhost\n192.168.10.21\tweb01.example.com\tweb01\n192.168.10.9 web01-backup\n"
    )
    guest.put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444)
    guest.put("/etc/timezone", "Etc/UTC\n")
    guest.link("/etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    guest.put("/usr/share/zoneinfo/Etc/UTC", "TZif")
    guest.put("/usr/share/zoneinfo/Europe/Berlin", "TZif")
    guest.put(
        "/etc/fstab",
        "# device mount type\n/dev/sda1\t/ ext4 errors=remount-ro 0 1\n/dev/sda2 none swap sw 0 0\n"
        "/dev/sdb1 /srv/my\\040data xfs defaults 0 2\n/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0\n",
    )
    guest.put("/boot/grub/grub.cfg", GRUB_CFG)
    guest.put("/boot/grub/device.map", "(hd0)\t/dev/sda\n")
    guest.put(
        "/etc/default/grub",
        'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX=""\nGRUB_DISABLE_LINUX_UUID=true\n',
    )
    guest.put("/boot/vmlinuz-6.1.0-9-amd64", "kernel")
    guest.put("/boot/initrd.img-6.1.0-9-amd64", write_archive([file("init", b"#!/bin/sh")]))
    drivers = "".join(
        f"kernel/drivers/{name}.ko\n" for name in ("virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net")
    )
    guest.put("/usr/lib/modules/6.1.0-9-amd64/modules.builtin", drivers)
    guest.put("/usr/lib/modules/6.1.0-9-amd64/modules.dep")
    guest.put("/etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda2\n")
    guest.put(
        "/etc/network/interfaces",
        "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nallow-hotplug ens192\n"
        "iface ens192 inet static\n\taddress 192.168.10.21/24\n\tgateway 192.168.10.1\n",
    )
    guest.put("/usr/bin/vmtoolsd")
    guest.put("/usr/lib/systemd/system/open-vm-tools.service", "[Service]\n")
    guest.link(
        "/etc/systemd/system/multi-user.target.wants/open-vm-tools.service", "/lib/systemd/system/open-vm-tools.service"
    )
    guest.link("/etc/systemd/system/vmtoolsd.service", "/lib/systemd/system/open-vm-tools.service")
    guest.put("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000::/home/admin:/bin/bash\n")
    (folder / "root").mkdir()
    (folder / "home/admin").mkdir(parents=True)
    return guest
