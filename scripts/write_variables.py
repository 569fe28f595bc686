# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the tables of docs/variables.md from the roles' argument specs; ``--check``: only compare them."""

from __future__ import annotations

import pathlib
import re
import sys
import typing as t

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/variables.md"
ROLES = ("migrate", "conversion_host", "cutover")
BEGIN, END = "<!-- begin {role}: written by scripts/write_variables.py -->", "<!-- end -->"


def table(role: str) -> str:
    """Return the Markdown table of a role's variables."""
    specs = ROOT / "roles" / role / "meta/argument_specs.yml"
    options = yaml.safe_load(specs.read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
    rows = [
        f"| `{name}` | {_kind(option)} | {_plain(' '.join(option['description']))} |"
        for name, option in options.items()
    ]
    return "\n".join(["| Variable | Values | Meaning |", "| --- | --- | --- |", *rows])


def _kind(option: dict[str, t.Any]) -> str:
    choices = [f"`{choice}`" for choice in option.get("choices", []) if choice]
    if choices:
        return ", ".join(choices)
    text = " ".join(option["description"]).lower()
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
    """Return the page with the tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    for role in ROLES:
        begin = BEGIN.format(role=role)
        before, dummy, rest = text.partition(begin)
        dummy, dummy, after = rest.partition(END)
        text = f"{before}{begin}\n{table(role)}\n{END}{after}"
    return text


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if PAGE.read_text(encoding="utf-8") == wanted else f"{PAGE} is out of date; run python {sys.argv[0]}"
        )
    PAGE.write_text(wanted, encoding="utf-8")
