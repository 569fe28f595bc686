# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m tests.browser.screenshots FOLDER``: pictures of reports and of a run for the documentation."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
import tempfile

from tests.browser.chromium import Browser, browser, write_page
from tests.e2e.migration import REPOSITORY, ConversionHost
from tests.guests import build
from tests.tools import sample_jobs, terminal

_WIDTH = 1200
_BIN = pathlib.Path(sys.executable).parent


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


_VMS = ("db01", "files01", "mail01", "web01", "web02")
_COLUMNS, _ROWS = 128, 24


def progress(chromium: Browser, path: pathlib.Path) -> None:
    """Take a picture of a terminal in which the demo guest is moved five times, at 24 MiB/s each."""
    with tempfile.TemporaryDirectory(dir=build("debian12").parent) as scratch:
        host = ConversionHost(pathlib.Path(scratch))
        for name in _VMS:
            host.add(build("debian12") / "debian12.ova", f"{name}.ova")
        shared = {
            "hyper2kvm_input_root": str(host.input),
            "hyper2kvm_output_root": str(host.output),
            "hyper2kvm_verify_boot": False,
            "hyper2kvm_limits_bandwidth_bytes_per_second": 24 * 1024**2,
        }
        hosts = {name: {"hyper2kvm_source_path": f"{name}.ova"} for name in _VMS}
        inventory = pathlib.Path(scratch, "inventory.json")
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}), encoding="utf-8")
        playbook = [_BIN / "ansible-playbook", "-i", inventory, "playbooks/migrate.yml"]
        with terminal.running(playbook, REPOSITORY, {"LC_ALL": "C.UTF-8"}, (_COLUMNS, _ROWS)) as shown:
            # The first two are done, so that there is an estimate of what is left.
            shown.watch(lambda text: bool(re.search(r"copy [3-9]\d %.*\n.*copy \d+ %.*\n.*[2-4] completed", text)), 400)
            page = pathlib.Path(scratch, "terminal.html")
            page.write_text(shown.page(), encoding="utf-8")
        for name in _VMS:
            host.command("cancel", f"{name}-convert", ok=False)
        host.end_workers()
        chromium.open(page)
        chromium.picture(path, _WIDTH, 560)


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
        progress(chromium, folder / "progress.png")
        print(folder / "progress.png")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
