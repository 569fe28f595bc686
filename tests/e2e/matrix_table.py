# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.e2e.matrix_table FOLDER``: write what the matrix' tests saw into docs/guests.md.

``FOLDER`` holds the results, one file a server, as :mod:`tests.e2e.test_matrix` writes them. Servers without one are
named as not run.
"""

from __future__ import annotations

import json
import pathlib
import sys
import typing as t

from tests.guests.host import REPOSITORY
from tests.guests.matrix import COVER, FACTORS, Choice

_PAGE = REPOSITORY / "docs" / "guests.md"
_BEGIN, _END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
_NUMBERS = {"bullseye": "11", "bookworm": "12", "trixie": "13"}

Result = t.Mapping[str, t.Any]


def table(results: t.Mapping[str, Result]) -> str:
    """The table in Markdown, and a sentence on how many servers were run."""
    heads = [
        "server",
        "Debian",
        *(name for name in FACTORS if name != "release"),
        "kernel",
        "job, s",
        "boot, s",
        "seen",
    ]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    lines += [_row(name, choice, results.get(name)) for name, choice in COVER.items()]
    ran = [results[name] for name in COVER if name in results]
    booted = sum(_booted(result) for result in ran)
    how = " and ".join(sorted({result["accelerator"] for result in ran if result["accelerator"]})) or "none"
    told = (
        f"{len(ran)} of {len(COVER)} were run for this table, and {booted} booted after the move (accelerator: {how})."
    )
    return "\n".join([*lines, "", told])


def _row(name: str, choice: Choice, result: Result | None) -> str:
    cells = [f"`{name}`", _NUMBERS[choice["release"]]]
    cells += [value for factor, value in choice.items() if factor != "release"]
    if result is None:
        cells += ["", "", "", "not run"]
    else:
        boot = result["bootSeconds"]
        cells += [result["kernel"], f"{result['seconds']:.0f}", "" if boot is None else f"{boot:.0f}"]
        cells.append(_seen(result))
    return f"| {' | '.join(cells)} |"


def _seen(result: Result) -> str:
    if not _booted(result):
        return result["reason"] or result["phase"]
    if result["passed"]:
        return "boots, all as before"
    failed = ", ".join(f"`{unit}`" for unit in result["failedUnits"])
    return f"boots; {failed} failed" if failed else "boots; not all was as before"


def _booted(result: Result) -> bool:
    return bool(result["verdict"] in ("boots", "boots-with-warnings"))


def main() -> int:
    """Returns the exit status."""
    files = sorted(pathlib.Path(sys.argv[1]).glob("matrix-*.json"))
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    page = _PAGE.read_text(encoding="utf-8")
    head, begin, rest = page.partition(_BEGIN)
    dummy, end, tail = rest.partition(_END)
    if not begin or not end:
        print(f"{_PAGE} has no place for the table", file=sys.stderr)
        return 1
    _PAGE.write_text(f"{head}{_BEGIN}\n{table(results)}\n{_END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
