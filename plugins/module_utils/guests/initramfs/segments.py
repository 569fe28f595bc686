# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An initramfs file as the kernel sees it: archives one behind another, each compressed in its own way, zeros between.

The loop is that of ``unpack_to_rootfs`` in init/initramfs.c: at a multiple of 4 a "0" begins an uncompressed archive,
a zero is skipped, anything else must be the magic number of a compression.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import typing as t

from ...protocol.errors import invalid
from . import codec, cpio
from .codec import Compression
from .rootfs import RootFs

#: What helps against an initramfs that cannot be read.
_SMALLER = "Build it anew in the source VM with less in it, and export again."
_ANEW = "Build it anew in the source VM (update-initramfs -u, dracut --force), and export again."

#: An appended archive begins at a multiple of this, at least 4 zeros behind the archive before it.
_ALIGNMENT = 512
#: Nothing that boots is near it, and all of it is read. Bytes.
_FILE_LIMIT = 1024**3
_ENTRIES_LIMIT = 500_000
_KEPT_LIMIT = 128 * 1024**2


@dataclasses.dataclass(frozen=True)
class Segment:
    """One uncompressed archive, or one compressed stream of archives. Bytes."""

    offset: int
    end: int
    compression: Compression


@dataclasses.dataclass(frozen=True)
class Initramfs:
    """A parsed file and what the kernel makes of it."""

    size: int
    segments: tuple[Segment, ...]
    root: RootFs
    junk: int | None = None
    """Offset of bytes that are no archive: there the kernel stops, and nothing behind would be unpacked."""

    @property
    def last(self) -> Segment:
        """The segment that an appended one follows."""
        return self.segments[-1]


def parse(fd: int, keep: t.Callable[[str, int], bool]) -> Initramfs:
    """Read the initramfs behind a file descriptor; its position is neither used nor changed.

    File data are kept where ``keep(name, size)``; memory is bounded whatever the file says.

    Raises:
        JobError: (invalid) no archive, damaged, or beyond all bounds; (environment) no program for its compression.
    """
    size = os.fstat(fd).st_size
    if size > _FILE_LIMIT:
        raise invalid(
            "InitramfsTooBig",
            f"The file is bigger than {_FILE_LIMIT >> 20} MiB.",
            _SMALLER,
        )
    segments: list[Segment] = []
    consumer = _Consumer(keep)
    position = 0
    junk: int | None = None
    while (position := _skip_zeros(fd, position)) < size:
        start = os.pread(fd, 6, position)
        if start[:1] == b"0" and position % 4 == 0:
            plain = codec.PlainStream(fd, position)
            consumer.archive(plain)
            segments.append(Segment(position, plain.tell(), Compression.NONE))
        elif compression := codec.detect(start):
            with codec.open_stream(fd, position, compression) as stream:
                if not consumer.archive(stream):
                    raise invalid(
                        "InitramfsDamaged",
                        f"The {compression.value} data at byte {position} are empty.",
                        _ANEW,
                    )
                while consumer.archive(stream):
                    pass
                segments.append(Segment(position, stream.end(), compression))
        else:
            junk = position
            break
        position = segments[-1].end
    if not segments:
        raise invalid(
            "InitramfsDamaged",
            "The file is no initramfs: it begins with no archive that a kernel knows.",
            _ANEW,
        )
    return Initramfs(size, tuple(segments), consumer.root, junk)


class _Consumer:
    """Unpacks archives into a root, within bounds."""

    def __init__(self, keep: t.Callable[[str, int], bool]) -> None:
        self.root = RootFs()
        self._keep = keep
        self._entries = self._kept = 0

    def archive(self, stream: cpio.Stream) -> bool:
        """Unpack one archive; False at the stream's end."""
        found = False
        try:
            for entry in cpio.read_entries(stream, self._want):
                found = True
                self._entries += 1
                if self._entries > _ENTRIES_LIMIT:
                    raise invalid(
                        "InitramfsTooBig",
                        f"It holds more than {_ENTRIES_LIMIT} files.",
                        _SMALLER,
                    )
                if entry.name != cpio.TRAILER:
                    self.root.unpack(entry)
        except cpio.CorruptArchiveError as error:
            raise invalid(
                "InitramfsDamaged",
                f"An archive in it is damaged: {error}.",
                _ANEW,
            ) from error
        self.root.end_archive()
        return found

    def _want(self, name: str, size: int) -> bool:
        if self._kept + size > _KEPT_LIMIT or not self._keep(name, size):
            return False
        self._kept += size
        return True


