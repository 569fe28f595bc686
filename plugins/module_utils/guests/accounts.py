# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The users and groups of a guest by their files. Formats: passwd(5), group(5), shadow(5), gshadow(5)."""

from __future__ import annotations

import dataclasses
import re

from ..protocol.errors import invalid
from .reading import Reading

PASSWD, GROUP, SHADOW, GSHADOW = "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"
#: A user's or group's number: 32 bits.
_ID = re.compile(r"^[0-9]{1,9}$")
_PEOPLE = range(1000, 60000)


@dataclasses.dataclass(frozen=True)
class User:
    """A line of passwd."""

    name: str
    uid: int
    gid: int
    home: str


def find_user(tree: Reading, name: str) -> User | None:
    """Return the user of that name."""
    for line in tree.text(PASSWD).splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[0] == name and _ID.match(fields[2]) and _ID.match(fields[3]):
            return User(name, int(fields[2]), int(fields[3]), fields[5])
    return None


def find_group(tree: Reading, name: str) -> int | None:
    """Return the number of the group of that name."""
    for line in tree.text(GROUP).splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[0] == name and _ID.match(fields[2]):
            return int(fields[2])
    return None


def owner(tree: Reading, user: str, group: str) -> tuple[int, int]:
    """Return the numbers of a user and a group.

    Raises:
        JobError: the guest has no such user or group (invalid).
    """
    known, number = find_user(tree, user), find_group(tree, group)
    if known is None or number is None:
        missing = f"user {user}" if known is None else f"group {group}"
        raise invalid(
            "NoSuchUser", f"The guest has no {missing}.", "Correct the job's guest settings, or add it in the guest."
        )
    return known.uid, number


def free_id(tree: Reading) -> int:
    """Return a number that is neither a user's nor a group's, of those that are for people."""
    used = set()
    for path in (PASSWD, GROUP):
        used |= {
            int(f[2]) for line in tree.text(path).splitlines() if len(f := line.split(":")) > 2 and _ID.match(f[2])
        }
    return next(number for number in _PEOPLE if number not in used)


def with_line(text: str, line: str) -> str:
    """Return ``text`` with a line at its end."""
    return text + ("" if not text or text.endswith("\n") else "\n") + line + "\n"


def with_field(text: str, name: str, index: int, value: str) -> str:
    """Return ``text`` with one field of a name's line replaced."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name and len(fields) > index:
            fields[index] = value
            lines[at] = ":".join(fields)
    return "\n".join(lines)


def with_member(text: str, group: str, user: str) -> str:
    """Return ``text`` of group or gshadow with a user added to a group."""
    for line in text.split("\n"):
        fields = line.split(":")
        if fields[0] == group and len(fields) == 4 and user not in fields[3].split(","):
            return with_field(text, group, 3, ",".join(filter(None, [*fields[3].split(","), user])))
    return text
