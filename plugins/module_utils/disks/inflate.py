# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bounded inflating of one grain or cluster: by ISA-L where it is installed (about twice as fast), else by zlib."""

from __future__ import annotations

import typing as t
import zlib


class _Decompressor(t.Protocol):
    """ISA-L's calls: what a call did not consume is kept for the next one."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes: ...


class _Plain:
    """zlib's decompressor with ISA-L's calls."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + bytes(data), max_length)


def _plain_decompressor(*, raw: bool) -> _Decompressor:
    return _Plain(-15 if raw else 15)


_new: t.Callable[..., _Decompressor] = _plain_decompressor
_errors: tuple[type[Exception], ...] = (zlib.error,)
try:
    from isal import igzip_lib
except ImportError:
    # Where ISA-L has no package; the same bytes come out, later.
    pass
else:

    def _fast_decompressor(*, raw: bool) -> _Decompressor:
        flag = igzip_lib.DECOMP_DEFLATE if raw else igzip_lib.DECOMP_ZLIB
        return igzip_lib.IgzipDecompressor(flag=flag, hist_bits=15)

    _new = _fast_decompressor
    _errors = (t.cast("type[Exception]", igzip_lib.IsalError), EOFError)


def inflate_zlib(data: bytes | memoryview, limit: int) -> bytes | None:
    """Inflate one whole zlib stream (RFC 1950), its checksum included.

    Returns:
        At most ``limit`` bytes; None: it is broken or cut off, holds more than that, or is followed by something.
        Never much more memory than ``limit`` is taken, whatever the data say.
    """
    decompressor = _new(raw=False)
    try:
        plain = decompressor.decompress(data, limit)
        # The stream's end and checksum may be left; a second call sees them, or finds that there is more.
        if not decompressor.eof and (len(plain) < limit or decompressor.decompress(b"", 1)):
            return None
    except _errors:
        return None
    return plain if decompressor.eof and not decompressor.unused_data else None


def inflate_raw(data: bytes | memoryview, size: int) -> bytes | None:
    """Inflate ``size`` bytes of a raw deflate stream (RFC 1951); what follows them is not looked at.

    Returns:
        Exactly ``size`` bytes; None: it is broken or holds less.
    """
    try:
        plain = _new(raw=True).decompress(data, size)
    except _errors:
        return None
    return plain if len(plain) == size else None
