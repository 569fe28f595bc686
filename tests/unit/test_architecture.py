# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who imports whom among the kinds of plugins (import-linter holds the arrows within module_utils), and the map."""

from __future__ import annotations

import ast
import pathlib
import typing as t

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
CORE = "ansible_collections.hyper2kvm.core.plugins"
#: What each kind of plugin may import of the others, itself apart.
MAY_IMPORT = {
    "modules": {"module_utils"},
    "module_utils": set(),
    "plugin_utils": {"module_utils"},
    "action": {"module_utils", "plugin_utils"},
    "filter": {"module_utils", "plugin_utils"},
    "inventory": {"module_utils", "plugin_utils"},
    "lookup": {"module_utils", "plugin_utils"},
    "doc_fragments": set(),
}


def imported(path: pathlib.Path) -> t.Iterator[str]:
    """Full names of what a file of the collection imports."""
    package = [CORE, *path.relative_to(PLUGINS).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def kinds() -> list[str]:
    """The kinds of plugins that the collection has."""
    return sorted(path.name for path in PLUGINS.iterdir() if any(path.glob("**/*.py")))


@pytest.mark.parametrize("kind", kinds())
def test_plugins_import_only_what_is_below_them(kind: str) -> None:
    allowed = MAY_IMPORT[kind] | {kind}
    if kind == "modules":
        # Not even another module.
        allowed.remove(kind)
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (PLUGINS / kind).rglob("*.py")
        for name in imported(path)
        if name.startswith(f"{CORE}.") and name.removeprefix(f"{CORE}.").split(".")[0] not in allowed
    ]
    assert wrong == []


def test_what_runs_on_any_host_needs_no_more_of_ansible_than_modules_have() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (PLUGINS / "module_utils").rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] == "ansible" and not name.startswith("ansible.module_utils.")
    ]
    assert wrong == []


def test_the_map_shows_every_room() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    # Below these everything that is no file of git is hidden or made by a command of the Makefile.
    made = {"build", "demo-output", "output", "__pycache__"}

    def folders(of: pathlib.Path) -> list[str]:
        names = (path.name for path in of.iterdir() if path.is_dir())
        return [name for name in names if name[0] != "." and name not in made]

    top = [f"{name}/" for name in folders(ROOT)]
    tests = [f"tests/{name}/" for name in folders(ROOT / "tests")]
    rooms = [*kinds(), *folders(PLUGINS / "module_utils"), *top, *tests]
    assert [room for room in rooms if room not in page] == []
