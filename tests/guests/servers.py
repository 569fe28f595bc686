# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian servers of every kind of storage, boot loader, initramfs and network, as they ran on VMware.

``python -m tests.guests.servers NAME TREE FOLDER`` makes one; it wants namespaces of its own.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import pathlib
import re
import shutil
import sys
import uuid

from tests.guests import debian, grub
from tests.guests.chroot import Chroot, entered
from tests.guests.disk import Slice, copy_data, layout, make_filesystem, mounted, write_table
from tests.guests.host import BuildError, run
from tests.guests.matrix import ALL
from tests.guests.specs import MIB, ROOT_PASSWORD, ServerSpec
from tests.guests.vmdk import write_stream_optimized
from tests.guests.volumes import Volumes, content_size, copy_range, lay, named

_VOLUME_MODULES = {
    "plain": (),
    "lvm": ("dm_mod",),
    "luks-lvm": (
        *("dm_mod", "dm_crypt", "xts", "aes_generic", "ecb", "cbc", "sha256_generic", "algif_skcipher", "af_alg"),
    ),
    "raid1": ("md_mod", "raid1"),
}
_FILESYSTEM_MODULES = {"ext4": ("ext4",), "xfs": ("xfs",), "btrfs": ("btrfs",)}
#: By package: what of a server uses it. It is not installed on others.
_USE = {
    "initramfs-tools": "initramfs-tools",
    "initramfs-tools-core": "initramfs-tools",
    "dracut-core": "dracut",
    "grub-pc": "grub bios",
    "grub-pc-bin": "grub bios",
    "grub-efi-amd64-bin": "grub uefi",
    "grub2-common": "grub",
    "grub-common": "grub",
    "extlinux": "extlinux",
    "syslinux-common": "extlinux",
    "ifupdown": "ifupdown",
    "network-manager": "NetworkManager",
    "wpasupplicant": "NetworkManager",
    "netplan.io": "netplan",
    "netplan-generator": "netplan",
    "lvm2": "lvm",
    "cryptsetup": "luks",
    "cryptsetup-bin": "luks",
    "systemd-cryptsetup": "luks",
    "cryptsetup-initramfs": "luks initramfs-tools",
    "mdadm": "raid1",
}
#: Copies the guest's crypttab into the initramfs: the container is not to be seen while the guest is built, so that
#: Debian's own hook leaves it out.
_HOOK = """\
#!/bin/sh
case $1 in prereqs) echo cryptroot; exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions
mkdir -p "$DESTDIR/cryptroot"
cp /etc/crypttab "$DESTDIR/cryptroot/crypttab"
"""


@dataclasses.dataclass(frozen=True)
class _Named(Slice):
    """A filesystem that the guest knows by another name than a partition's."""

    called: str = ""

    @property
    def device(self) -> str:
        """Its name in the guest."""
        return self.called or super().device


