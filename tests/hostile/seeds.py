# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Well-formed inputs of every parser, small ones: what a fuzzer changes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pathlib
import subprocess
import tarfile
import tempfile
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import codec, cpio, index

from tests.unit.plugins.module_utils.disks.disk_files import StreamVmdk, qemu_img

EXAMPLES = pathlib.Path(__file__).parents[2] / "k8s/examples"

OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
<References><File ovf:id="f1" ovf:href="d.vmdk" ovf:size="9"/></References>
<DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^20"
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
<VirtualSystem ovf:id="vm"><Name>vm</Name><VirtualHardwareSection>
<Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>
<rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>1024</rasd:VirtualQuantity></Item>
<Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
<rasd:Address>0</rasd:Address><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType></Item>
<Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>
<rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:Parent>3</rasd:Parent></Item>
<Item><rasd:InstanceID>5</rasd:InstanceID><rasd:ResourceType>10</rasd:ResourceType>
<rasd:Connection>LAN</rasd:Connection><rasd:Address>00:50:56:ab:10:21</rasd:Address></Item>
</VirtualHardwareSection></VirtualSystem></Envelope>
"""
MANIFEST = b"SHA256(vm.ovf)= " + b"0" * 64 + b"\nSHA1(d.vmdk)= " + b"a" * 40 + b"\n"
DESCRIPTOR = (
    b'# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    b'# Extent description\nRW 2048 FLAT "flat.raw" 0\n# The Disk Data Base\nddb.adapterType = "lsilogic"\n'
)
PARTITIONS = {
    "partitiontable": {
        "label": "gpt",
        "id": "0B2C",
        "device": "/dev/stdin",
        "unit": "sectors",
        "firstlba": 34,
        "lastlba": 2014,
        "sectorsize": 512,
        "partitions": [
            {"node": "/dev/stdin1", "start": 34, "size": 100, "type": "0FC6", "uuid": "AB", "name": "root"},
            {"node": "/dev/stdin2", "start": 200, "size": 100, "type": "C12A", "uuid": "AC", "attrs": "GUID:63"},
        ],
    }
}
DOS_PARTITIONS = {
    "partitiontable": {
        "label": "dos",
        "id": "0x12345678",
        "partitions": [
            {"node": "d1", "start": 34, "size": 100, "type": "83", "bootable": True},
            {"node": "d2", "start": 200, "size": 100, "type": "f"},
        ],
    }
}
MODULE_TEXTS = {
    "modules.dep": b"kernel/virtio_blk.ko: kernel/virtio.ko\nkernel/virtio.ko:\n"
    b"kernel/virtio_pci.ko.xz: kernel/virtio.ko\n",
    "modules.alias": b"# Aliases\nalias virtio:d00000002v* virtio_blk\n"
    b"alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci\n",
    "modules.softdep": b"softdep virtio_blk pre: virtio_pci post: virtio\n",
    "modules.builtin": b"kernel/ext4.ko\n",
}


def jobs() -> list[bytes]:
    """Every example of a job document."""
    return [path.read_bytes() for path in sorted(EXAMPLES.glob("*"))]


def tars() -> list[bytes]:
    """OVAs: plain, with long names, with links, devices and paths that leave."""
    plain: t.Sequence[tuple[str, bytes]] = [("vm.ovf", OVF.encode()), ("vm.mf", MANIFEST), ("d.vmdk", b"x" * 700)]
    found = []
    for fmt, prefix in (
        (tarfile.USTAR_FORMAT, ""),
        (tarfile.GNU_FORMAT, "n" * 120 + "/"),
        (tarfile.PAX_FORMAT, "ü" * 120),
    ):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=fmt) as tar:
            for name, data in plain:
                info = tarfile.TarInfo(prefix + name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            for name, kind, target in (
                ("/abs", tarfile.SYMTYPE, "/etc/passwd"),
                ("../up", tarfile.LNKTYPE, "../../etc/passwd"),
                ("device", tarfile.CHRTYPE, ""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                tar.addfile(info)
        found.append(file.getvalue())
    return found


def vmdks() -> list[bytes]:
    """Sparse VMDKs: VMware's stream, QEMU's stream and QEMU's monolithicSparse, each with a few grains."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        raw = folder / "raw"
        raw.write_bytes((b"text" * 16384) + bytes(65536) + b"end".ljust(65536, b"\1"))
        found = [StreamVmdk({0: b"a" * 65536, 2: b"b" * 65536}, capacity=4 * 65536).build(folder / "s").read_bytes()]
        for subformat in ("streamOptimized", "monolithicSparse"):
            qemu_img("convert", "-O", "vmdk", "-o", f"subformat={subformat}", raw, folder / subformat)
            found.append((folder / subformat).read_bytes())
        return found


