# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""GRUB in a guest that is not running: its own GRUB programs, told what VMware's hardware would have told them."""

from __future__ import annotations

import collections.abc as c
import pathlib
import shutil
import struct

from tests.guests.chroot import Chroot
from tests.guests.disk import Slice
from tests.guests.host import BuildError, run
from tests.guests.specs import GuestSpec

#: What the core image needs to find its prefix; everything else is loaded from there.
_CORE_MODULES = {"ext4": ["ext2"], "xfs": ["xfs"], "btrfs": ["btrfs"]}


def install_bios(guest: Chroot, disk: pathlib.Path, slices: c.Sequence[Slice]) -> None:
    """What ``grub-install /dev/sda`` does on an MBR disk: modules, core image behind the MBR, boot code in it."""
    boot = _grub_partition(slices)
    prefix = f"(,msdos{boot.number}){_folder(boot)}"
    modules = guest.root / "boot/grub/i386-pc"
    shutil.copytree(guest.root / "usr/lib/grub/i386-pc", modules, dirs_exist_ok=True)
    mkimage = ["grub-mkimage", "-O", "i386-pc", "-p", prefix, "-o", "/boot/grub/i386-pc/core.img"]
    guest.run([*mkimage, "biosdisk", "part_msdos", *_CORE_MODULES[boot.filesystem]])
    core = (modules / "core.img").read_bytes()
    if len(core) > slices[0].start - 512:
        raise BuildError(f"GRUB's core image ({len(core)} bytes) does not fit in front of the first partition")
    # boot.img looks for the core image in the sector behind itself, and grub-mkimage writes a block list that goes on
    # from there: the places where it lies on every MBR disk.
    code = (modules / "boot.img").read_bytes()
    with disk.open("r+b") as file:
        table = file.read(512)[440:]
        file.seek(0)
        file.write(code[:440] + table)
        file.write(core)
    (guest.root / "boot/grub/device.map").write_text("(hd0)\t/dev/sda\n", encoding="ascii")


def install_uefi(guest: Chroot, disk: pathlib.Path, slices: c.Sequence[Slice]) -> None:
    r"""What ``grub-install --bootloader-id=debian`` does: ``\EFI\debian\grubx64.efi`` and nothing beside it."""
    boot = _grub_partition(slices)
    esp = next(part for part in slices if part.filesystem == "vfat")
    shutil.copytree(guest.root / "usr/lib/grub/x86_64-efi", guest.root / "boot/grub/x86_64-efi", dirs_exist_ok=True)
    image = "/boot/grub/x86_64-efi/core.efi"
    prefix = f"(,gpt{boot.number}){_folder(boot)}"
    mkimage = ["grub-mkimage", "-O", "x86_64-efi", "-p", prefix, "-o", image]
    guest.run([*mkimage, "part_gpt", *_CORE_MODULES[boot.filesystem]])
    shutil.copy(guest.root / image.lstrip("/"), guest.root / "boot/grub/x86_64-efi/grub.efi")
    at = f"{disk}@@{esp.start}"
    run(["mmd", "-i", at, "::/EFI", "::/EFI/debian"])
    run(["mcopy", "-i", at, guest.root / image.lstrip("/"), "::/EFI/debian/grubx64.efi"])
    (guest.root / "boot/grub/device.map").write_text("(hd0)\t/dev/sda\n", encoding="ascii")


def _folder(boot: Slice) -> str:
    """Where GRUB's own files are, from the top of their filesystem: it knows nothing of default subvolumes."""
    if boot.mountpoint == "/boot":
        return "/grub"
    return "/@/boot/grub" if boot.filesystem == "btrfs" else "/boot/grub"


def configure(guest: Chroot, spec: GuestSpec, slices: c.Sequence[Slice]) -> None:
    """Run the guest's own ``grub-mkconfig``; what it asks about devices is answered as on VMware's hardware."""
    run_dir = guest.root / "run"
    probe = run_dir / "grub-probe"
    probe.write_text(_probe_script(spec, slices), encoding="ascii")
    relative = run_dir / "grub-mkrelpath"
    relative.write_text(_relative_script(slices), encoding="ascii")
    for script, program in ((probe, "usr/sbin/grub-probe"), (relative, "usr/bin/grub-mkrelpath")):
        script.chmod(0o755)
        run(["mount", "--bind", script, guest.root / program])
    try:
        guest.run(["grub-mkconfig", "-o", "/boot/grub/grub.cfg"])
        guest.run(["grub-editenv", "/boot/grub/grubenv", "create"])
    finally:
        for program in ("usr/sbin/grub-probe", "usr/bin/grub-mkrelpath"):
            run(["umount", guest.root / program])
    probe.unlink()
    relative.unlink()


