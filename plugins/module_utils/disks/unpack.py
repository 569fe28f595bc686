# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What cannot be read in place: compressed files, chunks, and differencing VHDs and VHDXs, which QEMU does not know.

It is made readable once, in a folder of the job; what is there whole is used again by the job's later attempts.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import hashlib
import lzma
import os
import pathlib
import typing as t
import zlib

from ..protocol.errors import JobError, environment, invalid
from . import vhd, vhdx
from .attach import attach
from .command import cancelled_error
from .file_range import FileRange, sync_file
from .manifest import compare, new_hash
from .model import DiskImage, Packing, Part, Run
from .overlay import create_overlay, repoint_overlay

_PIECE = 1024**2
_ZEROS = bytes(_PIECE)
#: No disk's image is larger.
_MAX_SIZE = 64 * 1024**4
#: What an unpacked file must leave free on its filesystem, for all others there. Bytes.
_RESERVE = 256 * 1024**2
_XZ_MEMORY = 256 * 1024**2
_RUNS: dict[str, tuple[t.Callable[[FileRange], t.Any], t.Callable[[FileRange, t.Any], c.Iterator[Run]]]] = {
    "vhd": (vhd.read_vhd, vhd.own_runs),
    "vhdx": (vhdx.read_vhdx, vhdx.own_runs),
}


class Unpacker:
    """Makes files readable in a folder."""

    def __init__(
        self,
        folder: pathlib.Path,
        progress: t.Callable[[int, int], None],
        cancelled: t.Callable[[], bool],
    ) -> None:
        """Nothing is done yet.

        Args:
            folder: absolute; made when it is needed, and the caller's to remove.
            progress: gets bytes read and in all.
            cancelled: asked for each MiB; True ends the step.
        """
        self._folder = folder
        self._progress = progress
        self._cancelled = cancelled

    def unpack(self, packing: Packing, what: str) -> pathlib.Path:
        """Return a file with the bytes that are packed, their digests compared.

        Args:
            packing: where they are.
            what: the name of the file that comes of it: no path.

        Raises:
            JobError: class ``invalid``, it is damaged, or not what its manifest says; class ``environment``, there is
                no room for it; class ``transient``, it was cancelled.
        """
        place = self._folder / _key(packing.parts, packing.compression) / what
        return self._made(place, lambda path: self._write(packing, path, what))

    def merge(self, image: DiskImage) -> DiskImage:
        """Return an image that shows a differencing disk: a qcow2 layer with its changes over the chain's base.

        Raises:
            JobError: class ``invalid``, it is damaged; others as :func:`.attach.attach` raises them.
        """
        changes = [layer for layer in image.chain if layer.subformat == "differencing"]
        base = image.chain[len(changes)]
        place = self._folder / _key([Part(layer.path) for layer in image.chain], "merged") / image.path.name
        path = self._made(place, lambda partial: self._apply(changes, base, image.virtual_size, partial))
        # A later attempt may find the folder under another name, and so the files below it that this one names.
        repoint_overlay(path, base)
        return dataclasses.replace(
            image,
            path=path,
            format="qcow2",
            subformat="merged",
            backing=base,
            extents=(image.path, *image.extents),
            manifest_digest=None,
            enclosing=Part(image.path, digest=image.manifest_digest) if image.manifest_digest else None,
        )

    def _made(self, path: pathlib.Path, make: t.Callable[[pathlib.Path], None]) -> pathlib.Path:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.unlink(missing_ok=True)
            try:
                make(partial)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            sync_file(partial)
            partial.replace(path)
            sync_file(path.parent)
        return path

    def _write(self, packing: Packing, path: pathlib.Path, what: str) -> None:
        with path.open("xb") as file:
            size = 0
            for piece in _decompressed(self._pieces(packing.parts), packing.compression, what):
                size += len(piece)
                if size > _MAX_SIZE:
                    raise invalid(
                        "TooLarge",
                        f"{what} unpacks to more than any disk holds.",
                        "Look at what it is; unpack it yourself, and give the disk.",
                    )
                if piece == _ZEROS[: len(piece)]:
                    file.seek(len(piece), os.SEEK_CUR)
                else:
                    self._check_room(what)
                    file.write(piece)
            file.truncate(size)
            file.flush()
            os.fsync(file.fileno())

    def _check_room(self, what: str) -> None:
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < _RESERVE:
            raise environment(
                "NoSpace",
                f"The disk is full: {what} has to be unpacked, and there is no room for it in {self._folder}.",
                "Make room below the scratch root, or unpack it before.",
            )

    def _pieces(self, parts: t.Sequence[Part]) -> t.Iterator[bytes]:
        sizes = [part.path.stat().st_size - part.offset if part.length is None else part.length for part in parts]
        total, done = sum(sizes), 0
        for part in parts:
            computed = new_hash(part.digest) if part.digest else None
            with FileRange(part.path, part.offset, part.length) as file:
                for position in range(0, file.length, _PIECE):
                    if self._cancelled():
                        raise cancelled_error(f"Unpacking {part.path.name}")
                    piece = file.read(position, min(_PIECE, file.length - position))
                    if computed is not None:
                        computed.update(piece)
                    done += len(piece)
                    self._progress(done, total)
                    yield piece
            if part.digest:
                compare(part.path.name, part.digest, computed)

    def _apply(self, changes: list[DiskImage], base: DiskImage, size: int, path: pathlib.Path) -> None:
        create_overlay(path, dataclasses.replace(base, virtual_size=size))
        with attach({"merge": path}, writable=True, workdir=self._folder) as attachment:
            descriptor = os.open(attachment.disks["merge"].device, os.O_WRONLY | os.O_CLOEXEC)
            try:
                for layer in reversed(changes):
                    read_header, runs = _RUNS[layer.format]
                    with FileRange(layer.path) as file:
                        for run in runs(file, read_header(file)):
                            self._apply_run(file, run, descriptor)
            finally:
                os.close(descriptor)

    def _apply_run(self, file: FileRange, run: Run, descriptor: int) -> None:
        for position in range(0, run.length, _PIECE):
            if self._cancelled():
                raise cancelled_error(f"Merging {file.path.name}")
            size = min(_PIECE, run.length - position)
            data = memoryview(_ZEROS[:size] if run.stored is None else file.read(run.stored + position, size))
            written = 0
            while written < size:
                written += os.pwrite(descriptor, data[written:], run.begin + position + written)


