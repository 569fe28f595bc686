# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The compressions that Linux unpacks an initramfs and its modules from, as streams of bounded memory.

Magic numbers: lib/decompress.c. gzip, bzip2, xz and lzma are inflated in this process, which finds their ends; for
zstd, lz4 and lzop the end is found by walking the frames' block headers, and the host's programs inflate them.
Formats: RFC 8878 (zstd); lz4's doc/lz4_Frame_format.md, "Legacy Frame"; lib/decompress_unlzo.c and lzop's header.
"""

from __future__ import annotations

import bz2
import contextlib
import enum
import fcntl
import io
import lzma
import os
import struct
import subprocess
import typing as t
import zlib

from ...disks.command import confined, last_lines
from ...protocol.errors import environment, invalid

#: What helps against an initramfs that cannot be read.
_SMALLER = "Build it anew in the source VM with less in it, and export again."
_ANEW = "Build it anew in the source VM (update-initramfs -u, dracut --force), and export again."

try:
    from isal import isal_zlib
except ImportError:  # zlib gives the same bytes, more slowly
    isal_zlib = None  # type: ignore[assignment]

_READ = 256 * 1024
_CHUNK = 1024 * 1024
_PIPE = 1024 * 1024
#: An initramfs that unpacks to more than this would not fit the memory of common guests; it is a bomb.
UNPACKED_LIMIT = 4 * 1024**3
_XZ_MEMORY = 256 * 1024**2


class Compression(str, enum.Enum):
    """How an archive or a module is compressed."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    LZMA = "lzma"
    XZ = "xz"
    LZO = "lzo"
    LZ4 = "lz4"
    ZSTD = "zstd"


_MAGICS = (
    (b"\x1f\x8b", Compression.GZIP),
    (b"\x1f\x9e", Compression.GZIP),
    (b"BZ", Compression.BZIP2),
    (b"\x5d\x00", Compression.LZMA),
    (b"\xfd7", Compression.XZ),
    (b"\x89L", Compression.LZO),
    (b"\x02!", Compression.LZ4),
    (b"\x28\xb5", Compression.ZSTD),
)
_PROGRAMS = {
    Compression.ZSTD: ("zstd", "-dcq"),
    Compression.LZ4: ("lz4", "-dcq"),
    Compression.LZO: ("lzop", "-dcq"),
}


def detect(start: bytes) -> Compression | None:
    """The compression that a kernel takes these first bytes for; None where it knows none."""
    return next((compression for magic, compression in _MAGICS if start.startswith(magic)), None)


class ByteStream(t.Protocol):
    """A :class:`cpio.Stream` that must be drained before its end is known."""

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""

    def skip(self, size: int) -> int:
        """Drop ``size`` bytes; return how many there were."""

    def end(self) -> int:
        """Drain the stream and return the offset in the file right behind its compressed form."""


