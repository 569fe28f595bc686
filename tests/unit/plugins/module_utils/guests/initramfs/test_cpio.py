# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""newc archives, against the cpio program; and archives that lie."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import cpio


def entries(data: bytes) -> dict[str, cpio.Entry]:
    return {
        entry.name: entry for entry in cpio.read_entries(cpio.MemoryStream(data), lambda name, size: "keep" in name)
    }


def test_reads_what_the_program_writes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "usr/lib/keep").write_bytes(b"12345")
    (tmp_path / "usr/lib/big").write_bytes(b"x" * 10_001)
    os.link(tmp_path / "usr/lib/keep", tmp_path / "keep-too")
    names = b"".join(bytes(p.relative_to(tmp_path)) + b"\n" for p in [tmp_path, *sorted(tmp_path.rglob("*"))])
    made = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tmp_path, input=names, stdout=-1, check=True)
    found = entries(made.stdout)
    assert (found["lib"].type, found["lib"].data) == (stat.S_IFLNK, b"usr/lib")
    assert (found["usr/lib/big"].size, found["usr/lib/big"].data) == (10_001, None)
    assert sorted((found[name].data, found[name].nlink) for name in ("keep-too", "usr/lib/keep")) == [
        (b"", 2),
        (b"12345", 2),
    ]
    assert found["usr/lib"].type == stat.S_IFDIR
    assert list(found)[-1] == cpio.TRAILER


def test_program_reads_what_is_written(tmp_path: pathlib.Path) -> None:
    data = cpio.write_archive(
        [
            cpio.directory("a"),
            cpio.file("a/odd", b"123", 0o600),
            cpio.file("a/none", b""),
            cpio.symlink("link", "a/odd"),
        ]
    )
    assert len(data) % 4 == 0
    subprocess.run(["cpio", "-i", "--quiet"], cwd=tmp_path, input=data, check=True)
    assert (tmp_path / "link").read_bytes() == b"123"
    assert stat.S_IMODE((tmp_path / "a/odd").stat().st_mode) == 0o600
    assert (tmp_path / "a/none").read_bytes() == b""


def test_one_archive_at_a_time_and_zeros_between() -> None:
    first, second = cpio.write_archive([cpio.file("one", b"1")]), cpio.write_archive([cpio.file("two", b"2")])
    stream = cpio.MemoryStream(first + b"\0" * 300 + second + b"\0" * 64)
    reads = [[entry.name for entry in cpio.read_entries(stream, lambda name, size: True)] for dummy in range(3)]
    assert reads == [["one", cpio.TRAILER], ["two", cpio.TRAILER], []]


def _header(**changes: int) -> bytes:
    fields = {"mode": stat.S_IFREG, "size": 0, "name": 5}
    fields.update(changes)
    numbers = [1, fields["mode"], 0, 0, 1, 0, fields["size"], 0, 0, 0, 0, fields["name"], 0]
    return b"070701" + b"".join(b"%08X" % number for number in numbers)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"070707" + b"0" * 200, id="old format"),
        pytest.param(b"070701" + b"z" * 200, id="no numbers"),
        pytest.param(_header(name=0) + b"name\0", id="no name"),
        pytest.param(_header(name=0xFFFFFFFF) + b"name\0", id="endless name"),
        pytest.param(_header(size=0xFFFFFFFF) + b"name\0\0", id="endless file"),
        pytest.param(_header(size=0x7FFFFFFF, mode=stat.S_IFLNK) + b"name\0\0", id="endless link"),
        pytest.param(_header(name=50) + b"name\0", id="cut name"),
        pytest.param(_header()[:60], id="cut header"),
    ],
)
def test_archives_that_lie_are_refused(data: bytes) -> None:
    with pytest.raises(cpio.CorruptArchiveError):
        entries(data)
