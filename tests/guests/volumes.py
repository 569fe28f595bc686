# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian servers whose root lies in volumes: LVM over two disks, LVM in LUKS, a RAID 1 of two disks.

They are made on machines without a device-mapper. The root filesystem is made as a plain one; then it is laid where
the volumes have it, whose metadata LVM's and cryptsetup's own tools wrote (a RAID's superblock is written here, and
read back by mdadm). That all is as it should be is shown by the guests' kernels, which boot from it.
``python -m tests.guests.volumes NAME TREE FOLDER`` makes one; it wants namespaces of its own.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import struct
import sys
import uuid

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.guests import debian, grub
from tests.guests.chroot import Chroot, entered
from tests.guests.disk import Slice, copy_data, data_blocks, make_filesystem, mounted
from tests.guests.host import REPOSITORY, BuildError, run
from tests.guests.specs import MIB, ROOT_PASSWORD, SPECS, GuestSpec, VolumesSpec
from tests.guests.vmdk import write_stream_optimized

# As a program it is run without pytest, which knows where the collection is.
sys.path.insert(0, str(REPOSITORY / ".collections"))
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import lvm

#: The passphrase of the encrypted guest. It protects nothing.
PASSPHRASE = "correct horse battery staple"
_GROUP = "vg-sys"
_SECTOR = 512
_LUKS_SECTOR = 4096
_MODULES = (
    *debian.VMWARE_MODULES,
    *("ext4", "crc32c_generic", "crc32c_intel"),
    *("dm_mod", "dm_crypt", "xts", "aes_generic", "ecb", "cbc", "sha256_generic", "algif_skcipher", "af_alg"),
    *("md_mod", "raid1"),
)
_HOOK = """\
#!/bin/sh
case $1 in prereqs) echo cryptroot; exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions
mkdir -p "$DESTDIR/cryptroot"
cp /etc/crypttab "$DESTDIR/cryptroot/crypttab"
"""


@dataclasses.dataclass(frozen=True)
class _Volumes:
    """What the guest calls its root, and by what it finds it."""

    root: str
    swap: str = ""
    luks_uuid: str = ""
    array: str = ""