def _skip_zeros(fd: int, position: int) -> int:
    while block := os.pread(fd, 65536, position):
        rest = block.lstrip(b"\0")
        position += len(block) - len(rest)
        if rest:
            break
    return position


def choose(initramfs: Initramfs, supported: t.Collection[Compression]) -> Compression:
    """The compression for an appended archive: what the kernel surely unpacks, gzip where it can.

    ``supported`` is what the kernel's configuration tells (empty: unknown); what the file uses already is safe too.
    """
    safe = {segment.compression for segment in initramfs.segments} | set(supported)
    preferred = (Compression.GZIP, Compression.XZ, Compression.BZIP2)
    return next((compression for compression in preferred if compression in safe), Compression.NONE)


def appendable(initramfs: Initramfs) -> bool:
    """Whether bytes put behind the file's end are unpacked by every kernel that unpacks the file itself.

    Not so behind junk; behind lz4 followed by padding, which kernels before 5.15 take for a block; and behind lzma,
    whose decoder may stop one byte early.
    """
    if initramfs.junk is not None or initramfs.last.compression is Compression.LZMA:
        return False
    return initramfs.last.compression is not Compression.LZ4 or initramfs.last.end == initramfs.size


def appendix(initramfs: Initramfs, archive: bytes, compression: Compression) -> bytes:
    """The bytes to put behind the file's end, for a file that is :func:`appendable`: padding and packed archive.

    Behind lz4 the archive goes into a further lz4 frame of the same stream, without any padding: the kernel's decoder
    reads frame after frame, and would take zeros for a block.
    """
    if initramfs.last.compression is Compression.LZ4:
        return codec.compress(archive, Compression.LZ4)
    # At least 4 zeros, because some decoders look for the next block's size before they believe in the end.
    padding = max(0, 4 - (initramfs.size - initramfs.last.end))
    padding += -(initramfs.size + padding) % _ALIGNMENT
    return b"\0" * padding + codec.compress(archive, compression)


def rewritten(fd: int, initramfs: Initramfs, archive: bytes, compression: Compression) -> t.Iterator[bytes]:
    """The whole file anew, in pieces, for one that is not :func:`appendable`.

    Uncompressed archives in front (microcode) stay in front, bytes as they are; the others are packed with
    ``compression``; junk is left out; the archive follows.

    Raises:
        JobError: as :func:`parse`.
    """
    early = list(itertools.takewhile(lambda segment: segment.compression is Compression.NONE, initramfs.segments))
    written = 0
    if early:
        written = early[-1].end
        for offset in range(0, written, 1 << 20):
            yield os.pread(fd, min(1 << 20, written - offset), offset)
    for segment in initramfs.segments[len(early) :]:
        padding = b"\0" * (-written % _ALIGNMENT)
        if segment.compression is Compression.NONE:
            body = os.pread(fd, segment.end - segment.offset, segment.offset)
        else:
            body = codec.compress(_inflated(fd, segment), compression)
        written += len(padding) + len(body)
        yield padding
        yield body
    padding = b"\0" * (4 + -(written + 4) % _ALIGNMENT)
    yield padding + codec.compress(archive, compression)


def _inflated(fd: int, segment: Segment) -> bytes:
    with codec.open_stream(fd, segment.offset, segment.compression) as stream:
        return stream.read(codec.UNPACKED_LIMIT)


def parse_bytes(data: bytes, keep: t.Callable[[str, int], bool] = lambda name, size: True) -> Initramfs:
    """:func:`parse` for bytes in memory."""
    with os.fdopen(os.memfd_create("initramfs", os.MFD_CLOEXEC), "w+b") as file:
        file.write(data)
        file.flush()
        return parse(file.fileno(), keep)
