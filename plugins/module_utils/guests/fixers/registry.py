# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fixers, in the order in which they plan. A new one needs its file and its line here."""

from __future__ import annotations

from ..facts import GuestFacts
from .base import Fixer

_LINUX: tuple[Fixer, ...] = ()


def fixers(guest: GuestFacts) -> list[Fixer]:
    """Return those that know guests of this kind."""
    return list(_LINUX)