def produce(spec: ServerSpec, tarball: pathlib.Path, folder: pathlib.Path) -> None:
    """Make ``disk0.vmdk``, ``disk1.vmdk`` … and ``guest.json`` in ``folder``, an empty one."""
    volumes = named(spec)
    *leading, container = layout(spec)
    size = content_size(spec, container)
    root = _Named(**{**dataclasses.asdict(container), "size": size}, called=volumes.root)
    staging = folder / "staging.raw"
    longer = dataclasses.replace(spec, disk_mib=(root.start + root.size) // MIB + 1)
    write_table(staging, longer, [*leading, root])
    for part in (*leading, root):
        _make_filesystem(staging, part, spec)
    _fill(spec, volumes, tarball, staging, [*leading, root])
    if spec.storage == "plain":
        disks = [staging.rename(folder / "disk0.raw")]
    else:
        content = folder / "root.fs"
        with content.open("xb") as file:
            file.truncate(root.size)
        copy_range(staging, root, content)
        disks = lay(spec, volumes, staging, leading, container, content)
        for path in (staging, content):
            path.unlink()
    for disk in disks:
        write_stream_optimized(disk, disk.with_suffix(".vmdk"))
        disk.unlink()
    facts = {"spec": dataclasses.asdict(spec), "volumes": dataclasses.asdict(volumes), "root": root.device}
    (folder / "guest.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _make_filesystem(disk: pathlib.Path, part: Slice, spec: ServerSpec) -> None:
    if spec.loader != "extlinux" or part.mountpoint != "/boot":
        make_filesystem(disk, part)
        return
    # SYSLINUX 6 does not read what mke2fs makes by default.
    fresh = disk.with_name("boot.fs")
    with fresh.open("xb") as file:
        file.truncate(part.size)
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^64bit,^metadata_csum", "-U", part.uuid, fresh])
    copy_data(fresh, disk, part.start)
    fresh.unlink()


def _fill(
    spec: ServerSpec, volumes: Volumes, tarball: pathlib.Path, disk: pathlib.Path, slices: c.Sequence[Slice]
) -> None:
    """Unpack the packages into the guest's filesystems and make a bootable server of them."""
    with mounted(disk, slices, disk.with_name("root")) as root:
        run(["tar", "--extract", "--file", tarball, "--directory", root, "--xattrs", "--xattrs-include=*"])
        with entered(root) as guest:
            _choose_packages(guest, spec)
            _write_identity(guest, spec)
            debian.write_fstab(guest, slices)
            _write_volumes(guest, spec, volumes)
            _write_network(guest, spec)
            arguments = kernel_arguments(spec, volumes)
            if spec.initramfs_tool == "dracut":
                _run_dracut(guest)
            else:
                modules = _FILESYSTEM_MODULES[spec.filesystem] + _VOLUME_MODULES[spec.storage]
                checksums = ("crc32c_generic", "crc32c_intel")
                debian.make_initramfs(guest, spec, (*debian.VMWARE_MODULES, *modules, *checksums))
            _LOADERS[spec.loader](guest, spec, disk, slices, arguments)


# -- packages and files ------------------------------------------------------------------------------------------------


def _choose_packages(guest: Chroot, spec: ServerSpec) -> None:
    """Remove what this server does not use, and install what excludes something else."""
    used = {spec.initramfs_tool, spec.loader, f"{spec.loader} {spec.firmware}", spec.network_tool}
    for one in spec.storage.split("-"):
        used |= {one, f"{one} {spec.initramfs_tool}"}
    installed = guest.run(["dpkg-query", "--show", "--showformat", "${Package}\\n"]).split()
    superfluous = [package for package in installed if _USE.get(package, spec.loader) not in used]
    guest.run(["dpkg", "--purge", "--force-depends", *superfluous])
    for name, wanted in (
        ("grub-efi-amd64", spec.loader == "grub" and spec.firmware == "uefi"),
        ("dracut", spec.initramfs_tool == "dracut"),
    ):
        package = guest.only(f"var/cache/{name}_*.deb")
        if wanted:
            guest.run(["dpkg", "--install", f"/var/cache/{package.name}"])
        package.unlink()


def _write_identity(guest: Chroot, spec: ServerSpec) -> None:
    guest.write("/etc/hostname", f"{spec.hostname}\n")
    guest.write("/etc/hosts", f"127.0.0.1\tlocalhost\n{spec.address.split('/')[0]}\t{spec.hostname}\n")
    guest.write("/etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    guest.run(["sh", "-c", f"echo root:{ROOT_PASSWORD} | chpasswd"])


def _write_volumes(guest: Chroot, spec: ServerSpec, volumes: Volumes) -> None:
    if volumes.swap:
        fstab = (guest.root / "etc/fstab").read_text(encoding="utf-8")
        guest.write("/etc/fstab", f"{fstab}{volumes.swap} none swap sw,nofail 0 0\n")
    if volumes.luks_uuid and spec.initramfs_tool == "dracut":
        # Named as dracut itself names it: systemd would open it a second time else.
        guest.write("/etc/crypttab", f"luks-{volumes.luks_uuid} UUID={volumes.luks_uuid} none luks\n")
    elif volumes.luks_uuid:
        guest.write("/etc/crypttab", f"cryptlvm UUID={volumes.luks_uuid} none luks,initramfs\n")
        guest.write("/etc/cryptsetup-initramfs/conf-hook", "CRYPTSETUP=y\n")
        guest.write("/etc/initramfs-tools/hooks/container", _HOOK, 0o755)
    if volumes.array:
        array = f"ARRAY /dev/md0 metadata=1.2 name={spec.hostname}:0 UUID={volumes.array}"
        guest.write("/etc/mdadm/mdadm.conf", f"HOMEHOST <system>\nMAILADDR root\n{array}\n")
        if spec.initramfs_tool == "dracut":
            # Else it would come up by another name than the one that the kernel is told.
            guest.write("/etc/dracut.conf.d/raid.conf", 'mdadmconf="yes"\n')


def _write_network(guest: Chroot, spec: ServerSpec) -> None:
    text, path, mode = _NETWORKS[spec.network_tool]
    values = {"ADDRESS": spec.address, "GATEWAY": spec.gateway, "UUID": str(uuid.uuid4())}
    guest.write(path, re.sub("|".join(values), lambda match: values[match[0]], text), mode)
    if spec.network_tool in ("systemd-networkd", "netplan"):
        guest.run(["systemctl", "enable", "systemd-networkd.service"])


#: By tool: the file's text, its path and mode.
_NETWORKS = {
    "ifupdown": (
        "auto lo\niface lo inet loopback\n\nallow-hotplug ens192\niface ens192 inet static\n"
        "\taddress ADDRESS\n\tgateway GATEWAY\n",
        "/etc/network/interfaces",
        0o644,
    ),
    "NetworkManager": (
        "[connection]\nid=lan\nuuid=UUID\ntype=ethernet\ninterface-name=ens192\n\n"
        "[ipv4]\nmethod=manual\naddress1=ADDRESS,GATEWAY\n\n[ipv6]\nmethod=ignore\n",
        "/etc/NetworkManager/system-connections/lan.nmconnection",
        0o600,
    ),
    "systemd-networkd": (
        "[Match]\nName=ens192\n\n[Network]\nAddress=ADDRESS\nGateway=GATEWAY\n",
        "/etc/systemd/network/10-lan.network",
        0o644,
    ),
    "netplan": (
        "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    ens192:\n      addresses: [ADDRESS]\n"
        "      routes: [{to: 0.0.0.0/0, via: GATEWAY}]\n",
        "/etc/netplan/01-lan.yaml",
        0o600,
    ),
}


# -- initramfs ---------------------------------------------------------------------------------------------------------


def kernel_arguments(spec: ServerSpec, volumes: Volumes) -> str:
    """What the kernel's command line says beside ``root=``."""
    words = ["quiet", "nomodeset"]
    if spec.filesystem == "btrfs":
        words.append("rootflags=subvol=@")
    if spec.initramfs_tool == "dracut":
        words += [f"rd.luks.uuid={volumes.luks_uuid}"] if volumes.luks_uuid else []
        words += [f"rd.md.uuid={volumes.array}"] if volumes.array else []
    return " ".join(words)


def _run_dracut(guest: Chroot) -> None:
    """Make the initramfs without virtio, as the guest's own settings have it."""
    guest.write(
        "/etc/dracut.conf.d/vmware.conf",
        'hostonly="no"\ncompress="zstd -3 -q"\n'
        'omit_drivers+=" virtio virtio_ring virtio_pci virtio_blk virtio_scsi virtio_net virtio_console virtio-gpu "\n',
    )
    version = _version(guest)
    image = f"/boot/initrd.img-{version}"
    guest.run(["dracut", "--force", "--kver", version, image])
    inside = guest.run(["lsinitrd", image])
    # Other devices' drivers may be there, which find no disk.
    if re.search(r"/virtio(_ring|_pci|_blk|_scsi)?\.ko", inside) or "vmw_pvscsi" not in inside:
        raise BuildError("the initramfs is not VMware's: it has virtio or lacks pvscsi")


def _version(guest: Chroot) -> str:
    return guest.only("boot/vmlinuz-*").name.removeprefix("vmlinuz-")


# -- boot loaders ------------------------------------------------------------------------------------------------------


def _root(slices: c.Sequence[Slice]) -> Slice:
    return next(part for part in slices if part.mountpoint == "/")


def _install_grub(
    guest: Chroot, spec: ServerSpec, disk: pathlib.Path, slices: c.Sequence[Slice], arguments: str
) -> None:
    debian.write_grub_defaults(guest, spec)
    # It adds a btrfs' subvolume by itself.
    further = arguments.replace("rootflags=subvol=@", "").removeprefix("quiet nomodeset").strip()
    defaults = (guest.root / "etc/default/grub").read_text(encoding="utf-8")
    guest.write("/etc/default/grub", defaults.replace('GRUB_CMDLINE_LINUX=""', f'GRUB_CMDLINE_LINUX="{further}"'))
    (grub.install_uefi if spec.firmware == "uefi" else grub.install_bios)(guest, disk, slices)
    grub.configure(guest, spec, slices)


def _install_systemd_boot(
    guest: Chroot, spec: ServerSpec, disk: pathlib.Path, slices: c.Sequence[Slice], arguments: str
) -> None:
    """What ``bootctl install`` and ``kernel-install`` do, less the loader's copy in the default place."""
    esp = next(part for part in slices if part.filesystem == "vfat")
    version, identity = _version(guest), (guest.root / "etc/machine-id").read_text(encoding="ascii").strip()
    command_line = f"root={_root(slices).device} ro {arguments}"
    guest.write("/etc/kernel/cmdline", command_line + "\n")
    folder = f"{identity}/{version}"
    files = disk.with_name("esp")
    written = Chroot(files)
    written.write("/loader/loader.conf", "timeout 1\n")
    written.write(
        f"/loader/entries/{identity}-{version}.conf",
        f"title Debian GNU/Linux\nversion {version}\nmachine-id {identity}\noptions {command_line}\n"
        f"linux /{folder}/linux\ninitrd /{folder}/initrd.img-{version}\n",
    )
    for source, target in (
        ("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "EFI/systemd/systemd-bootx64.efi"),
        (f"boot/vmlinuz-{version}", f"{folder}/linux"),
        (f"boot/initrd.img-{version}", f"{folder}/initrd.img-{version}"),
    ):
        (files / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(guest.root / source, files / target)
    run(["mcopy", "-s", "-Q", "-i", f"{disk}@@{esp.start}", *sorted(files.iterdir()), "::/"])
    shutil.rmtree(files)


def _install_extlinux(
    guest: Chroot, spec: ServerSpec, disk: pathlib.Path, slices: c.Sequence[Slice], arguments: str
) -> None:
    version = _version(guest)
    guest.write(
        "/boot/extlinux/extlinux.conf",
        f"default linux\nprompt 0\ntimeout 10\n\nlabel linux\n  menu label Debian GNU/Linux, kernel {version}\n"
        f"  linux /vmlinuz-{version}\n  initrd /initrd.img-{version}\n"
        f"  append root={_root(slices).device} ro {arguments}\n",
    )
    # It writes to the device that it finds in the guest's own /dev.
    device = pathlib.Path(run(["findmnt", "-n", "-v", "-o", "SOURCE", guest.root / "boot"]).strip())
    node = guest.root / "dev" / device.name
    run(["cp", "--archive", device, node])
    try:
        guest.run(["extlinux", "--device", f"/dev/{device.name}", "--install", "/boot/extlinux"])
    finally:
        node.unlink()
    code = (guest.root / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
    with disk.open("r+b") as file:
        file.write(code[:440])


_LOADERS = {"grub": _install_grub, "systemd-boot": _install_systemd_boot, "extlinux": _install_extlinux}


if __name__ == "__main__":
    try:
        produce(ALL[sys.argv[1]], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    except BuildError as problem:
        sys.exit(str(problem))
