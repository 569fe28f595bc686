# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A part of a file, read at any offset by any thread."""

from __future__ import annotations

import errno
import os
import pathlib
import stat

from ..protocol.errors import JobError, invalid, transient
from .closing import Closing


class FileRange(Closing):
    """The bytes ``offset`` to ``offset + length`` of a file, as if they were a file: an image within an OVA.

    A context manager; offsets of its methods count from the range's begin.
    """

    def __init__(self, path: pathlib.Path, offset: int = 0, length: int | None = None) -> None:
        """Open the range.

        Raises:
            JobError: class ``invalid``, it cannot be opened or the file is too short for it.
        """
        self.path = path
        self._offset = offset
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise invalid("NotFound", f"{path.name} cannot be opened: {error.strerror}.") from error
        size = os.lseek(self.descriptor, 0, os.SEEK_END)
        self.length = size - offset if length is None else length
        """Bytes."""
        if self.length < 0 or offset + self.length > size:
            self.close()
            raise truncated(path)

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly ``size`` bytes.

        Raises:
            JobError: class ``invalid``, they are not all there; class ``transient``, a read failed.
        """
        if offset < 0 or offset + size > self.length:
            raise truncated(self.path)
        try:
            data = os.pread(self.descriptor, size, self._offset + offset)
            while len(data) < size:
                piece = os.pread(self.descriptor, size - len(data), self._offset + offset + len(data))
                if not piece:
                    raise truncated(self.path)
                data += piece
        except OSError as error:
            raise self._failed(error) from error
        return data

    def _failed(self, error: OSError) -> JobError:
        return transient(
            "ReadFailed", f"Reading {self.path.name} failed: {error.strerror}.", "Check the source's storage."
        )

    def next_data(self, offset: int) -> tuple[int, int] | None:
        """Return begin and end of the first run of data at or after ``offset``; None: only a hole is left.

        Raises:
            JobError: class ``transient``, the filesystem cannot tell.
        """
        if offset >= self.length:
            return None
        try:
            begin = os.lseek(self.descriptor, self._offset + offset, os.SEEK_DATA) - self._offset
            end = os.lseek(self.descriptor, self._offset + begin, os.SEEK_HOLE) - self._offset
        except OSError as error:
            # No data up to the end of the file. A filesystem without holes has none of these calls fail.
            if error.errno == errno.ENXIO:
                return None
            # A block device has no holes that it could tell of.
            if error.errno == errno.EINVAL and stat.S_ISBLK(os.fstat(self.descriptor).st_mode):
                return offset, self.length
            raise self._failed(error) from error
        return (begin, min(end, self.length)) if begin < self.length else None

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def truncated(path: pathlib.Path) -> JobError:
    """The error for an image that ends too early."""
    return invalid(
        "Truncated", f"{path.name} is truncated: its own tables name data beyond its end.", "Export or upload it again."
    )


def sync_file(path: pathlib.Path) -> None:
    """Return when the file or folder ``path`` is on the disk.

    Raises:
        OSError: it is not there, or could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