def produce(spec: VolumesSpec, tarball: pathlib.Path, folder: pathlib.Path) -> None:
    """Make ``disk0.vmdk``, ``disk1.vmdk`` … and ``guest.json`` in ``folder``, an empty one."""
    volumes = _named(spec)
    staging = folder / "staging.raw"
    slices = _fill(spec, volumes, tarball, staging)
    content = folder / "root.fs"
    with content.open("xb") as file:
        file.truncate(slices[1].size)
    _copy_range(staging, slices[1], content)
    disks = _lay(spec, volumes, staging, slices[0], content)
    for path in (staging, content):
        path.unlink()
    for disk in disks:
        write_stream_optimized(disk, disk.with_suffix(".vmdk"))
        disk.unlink()
    facts = {"spec": dataclasses.asdict(spec), "volumes": dataclasses.asdict(volumes)}
    (folder / "guest.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def lay_out(spec: VolumesSpec, files: c.Mapping[str, str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Make raw disks in ``folder`` whose volumes hold a root of these few files, and nothing that boots.

    What is ``ROOT``, ``SWAP`` or ``LUKS`` in them becomes the names of the guest's volumes.
    """
    volumes = _named(spec)
    tree, content = folder / "tree", folder / "root.fs"
    names = {"ROOT": volumes.root, "SWAP": volumes.swap, "LUKS": volumes.luks_uuid}
    for path, text in files.items():
        for word, name in names.items():
            text = text.replace(word, name)
        Chroot(tree).write(path, text)
    run(["mke2fs", "-q", "-t", "ext4", "-d", tree, content, f"{(spec.disk_mib - 256) * 1024}"])
    run(["rm", "-rf", tree])
    boot = Slice(1, MIB, 128 * MIB, "ext4", "/boot", str(uuid.uuid4()), f"{secrets.token_hex(4)}-01")
    staging = folder / "staging.raw"
    with staging.open("xb") as file:
        file.truncate(boot.start + boot.size)
    make_filesystem(staging, boot)
    disks = _lay(spec, volumes, staging, boot, content)
    for path in (staging, content):
        path.unlink()
    return disks


def _lay(
    spec: VolumesSpec, volumes: _Volumes, staging: pathlib.Path, boot: Slice, content: pathlib.Path
) -> list[pathlib.Path]:
    disks = [content.with_name(f"disk{index}.raw") for index in range(spec.disks)]
    _lay_boot_disk(staging, boot, disks[0], spec)
    {"lvm": _lay_lvm, "luks-lvm": _lay_luks, "raid1": _lay_raid}[spec.storage](spec, volumes, content, disks)
    return disks


def _named(spec: VolumesSpec) -> _Volumes:
    if spec.storage == "raid1":
        digits = uuid.uuid4().hex
        return _Volumes("/dev/md0", array=":".join(digits[i : i + 8] for i in range(0, 32, 8)))
    mapped = f"/dev/mapper/{_GROUP.replace('-', '--')}"
    identity = str(uuid.uuid4()) if spec.storage == "luks-lvm" else ""
    return _Volumes(f"{mapped}-root--fs", swap=f"{mapped}-swap", luks_uuid=identity)


# -- the guest's files -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Named(Slice):
    """A filesystem that the guest knows by another name than a partition's."""

    called: str = ""

    @property
    def device(self) -> str:
        """Its name in the guest."""
        return self.called or super().device


def _fill(spec: VolumesSpec, volumes: _Volumes, tarball: pathlib.Path, staging: pathlib.Path) -> tuple[Slice, ...]:
    """Make a disk with /boot and / as plain partitions; return these."""
    disk_id = uuid.uuid4().hex[:8]
    boot = _Named(1, MIB, 128 * MIB, "ext4", "/boot", str(uuid.uuid4()), f"{disk_id}-01")
    size = (spec.disk_mib - 256) * MIB
    root = _Named(2, 129 * MIB, size, "ext4", "/", str(uuid.uuid4()), f"{disk_id}-02", called=volumes.root)
    with staging.open("xb") as file:
        file.truncate(129 * MIB + size)
    for part in (boot, root):
        make_filesystem(staging, part)
    with mounted(staging, (boot, root), staging.with_name("root")) as place:
        run(["tar", "--extract", "--file", tarball, "--directory", place, "--xattrs", "--xattrs-include=*"])
        with entered(place) as guest:
            _write_system(guest, spec, volumes)
            debian.write_fstab(guest, (boot, root))
            if volumes.swap:
                fstab = (guest.root / "etc/fstab").read_text(encoding="utf-8")
                guest.write("/etc/fstab", f"{fstab}{volumes.swap} none swap sw,nofail 0 0\n")
            debian.make_initramfs(guest, spec, _MODULES)
            debian.write_grub_defaults(guest, spec)
            grub.install_bios(guest, staging, (boot, root))
            grub.configure(guest, spec, (boot, root))
    return boot, root


def _write_system(guest: Chroot, spec: GuestSpec, volumes: _Volumes) -> None:
    guest.write("/etc/hostname", f"{spec.hostname}\n")
    guest.write("/etc/hosts", f"127.0.0.1\tlocalhost\n{spec.address.split('/')[0]}\t{spec.hostname}\n")
    guest.write("/etc/machine-id", uuid.uuid4().hex + "\n", 0o444)
    guest.run(["sh", "-c", f"echo root:{ROOT_PASSWORD} | chpasswd"])
    address = f"address {spec.address}\n\tgateway {spec.gateway}"
    guest.write(
        "/etc/network/interfaces",
        f"auto lo\niface lo inet loopback\n\nallow-hotplug ens192\niface ens192 inet static\n\t{address}\n",
    )
    if volumes.luks_uuid:
        guest.write("/etc/crypttab", f"cryptlvm UUID={volumes.luks_uuid} none luks,initramfs\n")
        guest.write("/etc/cryptsetup-initramfs/conf-hook", "CRYPTSETUP=y\n")
        # The container is not to be seen here, so that Debian's own hook would leave it out.
        guest.write("/etc/initramfs-tools/hooks/container", _HOOK, 0o755)
    if volumes.array:
        array = f"ARRAY /dev/md0 metadata=1.2 name={spec.hostname}:0 UUID={volumes.array}"
        guest.write("/etc/mdadm/mdadm.conf", f"HOMEHOST <system>\nMAILADDR root\n{array}\n")


# -- disks -------------------------------------------------------------------------------------------------------------


def _lay_boot_disk(staging: pathlib.Path, boot: Slice, disk: pathlib.Path, spec: VolumesSpec) -> None:
    """Make the first disk: boot code, /boot, and a second partition to the end, which is empty."""
    with disk.open("xb") as file:
        file.truncate(spec.disk_mib * MIB)
    kind = {"lvm": "8e", "luks-lvm": "83", "raid1": "fd"}[spec.storage]
    lines = ["label: dos", f"label-id: 0x{boot.partuuid[:8]}"]
    lines.append(f"start={boot.start // _SECTOR}, size={boot.size // _SECTOR}, type=83, bootable")
    lines.append(
        f"start={_second(boot) // _SECTOR}, size={(spec.disk_mib * MIB - _second(boot)) // _SECTOR}, type={kind}"
    )
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin="\n".join(lines).encode())
    with staging.open("rb") as source, disk.open("r+b") as target:
        target.write(source.read(440))
        source.seek(_SECTOR)
        target.seek(_SECTOR)
        target.write(source.read(boot.start - _SECTOR))
    content = disk.with_name("boot.fs")
    with content.open("xb") as file:
        file.truncate(boot.size)
    _copy_range(staging, boot, content)
    copy_data(content, disk, boot.start)
    content.unlink()


