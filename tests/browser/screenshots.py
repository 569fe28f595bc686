# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.browser.screenshots FOLDER``: the report's pictures for the documentation."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile

from tests.browser.chromium import browser, write_page
from tests.tools import sample_jobs

_WIDTH = 1200


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture, and what is on it."""

    name: str
    vms: int
    scheme: str
    height: int
    part: str = ""
    """The part of the page at its top."""


PICTURES = (
    Picture("report-3-light", 3, "light", 1350),
    Picture("report-3-vm-light", 3, "light", 1500, "#vm-1"),
    Picture("report-500-dark", 500, "dark", 1100),
    Picture("report-500-table-light", 500, "light", 900, "#throughput"),
)


def main(folder: pathlib.Path) -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as scratch, browser() as chromium:
        jobs = {3: sample_jobs.three(), 500: sample_jobs.many(500)}
        pages = {count: write_page(pathlib.Path(scratch, f"{count}.html"), jobs[count]) for count in jobs}
        for picture in PICTURES:
            chromium.open(pages[picture.vms], picture.scheme, part=picture.part)
            path = folder / f"{picture.name}.png"
            chromium.picture(path, _WIDTH, picture.height)
            print(path)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