class PlainStream:
    """Uncompressed bytes of a file from an offset."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._next = fd, offset
        self._size = os.fstat(fd).st_size
        self._buffer, self._at = b"", 0

    def read(self, size: int) -> bytes:
        """See :class:`ByteStream`."""
        if len(self._buffer) - self._at < size:
            fresh = os.pread(self._fd, max(size, 65536), self._next)
            self._buffer = self._buffer[self._at :] + fresh
            self._at = 0
            self._next += len(fresh)
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def skip(self, size: int) -> int:
        """See :class:`ByteStream`."""
        here = self.tell()
        there = min(here + size, self._size)
        if there <= self._next:
            self._at += there - here
        else:
            self._buffer, self._at, self._next = b"", 0, there
        return there - here

    def tell(self) -> int:
        """Offset in the file of the next byte."""
        return self._next - len(self._buffer) + self._at


class _Inflated:
    """Chunks as a stream, with a bound on their sum."""

    def __init__(self, chunks: t.Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer, self._at, self._total = b"", 0, 0

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._total += len(chunk)
        if self._total > UNPACKED_LIMIT:
            raise invalid(
                "InitramfsTooBig",
                f"An archive unpacks to more than {UNPACKED_LIMIT >> 30} GiB.",
                _SMALLER,
            )
        self._buffer = self._buffer[self._at :] + chunk if self._at < len(self._buffer) else chunk
        self._at = 0
        return bool(chunk)

    def read(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size:
            if not self._more():
                break
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        return data

    def skip(self, size: int) -> int:
        left = size
        while True:
            step = min(left, len(self._buffer) - self._at)
            self._at += step
            left -= step
            if not left or not self._more():
                return size - left

    def drain(self) -> None:
        self.skip(UNPACKED_LIMIT)


class _Inflater(t.Protocol):
    eof: bool
    unused_data: bytes


class _InProcess(_Inflated):
    """gzip, bzip2, xz and lzma: the inflater itself finds the end."""

    def __init__(self, fd: int, offset: int, compression: Compression) -> None:
        self._end = offset
        super().__init__(self._run(fd, offset, compression))

    def end(self) -> int:
        self.drain()
        return self._end

    def _run(self, fd: int, offset: int, compression: Compression) -> t.Iterator[bytes]:
        inflate, state = _inflater(compression)
        while not state().eof:
            data = os.pread(fd, _READ, offset)
            if not data:
                raise EOFError("the compressed data end too early")
            offset += len(data)
            while True:
                chunk, data = inflate(data)
                if chunk:
                    yield chunk
                if state().eof or (not data and len(chunk) < _CHUNK):
                    break
        self._end = offset - len(state().unused_data)


def _inflater(
    compression: Compression,
) -> tuple[t.Callable[[bytes], tuple[bytes, bytes]], t.Callable[[], _Inflater]]:
    """What inflates input to at most ``_CHUNK`` bytes and gives these with the input left over; and its state."""
    if compression is Compression.GZIP:
        gz = (isal_zlib or zlib).decompressobj(wbits=31)
        return lambda data: (gz.decompress(data, _CHUNK), gz.unconsumed_tail), lambda: t.cast(_Inflater, gz)
    state: lzma.LZMADecompressor | bz2.BZ2Decompressor
    if compression is Compression.BZIP2:
        state = bz2.BZ2Decompressor()
    else:
        kind = lzma.FORMAT_XZ if compression is Compression.XZ else lzma.FORMAT_ALONE
        state = lzma.LZMADecompressor(kind, memlimit=_XZ_MEMORY)
    return lambda data: (state.decompress(data, _CHUNK), b""), lambda: t.cast(_Inflater, state)


class _ByProgram(_Inflated):
    """zstd, lz4 and lzop: the frame, its end known, goes through the host's program."""

    def __init__(self, fd: int, offset: int, compression: Compression) -> None:
        self._end = _WALKERS[compression](fd, offset)
        self._command = _PROGRAMS[compression]
        frame = os.memfd_create("initramfs", os.MFD_CLOEXEC)
        try:
            at = offset
            while at < self._end:
                at += os.sendfile(frame, fd, at, self._end - at) or self._end
            os.lseek(frame, 0, os.SEEK_SET)
            self._child = _start(self._command, frame)
        finally:
            os.close(frame)
        super().__init__(self._run())

    def end(self) -> int:
        self.drain()
        return self._end

    def _run(self) -> t.Iterator[bytes]:
        if not (self._child.stdout is not None and self._child.stderr is not None):
            raise AssertionError("self._child.stdout is not None and self._child.stderr is not None")
        pipe = self._child.stdout.fileno()
        while chunk := os.read(pipe, _CHUNK):
            yield chunk
        complaint = last_lines(self._child.stderr.read(4096))
        if self._child.wait() != 0:
            raise EOFError(f"{self._command[0]} says: {complaint}")

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()


