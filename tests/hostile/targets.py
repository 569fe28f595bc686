# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is fuzzed: every reader of attackers' data, with inputs to begin from and the refusals that it documents."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
import posixpath
import tempfile
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import (
    hyperv,
    manifest,
    ovf,
    partitions,
    tarfiles,
    vbox,
    vmdk,
    vmx,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.blockmap import native_map
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.file_range import FileRange
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests import fstab
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import index, modules, segments
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError

from tests.hostile import seeds
from tests.unit.plugins.module_utils.guests.phony import Phony, debian, efi_program, x86_kernel

#: Blocks of an image that are decoded: a few bytes can describe many.
_BLOCKS = 64
_KERNEL = "/usr/lib/modules/6.1.0-9-amd64"
#: Files of a guest that are parsed, each with a content to begin from.
GUEST_FILES: dict[str, bytes] = {
    "/etc/fstab": b"/dev/sda1 / ext4 rw 0 1\n/dev/sdb1 /srv/a\\040b xfs defaults 0 2\nUUID=x /x btrfs subvol=@,x 0 0\n",
    "/etc/crypttab": b"root /dev/sda1 none luks\nswap /dev/sda2 /dev/urandom swap\n",
    "/etc/os-release": b'ID=debian\nID_LIKE="rhel fedora"\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12"\n',
    "/etc/network/interfaces": b"auto ens192\niface ens192 inet static\n address 10.0.0.1\n netmask 255.0.0.0\n"
    b"source interfaces.d/*\niface br0 inet dhcp\n bridge_ports eth0 eth1\n",
    "/etc/netplan/01.yaml": b"network:\n  version: 2\n  ethernets:\n    ens192:\n      dhcp4: yes\n"
    b"      match: {macaddress: 00:50:56:ab:10:21}\n      addresses: [10.0.0.1/8]\n",
    "/etc/NetworkManager/system-connections/a.nmconnection": b"[connection]\ntype=ethernet\ninterface-name=ens192\n"
    b"[ethernet]\nmac-address=00:50:56:AB:10:21\n[ipv4]\nmethod=manual\naddress1=10.0.0.1/8,10.0.0.2\n",
    "/etc/systemd/network/10-a.network": b"[Match]\nName=ens192 eth*\nMACAddress=00:50:56:ab:10:21\n"
    b"[Network]\nDHCP=yes\n",
    "/etc/systemd/network/10-a.link": b"[Match]\nMACAddress=00:50:56:ab:10:21\n[Link]\nName=lan0\n",
    "/etc/sysconfig/network-scripts/ifcfg-ens192": b"DEVICE=ens192\nHWADDR=00:50:56:ab:10:21\nBOOTPROTO='dhcp'\n"
    b"IPADDR=10.0.0.1\n",
    "/etc/udev/rules.d/70-persistent-net.rules": b'SUBSYSTEM=="net", ATTR{address}=="00:50:56:ab:10:21", NAME="eth0"\n',
    "/boot/loader/entries/a+3-1.conf": b"title A\nversion 6.1\nlinux /vmlinuz-6.1.0-9-amd64\n"
    b"initrd /initrd.img-6.1.0-9-amd64\noptions root=/dev/sda1 ro\n",
    "/boot/loader/loader.conf": b"default a*\ntimeout 3\n",
    "/boot/EFI/Linux/a.efi": efi_program({".uname": b"6.1", ".cmdline": b"root=/dev/sda1", ".linux": b"x"}),
    "/boot/extlinux.conf": b"DEFAULT l\nLABEL l\n MENU DEFAULT\n LINUX /boot/vmlinuz-6.1.0-9-amd64\n INITRD a,b\n"
    b" APPEND root=/dev/sda1 console=hvc0\n",
    "/boot/linux-6.1.cfg": b"photon_cmdline=ro quiet\nphoton_linux=vmlinuz-6.1.0-9-amd64\n",
    "/boot/refind_linux.conf": b'"Standard" "root=/dev/sda1 ro"\n',
    "/boot/vmlinuz-6.1.0-9-amd64": x86_kernel("6.1.0-9-amd64"),
    "/etc/modprobe.d/a.conf": b"alias eth0 vmxnet3\nblacklist virtio_blk\noptions x y=1\n",
    "/etc/X11/xorg.conf": b'Section "Device"\n Driver "vmware"\n BusID "PCI:0:15:0"\nEndSection\n',
    "/etc/systemd/network/v.netdev": b"[NetDev]\nName=ens192.5\nKind=vlan\n[VLAN]\nId=5\n",
    "/etc/lvm/devices/system.devices": b"IDTYPE=sys_wwid IDNAME=naa.6 DEVNAME=/dev/sda2 PVID=x PART=2\n",
    "/boot/grub/grub.cfg": b'set default="0>1"\nsubmenu \'a\' --id b {\nmenuentry "x" {\n'
    b" linux /boot/vmlinuz-6.1.0-9-amd64 root=/dev/sda1 resume=/dev/sda2\n search --fs-uuid 11111111-2222\n}\n}\n",
    "/boot/grub/grubenv": b"# GRUB Environment Block\nsaved_entry=0\nkernelopts=root=/dev/sda1 ro\n".ljust(1024, b"#"),
    "/boot/grub/device.map": b"(hd0) /dev/sda\n(hd1) /dev/sdb\n",
    "/boot/loader/entries/a.conf": b"title A\nlinux /vmlinuz-6.1.0-9-amd64\noptions root=/dev/sda1 $kernelopts\n",
    "/boot/extlinux/extlinux.conf": b"DEFAULT a\nLABEL a\n LINUX /vmlinuz\n APPEND root=/dev/sda1\n",
    "/boot/grub/menu.lst": b"default 0\n# kopt=root=/dev/hda1 ro\ntitle x\n kernel /boot/vmlinuz root=/dev/hda1\n",
    "/etc/default/grub": b'GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX="root=/dev/sda1 resume=/dev/sda2"\n'
    b"GRUB_DISABLE_LINUX_UUID=true\n",
    "/etc/initramfs-tools/conf.d/resume": b"RESUME=/dev/sda2\nMODULES=dep\n",
    "/etc/dracut.conf.d/a.conf": b'omit_drivers+=" virtio_blk vmw_pvscsi "\nadd_drivers+=" ext4 "\n',
    "/etc/hosts": b"127.0.0.1 localhost\n10.0.0.1 web01.example.com web01 # name\n",
    "/etc/hostname": b"web01\n",
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/bash\nadmin:x:1000:1000::/home/admin:/bin/bash\n",
    "/etc/ssh/sshd_config": b"PermitRootLogin no\nAuthorizedKeysFile .ssh/authorized_keys %h/.ssh/keys\n",
    "/var/lib/dpkg/status": b"Package: systemd\nStatus: install ok\nVersion: 252.1\n",
    "/boot/config-6.1.0-9-amd64": b"CONFIG_RD_GZIP=y\nCONFIG_VIRTIO_PCI=m\nCONFIG_VIRTIO_BLK=y\n",
    f"{_KERNEL}/modules.dep": seeds.MODULE_TEXTS["modules.dep"],
    f"{_KERNEL}/modules.alias": seeds.MODULE_TEXTS["modules.alias"],
    f"{_KERNEL}/modules.builtin": b"kernel/drivers/virtio_pci.ko\nkernel/drivers/virtio_blk.ko\n",
    "/usr/lib/systemd/systemd": b"\x7fELF\x02\x01" + b"\0" * 12 + b"\x3e\0" + b"\0" * 40,
}


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader of hostile data."""

    seeds: t.Callable[[], list[bytes]]
    read: t.Callable[[bytes], object]
    """Raises only what it documents: JobError of a class that blames the input, or ``refusals``."""
    share: int = 8
    """Its part of a campaign's inputs."""
    refusals: tuple[type[Exception], ...] = ()

    def check(self, data: bytes) -> None:
        """Read ``data``. Everything but a documented refusal is raised."""
        try:
            self.read(data)
        except JobError as error:
            if error.error_class not in (ErrorClass.INVALID, ErrorClass.UNSUPPORTED):
                raise
            if not str(error).isprintable():
                raise AssertionError(f"an error could steer a terminal: {str(error)!r}") from error
        except Exception as error:
            if not isinstance(error, self.refusals):
                raise


@functools.cache
def _scratch() -> pathlib.Path:
    """A folder in memory for this process, with what a descriptor of the seeds names."""
    memory = pathlib.Path("/dev/shm")
    holder = tempfile.TemporaryDirectory(prefix="hyper2kvm-fuzz-", dir=memory if memory.is_dir() else None)
    _HOLDERS.append(holder)
    folder = pathlib.Path(holder.name).resolve()
    (folder / "flat.raw").write_bytes(bytes(1024**2))
    return folder


_HOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _file(name: str, data: bytes) -> pathlib.Path:
    path = _scratch() / name
    path.write_bytes(data)
    return path


def _image(fmt: str, data: bytes) -> None:
    with FileRange(_file(f"disk.{fmt}", data)) as file:
        blocks = native_map(file, fmt, 0)
        if blocks is None:
            return
        blocks.data_bytes()
        found = (block for region in blocks.regions() for block in region.blocks)
        for block in itertools.islice(found, _BLOCKS):
            plain = blocks.decode(block, memoryview(file.read(block.offset, block.stored)))
            if len(plain) > 65536:
                raise AssertionError(f"a block of {len(plain)} bytes")


def _source(name: str, data: bytes) -> None:
    _file(name, data)
    open_source(models.SourceSpec(path=name), _scratch())


class _Files:
    """The modules' folder of a guest, in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def is_file(self, path: str) -> bool:
        return posixpath.basename(path) in self._files

    def read_bytes(self, path: str, limit: int = 0) -> bytes:
        return self._files[posixpath.basename(path)]


def _modules(data: bytes) -> None:
    """The input is the module's text files one behind the other, NUL between."""
    parts = data.split(b"\0")
    kernel = modules.Kernel(_Files(dict(zip(seeds.MODULE_TEXTS, parts, strict=False))), "/lib/modules/1")
    found = kernel.closure(["virtio_blk", "virtio_pci"])
    dependencies = {kernel.paths[name]: "" for name in found}
    merged = modules.Indexes.read(lambda name: dict(zip(seeds.MODULE_TEXTS, parts, strict=False)).get(name))
    merged.add(dependencies, kernel.lines_about("modules.alias", found), kernel.lines_about("modules.softdep", found))
    merged.files()


def _fstab(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    lines = fstab.parse(text)
    same = {line.index: text.split("\n")[line.index].split()[0] for line in lines}
    if fstab.replace_specs(text, same) != text:
        raise AssertionError("an fstab that nothing changes is changed")


@functools.cache
def _guest() -> Phony:
    return debian(_scratch() / "guest")


def _guest_file(path: str, data: bytes) -> None:
    """Inspect and plan a whole guest, one of whose files is hostile; all that people are shown is harmless."""
    guest = _guest()
    place = guest.folder / path.lstrip("/")
    before = place.read_bytes() if place.exists() else None
    guest.put(path, data)
    try:
        facts = guest.inspect()
        wishes = {
            "hostname": "new",
            "timezone": "Europe/Berlin",
            "ssh_keys": [{"user": "admin", "keys": ["ssh-rsa AA"]}],
        }
        plan = guest.plan(request=guest.request(**wishes))
        for text in [str(facts.to_document()), *plan.warnings, *(str(c.to_document()) for c in plan.edits.changes)]:
            if not text.isprintable():
                raise AssertionError(f"a text could steer a terminal: {text!r}")
    finally:
        place.unlink() if before is None else place.write_bytes(before)


def _initramfs_guest(data: bytes) -> None:
    _guest_file("/boot/initrd.img-6.1.0-9-amd64", data)


TARGETS: dict[str, Target] = {
    "job": Target(seeds.jobs, validation.parse_job, share=10),
    "ovf": Target(lambda: [seeds.OVF.encode()], lambda data: ovf.parse_ovf(data, "x.ovf"), share=12),
    "manifest": Target(lambda: [seeds.MANIFEST], manifest.parse_manifest),
    "tar": Target(seeds.tars, lambda data: tarfiles.index_tar(_file("x.ova", data)), share=10),
    "ova": Target(lambda: [*seeds.ovas(), *seeds.tars()], lambda data: _source("y.ova", data)),
    "vmdk-descriptor": Target(lambda: [seeds.DESCRIPTOR], lambda data: vmdk.parse_descriptor(data, "x.vmdk")),
    "vmdk-file": Target(lambda: [seeds.DESCRIPTOR, *seeds.vmdks()], lambda data: _source("x.vmdk", data)),
    "vmdk-grains": Target(seeds.vmdks, lambda data: _image("vmdk", data)),
    "qcow2": Target(seeds.qcow2s, lambda data: _image("qcow2", data)),
    "qcow2-file": Target(seeds.qcow2s, lambda data: _source("x.qcow2", data), share=6),
    "vhd-file": Target(lambda: seeds.foreign("vpc"), lambda data: _source("x.vhd", data), share=4),
    "vhdx-file": Target(lambda: seeds.foreign("vhdx"), lambda data: _source("x.vhdx", data), share=1),
    "vdi-file": Target(lambda: seeds.foreign("vdi"), lambda data: _source("x.vdi", data), share=4),
    "vmx": Target(lambda: [seeds.VMX], lambda data: vmx.parse_vmx(data, "x.vmx")),
    "vbox": Target(lambda: [seeds.VBOX], lambda data: vbox.parse_vbox(data, "x.vbox")),
    "hyperv": Target(lambda: [seeds.HYPERV], lambda data: hyperv.parse_hyperv(data, "x.xml")),
    "partitions": Target(seeds.partition_tables, lambda data: partitions.parse_table(data, "disk0", 1024**2)),
    "initramfs": Target(seeds.initramfses, segments.parse_bytes, share=8),
    "module-index": Target(seeds.indexes, index.read_index, refusals=(index.CorruptIndexError,)),
    "modules": Target(lambda: [b"\0".join(seeds.MODULE_TEXTS.values())], _modules, refusals=(index.CorruptIndexError,)),
    "fstab": Target(lambda: [GUEST_FILES["/etc/fstab"]], _fstab),
    "guest-initramfs": Target(seeds.initramfses, _initramfs_guest, share=1),
    **{
        f"guest:{path}": Target(lambda path=path: [GUEST_FILES[path]], functools.partial(_guest_file, path), share=1)
        for path in GUEST_FILES
    },
}


def case_folder(name: str) -> pathlib.Path:
    """Where the inputs are kept that a target once took wrongly."""
    return pathlib.Path(__file__).parent / "cases" / name.replace(":", "").replace("/", "-")


def close_scratch() -> None:
    """Remove this process's folder."""
    while _HOLDERS:
        _HOLDERS.pop().cleanup()


os.register_at_fork(after_in_child=lambda: (_HOLDERS.clear(), _scratch.cache_clear(), _guest.cache_clear()))