def _key(parts: t.Sequence[Part], how: str) -> str:
    """A name that tells which bytes of which files, as they are now."""
    digest = hashlib.sha256(how.encode())
    for part in parts:
        status = part.path.stat()
        told = (str(part.path), part.offset, part.length, part.digest)
        digest.update(repr((told, status.st_size, status.st_mtime_ns, status.st_ino)).encode())
    return digest.hexdigest()[:24]


def _decompressed(pieces: t.Iterator[bytes], compression: str, what: str) -> t.Iterator[bytes]:
    """Yield the plain bytes in pieces of at most 1 MiB, whatever the compressed ones say."""
    if not compression:
        yield from pieces
        return
    unpacked = _gunzip(pieces, what) if compression == "gzip" else _unxz(pieces, what)
    try:
        yield from unpacked
    except (zlib.error, lzma.LZMAError) as error:
        raise _damaged(what, str(error)) from error


def _gunzip(pieces: t.Iterator[bytes], what: str) -> t.Iterator[bytes]:
    """A gzip file is one or more members (RFC 1952), each with its checksum."""
    decompressor = zlib.decompressobj(31)
    started = False
    for piece in pieces:
        left = piece
        while left:
            if decompressor.eof:
                decompressor = zlib.decompressobj(31)
            started = True
            plain = decompressor.decompress(left, _PIECE)
            if plain:
                yield plain
            left = decompressor.unused_data if decompressor.eof else decompressor.unconsumed_tail
        while not decompressor.eof:
            plain = decompressor.decompress(decompressor.unconsumed_tail, _PIECE)
            if not plain:
                break
            yield plain
    if not started or not decompressor.eof:
        raise _damaged(what, "it ends too early")


def _unxz(pieces: t.Iterator[bytes], what: str) -> t.Iterator[bytes]:
    """An xz file is one or more streams."""
    # pylint takes the decompressor's property for a method.
    # pylint: disable=using-constant-test
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    started = False
    for piece in pieces:
        left = piece
        while left or not (decompressor.needs_input or decompressor.eof):
            if decompressor.eof:
                # Padding between streams.
                left = left.lstrip(b"\0")
                if not left:
                    break
                decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            started = True
            plain = decompressor.decompress(left, _PIECE)
            left = decompressor.unused_data if decompressor.eof else b""
            if plain:
                yield plain
    if not started or not decompressor.eof:
        raise _damaged(what, "it ends too early")


def _damaged(what: str, why: str) -> JobError:
    return invalid("BadCompression", f"{what} cannot be unpacked: {why}.", "Export or upload it again.")
