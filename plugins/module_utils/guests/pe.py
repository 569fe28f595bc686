# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Programs in the format of EFI and Windows: what machine they are for, their sections, whether they are signed.

Format: Microsoft's PE specification; the sections of a unified kernel image: UAPI group's UKI specification.
"""

from __future__ import annotations

import dataclasses
import os
import struct

MACHINES = {0x8664: "x86_64", 0x14C: "i686", 0xAA64: "aarch64", 0x1C2: "armv7l", 0x1C4: "armv7l", 0x5064: "riscv64"}

_SECTION = struct.Struct("<8sIIII")
_SECTION_SIZE = 40
_SECTIONS_LIMIT = 96
# Offset of the data directories in the optional header, by its magic number: PE32, PE32+.
_DIRECTORIES = {0x10B: 96, 0x20B: 112}
_CERTIFICATES = 4
_HEADERS = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Program:
    """What the headers tell. Offsets and sizes are bytes of the file."""

    machine: str
    """As ``uname -m`` says it; ``pe-0x…`` for one that is not known."""
    sections: dict[str, tuple[int, int]]
    """Offset and size by name."""
    signed: bool
    """Whether it carries a signature; whose, and whether it is valid, is not looked at."""


def read_program(fd: int) -> Program | None:
    """Return what the headers behind a file descriptor tell; None where it is no such program."""
    head = os.pread(fd, _HEADERS, 0)
    try:
        if head[:2] != b"MZ":
            return None
        at = struct.unpack_from("<I", head, 0x3C)[0]
        if head[at : at + 4] != b"PE\0\0":
            return None
        machine, count = struct.unpack_from("<HH", head, at + 4)
        optional_size = struct.unpack_from("<H", head, at + 20)[0]
        optional = at + 24
        directories = _DIRECTORIES.get(struct.unpack_from("<H", head, optional)[0])
        certificates = 0
        if directories is not None and optional_size >= directories + 8 * (_CERTIFICATES + 1):
            certificates = struct.unpack_from("<I", head, optional + directories + 8 * _CERTIFICATES + 4)[0]
        sections = {}
        for index in range(min(count, _SECTIONS_LIMIT)):
            name, virtual, dummy, raw, offset = _SECTION.unpack_from(
                head, optional + optional_size + index * _SECTION_SIZE
            )
            # What is behind the virtual size is padding.
            sections[name.rstrip(b"\0").decode("ascii", "replace")] = (offset, min(virtual or raw, raw))
    except struct.error:
        return None
    return Program(MACHINES.get(machine, f"pe-{machine:#x}"), sections, certificates > 0)


def machine_of(head: bytes) -> str:
    """Return what machine a program is for, by its first bytes; empty where it is no such program."""
    fd = os.memfd_create("program", os.MFD_CLOEXEC)
    with open(fd, "w+b") as file:
        file.write(head)
        file.flush()
        program = read_program(fd)
    return program.machine if program is not None else ""


def section(fd: int, program: Program, name: str, limit: int) -> bytes:
    """Return the bytes of a section, at most ``limit``; nothing where there is none."""
    offset, size = program.sections.get(name, (0, 0))
    parts = []
    left = min(size, limit)
    while left > 0:
        part = os.pread(fd, min(left, 1 << 20), offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        left -= len(part)
    return b"".join(parts)
