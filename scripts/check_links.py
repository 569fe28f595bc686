# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that each link of the documentation to a file of this repository, or to a heading in one, leads somewhere."""

from __future__ import annotations

import itertools
import pathlib
import re
import subprocess
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[1]
_CODE = re.compile(r"^(```|~~~).*?^\s*\1|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)[^)]*\)")
_HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def anchors(page: pathlib.Path) -> set[str]:
    """Return the names by which GitHub knows a page's headings."""
    text = re.sub(r"^```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in _HEADING.findall(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        # Of headings that read alike, all but the first are numbered.
        found.add(
            next(
                one
                for one in itertools.chain([name], (f"{name}-{number}" for number in itertools.count(1)))
                if one not in found
            )
        )
    return found


def broken(page: pathlib.Path) -> list[str]:
    """Return a line for each link of a page that leads nowhere."""
    # Line for line as it was, so that numbers stay.
    text = _CODE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), page.read_text(encoding="utf-8"))
    wrong = []
    for match in _LINK.finditer(text):
        path, dummy, anchor = urllib.parse.unquote(match[1]).partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        where = f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
        if not target.exists() or not target.is_relative_to(ROOT):
            wrong.append(f"{where}: there is no {path}")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            wrong.append(f"{where}: {path or page.name} has no heading {anchor}")
    return wrong


def main() -> str | None:
    """Check all pages that git knows, or would."""
    listed = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    wrong = [line for name in names for line in broken(ROOT / name)]
    return "\n".join(wrong) or None


if __name__ == "__main__":
    sys.exit(main())