def nvram_variables(template: bytes, esp: Slice) -> bytes:
    r"""The firmware's variables of a machine whose installer made the boot entry ``debian`` for its GRUB.

    :param template: OVMF's empty variable store.
    :returns: the same store with ``Boot0000`` and ``BootOrder``. Formats: UEFI 2.10, 3.1.3 (load option), 10.3
        (device path); edk2's ``Guid/VariableFormat.h`` (authenticated variables).
    """
    node = struct.pack("<IQQ", esp.number, esp.start // 512, esp.size // 512) + _guid(esp.partuuid) + b"\x02\x02"
    drive = struct.pack("<BBH", 4, 1, 4 + len(node)) + node
    name = (r"\EFI\debian\grubx64.efi" + "\0").encode("utf-16-le")
    path = drive + struct.pack("<BBH", 4, 4, 4 + len(name)) + name + struct.pack("<BBH", 0x7F, 0xFF, 4)
    option = struct.pack("<IH", 1, len(path)) + "debian\0".encode("utf-16-le") + path
    store = bytearray(template)
    position = _first_free(store)
    for variable, value in (("Boot0000", option), ("BootOrder", struct.pack("<H", 0))):
        record = _variable(variable, value)
        store[position : position + len(record)] = record
        position += len(record)
    return bytes(store)


_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
_VARIABLE_HEADER = struct.Struct("<HBBIQ16sIII16s")


def _guid(text: str) -> bytes:
    first, second, third, fourth, fifth = text.split("-")
    head = struct.pack("<IHH", int(first, 16), int(second, 16), int(third, 16))
    return head + bytes.fromhex(fourth + fifth)


def _variable(name: str, value: bytes) -> bytes:
    encoded = (name + "\0").encode("utf-16-le")
    attributes = 7  # non-volatile, for boot services, at runtime
    head = _VARIABLE_HEADER.pack(0x55AA, 0x3F, 0, attributes, 0, bytes(16), 0, len(encoded), len(value), _guid(_GLOBAL))
    record = head + encoded + value
    return record.ljust(-(-len(record) // 4) * 4, b"\xff")


def _first_free(store: bytearray) -> int:
    volume_header = struct.unpack_from("<H", store, 48)[0]  # EFI_FIRMWARE_VOLUME_HEADER.HeaderLength
    position: int = volume_header + 28  # VARIABLE_STORE_HEADER
    while struct.unpack_from("<H", store, position)[0] == 0x55AA:
        fields = _VARIABLE_HEADER.unpack_from(store, position)
        position += _VARIABLE_HEADER.size + fields[7] + fields[8]
        position = -(-position // 4) * 4
    return position


def _grub_partition(slices: c.Sequence[Slice]) -> Slice:
    """Where /boot/grub lies."""
    by_mount = {part.mountpoint: part for part in slices}
    return by_mount.get("/boot", by_mount["/"])


def _probe_script(spec: GuestSpec, slices: c.Sequence[Slice]) -> str:
    scheme = "gpt" if spec.firmware == "uefi" else "msdos"
    boot = _grub_partition(slices)
    root = next(part for part in slices if part.mountpoint == "/")
    answers = []
    for part in slices:
        place = f"hd0,{scheme}{part.number}"
        hints = f"--hint-bios={place} --hint-efi={place} --hint-baremetal=ahci0,{scheme}{part.number}"
        for target, answer in {
            "device": part.device,
            "fs_uuid": part.uuid,
            "partuuid": part.partuuid,
            "fs": "ext2" if part.filesystem == "ext4" else part.filesystem,
            "partmap": scheme,
            "drive": f"({place})",
            "compatibility_hint": place,
            "hints_string": hints,
            "abstraction": "",
        }.items():
            answers.append(f"{part.device}:{target}) echo '{answer}' ;;")
    return f"""#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
    --target=*) target=${{1#--target=}} ;;
    -t) target=$2; shift ;;
    -*) ;;
    *) subject=$1 ;;
    esac
    shift
done
case "$subject" in
/dev/*) ;;
/boot*) subject={boot.device} ;;
*) subject={root.device} ;;
esac
case "$subject:$target" in
{chr(10).join(answers)}
*) exit 1 ;;
esac
"""


def _relative_script(slices: c.Sequence[Slice]) -> str:
    separate = any(part.mountpoint == "/boot" for part in slices)
    root = next(part for part in slices if part.mountpoint == "/")
    other = 'echo "/@${1%/}"' if root.filesystem == "btrfs" else 'echo "$1"'
    boot = 'echo "${1#/boot}"' if separate else other
    return f"""#!/bin/sh
case "$1" in
/boot*) {boot} ;;
*) {other} ;;
esac
"""
