# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Manifests of OVF packages (DSP0243, "Integrity"): one digest a file."""

from __future__ import annotations

import hashlib
import re
import typing as t

from ..protocol.errors import JobError, invalid
from .file_range import FileRange
from .pace import Pace

_LINE = re.compile(r"^(SHA1|SHA256|SHA512)\s*\((.+)\)\s*=\s*([0-9a-fA-F]+)$", re.IGNORECASE)
_PIECE = 4 * 1024**2


def parse_manifest(text: bytes) -> tuple[dict[str, str], list[str]]:
    """Return the digests (``sha256:…``) by file name, and a warning for each line that is none.

    >>> parse_manifest(b"SHA1(a.ovf)= da39a3ee5e6b4b0d3255bfef95601890afd80709")
    ({'a.ovf': 'sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709'}, [])
    """
    digests: dict[str, str] = {}
    warnings = []
    for line in text.decode("utf-8", "replace").splitlines():
        found = _LINE.match(line.strip())
        if found:
            algorithm, name, value = found.group(1).lower(), found.group(2), found.group(3).lower()
            if len(value) == hashlib.new(algorithm).digest_size * 2:
                digests[name] = f"{algorithm}:{value}"
                continue
        if line.strip():
            warnings.append(f"The manifest has a line that is no SHA digest: {line.strip()[:100]!r}.")
    return digests, warnings[:3]


def new_hash(digest: str) -> t.Any:
    """Return a fresh hash object for the algorithm of ``digest`` (``sha256:…``)."""
    return hashlib.new(digest.split(":", 1)[0], usedforsecurity=False)


def compare(name: str, expected: str, computed: t.Any) -> None:
    """Compare a finished hash object with what a manifest or a job says.

    Raises:
        JobError: class ``invalid``, they differ.
    """
    algorithm, value = expected.split(":", 1)
    if computed.hexdigest() != value:
        raise _mismatch(name, algorithm, value, computed.hexdigest())


def compare_bytes(name: str, expected: str, data: bytes) -> None:
    """Compare the digest of ``data`` with what a manifest or a job says.

    Raises:
        JobError: class ``invalid``, they differ.
    """
    computed = new_hash(expected)
    computed.update(data)
    compare(name, expected, computed)


def _mismatch(name: str, algorithm: str, expected: str, found: str) -> JobError:
    return invalid(
        "ChecksumMismatch",
        f"{name} is not what was exported: its {algorithm.upper()} is {found[:16]}…, expected {expected[:16]}….",
        "Export or upload it again.",
    )


def check_range(
    file: FileRange,
    expected: str,
    *,
    bandwidth: int | None = None,
    progress: t.Callable[[int], None] = lambda _done: None,
    cancelled: t.Callable[[], bool],
) -> None:
    """Read all of ``file`` and compare its digest.

    Args:
        file: what to read.
        expected: ``sha1:…``, ``sha256:…`` or ``sha512:…``.
        bandwidth: upper bound of the reading, in bytes per second.
        progress: gets the bytes read so far.
        cancelled: True ends the reading.

    Raises:
        JobError: class ``invalid``, it differs; class ``transient``, cancelled or not readable.
    """
    computed = new_hash(expected)
    pace = Pace(bandwidth, "Checking a digest", cancelled)
    position = 0
    while position < file.length:
        size = min(_PIECE, file.length - position)
        pace.wait(size)
        computed.update(file.read(position, size))
        position += size
        progress(position)
    compare(file.path.name, expected, computed)