def _second(boot: Slice) -> int:
    return boot.start + boot.size


def _copy_range(disk: pathlib.Path, part: Slice, target: pathlib.Path) -> None:
    with disk.open("rb") as source, target.open("r+b") as out:
        for place, block in data_blocks(source.fileno(), 64 * 1024):
            if part.start <= place < part.start + part.size:
                os.pwrite(out.fileno(), block, place - part.start)


@contextlib.contextmanager
def _loops(places: c.Sequence[tuple[pathlib.Path, int]]) -> c.Iterator[list[str]]:
    devices: list[str] = []
    try:
        for disk, start in places:
            devices.append(run(["losetup", "--find", "--show", "--offset", str(start), disk]).strip())
        yield devices
    finally:
        for device in devices:
            run(["losetup", "--detach", device])


def _lay_lvm(spec: VolumesSpec, volumes: _Volumes, content: pathlib.Path, disks: list[pathlib.Path]) -> None:
    """A group over a partition of the first disk and the whole of the second one, which has no table.

    The root lies on both, one behind the other; a further volume is striped over both.
    """
    with disks[1].open("xb") as file:
        file.truncate(512 * MIB)
    with _loops([(disks[0], 129 * MIB), (disks[1], 0)]) as devices:
        _make_group(devices)
        size = content.stat().st_size // MIB
        # Neither disk has room for all of it.
        _make_volume("swap", ["-L", "64m"], devices, devices[:1])
        _make_volume("data-1", ["-L", "128m", "-i", "2", "-I", "64k"], devices)
        _make_volume("root-fs", ["-L", f"{size}m"], devices)
        found = {volume.name: volume for volume in lvm.read_volumes([pathlib.Path(device) for device in devices])}
        if len(found["root-fs"].runs) < 2 or len(found["data-1"].runs[0].stripes) != 2:
            raise BuildError("the volumes do not lie on both disks")
        _write_volume(found["root-fs"], content)
        _write_volume(found["swap"], _swap(content.with_name("swap"), 64 * MIB))


def _make_group(devices: c.Sequence[str]) -> None:
    _lvm("pvcreate", devices, "-q", "--zero", "y", *devices)
    _lvm("vgcreate", devices, "-q", _GROUP, *devices)


def _make_volume(name: str, options: c.Sequence[str], group: c.Sequence[str], places: c.Sequence[str] = ()) -> None:
    """Make a volume of the group on the devices ``group``; at ``places``, if they are given."""
    # Nothing is activated: there may be no device-mapper.
    inactive = ("--activate", "n", "--zero", "n", "--wipesignatures", "n")
    _lvm("lvcreate", group, "-q", "--yes", *inactive, "--name", name, *options, _GROUP, *places)


def _lvm(command: str, devices: c.Sequence[str], *args: str) -> str:
    # Other guests, whose groups have the same name, may be built meanwhile.
    only = ("--devices", ",".join(devices))
    config = "devices{use_devicesfile=0 obtain_device_list_from_udev=0} activation{udev_sync=0 udev_rules=0}"
    return run(["lvm", command, "--driverloaded", "n", "--config", config, *only, *args])


def _swap(path: pathlib.Path, size: int) -> pathlib.Path:
    with path.open("xb") as file:
        file.truncate(size)
    run(["mkswap", "-q", path])
    return path


