# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's disk on which much was deleted."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tempfile

_START = 1024**2
_SIZE = 6 * 1024**3
_DELETED = 2 * 1024**3


def guest_with_deleted_files(target: pathlib.Path) -> int:
    """Write a qcow2 disk with one ext4 filesystem: an operating system's tree, and 2 GiB of deleted files.

    Returns:
        How many bytes its files use.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        raw, point = pathlib.Path(folder, "disk.raw"), pathlib.Path(folder, "point")
        with raw.open("wb") as file:
            file.truncate(_SIZE)
        table = f"label: dos\nstart={_START // 512}, type=83, bootable\n"
        subprocess.run(["sfdisk", "-q", raw], input=table, text=True, check=True)
        point.mkdir()
        where = f"offset={_START}"
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", where, raw, str((_SIZE - _START) // 1024)], check=True)
        subprocess.run(["mount", "-o", f"loop,{where},sizelimit={_SIZE - _START}", raw, point], check=True)
        try:
            used = _fill(point)
        finally:
            subprocess.run(["umount", point], check=True)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, target], check=True)
    return used


def _fill(point: pathlib.Path) -> int:
    chunk = os.urandom(64 * 1024**2)
    for number in range(_DELETED // len(chunk)):
        (point / f"deleted{number}").write_bytes(chunk)
    (point / "etc").mkdir()
    (point / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\nPRETTY_NAME=Debian\n", encoding="ascii")
    for number in range(4000):
        (point / "etc" / f"file{number}").write_bytes(chunk[: 100 * number % 200_000])
    for number in range(8):
        (point / f"large{number}").write_bytes(chunk)
    os.sync()
    for path in point.glob("deleted*"):
        path.unlink()
    os.sync()
    return sum(path.lstat().st_blocks * 512 for path in point.rglob("*"))
