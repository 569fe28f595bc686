# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of the families that cannot be had here, as their installers lay them out on VMware.

Each has the files that fixers look at, under their true names and in their true formats: configuration, a tree of
modules, an initramfs as the family's tool builds it. They are verified in what is read and changed; they do not boot.
"""

from __future__ import annotations

import collections.abc as c
import gzip
import lzma
import pathlib
import subprocess
import tempfile

from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import cpio

from tests.unit.plugins.module_utils.guests.phony import (
    DATA,
    OLD_MAC,
    ROOT,
    SWAP,
    Phony,
    efi_program,
    filesystem,
    x86_kernel,
)

ESP = filesystem(5, "vfat", "AAAA-BBBB", type_id="c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
RPM_DATABASE = "/usr/lib/sysimage/rpm"
MACHINE = "0123456789abcdef0123456789abcdef"
PSEUDO_ELF = b"\x7fELF\x02\x01" + b"\0" * 12 + b"\x3e\0" + b"\0" * 40
PACKERS: dict[str, c.Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    ".zst": lambda data: subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout,
}
_MODULES = {
    "virtio": ("drivers/virtio/virtio", ()),
    "virtio_ring": ("drivers/virtio/virtio_ring", ("virtio",)),
    "virtio_pci": ("drivers/virtio/virtio_pci", ("virtio_ring", "virtio")),
    "virtio_blk": ("drivers/block/virtio_blk", ("virtio_ring", "virtio")),
    "virtio_scsi": ("drivers/scsi/virtio_scsi", ("virtio_ring", "virtio")),
    "virtio_net": ("drivers/net/virtio_net", ("virtio_ring", "virtio")),
    "sd_mod": ("drivers/scsi/sd_mod", ()),
    "vmw_pvscsi": ("drivers/scsi/vmw_pvscsi", ()),
}


def modules(guest: Phony, version: str, packing: str = "", top: str = "/usr/lib/modules") -> None:
    """A kernel's modules, each packed as the family packs them, with their indexes."""
    paths = {name: f"kernel/{path}.ko{packing}" for name, (path, dummy) in _MODULES.items()}
    for name, path in paths.items():
        guest.put(f"{top}/{version}/{path}", PACKERS[packing](f"module {name}".encode()))
    needs = {name: " ".join(paths[other] for other in needed) for name, (dummy, needed) in _MODULES.items()}
    guest.put(f"{top}/{version}/modules.dep", "".join(f"{paths[n]}: {needs[n]}\n" for n in paths))
    guest.put(f"{top}/{version}/modules.alias", "".join(f"alias bus:{name}* {name}\n" for name in paths))
    guest.put(f"{top}/{version}/modules.builtin", "kernel/drivers/ata/libata.ko\n")


def archive(version: str, files: dict[str, bytes], links: dict[str, str] | None = None, packing: str = "") -> bytes:
    """An initramfs for VMware: its SCSI driver with an index, and the tool's own files."""
    own = {
        f"usr/lib/modules/{version}/kernel/drivers/scsi/vmw_pvscsi.ko{packing}": b"old",
        f"usr/lib/modules/{version}/modules.dep": f"kernel/drivers/scsi/vmw_pvscsi.ko{packing}:\n".encode(),
        **files,
    }
    folders: dict[str, None] = {}
    for name in [*own, *(links or {})]:
        for parent in reversed(pathlib.PurePosixPath(name).parents):
            folders[str(parent)] = None
    entries = [cpio.directory(name) for name in folders if name != "."]
    entries += [cpio.file(name, data, 0o755 if name == "init" else 0o644) for name, data in own.items()]
    entries += [cpio.symlink(name, target) for name, target in (links or {}).items()]
    return cpio.write_archive(entries)


UDEV = {"usr/lib/systemd/systemd-udevd": PSEUDO_ELF}
MICROCODE = cpio.write_archive([cpio.directory("kernel"), cpio.file("kernel/x86.bin", b"microcode")])
HOOKS = "var/lib/dracut/hooks/initqueue/finished"


