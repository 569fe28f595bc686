# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes a batch's report into files, and only what differs from what is there."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import enum
import os
import pathlib
import stat
import tempfile
import time

from ...protocol.errors import environment
from .batch import Batch
from .evidence import Pictures
from .machines import csv_text, junit_text
from .page import page


class Format(enum.Enum):
    """A form of the report."""

    HTML = "html"
    CSV = "csv"
    JUNIT = "junit"


_TEXTS: dict[Format, c.Callable[[Batch, Pictures], str]] = {
    Format.HTML: page,
    Format.CSV: lambda batch, pictures: csv_text(batch),
    Format.JUNIT: lambda batch, pictures: junit_text(batch),
}


@dataclasses.dataclass(frozen=True)
class Written:
    """A file of the report."""

    format: Format
    path: pathlib.Path
    size: int
    """In bytes."""
    changed: bool
    """Whether it was not there like this before."""
    seconds: float
    """What it took to make its text."""


def write(batch: Batch, pictures: Pictures, wanted: c.Mapping[Format, pathlib.Path], *, dry_run: bool) -> list[Written]:
    """Write the report of ``batch`` into the files that are ``wanted``.

    Args:
        batch: the jobs.
        pictures: where their boot tests' screenshots are found.
        wanted: the file of each format.
        dry_run: tell what would be written, write nothing.

    Raises:
        JobError: class ``environment``, a file cannot be written.
    """
    return [_write(form, path, batch, pictures, dry_run) for form, path in wanted.items()]


def _write(form: Format, path: pathlib.Path, batch: Batch, pictures: Pictures, dry_run: bool) -> Written:
    began = time.monotonic()
    data = _TEXTS[form](batch, pictures).encode()
    seconds = time.monotonic() - began
    try:
        changed = not path.is_file() or path.read_bytes() != data
        if changed and not dry_run:
            _replace(path, data)
    except OSError as error:
        raise environment(
            "ReportNotWritten",
            f"{path} cannot be written: {error.strerror}.",
            "Name a file in a folder that is there and may be written to.",
        ) from error
    return Written(form, path, len(data), changed, seconds)


def _replace(path: pathlib.Path, data: bytes) -> None:
    """Write a file that readers see whole, or as it was before. An existing file's permissions stay."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), _mode(path))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _mode(path: pathlib.Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        # As result documents have it, which say the same.
        return 0o644
