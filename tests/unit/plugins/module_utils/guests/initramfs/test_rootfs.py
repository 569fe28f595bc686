# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unpacking as the kernel does it: what an entry does to what is there."""

from __future__ import annotations

import dataclasses
import stat

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import cpio
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.additions import Additions
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.rootfs import RootFs
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError


def root(*entries: cpio.Entry) -> RootFs:
    made = RootFs()
    for entry in entries:
        made.unpack(entry)
    made.end_archive()
    return made


def linked(name: str, data: bytes) -> cpio.Entry:
    return dataclasses.replace(cpio.file(name, data), nlink=2, inode=7)


MERGED = (cpio.directory("usr"), cpio.directory("usr/lib"), cpio.symlink("lib", "usr/lib"))


def test_files_go_through_links() -> None:
    made = root(*MERGED, cpio.file("lib/one", b"1"))
    assert made.read("usr/lib/one") == b"1"
    assert made.read("lib/one") == b"1"
    assert "lib/one" not in made.nodes


def test_directory_over_a_link_destroys_it() -> None:
    made = root(*MERGED, cpio.file("usr/lib/one", b"1"), cpio.directory("lib"))
    assert made.nodes["lib"].type == stat.S_IFDIR
    assert made.read("lib/one") is None


def test_file_is_rewritten_in_place_for_all_its_names() -> None:
    made = root(linked("one", b""), linked("two", b"old"), cpio.file("other", b"x"))
    assert made.read("one") == b"old"
    made.unpack(cpio.file("one", b"new"))
    assert made.read("two") == b"new"


def test_links_that_circle_lead_nowhere() -> None:
    made = root(cpio.symlink("a", "b"), cpio.symlink("b", "/a"))
    assert made.resolve("a/x") is None
    made.unpack(cpio.file("a/x", b""))
    assert made.lost == ["a/x"]


def test_additions_follow_links_and_make_only_missing_folders() -> None:
    before = root(*MERGED, cpio.file("usr/lib/one", b"1", 0o755))
    additions = Additions(before)
    additions.put("lib/one", b"2")
    additions.put("lib/modules/6.1/x.ko", b"module")
    names = [(e.name, e.type) for e in _read(additions.archive())]
    assert names == [
        ("usr/lib/one", stat.S_IFREG),
        ("usr/lib/modules", stat.S_IFDIR),
        ("usr/lib/modules/6.1", stat.S_IFDIR),
        ("usr/lib/modules/6.1/x.ko", stat.S_IFREG),
    ]
    assert before.read("lib/one") == b"1"
    assert stat.S_IMODE(additions.current.nodes["usr/lib/one"].mode) == 0o755


def test_additions_leave_the_other_names_of_a_file_alone() -> None:
    before = root(linked("one", b""), linked("two", b"old"))
    additions = Additions(before)
    additions.put("one", b"new")
    after = before.copy()
    for entry in _read(additions.archive()):
        after.unpack(entry)
    assert (after.read("one"), after.read("two")) == (b"new", b"old")


def test_nothing_to_add_is_no_archive() -> None:
    additions = Additions(root(cpio.file("one", b"1")))
    additions.put("one", b"1")
    assert additions.archive() is None


@pytest.mark.parametrize("name", ["usr/lib", "usr/lib/device", "file/x", "dangling", "dangling/x"])
def test_what_is_in_the_way_is_named(name: str) -> None:
    device = cpio.Entry("usr/lib/device", stat.S_IFCHR | 0o600)
    before = root(*MERGED, device, cpio.file("file", b""), cpio.symlink("dangling", "/nowhere"))
    with pytest.raises(JobError, match="in the way") as failure:
        Additions(before).put(name, b"x")
    assert failure.value.reason == "InitramfsNotPatchable"


def _read(data: bytes | None) -> list[cpio.Entry]:
    assert data is not None
    return [e for e in cpio.read_entries(cpio.MemoryStream(data), lambda name, size: True) if e.name != cpio.TRAILER]