def dracut(version: str, packing: str = ".xz") -> bytes:
    """dracut's hostonly: microcode in front, waits for the host's devices, knows its root by a name of VMware's."""
    files = {
        **UDEV,
        "init": b"#!/bin/sh\n",
        "etc/cmdline.d/95root-dev.conf": b"root=/dev/sda1 rootfstype=xfs rootflags=rw\n",
        "etc/lvm/devices/system.devices": b"IDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2 PVID=x\n",
        f"{HOOKS}/devexists-a.sh": b'[ -e "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part1" ]\n',
    }
    return MICROCODE + gzip.compress(archive(version, files, packing=packing))


def system(folder: pathlib.Path, release: str, *, merged: bool = True) -> Phony:
    """What every one of them has."""
    guest = Phony(folder)
    guest.put("/etc/os-release", release)
    for name in ("bin", "sbin", "lib") if merged else ():
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        guest.link(f"/{name}", f"usr/{name}")
    guest.put("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n")
    guest.put("/etc/hostname", "app01\n")
    guest.put("/etc/machine-id", f"{MACHINE}\n")
    guest.put("/usr/bin/env", PSEUDO_ELF)
    return guest


def systemd(guest: Phony, version: int) -> None:
    """systemd of that version."""
    guest.put("/usr/lib/systemd/systemd", PSEUDO_ELF)
    guest.put(f"/usr/lib/systemd/libsystemd-shared-{version}.so")
    guest.put("/usr/lib/udev/rules.d/80-net-setup-link.rules")


VMWARE_FILES = ["/usr/bin/vmtoolsd", "/usr/lib/systemd/system/vmtoolsd.service"]


def open_vm_tools(guest: Phony, unit: str) -> None:
    """VMware's tools as a package, enabled."""
    guest.put("/usr/bin/vmtoolsd")
    guest.put(f"/usr/lib/systemd/system/{unit}", "[Service]\n")
    guest.link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")


