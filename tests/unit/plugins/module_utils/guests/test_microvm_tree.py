# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is in a micro-VM: all that the code in it imports."""

from __future__ import annotations

import ast
import pathlib
import sys

from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.microvm import tree

#: What there is a way to do without.
_OPTIONAL = {"isal"}


def _imported(source: pathlib.Path) -> set[str]:
    """The first part of the name of each module that is imported by its whole name, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_library_that_the_code_imports_is_there() -> None:
    imported = set().union(*map(_imported, tree.own_code().values()))
    wanted = imported - set(sys.stdlib_module_names) - _OPTIONAL
    assert {"pydantic", "yaml"} <= wanted
    places = tree._packages(tree._Tree())
    assert {name for name in wanted if f"{tree.LIBRARIES}/{name}/__init__.pyc" not in places} == set()
