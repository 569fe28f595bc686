# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks of phony guests, made of filesystem images. Takes root, for the partition table of sectors of any size."""

from __future__ import annotations

import pathlib
import subprocess
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.loop import LoopDevice

MIB = 1024**2
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
UUID = "12345678-1234-4234-8234-123456789abc"


def run(*args: str | pathlib.Path, data: str = "") -> None:
    """A tool that must succeed."""
    subprocess.run(
        args,
        input=data.encode(),
        check=True,
        capture_output=True,
    )


class Builder:
    """Disks of a phony guest."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.count = 0

    def content(self, files: dict[str, str], links: dict[str, str] | None = None) -> pathlib.Path:
        """A folder with these files."""
        self.count += 1
        root = self.folder / f"content{self.count}"
        root.mkdir()
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for name, target in (links or {}).items():
            (root / name).symlink_to(target)
        return root

    def system(self, fstab: str = "", links: dict[str, str] | None = None, **more: str) -> pathlib.Path:
        """A folder that looks like an operating system's root."""
        files = {"etc/os-release": "ID=debian\nVERSION_ID=12\n", "etc/fstab": fstab, "usr/bin/env": "", **more}
        root = self.content(files, links)
        for name in ("boot", "home", "srv"):
            if not (root / name).is_symlink():
                (root / name).mkdir(exist_ok=True)
        return root

    def filesystem(
        self, kind: str, content: pathlib.Path | None = None, size: int = 16, uuid: str = ""
    ) -> pathlib.Path:
        """An image of one filesystem."""
        self.count += 1
        image = self.folder / f"filesystem{self.count}"
        size = {"xfs": 300, "xfs4": 300, "btrfs": 120, "vfat": 40}.get(kind, size)
        with image.open("wb") as file:
            file.truncate(size * MIB)
        if kind == "ext4":
            run(
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                *(["-U", uuid] if uuid else []),
                *(["-d", content] if content else []),
                image,
            )
        elif kind == "btrfs":
            run(
                "mkfs.btrfs", "-q", *(["-U", uuid] if uuid else []), *(["--rootdir", content] if content else []), image
            )
        elif kind == "xfs":
            run("mkfs.xfs", "-q", "-m", f"uuid={uuid or UUID}", "-p", self._proto(content), image)
        elif kind == "xfs4":
            # As EL 6 and the first of EL 7 make them.
            run("mkfs.xfs", "-q", "-m", "crc=0", "-p", self._proto(content), image)
        elif kind == "vfat":
            run("mkfs.vfat", image)
        elif kind == "swap":
            run("mkswap", image)
        return image

    def _proto(self, content: pathlib.Path | None) -> pathlib.Path:
        """mkfs.xfs(8): a prototype file."""

        def lines(folder: pathlib.Path) -> t.Iterator[str]:
            for path in sorted(folder.iterdir()):
                if path.is_dir():
                    yield f"{path.name} d--755 0 0"
                    yield from lines(path)
                    yield "$"
                else:
                    yield f"{path.name} ---644 0 0 {path}"

        proto = self.folder / f"proto{self.count}"
        body = "\n".join(lines(content)) if content else ""
        proto.write_text(f"/none\n0 0\nd--755 0 0\n{body}\n$\n")
        return proto

    def disk(self, *parts: pathlib.Path, types: t.Sequence[str] = (), sector: int = 512) -> pathlib.Path:
        """A GPT disk of filesystem images."""
        self.count += 1
        image = self.folder / f"disk{self.count}.raw"
        script, start = "label: gpt\n", MIB
        with image.open("wb") as file:
            for index, part in enumerate(parts):
                size = part.stat().st_size
                kind = types[index] if index < len(types) else LINUX
                script += f"start={start // sector}, size={size // sector}, type={kind}\n"
                with part.open("rb") as source:
                    for offset in range(0, size, 65536):
                        block = source.read(65536)
                        if block.strip(b"\0"):
                            file.seek(start + offset)
                            file.write(block)
                start += size
            file.truncate(start + MIB)
        loop = LoopDevice(image, 0, image.stat().st_size, writable=True, block_size=sector)
        try:
            run("sfdisk", "-q", loop.device, data=script)
            loop.sync()
        finally:
            loop.detach()
        return image


def header(kind: str, build: Builder) -> pathlib.Path:
    """An image that starts as a container of this kind does."""
    image = build.filesystem("")
    with image.open("r+b") as file:
        if kind == "luks":
            # LUKS1: magic, version, names, and the UUID at 168.
            file.write(b"LUKS\xba\xbe\0\1" + b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0"))
            file.seek(168)
            file.write(UUID.encode())
        else:
            # LVM2: label in the second sector.
            file.seek(512)
            label = b"LABELONE" + (1).to_bytes(8, "little") + b"\0\0\0\0" + (32).to_bytes(4, "little") + b"LVM2 001"
            file.write(label.ljust(512, b"\0"))
            file.seek(512 + 32)
            file.write(b"0123456789abcdefghijklmnopqrstuv")
            file.seek(512 + 16)
            file.write(_lvm_checksum(image).to_bytes(4, "little"))
    return image


def _lvm_checksum(image: pathlib.Path) -> int:
    """LVM2's CRC (lib/misc/crc.c: polynomial 0xedb88320, initial value 0xf597a6cf) of the label from byte 20 on."""
    with image.open("rb") as file:
        file.seek(512 + 20)
        data = file.read(492)
    crc = 0xF597A6CF
    for byte in data:
        crc ^= byte
        for dummy in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
    return crc