def _start(command: t.Sequence[str], stdin: int) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        confined(command),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
    )
    if child.stdout is None:
        raise AssertionError("child.stdout is not None")
    with contextlib.suppress(OSError):  # an unprivileged user may be over the pipes' quota
        fcntl.fcntl(child.stdout.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
    return child


@contextlib.contextmanager
def open_stream(fd: int, offset: int, compression: Compression) -> t.Iterator[ByteStream]:
    """The inflated bytes of the compressed data that begin at ``offset`` of the file.

    Raises:
        JobError: (invalid) the data are damaged or unpack to more than :data:`UNPACKED_LIMIT`; (environment) the
            host lacks the program for this compression.
    """
    stream: _InProcess | _ByProgram | None = None
    try:
        stream = (_ByProgram if compression in _PROGRAMS else _InProcess)(fd, offset, compression)
        yield stream
    except _DAMAGE as error:
        raise invalid(
            "InitramfsDamaged",
            f"The {compression.value} data at byte {offset} are damaged: {error}.",
            _ANEW,
        ) from error
    finally:
        if isinstance(stream, _ByProgram):
            stream.close()


_DAMAGE: tuple[type[Exception], ...] = (EOFError, OSError, zlib.error, lzma.LZMAError, struct.error)
if isal_zlib:
    _DAMAGE += (t.cast(type[Exception], isal_zlib.error),)


def decompress(data: bytes, compression: Compression, limit: int) -> bytes:
    """Inflate a small piece, such as a kernel module, to at most ``limit`` bytes.

    Raises:
        JobError: as :func:`open_stream`, and (invalid) where it gives more than ``limit`` bytes.
    """
    if compression is Compression.NONE:
        return data
    fd = os.memfd_create("module", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w+b") as copy:
        copy.write(data)
        copy.flush()
        with open_stream(fd, 0, compression) as stream:
            plain = stream.read(limit + 1)
    if len(plain) > limit:
        raise invalid(
            "InitramfsTooBig",
            f"A module unpacks to more than {limit >> 20} MiB.",
            _SMALLER,
        )
    return plain


def compress(data: bytes, compression: Compression) -> bytes:
    """Compress so that every kernel that has this decompressor takes it. The same input gives the same bytes.

    Raises:
        JobError: (environment) the host lacks the program for this compression.
    """
    if compression is Compression.GZIP:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        return packer.compress(data) + packer.flush()
    if compression is Compression.BZIP2:
        return bz2.compress(data)
    if compression is Compression.XZ:
        # The kernel's decoder knows CRC32 alone.
        return lzma.compress(data, check=lzma.CHECK_CRC32, preset=6)
    if compression is Compression.LZ4:
        with os.fdopen(os.memfd_create("plain", os.MFD_CLOEXEC), "w+b") as plain:
            plain.write(data)
            plain.seek(0)
            child = _start(("lz4", "-lzcq9"), plain.fileno())
        packed, complaint = child.communicate(timeout=120)
        if child.returncode:
            raise environment(
                "ProgramFailed",
                f"lz4 failed: {complaint.decode('utf-8', 'replace')[-400:]}",
                "Make room and memory on the worker's host, then submit the job again.",
            )
        return packed
    if compression is Compression.NONE:
        return data
    raise AssertionError(f"nothing here writes {compression.value}")


def _pread(fd: int, size: int, offset: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise EOFError("the compressed data end too early")
    return data


def _zstd_end(fd: int, offset: int) -> int:
    """RFC 8878, 3.1.1: the frame's header, then blocks of a 3-byte header each, the last one flagged."""
    if _pread(fd, 4, offset) != b"\x28\xb5\x2f\xfd":
        raise EOFError("no zstd frame")
    descriptor = _pread(fd, 1, offset + 4)[0]
    single = descriptor >> 5 & 1
    content_size = (single, 2, 4, 8)[descriptor >> 6]
    offset += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3] + content_size
    last = 0
    while not last:
        header = int.from_bytes(_pread(fd, 3, offset), "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        offset += 3 + (1 if kind == 1 else size)
    return offset + (4 if descriptor >> 2 & 1 else 0)


def _lz4_end(fd: int, offset: int) -> int:
    """Legacy frames, one behind the other: magic, then blocks that each begin with their size. No end mark: a size of
    zero, or one that leads beyond the file, is padding, or the first bytes of something else."""
    size = os.fstat(fd).st_size
    offset += 4
    while offset + 4 <= size:
        block = int.from_bytes(_pread(fd, 4, offset), "little")
        if block == 0x184C2102:
            offset += 4
        elif block and offset + 4 + block <= size:
            offset += 4 + block
        else:
            break
    return offset


def _lzo_end(fd: int, offset: int) -> int:
    """lzop: a header of optional fields, then blocks until one of length zero."""
    head = io.BytesIO(_pread(fd, 9, offset) + os.pread(fd, 4096, offset + 9))
    if head.read(9) != b"\x89LZO\0\r\n\x1a\n":
        raise EOFError("no lzop header")
    (version,) = struct.unpack(">H", head.read(2))
    new = version >= 0x0940
    head.read(2 + 2 * new + 1 + new)
    (flags,) = struct.unpack(">I", head.read(4))
    head.read(4 * bool(flags & 0x800) + 8 + 4 * new)
    head.read(head.read(1)[0] + 4)
    if flags & 0x40:
        (extra,) = struct.unpack(">I", head.read(4))
        head.read(extra + 4)
    offset += head.tell()
    while True:
        (plain,) = struct.unpack(">I", _pread(fd, 4, offset))
        if not plain:
            return offset + 4
        (packed,) = struct.unpack(">I", _pread(fd, 4, offset + 4))
        sums = bool(flags & 0x1) + bool(flags & 0x100)
        if packed < plain:
            sums += bool(flags & 0x2) + bool(flags & 0x200)
        offset += 8 + 4 * sums + packed


_WALKERS: dict[Compression, t.Callable[[int, int], int]] = {
    Compression.ZSTD: _zstd_end,
    Compression.LZ4: _lz4_end,
    Compression.LZO: _lzo_end,
}
