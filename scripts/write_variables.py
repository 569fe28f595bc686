# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the table of docs/variables.md from the role's argument specs; ``--check``: only compare them."""

from __future__ import annotations

import pathlib
import re
import sys
import typing as t

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
SPECS = ROOT / "roles/migrate/meta/argument_specs.yml"
PAGE = ROOT / "docs/variables.md"
BEGIN, END = "<!-- begin: written by scripts/write_variables.py -->", "<!-- end -->"


def table() -> str:
    """Return the Markdown table of the role's variables."""
    options = yaml.safe_load(SPECS.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    rows = [
        f"| `{name}` | {_kind(option)} | {_plain(' '.join(option['description']))} |"
        for name, option in options.items()
    ]
    return "\n".join(["| Variable | Values | Meaning |", "| --- | --- | --- |", *rows])


def _kind(option: dict[str, t.Any]) -> str:
    choices = [f"`{choice}`" for choice in option.get("choices", []) if choice]
    if choices:
        return ", ".join(choices)
    text = " ".join(option["description"])
    words = (
        ("boolean", "true or false"),
        ("a text", "text or list"),
        ("a list", "list"),
        ("a dictionary", "dictionary"),
    )
    found = next((kind for word, kind in words if word in text), "number")
    return "text" if option["type"] == "str" else found


def _plain(text: str) -> str:
    """Return Ansible's markup as Markdown."""
    return re.sub(r"\b[OVC]\(([^)]*)\)", lambda match: f"`{match[1].removeprefix('ignore:')}`", text)


def page() -> str:
    """Return the page with the table as it should be."""
    before, dummy, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    dummy, dummy, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if PAGE.read_text(encoding="utf-8") == wanted else f"{PAGE} is out of date; run python {sys.argv[0]}"
        )
    PAGE.write_text(wanted, encoding="utf-8")
