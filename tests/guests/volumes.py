# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks in volumes: LVM on one disk or two, LVM in LUKS, a RAID 1 of two disks.

They are made on machines without a device-mapper. The root filesystem is made as a plain one; then it is laid where
the volumes have it, whose metadata LVM's and cryptsetup's own tools wrote (a RAID's superblock is written here, and
read back by mdadm). That all is as it should be is shown by the guests' kernels, which boot from it.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import struct
import sys
import uuid

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.guests.chroot import Chroot
from tests.guests.disk import Slice, copy_data, data_blocks, make_filesystem, write_table
from tests.guests.host import REPOSITORY, BuildError, run
from tests.guests.specs import MIB, ServerSpec

# As a program it is run without pytest, which knows where the collection is.
sys.path.insert(0, str(REPOSITORY / ".collections"))
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import lvm

#: The passphrase of the encrypted guest. It protects nothing.
PASSPHRASE = "correct horse battery staple"
_GROUP = "vg-sys"
_SECTOR = 512
_LUKS_SECTOR = 4096
_SFDISK = ("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel")


@dataclasses.dataclass(frozen=True)
class Volumes:
    """What the guest calls its root, and by what it finds it."""

    root: str
    swap: str = ""
    luks_uuid: str = ""
    array: str = ""


def named(spec: ServerSpec) -> Volumes:
    """Names and identifiers of a guest's volumes, new in every call."""
    if spec.storage == "plain":
        return Volumes("")
    if spec.storage == "raid1":
        digits = uuid.uuid4().hex
        return Volumes("/dev/md0", array=":".join(digits[i : i + 8] for i in range(0, 32, 8)))
    mapped = f"/dev/mapper/{_GROUP.replace('-', '--')}"
    identity = str(uuid.uuid4()) if spec.storage == "luks-lvm" else ""
    return Volumes(f"{mapped}-root--fs", swap=f"{mapped}-swap", luks_uuid=identity)


def content_size(spec: ServerSpec, container: Slice) -> int:
    """How large the root filesystem is whose volumes begin in the partition ``container``. Bytes."""
    if spec.storage == "plain":
        return container.size
    # A group of two disks has more than one of them; else there is room for swap, and for what tells of the volumes.
    return container.size + (256 if spec.storage == "lvm" and spec.disks > 1 else -128) * MIB


def lay_out(spec: ServerSpec, files: c.Mapping[str, str], folder: pathlib.Path) -> list[pathlib.Path]:
    """Make raw disks in ``folder`` whose volumes hold a root of these few files, and nothing that boots.

    What is ``ROOT``, ``SWAP`` or ``LUKS`` in them becomes the names of the guest's volumes.
    """
    volumes = named(spec)
    tree, content = folder / "tree", folder / "root.fs"
    names = {"ROOT": volumes.root, "SWAP": volumes.swap, "LUKS": volumes.luks_uuid}
    for path, text in files.items():
        for word, name in names.items():
            text = text.replace(word, name)
        Chroot(tree).write(path, text)
    run(["mke2fs", "-q", "-t", "ext4", "-d", tree, content, f"{(spec.disk_mib - 256) * 1024}"])
    run(["rm", "-rf", tree])
    boot = Slice(1, MIB, 128 * MIB, "ext4", "/boot", str(uuid.uuid4()), f"{secrets.token_hex(4)}-01")
    start = boot.start + boot.size
    container = Slice(2, start, spec.disk_mib * MIB - start, "ext4", "/", str(uuid.uuid4()), f"{boot.partuuid[:8]}-02")
    staging = folder / "staging.raw"
    with staging.open("xb") as file:
        file.truncate(start)
    make_filesystem(staging, boot)
    disks = lay(spec, volumes, staging, [boot], container, content)
    for path in (staging, content):
        path.unlink()
    return disks


def lay(
    spec: ServerSpec,
    volumes: Volumes,
    staging: pathlib.Path,
    leading: c.Sequence[Slice],
    container: Slice,
    content: pathlib.Path,
) -> list[pathlib.Path]:
    """Make the raw disks ``disk0.raw`` … beside ``content``, whose volumes hold that root filesystem.

    :param staging: a disk with boot code and the partitions ``leading``, which are taken over.
    :param container: the partition of the first disk that is, or is a part of, the volumes.
    """
    disks = [content.with_name(f"disk{index}.raw") for index in range(spec.disks)]
    _lay_boot_disk(staging, leading, container, disks[0], spec)
    layers = {"lvm": _lay_lvm, "luks-lvm": _lay_luks, "raid1": _lay_raid}
    layers[spec.storage](spec, volumes, container, content, disks)
    return disks


