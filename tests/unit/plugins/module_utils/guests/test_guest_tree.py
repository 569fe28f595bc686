# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A hostile guest: whatever its files are, nothing outside of it is read or changed."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.edits import Edits
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

CANARY = "the host's own secret\n"


@pytest.fixture
def canary(tmp_path: pathlib.Path) -> t.Iterator[pathlib.Path]:
    """A folder of the host, which must look the same afterwards."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "passwd").write_text(CANARY)
    (host / "fstab").write_text(CANARY)
    yield host
    assert {path.name: path.read_text() for path in host.iterdir()} == {"passwd": CANARY, "fstab": CANARY}


@pytest.fixture
def root(tmp_path: pathlib.Path, canary: pathlib.Path) -> pathlib.Path:
    """The guest's root, beside the canary's folder."""
    guest = tmp_path / "guest"
    (guest / "etc").mkdir(parents=True)
    return guest


@pytest.fixture
def tree(root: pathlib.Path) -> t.Iterator[GuestTree]:
    """The guest's files, writable."""
    with GuestTree(root, writable=True) as opened:
        yield opened


def escapes(canary: pathlib.Path) -> list[str]:
    """Targets of a link /etc/fstab that mean the canary's file to whoever does not confine them."""
    return [str(canary / "fstab"), "../../host/fstab", "../../../../../../../.." + str(canary / "fstab")]


@pytest.mark.parametrize("which", range(3))
def test_a_link_to_the_hosts_file_means_the_guests_own(
    tree: GuestTree, root: pathlib.Path, canary: pathlib.Path, which: int
) -> None:
    target = escapes(canary)[which]
    os.symlink(target, root / "etc/fstab")
    assert not tree.exists("/etc/fstab")
    with pytest.raises(FileNotFoundError):
        tree.read_bytes("/etc/fstab")
    tree.write("/etc/fstab", b"changed\n")
    assert tree.read_text("/etc/fstab") == "changed\n"
    written = [path for path in root.rglob("fstab") if path.is_file() and not path.is_symlink()]
    assert [path.read_text() for path in written] == ["changed\n"]


def test_a_folder_that_is_a_link_out_of_the_guest(tree: GuestTree, root: pathlib.Path, canary: pathlib.Path) -> None:
    os.symlink("../../../../../.." + str(canary), root / "conf")
    os.symlink(str(canary), root / "abs")
    for folder in ("/conf", "/abs"):
        assert not tree.is_dir(folder)
        assert tree.names(folder) == []
        assert tree.glob(f"{folder}/*") == []
    tree.write("/abs/passwd", b"guest")
    assert (root / str(canary).lstrip("/") / "passwd").read_bytes() == b"guest"


def test_edits_follow_links_inside_the_guest_only(root: pathlib.Path, canary: pathlib.Path, tree: GuestTree) -> None:
    os.symlink(str(canary / "passwd"), root / "etc/fstab")
    (root / str(canary).lstrip("/")).mkdir(parents=True)
    (root / str(canary / "passwd").lstrip("/")).write_text("the guest's\n")
    edits = Edits(tree)
    edits.write("/etc/fstab", "new\n", why="test")
    (change,) = edits.changes
    assert change.path == str(canary / "passwd")
    edits.apply(tree)
    assert tree.read_text("/etc/fstab") == "new\n"
    assert (root / "etc/fstab").is_symlink()


def test_links_mean_what_the_guest_means(tree: GuestTree, root: pathlib.Path) -> None:
    for name in ("usr/lib/x", "etc/a/b"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/os-release").write_text("here")
    os.symlink("../usr/lib/os-release", root / "etc/os-release")
    os.symlink("usr/lib", root / "lib")
    os.symlink("../../../../usr/lib/x", root / "etc/a/b/link")
    for path in ("/etc/os-release", "/lib/os-release", "/lib/../lib/os-release", "/etc/a/b/link/../os-release"):
        assert tree.resolve(path) == "/usr/lib/os-release"
        assert tree.read_text(path) == Edits(tree).read_text(path) == "here"
    assert tree.resolve("/etc/os-release", follow=False) == "/etc/os-release"
    assert tree.resolve("//etc/./none/") == "/etc/none"


def test_loops_end(tree: GuestTree, root: pathlib.Path) -> None:
    os.symlink("b", root / "a")
    os.symlink("a", root / "b")
    os.symlink(".", root / "here")
    for use in (tree.read_bytes, tree.listdir, tree.is_dir, lambda path: tree.write(path, b"")):
        with pytest.raises(JobError, match="circle") as caught:
            use("/a")
        assert caught.value.reason == "SymlinkLoop"
    assert tree.is_dir("/here/here/here/etc")
    assert [folder for folder, dummy, dummy in tree.walk("/")] == ["/", "/etc"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "a socket"])
