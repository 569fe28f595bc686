# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A copy of a mounted filesystem is told from one that was unmounted."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.journal import needs_replay

pytestmark = pytest.mark.usefixtures("own_mounts")


def run(*command: str | pathlib.Path) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_export_of_a_mounted_filesystem_needs_replay(fstype: str, tmp_path: pathlib.Path) -> None:
    image, running = tmp_path / "fs.img", tmp_path / "running.img"
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    with image.open("wb") as file:
        file.truncate(400 * 1024**2)
    run(f"mkfs.{fstype}", "-q", image)
    assert not needs_replay(image, fstype)
    run("mount", "-o", "loop", image, mountpoint)
    try:
        # fsync of a file makes each of the three write its log.
        with (mountpoint / "file").open("wb") as file:
            file.write(b"x" * 100_000)
            file.flush()
            os.fsync(file.fileno())
        shutil.copyfile(image, running)
    finally:
        run("umount", mountpoint)
    assert needs_replay(running, fstype)
    assert not needs_replay(image, fstype)
