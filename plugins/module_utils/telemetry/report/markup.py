# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes HTML and XML: whatever is not made here is text, and is escaped. What comes out is well-formed."""

from __future__ import annotations

import collections.abc as c
import html
import re
import typing as t

#: What would not be seen where it stands, or would change how its neighbours are read: control characters, marks that
#: turn the direction of text, line separators, tags, lone surrogates, and what XML does not allow.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufe00-\ufe0f\ufeff\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff"
)
_HIDDEN = re.compile(f"\r\n|[{_UNSEEN}]")
# One search for all: a report has a hundred thousand texts.
_SPECIAL = re.compile(f"\r\n|[&<>\"'{_UNSEEN}]")
_VOID = frozenset({"br", "col", "hr", "img", "input", "line", "link", "meta", "path", "rect"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


#: What an element may hold: text, which is escaped, and markup, which is not. None is nothing.
Child: t.TypeAlias = "str | Markup | None"
#: True is an attribute without a value; False and None are none.
Value: t.TypeAlias = "str | int | float | bool | None"


def visible(text: str) -> str:
    """Return ``text`` with a visible sign for each character that would not be seen, or would hide others.

    >>> visible("a\\x1b[1m\\u202e")
    'a␛[1m⟨202E⟩'
    """
    return _HIDDEN.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    found = match.group()
    if found == "\r\n":
        return "\n"
    if found in "&<>\"'":
        return html.escape(found)
    code = ord(found)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨{code:04X}⟩"


def escape(child: Child) -> Markup:
    """Return ``child`` as markup."""
    if child is None:
        return Markup()
    return child if isinstance(child, Markup) else Markup(_SPECIAL.sub(_sign, child))


def join(children: c.Iterable[Child]) -> Markup:
    """Return all ``children``, one after another."""
    return Markup("".join(map(escape, children)))


def tag(element: str, /, *children: Child, **attributes: Value) -> Markup:
    """Return an element.

    In the names of attributes a hyphen is written ``_``; one ``_`` at the end keeps a name from being Python's own.
    """
    written = "".join(
        f' {_attribute(key)}="{"" if value is True else _SPECIAL.sub(_sign, str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in _VOID and not children:
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{join(children)}</{element}>")


def _attribute(key: str) -> str:
    # These are spelt with capitals.
    if key in ("viewBox", "preserveAspectRatio"):
        return key
    return key.rstrip("_").replace("_", "-")


def foreign(text: str) -> Markup:
    """Return a text that somebody else chose, kept from turning the direction of what stands beside it."""
    return tag("bdi", text)
