# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options that are empty strings: the unanswered questions of a survey."""

from __future__ import annotations

import typing as t

#: Dictionaries in which an empty string is a value like any other.
_FREE_KEYS = ("labels", "annotations", "definition", "spec")


def without_blanks(args: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Return options without those that are empty strings, at any depth."""
    kept = {}
    for key, value in args.items():
        if isinstance(value, t.Mapping) and key not in _FREE_KEYS:
            value = without_blanks(value)
        if not (isinstance(value, str) and value == ""):
            kept[key] = value
    return kept
