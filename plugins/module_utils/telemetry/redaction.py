# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What must not leave the house, taken out of documents and texts before somebody else gets them. Pure.

Documents hold secrets by reference only, but people write them where none belongs: into a script, an annotation, an
URL. So content that a job puts into a guest goes as a whole, and what looks like a secret goes wherever it stands. What
is left is to be looked through all the same.
"""

from __future__ import annotations

import collections.abc as c
import re
import typing as t

REMOVED = "***REMOVED***"
#: Fields, in both spellings, that hold what a guest gets or what it showed.
_CONTENT = frozenset({"content", "script", "diff", "consoleTail", "console_tail", "keys"})
#: What makes a field's value a secret by its name.
_SECRET_NAME = re.compile(r"passw|passphrase|secret$|token|credential|api[-_]?key|private[-_]?key", re.IGNORECASE)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    # crypt(5): $y$…, $6$…, $2b$…, and as /etc/shadow has them.
    (re.compile(r"\$(?:[156y]|2[abxy]|gy|7)\$[./A-Za-z0-9$=,-]{8,}"), REMOVED),
    # RFC 3986: user information before a host.
    (re.compile(r"(?<=://)[^\s/@]+@"), f"{REMOVED}@"),
    (re.compile(r"\bhooks\.slack\.com/services/\S+"), REMOVED),
    # RFC 7519: a JSON Web Token, as Kubernetes' service accounts have.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), REMOVED),
    (re.compile(r"(?i)\b(authorization:\s*|bearer\s+|basic\s+)[\w.+/=~-]{6,}"), rf"\1{REMOVED}"),
    (
        re.compile(
            r"(?i)(\b[\w-]*(?:passw(?:or)?d|passphrase|secret|token|api[-_]?key)[\w-]*[\"']?\s*[=:]\s*)"
            r"(\"[^\"\n]*\"|'[^'\n]*'|[^\s,;}\"']+)"
        ),
        rf"\1{REMOVED}",
    ),
)


def document(value: t.Any, name: str = "") -> t.Any:
    """Return a document without secrets; ``name`` is the field that it is the value of."""
    if isinstance(value, c.Mapping):
        # A reference names where a secret lies; the secret is not in it.
        if set(value) == {"name", "key"}:
            return dict(value)
        return {key: document(one, str(key)) for key, one in value.items()}
    if isinstance(value, str):
        return REMOVED if value and _hides(name) else text(value)
    if isinstance(value, c.Sequence):
        return [document(one, name) for one in value]
    return value


def _hides(name: str) -> bool:
    return name in _CONTENT or _SECRET_NAME.search(name) is not None


def text(value: str) -> str:
    """Return a text without what looks like a secret."""
    for pattern, instead in _PATTERNS:
        value = pattern.sub(instead, value)
    return value
