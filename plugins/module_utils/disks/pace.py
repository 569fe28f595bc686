# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Holds a reading to its rate, and notices a cancel."""

from __future__ import annotations

import time
import typing as t

from .command import cancelled_error

#: How often whoever waits looks whether it was cancelled. Seconds.
_LOOK = 0.2
#: An idle reader may catch up this much, no more. Seconds.
_CATCH_UP = 1.0


class Pace:
    """The rate of one or more readers in turn. Not thread-safe."""

    def __init__(self, rate: int | None, what: str, cancelled: t.Callable[[], bool]) -> None:
        """Prepare for reading at ``rate`` bytes per second (None: as fast as it goes); ``what`` names it in errors."""
        self._rate = rate
        self._what = what
        self._cancelled = cancelled
        self._due = time.monotonic()

    def check(self) -> None:
        """Raise where the reading was cancelled.

        Raises:
            JobError: class ``transient``, it was.
        """
        if self._cancelled():
            raise cancelled_error(self._what)

    def wait(self, size: int) -> None:
        """Return when ``size`` bytes more may be read.

        Raises:
            JobError: class ``transient``, the reading was cancelled.
        """
        self.check()
        if self._rate is None:
            return
        while (left := self._due - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))
            self.check()
        self._due = max(self._due, time.monotonic() - _CATCH_UP) + size / self._rate
