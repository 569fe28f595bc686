# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the members of an OVA lie: a tar is indexed, never unpacked.

Facts from POSIX.1-2017 (pax, "ustar Interchange Format", "pax Extended Header") and GNU tar's manual ("Basic Tar
Format"): 512-byte blocks, numbers in octal or, with the top bit set, base 256.
"""

from __future__ import annotations

import dataclasses
import pathlib

from ..protocol.errors import JobError, invalid, unsupported
from .file_range import FileRange, truncated

_BLOCK = 512
_MAX_MEMBERS = 10_000
#: Of all extended headers together: names of an OVA's few members.
_MAX_EXTENSIONS = 1024**2
_REGULAR = (b"0", b"\0", b"7")
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"L", b"K", b"S"
_PAX, _PAX_GLOBAL = b"x", b"g"


@dataclasses.dataclass(frozen=True)
class Member:
    """A regular file within a tar. Bytes."""

    name: str
    offset: int
    size: int


def index_tar(path: pathlib.Path) -> dict[str, Member]:
    """Return the regular files of the tar ``path`` by name, without a leading ``./``; other members are left out.

    Names are keys, and never become paths. Of two members with one name the later one counts, as tar(1) has it.

    Raises:
        JobError: class ``invalid``, it is no whole tar.
    """
    members: dict[str, Member] = {}
    with FileRange(path) as file:
        position, name, size, extensions = 0, None, None, 0
        for _count in range(_MAX_MEMBERS):
            header = file.read(position, _BLOCK) if position + _BLOCK <= file.length else b""
            if not header.strip(b"\0"):
                # The end: blocks of zeros, or (some writers forget them) nothing, but never half a member.
                if not members:
                    raise _bad(path, "it holds no file")
                return members
            kind, stored = _check_header(path, header)
            position += _BLOCK
            if kind in (_GNU_LONG_NAME, _GNU_LONG_LINK, _PAX, _PAX_GLOBAL):
                extensions += stored
                if extensions > _MAX_EXTENSIONS:
                    raise _bad(path, "its extended headers are longer than 1 MiB")
                data = file.read(position, stored)
                if kind == _GNU_LONG_NAME:
                    name = _text(data)
                elif kind == _PAX:
                    name, size = _pax(path, data, name, size)
            else:
                stored = stored if size is None else size
                if position + stored > file.length:
                    raise truncated(path)
                if kind in _REGULAR:
                    plain = (_name(header) if name is None else name).removeprefix("./")
                    members[plain] = Member(plain, position, stored)
                elif kind == _GNU_SPARSE:
                    raise unsupported("SparseTar", f"{path.name} is a tar with sparse members.", "Pack it without -S.")
                name = size = None
            position += -(-stored // _BLOCK) * _BLOCK
    raise _bad(path, f"it has more than {_MAX_MEMBERS} members")


def _check_header(path: pathlib.Path, header: bytes) -> tuple[bytes, int]:
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if total != _number(path, header[148:156]):
        raise _bad(path, "a member's header has a wrong checksum")
    return header[156:157], _number(path, header[124:136])


def _number(path: pathlib.Path, field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise _bad(path, "a member's header holds a broken number")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax(path: pathlib.Path, data: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Records "LENGTH KEY=VALUE\\n", where LENGTH counts the whole record."""
    position, end = 0, len(data.rstrip(b"\0"))
    while position < end:
        digits = data[position : position + 9].split(b" ", 1)[0]
        length = int(digits) if digits.isdigit() and len(digits) < 9 else 0
        key, separator, value = data[position + len(digits) + 1 : position + length - 1].partition(b"=")
        if length <= len(digits) + 1 or position + length > len(data) or not separator:
            raise _bad(path, "an extended header is broken")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise _bad(path, "an extended header is broken")
            size = int(value)
        elif key.startswith(b"GNU.sparse."):
            raise unsupported("SparseTar", f"{path.name} is a tar with sparse members.", "Pack it without -S.")
        position += length
    return name, size


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _bad(path: pathlib.Path, why: str) -> JobError:
    return invalid("BadOva", f"{path.name} is not a tar that can be read: {why}.", "Export or upload it again.")
