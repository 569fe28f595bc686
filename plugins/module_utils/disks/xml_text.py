# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""XML that an attacker may have written: no entities, no DTD, bounded in size and depth."""

from __future__ import annotations

import re
import typing as t
import xml.parsers.expat
from xml.etree import ElementTree

from ..protocol.errors import JobError

#: Nothing real is larger; an attacker's could be. Bytes.
MAX_SIZE = 16 * 1024**2
_MAX_DEPTH = 100
#: A machine has some dozens of items with a dozen properties each; every element costs hundreds of bytes of memory.
_MAX_ELEMENTS = 100_000
#: A name is given with its namespace, which is written once and would be copied for each.
_MAX_NAME = 1024
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")


def parse_xml(text: bytes, bad: t.Callable[[str], JobError]) -> ElementTree.Element:
    """Parse without entities: a DOCTYPE is refused, so there is nothing to expand and nothing to fetch.

    Args:
        text: XML in any encoding that it declares.
        bad: makes the error of what is wrong with it.

    Raises:
        JobError: it is no XML, has a DOCTYPE, or is larger or deeper than any real one.
    """
    if len(text) > MAX_SIZE:
        raise bad("it is larger than 16 MiB")
    builder = ElementTree.TreeBuilder()
    parser = xml.parsers.expat.ParserCreate(namespace_separator="}")
    depth = elements = 0

    def refuse(*_arguments: t.Any) -> None:
        raise bad("it has a DOCTYPE, which no exporter writes and which could make it read other files")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth += 1
        elements += 1
        if depth > _MAX_DEPTH:
            raise bad(f"it is nested deeper than {_MAX_DEPTH} levels")
        if elements > _MAX_ELEMENTS or max(map(len, (tag, *attributes))) > _MAX_NAME:
            raise bad(f"it has more than {_MAX_ELEMENTS} elements, or names of more than {_MAX_NAME} characters")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text, True)
        return builder.close()
    except (xml.parsers.expat.ExpatError, ValueError, LookupError) as error:
        raise bad(f"it is no XML ({error})") from error


def tag_of(element: ElementTree.Element) -> str:
    """The element's local name."""
    return str(element.tag).rpartition("}")[2]


def attribute_of(element: ElementTree.Element, name: str) -> str:
    """The attribute of that local name, of whatever namespace; empty without one."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return value
    return ""


def children_of(element: ElementTree.Element, *names: str) -> list[ElementTree.Element]:
    """The elements at the end of a path of local names below ``element``."""
    found = [element]
    for name in names:
        found = [child for parent in found for child in parent if tag_of(child) == name]
    return found


def mac_of(text: str) -> str | None:
    """A MAC address, however written, in lower case with colons; None: it is none.

    >>> mac_of("00-15-5D-00-04-05"), mac_of("080027AABBCC")
    ('00:15:5d:00:04:05', '08:00:27:aa:bb:cc')
    """
    mac = text.strip().lower().replace("-", ":")
    if re.fullmatch(r"[0-9a-f]{12}", mac):
        mac = ":".join(mac[i : i + 2] for i in range(0, 12, 2))
    return mac if _MAC.match(mac) else None


def whole_number(text: str) -> int | None:
    """A number in decimal digits; None: it is none."""
    plain = text.strip()
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 19 else None
