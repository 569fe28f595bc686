# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of files inside a guest: absolute, ``/``-separated, and never to be believed.

A canonical path has no ``.``, no ``..``, no doubled slash, and no symbolic link in any of its folders.
"""

from __future__ import annotations

import errno
import os
import typing as t

# As the kernel: MAXSYMLINKS.
_MAX_LINKS = 40


def resolve(path: str, link_at: t.Callable[[str], str | None], *, follow: bool = True) -> str:
    """Return the canonical path that ``path`` means within a guest whose root is ``/``.

    Args:
        path: a path in the guest; a relative one begins at the guest's root.
        link_at: the target of the symbolic link at a canonical path, or None where there is no link.
        follow: whether a link in the last place is followed too.

    Raises:
        OSError: ``ELOOP`` for too many links, ``ENOENT`` for a name that no file can have.
    """
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    todo = [part for part in reversed(path.split("/")) if part and part != "."]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            if done:
                done.pop()
            continue
        here = "/" + "/".join([*done, part])
        target = link_at(here) if todo or follow else None
        if target is None:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if target.startswith("/"):
            done.clear()
        todo.extend(name for name in reversed(target.split("/")) if name and name != ".")
    return "/" + "/".join(done)


def split(path: str) -> tuple[str, str]:
    """Return folder and last name of a canonical path; the root has an empty name."""
    folder, dummy, name = path.rpartition("/")
    return folder or "/", name


def join(folder: str, name: str) -> str:
    """Return the path of ``name`` in ``folder``."""
    return f"{folder.rstrip('/')}/{name}"


def printable(text: str) -> str:
    """Return ``text`` with all that could steer a terminal, or is no character, shown as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