def rpm(guest: Phony, *arguments: str) -> str:
    """What ``rpm`` says of the guest's packages; its database is SQLite's, as in RHEL 9 and Photon 5."""
    command = ["rpm", "--force-debian", "--root", str(guest.folder), "--define", "_db_backend sqlite"]
    # SUSE's format (ndb) is left out of Debian's rpm.
    done = subprocess.run([*command, "--dbpath", RPM_DATABASE, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def rpm_packages(guest: Phony, packages: dict[str, list[str]]) -> None:
    """A real RPM database that says of these packages that the guest's files are theirs, as they are."""
    with tempfile.TemporaryDirectory() as place:
        for name, files in packages.items():
            spec = pathlib.Path(place, f"{name}.spec")
            copies = "".join(f"install -Dp {guest.folder}{file} %{{buildroot}}{file}\n" for file in files)
            spec.write_text(
                f"Name: {name}\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\n"
                f"%install\n{copies}%files\n" + "".join(f"%attr(644, -, -) {file}\n" for file in files)
            )
            for file in files:
                (guest.folder / file.lstrip("/")).chmod(0o644)
            where = {"_topdir": place, "_rpmdir": place, "__os_install_post": "%{nil}"}
            define = [word for key, value in where.items() for word in ("--define", f"{key} {value}")]
            subprocess.run(["rpmbuild", "-bb", "--quiet", *define, spec], capture_output=True, check=True)
        said = rpm(guest, "--justdb", "--nodeps", "-i", *map(str, pathlib.Path(place, "noarch").iterdir()))
    assert rpm(guest, "-qa", "--qf", "%{name} ").split() == sorted(packages), said


def rhel(folder: pathlib.Path) -> Phony:
    """RHEL 9 and its kin: UEFI with shim, BLS entries, dracut, keyfiles, SELinux, LVM's list of devices."""
    guest = system(
        folder, 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="Rocky Linux 9.4"\n'
    )
    systemd(guest, 252)
    guest.esp = "/boot/efi"
    guest.filesystems = [filesystem(1, "xfs", ROOT.uuid), SWAP, ESP]
    guest.put("/usr/bin/dracut")
    guest.put(
        "/etc/fstab",
        "/dev/sda1 / xfs defaults 0 0\nUUID=AAAA-BBBB /boot/efi vfat umask=0077 0 2\n"
        "/dev/sda2 none swap defaults 0 0\n",
    )
    guest.put("/etc/kernel/cmdline", "root=/dev/sda1 ro crashkernel=1G rhgb quiet\n")
    guest.put(
        "/etc/default/grub",
        'GRUB_DEFAULT=saved\nGRUB_CMDLINE_LINUX="resume=/dev/sda2 rhgb quiet"\nGRUB_ENABLE_BLSCFG=true\n',
    )
    guest.put(
        "/boot/efi/EFI/rocky/grub.cfg",
        f"search --no-floppy --fs-uuid --set=dev {ROOT.uuid}\nset prefix=($dev)/boot/grub2\n"
        "export $prefix\nconfigfile $prefix/grub.cfg\n",
    )
    for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi"):
        guest.put(f"/boot/efi/EFI/rocky/{name}", efi_program({".text": name.encode() + b" /EFI/rocky"}, signed=True))
    guest.put("/boot/grub2/grub.cfg", 'set default="${saved_entry}"\ninsmod blscfg\nblscfg\n')
    environment = f"# GRUB Environment Block\nsaved_entry={MACHINE}-5.14.0-427.el9.x86_64\n"
    guest.put("/boot/grub2/grubenv", environment + "#" * (1024 - len(environment)))
    for version in ("5.14.0-427.el9.x86_64", "5.14.0-362.el9.x86_64"):
        guest.put(f"/boot/vmlinuz-{version}", x86_kernel(version))
        guest.put(f"/boot/initramfs-{version}.img", dracut(version))
        guest.put(f"/boot/initramfs-{version}kdump.img", b"left alone")
        modules(guest, version, ".xz")
        guest.put(
            f"/boot/loader/entries/{MACHINE}-{version}.conf",
            f"title Rocky Linux ({version})\nversion {version}\nlinux /boot/vmlinuz-{version}\n"
            f"initrd /boot/initramfs-{version}.img\n"
            "options root=/dev/sda1 ro crashkernel=1G resume=/dev/sda2 rhgb quiet $tuned_params\n"
            "grub_users $grub_users\n",
        )
    guest.put(
        "/etc/NetworkManager/system-connections/ens192.nmconnection",
        "[connection]\nid=ens192\ntype=ethernet\ninterface-name=ens192\n[ipv4]\n"
        "address1=10.0.0.9/24,10.0.0.1\nmethod=manual\n",
        0o600,
    )
    guest.put("/etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=naa.6000c29 DEVNAME=/dev/sda2 PVID=x\n")
    guest.put("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")
    guest.put("/etc/selinux/targeted/contexts/files/file_contexts", "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n")
    (folder / "etc/dracut.conf.d").mkdir(parents=True)
    open_vm_tools(guest, "vmtoolsd.service")
    rpm_packages(guest, {"kernel-core": ["/boot/vmlinuz-5.14.0-427.el9.x86_64"], "open-vm-tools": VMWARE_FILES})
    return guest


def suse(folder: pathlib.Path) -> Phony:
    """SLES 15: BIOS, btrfs with subvolumes, GRUB 2, dracut, wicked."""
    guest = system(
        folder, 'ID="sles"\nID_LIKE="suse"\nVERSION_ID="15.6"\nPRETTY_NAME="SUSE Linux Enterprise Server 15 SP6"\n'
    )
    systemd(guest, 254)
    guest.filesystems = [filesystem(1, "btrfs", ROOT.uuid), SWAP]
    guest.put("/usr/bin/dracut")
    by_path = "/dev/disk/by-path/pci-0000:03:00.0-scsi-0:0:0:0-part"
    guest.put(
        "/etc/fstab",
        f"{by_path}1 / btrfs defaults 0 0\n{by_path}1 /home btrfs subvol=/@/home 0 0\n"
        f"{by_path}2 swap swap defaults 0 0\n",
    )
    version = "6.4.0-150600.21-default"
    guest.put(f"/boot/vmlinuz-{version}", x86_kernel(version))
    guest.link("/boot/vmlinuz", f"vmlinuz-{version}")
    guest.put(f"/boot/initrd-{version}", dracut(version, ".zst"))
    guest.link("/boot/initrd", f"initrd-{version}")
    modules(guest, version, ".zst")
    guest.put(
        "/boot/grub2/grub.cfg",
        f'set default="${{saved_entry}}"\n'
        f"menuentry 'SLES 15-SP6' --class sles $menuentry_id_option 'gnulinux-simple' {{\n"
        f"\tsearch --no-floppy --fs-uuid --set=root {ROOT.uuid}\n"
        f"\tlinux\t/boot/vmlinuz-{version} root={by_path}1  ${{extra_cmdline}} splash=silent "
        f"resume={by_path}2 quiet\n"
        f"\tinitrd\t/boot/initrd-{version}\n}}\n",
    )
    guest.put("/boot/grub2/i386-pc/normal.mod")
    guest.put("/boot/grub2/device.map", "(hd0)\t/dev/disk/by-id/scsi-36000c29\n")
    guest.put(
        "/etc/default/grub",
        f'GRUB_CMDLINE_LINUX_DEFAULT="splash=silent resume={by_path}2 quiet"\nGRUB_CMDLINE_LINUX=""\n',
    )
    guest.put("/etc/sysconfig/network/ifcfg-eth0", "BOOTPROTO='static'\nIPADDR='10.0.0.9/24'\nSTARTMODE='auto'\n")
    (folder / "etc/dracut.conf.d").mkdir(parents=True)
    guest.put(
        "/etc/udev/rules.d/70-persistent-net.rules",
        f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{OLD_MAC}", '
        f'ATTR{{type}}=="1", NAME="eth0"\n',
    )
    open_vm_tools(guest, "vmtoolsd.service")
    rpm_packages(guest, {"kernel-default": [f"/boot/vmlinuz-{version}"], "open-vm-tools": VMWARE_FILES})
    return guest


def ubuntu(folder: pathlib.Path) -> Phony:
    """Ubuntu 24.04 of a cloud template: netplan, cloud-init, initramfs-tools, snaps left alone."""
    guest = system(folder, 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n')
    systemd(guest, 255)
    guest.put("/usr/sbin/mkinitramfs")
    guest.put("/etc/initramfs-tools/initramfs.conf", "MODULES=dep\nCOMPRESS=zstd\n")
    guest.put(
        "/etc/fstab",
        f"/dev/disk/by-uuid/{ROOT.uuid} / ext4 defaults 0 1\n"
        f"/dev/disk/by-uuid/{DATA.uuid} /data xfs nofail 0 2\n/swap.img none swap sw 0 0\n",
    )
    version = "6.8.0-45-generic"
    guest.put(f"/boot/vmlinuz-{version}", x86_kernel(version))
    files = {**UDEV, "init": b"#!/bin/sh\n", "scripts/functions": b"", "conf/conf.d/resume": b"RESUME=none\n"}
    packed = PACKERS[".zst"](archive(version, files, {"lib": "usr/lib"}, packing=".zst"))
    guest.put(f"/boot/initrd.img-{version}", MICROCODE + packed)
    modules(guest, version, ".zst")
    guest.put(
        "/boot/grub/grub.cfg",
        f"set default=\"0\"\nmenuentry 'Ubuntu' $menuentry_id_option 'gnulinux-simple' {{\n"
        f"\tsearch --no-floppy --fs-uuid --set=root {ROOT.uuid}\n"
        f"\tlinux\t/boot/vmlinuz-{version} root=UUID={ROOT.uuid} ro  \n\tinitrd\t/boot/initrd.img-{version}\n}}\n",
    )
    guest.put("/etc/default/grub", 'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX=""\n')
    guest.put(
        "/etc/netplan/50-cloud-init.yaml",
        f"network:\n  version: 2\n  ethernets:\n    ens192:\n      match: {{macaddress: '{OLD_MAC}'}}\n"
        "      set-name: ens192\n      addresses: [10.0.0.9/24]\n",
        0o600,
    )
    guest.put("/usr/bin/cloud-init")
    guest.put("/usr/lib/cloud-init/ds-identify")
    guest.put("/etc/cloud/cloud.cfg", "preserve_hostname: false\n")
    guest.put("/etc/cloud/cloud.cfg.d/99-installer.cfg", "datasource_list: [VMware, None]\n")
    guest.put("/var/lib/snapd/snaps/core.snap", b"hsqs")
    open_vm_tools(guest, "open-vm-tools.service")
    return guest


def arch(folder: pathlib.Path) -> Phony:
    """Arch: UEFI with systemd-boot, the ESP at /boot, mkinitcpio with a fallback image, networkd."""
    guest = system(folder, 'ID=arch\nPRETTY_NAME="Arch Linux"\nBUILD_ID=rolling\n')
    systemd(guest, 256)
    guest.esp = "/boot"
    guest.filesystems = [ROOT, SWAP, ESP]
    guest.put("/usr/bin/mkinitcpio")
    guest.put("/etc/mkinitcpio.conf", "MODULES=()\nHOOKS=(base udev autodetect modconf block filesystems)\n")
    guest.put("/etc/mkinitcpio.conf.d/local.conf", "COMPRESSION=zstd\n")
    guest.put("/etc/fstab", f"UUID={ROOT.uuid} / ext4 rw 0 1\nUUID=AAAA-BBBB /boot vfat rw 0 2\n")
    version = "6.11.3-arch1-1"
    modules(guest, version, ".zst")
    guest.put(f"/usr/lib/modules/{version}/pkgbase", "linux\n")
    guest.put(f"/usr/lib/modules/{version}/vmlinuz", x86_kernel(version))
    guest.put("/boot/vmlinuz-linux", x86_kernel(version))
    files = {"usr/bin/systemd-udevd": PSEUDO_ELF, "init": b"#!/usr/bin/ash\n", "hooks/udev": b""}
    for name in ("initramfs-linux.img", "initramfs-linux-fallback.img"):
        guest.put(f"/boot/{name}", PACKERS[".zst"](archive(version, files, {"lib": "usr/lib"}, packing=".zst")))
    guest.put("/boot/intel-ucode.img", MICROCODE)
    guest.put("/boot/loader/loader.conf", "default arch.conf\ntimeout 3\n")
    for name, image in (("arch", "initramfs-linux.img"), ("arch-fallback", "initramfs-linux-fallback.img")):
        guest.put(
            f"/boot/loader/entries/{name}.conf",
            f"title Arch Linux\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /{image}\n"
            "options root=/dev/sda1 rw\n",
        )
    guest.put("/boot/EFI/systemd/systemd-bootx64.efi", efi_program({".sdmagic": b"#### LoaderInfo: systemd-boot"}))
    guest.put("/etc/systemd/network/20-wired.network", "[Match]\nName=ens33\n[Network]\nDHCP=yes\n")
    open_vm_tools(guest, "vmtoolsd.service")
    return guest


def alpine(folder: pathlib.Path) -> Phony:
    """Alpine: BIOS with extlinux, mkinitfs, OpenRC, ifupdown, no udev."""
    guest = system(folder, 'ID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME="Alpine Linux v3.20"\n', merged=False)
    guest.put("/bin/busybox", PSEUDO_ELF)
    guest.link("/sbin/init", "/bin/busybox")
    guest.put("/sbin/openrc")
    guest.put("/sbin/mkinitfs")
    guest.put("/sbin/getty")
    guest.put("/etc/mkinitfs/mkinitfs.conf", 'features="ata base cdrom ext4 keymap kms mmc nvme raid scsi usb"\n')
    guest.put(
        "/etc/fstab",
        "/dev/sda1\t/\text4\trw,relatime 0 1\n/dev/sda2\tswap\tswap\tdefaults\t0 0\n"
        "/dev/cdrom\t/media/cdrom\tiso9660\tnoauto,ro 0 0\n",
    )
    guest.put(
        "/etc/inittab",
        "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n"
        "#ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n",
    )
    guest.put("/etc/securetty", "console\ntty1\n")
    version = "6.6.54-0-lts"
    modules(guest, version, ".gz", "/lib/modules")
    guest.put("/boot/vmlinuz-lts", x86_kernel(version))
    files = {"sbin/nlplug-findfs": PSEUDO_ELF, "init": b"#!/bin/sh\nnlplug-findfs\n"}
    guest.put("/boot/initramfs-lts", gzip.compress(archive(version, files, {"lib": "usr/lib"}, packing=".gz")))
    guest.put(
        "/boot/extlinux.conf",
        "DEFAULT menu.c32\nPROMPT 0\nLABEL lts\n  MENU DEFAULT\n  LINUX vmlinuz-lts\n"
        "  INITRD initramfs-lts\n  APPEND root=/dev/sda1 modules=sd-mod,ext4 quiet rootfstype=ext4\n",
    )
    guest.put("/etc/update-extlinux.conf", 'default_kernel_opts="quiet rootfstype=ext4"\nroot=/dev/sda1\n')
    guest.put(
        "/etc/network/interfaces",
        "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n\taddress 10.0.0.9/24\n",
    )
    guest.put("/usr/bin/vmtoolsd")
    guest.put("/etc/init.d/open-vm-tools", "#!/sbin/openrc-run\n")
    guest.link("/etc/runlevels/boot/open-vm-tools", "/etc/init.d/open-vm-tools")
    guest.link("/etc/runlevels/default/sshd", "/etc/init.d/sshd")
    return guest


def photon(folder: pathlib.Path) -> Phony:
    """Photon 5: GRUB with variables of its own, dracut, networkd by the driver's name, SELinux permissive."""
    guest = system(folder, 'ID=photon\nVERSION_ID=5.0\nPRETTY_NAME="VMware Photon OS/Linux"\n')
    systemd(guest, 253)
    guest.put("/usr/bin/dracut")
    guest.put("/etc/fstab", "/dev/sda1\t/\text4\tdefaults\t1\t1\n")
    version = "6.1.109-1.ph5"
    modules(guest, version, ".xz")
    guest.put(f"/boot/vmlinuz-{version}", x86_kernel(version))
    guest.put(f"/boot/initrd.img-{version}", dracut(version))
    guest.put(
        f"/boot/linux-{version}.cfg",
        f"photon_cmdline=init=/lib/systemd/systemd ro loglevel=3 quiet\nphoton_linux=vmlinuz-{version}\n"
        f"photon_initrd=initrd.img-{version}\n",
    )
    guest.link("/boot/photon.cfg", f"linux-{version}.cfg")
    guest.put("/boot/systemd.cfg", "systemd_cmdline=net.ifnames=0\n")
    guest.put(
        "/boot/grub2/grub.cfg",
        f"set default=0\nset timeout=5\nsearch -n -u {ROOT.uuid} -s\nload_env -f /boot/photon.cfg\n"
        "if [ -f  /boot/systemd.cfg ]; then\n    load_env -f /boot/systemd.cfg\nfi\n"
        'set rootpartition=/dev/sda1\nmenuentry "Photon" {\n'
        "    linux /boot/$photon_linux root=$rootpartition $photon_cmdline $systemd_cmdline\n"
        "    if [ -f /boot/$photon_initrd ]; then\n        initrd /boot/$photon_initrd\n    fi\n}\n",
    )
    guest.put("/etc/systemd/network/99-dhcp-en.network", "[Match]\nName=e*\nDriver=vmxnet3\n[Network]\nDHCP=yes\n")
    (folder / "etc/dracut.conf.d").mkdir(parents=True)
    open_vm_tools(guest, "vmtoolsd.service")
    rpm_packages(guest, {"linux": [f"/boot/vmlinuz-{version}"], "open-vm-tools": VMWARE_FILES})
    return guest


LAYOUTS: dict[str, c.Callable[[pathlib.Path], Phony]] = {
    "rhel": rhel,
    "suse": suse,
    "ubuntu": ubuntu,
    "arch": arch,
    "alpine": alpine,
    "photon": photon,
}
