# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which waiting job goes first. Pure."""

from __future__ import annotations

import collections.abc as c
import typing as t


class Waiting(t.Protocol):
    """What the order looks at."""

    @property
    def priority(self) -> int:
        """Higher goes first."""

    @property
    def number(self) -> int:
        """The submission's number, which rises with each submission and owes nothing to a clock."""


W = t.TypeVar("W", bound=Waiting)


def key(job: Waiting) -> tuple[int, int]:
    """Return the sort key: priority first, then age."""
    return (-job.priority, job.number)


def in_order(jobs: c.Iterable[W]) -> list[W]:
    """Return ``jobs`` with the one that goes first in front."""
    return sorted(jobs, key=key)
