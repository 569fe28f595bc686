# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of several files share."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest


@pytest.fixture
def fat(tmp_path: pathlib.Path) -> pathlib.Path:
    """A FAT filesystem with Debian's shim and GRUB."""
    image = tmp_path / "esp.img"
    with image.open("wb") as file:
        file.truncate(40 * 1024**2)
    environment = {**os.environ, "MTOOLSRC": "/dev/null"}

    def run(*args: str | pathlib.Path, data: bytes = b"") -> None:
        subprocess.run(args, input=data, env=environment, check=True, capture_output=True)

    run("mkfs.vfat", image)
    run("mmd", "-i", image, "::/EFI", "::/EFI/debian")
    run("mcopy", "-i", image, "-", "::/EFI/debian/shimx64.efi", data=b"shim" * 1000)
    run("mcopy", "-i", image, "-", "::/EFI/debian/grubx64.efi", data=b"grub")
    return image