def qcow2s() -> list[bytes]:
    """qcow2 images: versions 2 and 3, compressed, small clusters, extended L2."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        raw = folder / "raw"
        raw.write_bytes((b"text" * 16384) + bytes(65536) + b"end".ljust(65536, b"\1"))
        kinds: list[list[str]] = [
            ["-o", "compat=0.10"],
            ["-o", "compat=1.1"],
            ["-c"],
            ["-o", "cluster_size=4096"],
            ["-o", "extended_l2=on,cluster_size=128k"],
        ]
        for number, options in enumerate(kinds):
            qemu_img("convert", "-O", "qcow2", *options, raw, folder / str(number))
        return [(folder / str(number)).read_bytes() for number in range(len(kinds))]


VMX = b"""\
.encoding = "UTF-8"
displayName = "web01"
memSize = "2048"
numvcpus = "2"
firmware = "efi"
scsi0.present = "TRUE"
scsi0.virtualDev = "pvscsi"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web01.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.address = "00:50:56:ab:10:21"
"""
VBOX = b"""<?xml version="1.0"?>
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux"><Machine uuid="{1}" name="web01" OSType="Debian_64">
<MediaRegistry><HardDisks><HardDisk uuid="{2}" location="web01.vdi" format="VDI" type="Normal"/></HardDisks>
</MediaRegistry><Hardware><CPU count="2"/><Memory RAMSize="2048"/><Firmware type="EFI"/><Network>
<Adapter slot="0" enabled="true" MACAddress="080027AABBCC" type="virtio"><NAT/></Adapter></Network>
<StorageControllers><StorageController name="SATA" type="AHCI"><AttachedDevice type="HardDisk" port="0" device="0">
<Image uuid="{2}"/></AttachedDevice></StorageController></StorageControllers></Hardware></Machine></VirtualBox>
"""
HYPERV = b"""<?xml version="1.0"?>
<configuration><properties><name type="string">web01</name><subtype type="integer">1</subtype></properties>
<settings><processors><count type="integer">2</count></processors><memory><bank><size type="integer">2048</size></bank>
</memory></settings><_83f8638b_8dca_4152_9eda_2ca8b33039b4_><controller0><drive0>
<pathname type="string">web01.vhdx</pathname><type type="string">VHD</type></drive0></controller0>
</_83f8638b_8dca_4152_9eda_2ca8b33039b4_></configuration>
"""


def foreign(fmt: str) -> list[bytes]:
    """Images of QEMU's format ``fmt``, as it writes them; of VHD both kinds."""
    options: list[list[str]] = [["-o", "subformat=dynamic"], ["-o", "subformat=fixed"]] if fmt == "vpc" else [[]]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        raw = folder / "raw"
        raw.write_bytes(b"text" * 16384)
        found = []
        for option in options:
            qemu_img("convert", "-O", fmt, *option, raw, folder / "image")
            found.append((folder / "image").read_bytes())
        return found


def initramfses() -> list[bytes]:
    """Initramfs files in every compression."""
    entries = [
        cpio.directory("etc"),
        cpio.symlink("lib", "usr/lib"),
        cpio.file("init", b"#!/bin/sh\nmodprobe -b $MODALIAS\n", 0o755),
        cpio.file("etc/fstab", b"/dev/sda1 / ext4 defaults 0 1\n"),
        cpio.file("conf/modules", b"vmw_pvscsi\n"),
    ]
    plain = cpio.write_archive(entries)
    lz4 = codec.compress(plain, codec.Compression.LZ4)
    zstd = subprocess.run(["zstd", "-qc"], input=plain, stdout=subprocess.PIPE, check=True).stdout
    return [
        plain,
        gzip.compress(plain, mtime=0),
        bz2.compress(plain),
        lzma.compress(plain),
        lzma.compress(plain, lzma.FORMAT_ALONE),
        lz4,
        zstd,
        plain.ljust(1024, b"\0") + gzip.compress(plain, mtime=0) + bytes(512) + plain,
    ]


def indexes() -> list[bytes]:
    """kmod's binary indexes."""
    items = [("virtio", 1, "alias:x"), ("virtio_blk", 2, "y"), ("virtio_blk", 3, "z"), ("a", 0, "b")]
    return [index.write_index(items), index.write_index([])]


def partition_tables() -> list[bytes]:
    """What ``sfdisk --json`` prints."""
    return [json.dumps(table).encode() for table in (PARTITIONS, DOS_PARTITIONS)]
