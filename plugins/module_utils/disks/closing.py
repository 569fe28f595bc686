# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is held open and has to be let go of."""

from __future__ import annotations

import types
import typing as t

_Self = t.TypeVar("_Self", bound="Closing")


class Closing:
    """Something with a :meth:`close`, as a context manager whose end calls it and lets every error pass."""

    def close(self) -> None:
        """Let go of it."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()
