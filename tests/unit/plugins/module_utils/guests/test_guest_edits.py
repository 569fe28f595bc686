# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Planned changes: seen by whoever plans on, reported as data, applied as a whole."""

from __future__ import annotations

import hashlib
import os
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.edits import Edits
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A guest with a few files."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("one\ntwo\nthree\n")
    (tmp_path / "etc/old").write_text("bye\n")
    (tmp_path / "initrd").write_bytes(bytes(range(256)) * 10)
    return tmp_path


@pytest.fixture
def edits(root: pathlib.Path) -> t.Iterator[Edits]:
    """Nothing planned yet."""
    with GuestTree(root, writable=True) as tree:
        yield Edits(tree)


def digest(data: bytes) -> str:
    """As in a change."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_nothing_changes_until_it_is_applied(edits: Edits, root: pathlib.Path) -> None:
    edits.write("/etc/fstab", "new\n", why="w")
    edits.append("/initrd", b"tail", "a")
    edits.remove("/etc/old", "r")
    edits.symlink("/etc/a/link", "/target", "s")
    edits.mkdir("/srv", "m")
    assert (root / "etc/fstab").read_text() == "one\ntwo\nthree\n"
    assert sorted(os.listdir(root / "etc")) == ["fstab", "old"]

    assert edits.read_text("/etc/fstab") == "new\n"
    assert edits.read_bytes("/initrd").endswith(b"\xfftail")
    assert not edits.exists("/etc/old")
    assert edits.readlink("/etc/a/link") == "/target"
    assert edits.is_dir("/etc/a") and edits.is_dir("/srv")
    assert edits.listdir("/etc") == ["a", "fstab"]
    assert edits.glob("/etc/*/*") == ["/etc/a/link"]
    assert edits.files("/etc/*/*") == []
    assert [name for dummy, dummy, names in edits.walk("/etc") for name in names] == ["fstab", "link"]

    edits.apply(edits.tree)
    assert (root / "etc/fstab").read_text() == "new\n"
    assert (root / "initrd").read_bytes() == bytes(range(256)) * 10 + b"tail"
    assert not (root / "etc/old").exists()
    assert os.readlink(root / "etc/a/link") == "/target"
    assert (root / "srv").is_dir()


def test_changes_tell_who_what_and_why(edits: Edits) -> None:
    with edits.by("first"):
        edits.write("/etc/fstab", "one\nTWO\nthree\n", why="louder")
        edits.write("/etc/fstab", "one\nTWO!\nthree\n", why="louder still")
    with edits.by("second"):
        edits.append("/etc/fstab", b"four\n", "more")
    first, second = edits.changes
    assert (first.path, first.kind, first.fixer, first.why) == ("/etc/fstab", "write", "first", "louder; louder still")
    assert first.before == digest(b"one\ntwo\nthree\n")
    assert first.after == second.before == digest(b"one\nTWO!\nthree\n")
    assert second.after == digest(b"one\nTWO!\nthree\nfour\n")
    assert "-two\n+TWO!\n" in first.diff and first.diff.startswith("--- a/etc/fstab\n+++ b/etc/fstab\n")


def test_what_changes_nothing_is_dropped(edits: Edits, root: pathlib.Path) -> None:
    edits.write("/etc/fstab", "one\ntwo\nthree\n", why="same")
    edits.write("/etc/fstab", "other", why="x")
    edits.write("/etc/fstab", "one\ntwo\nthree\n", why="back again")
    edits.remove("/etc/none", "not there")
    edits.mkdir("/etc", "there")
    edits.append("/initrd", b"", "nothing")
    os.symlink("fstab", root / "etc/same")
    edits.symlink("/etc/same", "fstab", "same")
    assert edits.changes == []
    before = (root / "etc/fstab").stat().st_ino
    edits.apply(edits.tree)
    assert (root / "etc/fstab").stat().st_ino == before


def test_permissions_alone_are_a_change(edits: Edits, root: pathlib.Path) -> None:
    edits.write("/etc/fstab", "one\ntwo\nthree\n", why="private", mode=0o600)
    (change,) = edits.changes
    assert "permissions" in change.diff
    edits.apply(edits.tree)
    assert (root / "etc/fstab").stat().st_mode & 0o777 == 0o600


def test_a_guest_that_changed_meanwhile_is_left_alone(edits: Edits, root: pathlib.Path) -> None:
    edits.write("/etc/old", "first", why="w")
    edits.write("/etc/fstab", "new\n", why="w")
    (root / "etc/fstab").write_text("changed behind our back\n")
    with pytest.raises(JobError, match="no longer") as caught:
        edits.apply(edits.tree)
    assert caught.value.retryable
    assert (root / "etc/old").read_text() == "bye\n"


def test_secrets_stay_out_of_diffs(edits: Edits, root: pathlib.Path) -> None:
    (root / "etc/grub.cfg").write_text(
        "password_pbkdf2 root grub.pbkdf2.sha512.10000.ABC\nroot=/dev/sda1\npsk=hunter22\n"
    )
    edits.write("/etc/grub.cfg", edits.read_text("/etc/grub.cfg").replace("/dev/sda1", "UUID=1"), why="w")
    edits.write("/etc/key", "-----BEGIN", why="w", confidential=True)
    shown = "".join(change.diff for change in edits.changes)
    assert "+root=UUID=1" in shown
    for secret in ("ABC", "hunter22", "BEGIN"):
        assert secret not in shown


def test_binary_data_is_described(edits: Edits) -> None:
    edits.write("/initrd", b"\0\1\2", why="w")
    (change,) = edits.changes
    assert change.diff == "binary data: 2560 bytes -> 3 bytes"


def test_huge_diffs_are_cut(edits: Edits) -> None:
    edits.write("/etc/fstab", "line\n" * 100_000, why="w")
    (change,) = edits.changes
    assert len(change.diff) < 70_000 and "left out" in change.diff


def test_warnings_are_told_once(edits: Edits) -> None:
    edits.warn("odd \x1b[31m thing")
    edits.warn("odd \x1b[31m thing")
    assert edits.warnings == ["odd \\x1b[31m thing"]
