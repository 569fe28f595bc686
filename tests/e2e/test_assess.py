# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of VMs looked through by the command: what can be converted, what not and why. Needs root."""

from __future__ import annotations

import collections
import csv
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.guests import build
from tests.guests.host import REPOSITORY
from tests.tools.exports import write_exports

_COMMAND = REPOSITORY / "scripts/hyper2kvm-worker"


def test_a_folder_is_assessed_and_left_as_it_is(tmp_path: pathlib.Path) -> None:
    folder, scratch = tmp_path / "exports", tmp_path / "scratch"
    (folder / "old").mkdir(parents=True)
    scratch.mkdir()
    for name in ("tiny", "tiny-blank", "tiny-nokernel"):
        shutil.copyfile(build(name) / f"{name}.ova", folder / f"{name}.ova")
    (folder / "old/broken.vmdk").write_bytes(b"no disk" * 1000)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    table = tmp_path / "all.csv"
    done = subprocess.run(
        [sys.executable, _COMMAND, "assess", folder, "--csv", table, "--html", tmp_path / "all.html"],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "4 VMs: " in done.stdout and "BlankDisk" in done.stdout and "Debian GNU/Linux 12" in done.stdout
    with table.open(newline="", encoding="utf-8") as file:
        outcomes = {row["source"]: row["outcome"] for row in csv.DictReader(file)}
    assert outcomes == {
        "old/broken.vmdk": "refused",
        "tiny-blank.ova": "refused",
        "tiny-nokernel.ova": "convertible with warnings",
        "tiny.ova": "convertible with warnings",
    }
    assert "convertible with warnings" in (tmp_path / "all.html").read_text(encoding="utf-8")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert list(scratch.iterdir()) == []


@pytest.mark.long
def test_five_hundred_vms_are_assessed(tmp_path: pathlib.Path) -> None:
    """Of one template each, so that filesystems have twins, in folders of fifty; each VM is in the table once."""
    folder, scratch = tmp_path / "exports", tmp_path / "scratch"
    scratch.mkdir()
    outcomes = {"tiny": "convertible with warnings", "tiny-blank": "refused"}
    wanted = {path: outcomes[guest] for path, guest in write_exports(folder, 500).items()}
    table = tmp_path / "all.csv"
    done = subprocess.run(
        [sys.executable, _COMMAND, "assess", folder, "--csv", table],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "500 VMs: 450 convertible with warnings, 50 refused" in done.stdout, done.stdout[:2000]
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 500 and {row["source"]: row["outcome"] for row in rows} == wanted
    assert collections.Counter(row["reason"] for row in rows) == {"": 450, "BlankDisk": 50}
    assert list(scratch.iterdir()) == []