def _write_volume(volume: lvm.LogicalVolume, content: pathlib.Path) -> None:
    """Write a file's data where a linear volume has them."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(content.open("rb"))
        targets: dict[pathlib.Path, int] = {}
        for run_ in volume.runs:
            ((device, start),) = run_.stripes
            if device not in targets:
                targets[device] = stack.enter_context(device.open("r+b")).fileno()
            for place, block in data_blocks(source.fileno(), 64 * 1024):
                if run_.begin <= place < run_.begin + run_.length:
                    os.pwrite(targets[device], block, start + place - run_.begin)
        for descriptor in targets.values():
            os.fsync(descriptor)
    if content.name == "swap":
        content.unlink()


def _lay_luks(spec: VolumesSpec, volumes: _Volumes, content: pathlib.Path, disks: list[pathlib.Path]) -> None:
    """A LUKS 2 container in the second partition, and in it a group with the root."""
    start = 129 * MIB
    length = spec.disk_mib * MIB - start
    key = secrets.token_bytes(64)
    header = content.with_name("header")
    with header.open("xb") as file:
        file.truncate(length)
    key_file = content.with_name("key")
    key_file.write_bytes(key)
    derivation = ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4"]
    run(
        [
            *("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", volumes.luks_uuid),
            *(*derivation, "--sector-size", str(_LUKS_SECTOR), "--volume-key-file", key_file, "--key-size", "512"),
            *(header, "--key-file", "-"),
        ],
        stdin=PASSPHRASE.encode(),
    )
    shown = json.loads(run(["cryptsetup", "luksDump", "--dump-json-metadata", header]))
    offset = int(shown["segments"]["0"]["offset"])
    plain = content.with_name("plain")
    with plain.open("xb") as file:
        file.truncate(length - offset)
    with _loops([(plain, 0)]) as devices:
        _make_group(devices)
        _make_volume("swap", ["-L", "64m"], devices)
        _make_volume("root-fs", ["-L", f"{content.stat().st_size // MIB}m"], devices)
        found = {volume.name: volume for volume in lvm.read_volumes([pathlib.Path(devices[0])])}
        _write_volume(found["root-fs"], content)
        _write_volume(found["swap"], _swap(content.with_name("swap"), 64 * MIB))
    copy_data(header, disks[0], start)
    _encrypt(plain, disks[0], start + offset, key)
    for path in (header, key_file, plain):
        path.unlink()


def _encrypt(plain: pathlib.Path, disk: pathlib.Path, offset: int, key: bytes) -> None:
    """Encrypt what is not zero as dm-crypt does with ``aes-xts-plain64``; the rest decrypts to nothing of sense.

    The tweak counts sectors of 512 bytes, whatever the container's sectors are (cryptsetup's FAQ; dm-crypt without
    ``iv_large_sectors``).
    """
    with plain.open("rb") as source, disk.open("r+b") as target:
        for place, block in data_blocks(source.fileno(), 64 * 1024):
            sealed = b""
            for inner in range(0, len(block), _LUKS_SECTOR):
                tweak = struct.pack("<QQ", (place + inner) // _SECTOR, 0)
                encryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).encryptor()
                sealed += encryptor.update(block[inner : inner + _LUKS_SECTOR]) + encryptor.finalize()
            os.pwrite(target.fileno(), sealed, offset + place)


def _lay_raid(spec: VolumesSpec, volumes: _Volumes, content: pathlib.Path, disks: list[pathlib.Path]) -> None:
    """A RAID 1 of the second partitions of two disks; the second disk has the first one's table, and no boot code."""
    run(["cp", "--sparse=always", disks[0], disks[1]])
    with disks[1].open("r+b") as file:
        file.write(bytes(440))
    # A disk's signature is its own.
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", "--disk-id", disks[1], f"0x{secrets.token_hex(4)}"])
    start, data = 129 * MIB, MIB
    for role, disk in enumerate(disks):
        with disk.open("r+b") as file:
            os.pwrite(file.fileno(), _superblock(spec, volumes, content.stat().st_size, data, role), start + 4096)
        copy_data(content, disk, start + data)
        with _loops([(disk, start)]) as devices:
            told = run(["mdadm", "--examine", "--export", devices[0]])
        if f"MD_UUID={volumes.array}" not in told or "MD_LEVEL=raid1" not in told:
            raise BuildError(f"mdadm reads something else:\n{told}")


def _superblock(spec: VolumesSpec, volumes: _Volumes, size: int, data: int, role: int) -> bytes:
    """Version 1.2 of Linux' RAID superblock: include/uapi/linux/raid/md_p.h, struct mdp_superblock_1."""
    block = bytearray(256 + 2 * 128)
    struct.pack_into("<IIII", block, 0, 0xA92B4EFC, 1, 0, 0)
    block[16:32] = bytes.fromhex(volumes.array.replace(":", ""))
    name = f"{spec.hostname}:0".encode()
    block[32 : 32 + len(name)] = name
    now = 1_700_000_000
    struct.pack_into("<QiIQII", block, 64, now, 1, 0, size // _SECTOR, 0, 2)
    struct.pack_into("<QQQQ", block, 128, data // _SECTOR, size // _SECTOR, 8, 0)
    struct.pack_into("<I", block, 160, role)
    block[168:184] = secrets.token_bytes(16)
    # Clean: no resync is due (MaxSector).
    struct.pack_into("<QQQ", block, 192, now, 20, 0xFFFFFFFFFFFFFFFF)
    struct.pack_into("<I", block, 220, 128)
    for place in range(128):
        struct.pack_into("<H", block, 256 + 2 * place, place if place < 2 else 0xFFFF)
    total = sum(struct.unpack(f"<{len(block) // 4}I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(block)


if __name__ == "__main__":
    wanted = SPECS[sys.argv[1]]
    assert isinstance(wanted, VolumesSpec)
    try:
        produce(wanted, pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    except BuildError as problem:
        sys.exit(str(problem))
