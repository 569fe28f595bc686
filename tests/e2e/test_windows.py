# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Windows is recognised on its disks, and refused with what it is and what is missing. Needs root and ntfs-3g."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import mount_guest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.unit.plugins.module_utils.guests.hives import Values, hive
from tests.unit.plugins.module_utils.guests.phony import efi_program

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2
SERVER: Values = {"ProductName": "Windows Server 2022 Standard", "CurrentBuild": "20348"}
CLIENT: Values = {"ProductName": "Windows 10 Pro", "CurrentBuild": "26100"}


def volume(folder: pathlib.Path, release: Values | None, hibernated: bool = False, system: str = "Windows") -> bytes:
    """An NTFS volume, with a Windows where ``release`` is given."""
    image, mount = folder / "ntfs.img", folder / "ntfs"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    subprocess.run(["mkfs.ntfs", "-q", "-F", "-f", image], check=True, capture_output=True)
    mount.mkdir()
    subprocess.run(["ntfs-3g", image, mount], check=True, capture_output=True)
    try:
        if release is not None:
            config = mount / system / ("System32" if system == "Windows" else "system32") / "config"
            config.mkdir(parents=True)
            name = "SOFTWARE" if system == "Windows" else "software"
            (config / name).write_bytes(hive(r"Microsoft\Windows NT\CurrentVersion", release, beside=5))
            (config.parent / "ntoskrnl.exe").write_bytes(efi_program())
        (mount / "hiberfil.sys").write_bytes((b"HIBR" if hibernated else b"\0" * 4) + b"\0" * MIB)
    finally:
        subprocess.run(["umount", mount], check=True)
    return image.read_bytes()


def refusal(tmp_path: pathlib.Path, *volumes: bytes) -> JobError:
    """What is said of a disk with these partitions."""
    disk, script, at = tmp_path / "disk.raw", "label: gpt\n", MIB
    with disk.open("wb") as file:
        for data in volumes:
            script += f"start={at // 512}, size={len(data) // 512}\n"
            file.seek(at)
            file.write(data)
            at += len(data)
        file.truncate(at + MIB)
    subprocess.run(["sfdisk", "-q", disk], input=script.encode(), check=True, capture_output=True)
    overlay, work = tmp_path / "overlay.qcow2", tmp_path / "work"
    work.mkdir()
    create_overlay(overlay, DiskImage("disk0", disk, "raw", "", disk.stat().st_size))
    with (
        pytest.raises(JobError) as caught,
        attach({"disk0": overlay}, writable=True, workdir=work) as attachment,
        mount_guest(attachment, probe(attachment), writable=False, workdir=work),
    ):
        pass
    return caught.value


@pytest.mark.parametrize(
    ("release", "system", "words"),
    [
        (SERVER, "Windows", "Windows Server 2022 Standard (build 20348, x86_64) is on disk0 partition 1."),
        (CLIENT, "Windows", "Windows 11 Pro (build 26100, x86_64) is on disk0 partition 1."),
        (SERVER, "WINDOWS", "Windows Server 2022 Standard (build 20348, x86_64) is on disk0 partition 1."),
        ({}, "Windows", "Windows (x86_64) is on disk0 partition 1."),
    ],
)
def test_a_windows_is_named(tmp_path: pathlib.Path, release: Values, system: str, words: str) -> None:
    error = refusal(tmp_path, volume(tmp_path, release, system=system))
    assert (error.reason, error.message) == ("Windows", words)
    assert "virtio drivers bound in their registry" in str(error.suggestion)


def test_fast_startup_is_told(tmp_path: pathlib.Path) -> None:
    error = refusal(tmp_path, volume(tmp_path, SERVER, hibernated=True))
    assert "hibernated" in error.message and "powercfg /h off" in str(error.suggestion)


def test_bitlocker_beside_a_recovery_volume_is_told(tmp_path: pathlib.Path) -> None:
    # The first sector of such a volume; libblkid wants the version's metadata too.
    locked = bytearray(4 * MIB)
    locked[:11] = b"\xeb\x58\x90-FVE-FS-"
    locked[0xB0:0xB8] = (0x10000).to_bytes(8, "little")
    locked[0xA0:0xB0] = bytes.fromhex("3bd67749292ed84a8399f6a339e3d001")
    locked[0x10000:0x1000A] = b"-FVE-FS-\x50\x00"
    locked[0x1000A:0x1000C] = (2).to_bytes(2, "little")
    error = refusal(tmp_path, volume(tmp_path, None), bytes(locked))
    assert error.reason == "BitLocker" and "disk0 partition 2 is encrypted with BitLocker" in error.message
    assert "decrypt BitLocker" in str(error.suggestion)


def test_ntfs_without_a_system_is_no_windows(tmp_path: pathlib.Path) -> None:
    error = refusal(tmp_path, volume(tmp_path, None))
    assert error.message == "disk0 partition 1 is NTFS, and no operating system was found."
