# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The cpio archives that a kernel unpacks into its first root: format "newc" ("070701", and "070702" with checksums).

Facts: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst and init/initramfs.c. Header: the magic
and 13 fields of eight hexadecimal digits; then the name with its NUL, padded so that header and name are a multiple
of 4; then the data, padded to 4. "TRAILER!!!" ends an archive; zeros may follow any entry.
"""

from __future__ import annotations

import dataclasses
import io
import stat
import typing as t

HEADER_SIZE = 110
TRAILER = "TRAILER!!!"
_MAGICS = (b"070701", b"070702")
_NAME_LIMIT = 4096


class CorruptArchiveError(ValueError):
    """The bytes are no archive that a kernel would unpack."""


class Stream(t.Protocol):
    """Bytes read once from front to back."""

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""

    def skip(self, size: int) -> int:
        """Drop ``size`` bytes; return how many there were."""


class MemoryStream(io.BytesIO):
    """Bytes in memory as a :class:`Stream`."""

    def skip(self, size: int) -> int:
        """Drop ``size`` bytes; return how many there were."""
        return len(self.read(size))


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of an archive."""

    name: str
    """As stored, without leading "./" or "/"; bytes that are not UTF-8 by surrogate escapes."""
    mode: int
    data: bytes | None = b""
    """A link's target, a file's bytes; None where the reader did not keep them."""
    size: int = 0
    """Length of the data; for an entry to be written it is that of ``data``."""
    nlink: int = 1
    inode: int = 0

    @property
    def type(self) -> int:
        """The type bits of the mode (``stat.S_IFREG`` …)."""
        return stat.S_IFMT(self.mode)


def directory(name: str) -> Entry:
    """A directory with mode 0755, owned by root."""
    return Entry(name, stat.S_IFDIR | 0o755, b"", 0, 2)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """A regular file, owned by root."""
    return Entry(name, stat.S_IFREG | mode, data, len(data))


def symlink(name: str, target: str) -> Entry:
    """A symbolic link."""
    data = target.encode("utf-8", "surrogateescape")
    return Entry(name, stat.S_IFLNK | 0o777, data, len(data))


def read_entries(stream: Stream, keep: t.Callable[[str, int], bool]) -> t.Iterator[Entry]:
    """Yield the entries of one archive, zeros in front of it skipped, up to its trailer, which is yielded too.

    Afterwards the stream stands behind the trailer, or at its own end where there is no (further) archive or its
    trailer is missing (which a kernel does not mind). The data of a file are kept where ``keep(name, size)``.

    Raises:
        CorruptArchiveError: a header that is none, or an entry that ends too early.
    """
    position = 0
    while True:
        header = stream.read(HEADER_SIZE)
        while header[:1] == b"\0":
            rest = header.lstrip(b"\0")
            position += len(header) - len(rest)
            if position % 4 and rest:
                raise CorruptArchiveError("padding between two entries is no multiple of 4 bytes")
            header = rest + stream.read(HEADER_SIZE - len(rest))
        if not header:
            return
        if len(header) < HEADER_SIZE or header[:6] not in _MAGICS:
            raise CorruptArchiveError(f"no newc header where an entry should begin: {header[:6]!r}")
        try:
            fields = [int(header[at : at + 8], 16) for at in range(6, HEADER_SIZE, 8)]
        except ValueError:
            raise CorruptArchiveError("a header field is no hexadecimal number") from None
        inode, mode, nlink, size, name_size = fields[0], fields[1], fields[4], fields[6], fields[11]
        if not 0 < name_size <= _NAME_LIMIT:
            raise CorruptArchiveError(f"an entry's name is said to be {name_size} bytes long")
        padded_name = name_size + -(HEADER_SIZE + name_size) % 4
        raw_name = stream.read(padded_name)
        if len(raw_name) < name_size:
            raise CorruptArchiveError("the archive ends within a name")
        name = raw_name[: name_size - 1].decode("utf-8", "surrogateescape")
        while name.startswith(("./", "/")):
            name = name[2:] if name[0] == "." else name[1:]
        padded_size = size + -size % 4
        position += HEADER_SIZE + padded_name + padded_size
        data: bytes | None = b""
        if size:
            link = stat.S_ISLNK(mode)
            if link and size > _NAME_LIMIT:
                raise CorruptArchiveError(f"the link {name!r} is said to be {size} bytes long")
            if link or keep(name, size):
                data = stream.read(padded_size)[:size]
                got = len(data)
            else:
                data = None
                got = stream.skip(padded_size)
            if got < size:
                raise CorruptArchiveError(f"the archive ends within {name!r}")
        yield Entry(name, mode, data, size, nlink, inode)
        if name == TRAILER:
            return


def write_archive(entries: t.Iterable[Entry]) -> bytes:
    """Return the entries, whose data must all be there, as one archive with a trailer, padded to a multiple of 4.

    Equal entries give equal bytes: times are 0 and inodes are counted.
    """
    parts: list[bytes] = []
    inode = 0
    for inode, entry in enumerate(entries, 1):
        if entry.data is None:
            raise AssertionError(entry.name)
        parts += _pack(entry.name, entry.mode, entry.nlink, inode, entry.data)
    parts += _pack(TRAILER, 0, 1, inode + 1, b"")
    return b"".join(parts)


def _pack(name: str, mode: int, nlink: int, inode: int, data: bytes) -> list[bytes]:
    raw_name = name.encode("utf-8", "surrogateescape") + b"\0"
    fields = (inode, mode, 0, 0, nlink, 0, len(data), 0, 0, 0, 0, len(raw_name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return [header, raw_name, b"\0" * (-(HEADER_SIZE + len(raw_name)) % 4), data, b"\0" * (-len(data) % 4)]