# -- disks -------------------------------------------------------------------------------------------------------------


def _lay_boot_disk(
    staging: pathlib.Path, leading: c.Sequence[Slice], container: Slice, disk: pathlib.Path, spec: ServerSpec
) -> None:
    """Make the first disk: boot code, the leading partitions, and one that is empty."""
    write_table(disk, spec, [*leading, container])
    if spec.firmware == "bios":
        kind = {"lvm": "8e", "luks-lvm": "83", "raid1": "fd"}[spec.storage]
        run([*_SFDISK, "--part-type", disk, str(container.number), kind])
        with staging.open("rb") as source, disk.open("r+b") as target:
            target.write(source.read(440))
            source.seek(_SECTOR)
            target.seek(_SECTOR)
            target.write(source.read(MIB - _SECTOR))
    for part in leading:
        content = disk.with_name("part.fs")
        with content.open("xb") as file:
            file.truncate(part.size)
        copy_range(staging, part, content)
        copy_data(content, disk, part.start)
        content.unlink()


def copy_range(disk: pathlib.Path, part: Slice, target: pathlib.Path) -> None:
    """Copy what is not zero in a partition into the file ``target``, where everything is zero so far."""
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


def _lay_lvm(
    spec: ServerSpec, volumes: Volumes, container: Slice, content: pathlib.Path, disks: list[pathlib.Path]
) -> None:
    """A group in a partition of the first disk; with two disks, also on the whole of the second one, without a table.

    With two disks the root lies on both, one behind the other; a further volume is striped over both.
    """
    places = [(disks[0], container.start)]
    if len(disks) > 1:
        with disks[1].open("xb") as file:
            file.truncate(512 * MIB)
        places.append((disks[1], 0))
    with _loops(places) as devices:
        _make_group(devices)
        _make_volume("swap", ["-L", "64m"], devices, devices[:1])
        if len(devices) > 1:
            _make_volume("data-1", ["-L", "128m", "-i", "2", "-I", "64k"], devices)
        # Of two disks neither has room for all of it.
        _make_volume("root-fs", ["-L", f"{content.stat().st_size // MIB}m"], devices)
        found = {volume.name: volume for volume in lvm.read_volumes([pathlib.Path(device) for device in devices])}
        if len(found["root-fs"].runs) < len(devices):
            raise BuildError("the root does not lie on both disks")
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


def _lay_luks(
    spec: ServerSpec, volumes: Volumes, container: Slice, content: pathlib.Path, disks: list[pathlib.Path]
) -> None:
    """A LUKS 2 container in the partition, and in it a group with the root."""
    start, length = container.start, container.size
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


def _lay_raid(
    spec: ServerSpec, volumes: Volumes, container: Slice, content: pathlib.Path, disks: list[pathlib.Path]
) -> None:
    """A RAID 1 of partitions of two disks; the second disk has a table like the first one's, and nothing else."""
    table = run(["sfdisk", "--dump", disks[0]])
    # Identifiers are a disk's own; without them sfdisk makes new ones.
    own = re.sub(r"^(?:label-id|device|first-lba|last-lba):.*\n|, uuid=\S+", "", table, flags=re.MULTILINE)
    with disks[1].open("xb") as file:
        file.truncate(disks[0].stat().st_size)
    run([*_SFDISK, disks[1]], stdin=own.encode())
    start, data = container.start, MIB
    for role, disk in enumerate(disks):
        with disk.open("r+b") as file:
            os.pwrite(file.fileno(), _superblock(spec, volumes, content.stat().st_size, data, role), start + 4096)
        copy_data(content, disk, start + data)
        with _loops([(disk, start)]) as devices:
            told = run(["mdadm", "--examine", "--export", devices[0]])
        if f"MD_UUID={volumes.array}" not in told or "MD_LEVEL=raid1" not in told:
            raise BuildError(f"mdadm reads something else:\n{told}")


def _superblock(spec: ServerSpec, volumes: Volumes, size: int, data: int, role: int) -> bytes:
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
