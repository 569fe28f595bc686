# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names from documents and images stay below their root."""

from __future__ import annotations

import os
import pathlib
import socket

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.paths import confine
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import ErrorClass, JobError


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "input"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "disk.raw").write_bytes(b"x")
    (tmp_path / "canary").write_bytes(b"secret")
    (tmp_path / "input-not").mkdir()
    (tmp_path / "input-not" / "disk.raw").write_bytes(b"x")
    return folder


def refused(root: pathlib.Path, name: str) -> JobError:
    with pytest.raises(JobError) as caught:
        confine(root, name, "spec.source.path")
    assert caught.value.error_class is ErrorClass.INVALID
    assert "spec.source.path" in caught.value.message
    return caught.value


def test_relative_and_absolute_below_the_root(root: pathlib.Path) -> None:
    assert confine(root, "sub/disk.raw", "x") == root / "sub" / "disk.raw"
    assert confine(root, str(root / "sub"), "x") == root / "sub"
    assert confine(root, "./sub/./disk.raw", "x") == root / "sub" / "disk.raw"


@pytest.mark.parametrize(
    "name",
    [
        "../canary",
        "sub/../../canary",
        "sub/../sub/disk.raw",
        "/etc/passwd",
        "",
        "sub/\0",
        'json:{"driver":"file","filename":"/etc/passwd"}',
        "nbd:localhost:10809",
        "http://example.org/disk.raw",
        "fat:sub",
    ],
)
def test_leaving_the_root_is_refused(root: pathlib.Path, name: str) -> None:
    assert refused(root, name).reason == "PathRefused"


def test_sibling_with_the_same_prefix_is_refused(root: pathlib.Path) -> None:
    assert refused(root, str(root) + "-not/disk.raw").reason == "PathRefused"


def test_links_inside_are_followed_and_links_outside_refused(root: pathlib.Path) -> None:
    (root / "inside").symlink_to("sub/disk.raw")
    (root / "outside").symlink_to("../canary")
    (root / "folder").symlink_to("/etc")
    (root / "loop").symlink_to("loop")
    assert confine(root, "inside", "x") == root / "sub" / "disk.raw"
    assert refused(root, "outside").reason == "PathRefused"
    assert refused(root, "folder/passwd").reason == "PathRefused"
    refused(root, "loop")


def test_a_root_that_is_a_link_itself(root: pathlib.Path) -> None:
    link = root.parent / "data"
    link.symlink_to(root)
    assert confine(link, "sub/disk.raw", "x") == root / "sub" / "disk.raw"
    assert confine(link, str(link / "sub/disk.raw"), "x") == root / "sub" / "disk.raw"


def test_only_files_and_folders(root: pathlib.Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for name in ("fifo", "socket"):
            assert refused(root, name).reason == "PathRefused"
    assert refused(root, "missing").reason == "NotFound"
    assert refused(root, "sub/disk.raw/below").reason == "NotFound"