def test_what_is_no_regular_file_is_refused(tree: GuestTree, root: pathlib.Path, kind: str) -> None:
    path = root / "etc/fstab"
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mknod(path, stat.S_IFSOCK | 0o666)
    for use in (
        tree.read_bytes,
        tree.open_fd,
        lambda p: tree.append(p, b"x"),
        lambda p: Edits(tree).write(p, b"", why=""),
    ):
        with pytest.raises(JobError, match=kind) as caught:
            use("/etc/fstab")
        assert caught.value.reason == "NoRegularFile"
    with pytest.raises(JobError):
        tree.write("/etc/fstab", b"")
    assert not [p for p in (root / "etc").iterdir() if p.name != "fstab"], "a temporary file stayed behind"


def test_a_file_of_ten_gib_is_not_read(tree: GuestTree, root: pathlib.Path) -> None:
    with (root / "etc/fstab").open("wb") as file:
        file.truncate(10 * 1024**3)
    with pytest.raises(JobError, match="bigger than") as caught:
        tree.read_bytes("/etc/fstab")
    assert caught.value.reason == "GuestFileTooBig"
    with pytest.raises(JobError, match="bigger than"):
        Edits(tree).append("/etc/fstab", b"x", "test")
    with pytest.raises(JobError, match="bigger than"):
        Edits(tree).write("/etc/fstab", b"x", why="test")


def test_names_cannot_steer_a_terminal(tree: GuestTree, root: pathlib.Path) -> None:
    name = "evil\x1b]0;owned\x07\n\u202etxt"
    (root / "etc" / name).write_text("a\x1b[2Jb\n")
    os.mkfifo(root / "etc" / f"{name}.fifo")
    assert f"/etc/{name}" in tree.glob("/etc/*")
    edits = Edits(tree)
    edits.write(f"/etc/{name}", "c\x1b[31m\n", why="test")
    (change,) = edits.changes
    with pytest.raises(JobError) as caught:
        tree.read_bytes(f"/etc/{name}.fifo")
    for shown in (change.path, change.diff.replace("\n", ""), str(caught.value)):
        assert shown.isprintable(), repr(shown)


def test_bytes_that_are_no_utf8_survive(tree: GuestTree, root: pathlib.Path) -> None:
    (root / "etc/odd").write_bytes(b"caf\xe9\n")
    tree.write("/etc/odd", tree.read_text("/etc/odd").encode("utf-8", "surrogateescape") + b"x")
    assert (root / "etc/odd").read_bytes() == b"caf\xe9\nx"
    os.symlink(b"\xff", os.fsencode(root) + b"/etc/\xfe")
    assert tree.exists("/etc/\udcfe") is False


@pytest.mark.parametrize("path", ["/etc/\0passwd", "/etc/" + "x" * 300, "/" + "d/" * 3000 + "f"])
def test_impossible_names(tree: GuestTree, path: str) -> None:
    with pytest.raises((FileNotFoundError, JobError)):
        tree.read_bytes(path)


def test_a_written_file_keeps_what_it_was(tree: GuestTree, root: pathlib.Path) -> None:
    path = root / "etc/shadow"
    path.write_text("old")
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.setxattr(path, "user.kept", b"yes")
    tree.write("/etc/shadow", b"new")
    status = path.stat()
    assert (path.read_text(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == ("new", 0o640, 12, 34)
    assert os.getxattr(path, "user.kept") == b"yes"


def test_a_new_file_belongs_to_root(tree: GuestTree, root: pathlib.Path) -> None:
    before = os.umask(0o077)
    try:
        tree.write("/etc/new/deep/file", b"x")
        tree.write("/etc/key", b"x", 0o600, (5, 6))
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "etc/new/deep").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "etc/new/deep/file").stat().st_mode) == 0o644
    status = (root / "etc/key").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o600, 5, 6)


def test_new_files_take_their_folders_selinux_label(tree: GuestTree, root: pathlib.Path) -> None:
    label = b"system_u:object_r:etc_t:s0\0"
    os.setxattr(root / "etc", "security.selinux", label)
    tree.write("/etc/new", b"x")
    tree.symlink("/etc/link", "new")
    tree.mkdir("/etc/.ssh")
    assert os.getxattr(root / "etc/new", "security.selinux") == label
    assert os.getxattr(root / "etc/link", "security.selinux", follow_symlinks=False) == label
    assert os.getxattr(root / "etc/.ssh", "security.selinux") == b"system_u:object_r:ssh_home_t:s0\0"


def test_a_read_only_guest_is_not_written(root: pathlib.Path) -> None:
    (root / "etc/fstab").write_text("old")
    with GuestTree(root) as tree:
        for use in (
            lambda: tree.write("/etc/fstab", b""),
            lambda: tree.append("/etc/fstab", b"x"),
            lambda: tree.remove("/etc/fstab"),
            lambda: tree.symlink("/etc/fstab", "x"),
            lambda: tree.mkdir("/x"),
        ):
            with pytest.raises(JobError, match="read-only"):
                use()
    assert (root / "etc/fstab").read_text() == "old"


def test_an_immutable_file_is_named(tree: GuestTree, root: pathlib.Path) -> None:
    path = root / "etc/fstab"
    path.write_text("old")
    subprocess.run(["chattr", "+i", path], check=True)
    try:
        with pytest.raises(JobError, match="chattr"):
            tree.write("/etc/fstab", b"new")
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    assert [p.name for p in (root / "etc").iterdir()] == ["fstab"]
    assert path.read_text() == "old"
