# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is wrong in files that people write: all of it at once, each with its file and line."""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

from ..module_utils.ansible_support.documents import printable
from ..module_utils.protocol import yaml_text

#: So many faults are told; whoever has more has one that is behind all of them.
_TOLD = 20
_LONGEST = 80

Key = tuple[t.Union[str, int], ...]  # noqa: UP007 (evaluated at run time)
"""Where a value is in a document: keys and indexes, from the top."""


class Faulty(ValueError):
    """Files that cannot be used; the text has a line for each fault."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of a file, or a row of a sheet."""

    path: pathlib.Path
    line: int

    def __str__(self) -> str:
        return f"{printable(str(self.path))}:{self.line}"


class Faults:
    """The faults found so far."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: list[str] = []

    def add(self, place: Place, text: str) -> None:
        """Note that ``text`` is wrong at ``place``."""
        self._found.append(f"{place}: {text}")

    def check(self) -> None:
        """Go on only where there is no fault.

        Raises:
            Faulty: there are some.
        """
        if self._found:
            more = len(self._found) - _TOLD
            raise Faulty("\n".join([*self._found[:_TOLD], *([f"… and {more} more"] if more > 0 else [])]))


def shown(text: object) -> str:
    """Return what a file says for a message, in quotes and of bounded length."""
    plain = printable(str(text))
    return repr(plain if len(plain) <= _LONGEST else plain[:_LONGEST] + "…")


@dataclasses.dataclass(frozen=True)
class Document:
    """A YAML file and the line of each of its values."""

    path: pathlib.Path
    data: t.Any
    lines: dict[Key, int]

    def at(self, *key: str | int) -> Place:
        """Return where the value of that key is; where there is none, what it would be in."""
        while key not in self.lines:
            key = key[:-1]
        return Place(self.path, self.lines[key])


def read_document(path: pathlib.Path) -> Document:
    """Read a YAML file.

    Raises:
        Faulty: it cannot be read, or is no YAML as :mod:`~..module_utils.protocol.yaml_text` takes it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Document(path, yaml_text.load(text), _lines(text))
    except OSError as error:
        raise Faulty(f"{printable(str(path))} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise Faulty(f"{Place(path, line)}: this is no UTF-8. Save the file as UTF-8.") from None
    except ValueError as error:
        raise Faulty(f"{printable(str(path))}: {printable(str(error))}") from None
    except RecursionError:
        raise Faulty(f"{printable(str(path))} is nested too deeply.") from None


def _lines(text: str) -> dict[Key, int]:
    """Return the line of each value of a document that was read; a value under a key is where its key is."""
    import yaml

    lines: dict[Key, int] = {(): 1}
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    todo: list[tuple[Key, yaml.Node]] = [((), root)] if root is not None else []
    while todo:
        key, node = todo.pop()
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                inner = (*key, name.value)
                lines[inner] = name.start_mark.line + 1
                todo.append((inner, value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                place = (*key, index)
                lines[place] = value.start_mark.line + 1
                todo.append((place, value))
    return lines
