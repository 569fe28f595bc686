# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Block tables of images, piece by piece: a hostile header may ask for any size."""

from __future__ import annotations

import array
import sys
import typing as t

from .file_range import FileRange

_PIECE = 64 * 1024


def table_pieces(
    file: FileRange,
    offset: int,
    count: int,
    *,
    code: t.Literal["I", "Q"],
    order: t.Literal["little", "big"],
    piece: int = _PIECE,
) -> t.Iterator[array.array[int]]:
    """Yield a table's entries, in order, in arrays of at most ``piece``.

    Args:
        file: the image.
        offset: where the table begins. Bytes.
        count: its entries.
        code: ``I``: entries of 4 bytes; ``Q``: of 8.
        order: of their bytes.
        piece: entries to an array.

    Raises:
        JobError: class ``invalid``, the table reaches beyond the end of the file.
    """
    size = 4 if code == "I" else 8
    for first in range(0, count, piece):
        entries = array.array(code, file.read(offset + first * size, min(piece, count - first) * size))
        if sys.byteorder != order:
            entries.byteswap()
        yield entries
