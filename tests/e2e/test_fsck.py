# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filesystems that are checked before anything is copied: sound ones, damaged ones, and false alarms."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from tests.e2e.built_disks import Builder, header, run
from tests.e2e.migration import ConversionHost, completed, failed, job
from tests.tools.machine import sha256


@pytest.fixture
def build(tmp_path: pathlib.Path) -> Builder:
    folder = tmp_path / "build"
    folder.mkdir()
    return Builder(folder)


def with_a_wrong_count(image: pathlib.Path) -> pathlib.Path:
    """An ext4 filesystem that mounts, with a folder that counts more links than there are."""
    run("debugfs", "-w", "-R", "mkdir folder", image)
    run("debugfs", "-w", "-R", "set_inode_field folder links_count 9", image)
    return image


def with_a_wrong_sum(image: pathlib.Path) -> pathlib.Path:
    """An XFS filesystem as RHEL 7's kernel leaves it: newer programs count another number of free blocks."""
    run("xfs_db", "-x", "-c", "sb 0", "-c", "write -d fdblocks 5", image)
    return image


def with_a_lost_chain(image: pathlib.Path) -> pathlib.Path:
    """A FAT with a cluster that no file has, in its first copy alone."""
    data = bytearray(image.read_bytes())
    reserved = int.from_bytes(data[14:16], "little") * int.from_bytes(data[11:13], "little")
    data[reserved + 16 : reserved + 18] = b"\xff\xff"
    image.write_bytes(data)
    return image


def as_the_machine_stopped(image: pathlib.Path) -> pathlib.Path:
    """A FAT that was not unmounted."""
    with image.open("r+b") as file:
        file.seek(37)
        file.write(b"\1")
    return image


def moved(name: str, policy: str, **guest: t.Any) -> dict[str, t.Any]:
    return job(name, "vm.raw", guest=guest, verify={"boot": False, "fsck": policy})


def test_sound_filesystems_are_passed_over(build: Builder, host: ConversionHost) -> None:
    parts = [build.filesystem("ext4", build.system()), *map(build.filesystem, ("xfs", "btrfs", "vfat"))]
    build.disk(*parts).rename(host.input / "vm.raw")
    (done,) = host.run(moved("vm", "require", hostname="checked"))
    completed(done)
    assert not any("filesystem on" in warning for warning in host.result("vm/result.json")["warnings"])


def test_what_is_damaged_is_told_and_what_only_seems_so_as_well(build: Builder, host: ConversionHost) -> None:
    root = build.filesystem("ext4", build.system())
    sums, counts = with_a_wrong_sum(build.filesystem("xfs")), with_a_wrong_count(build.filesystem("ext4"))
    lost, stopped = with_a_lost_chain(build.filesystem("vfat")), as_the_machine_stopped(build.filesystem("vfat"))
    source = build.disk(root, sums, counts, lost, stopped).rename(host.input / "vm.raw")
    before = sha256(source)

    silent, warned, refused = host.run(moved("silent", "skip"), moved("warned", "warn"), moved("refused", "require"))

    completed(silent)
    completed(warned)
    warnings = host.result("warned/result.json")["warnings"]
    told = {number: [line for line in warnings if f"on disk0 partition {number} is" in line] for number in range(1, 6)}
    assert told[1] == []
    (alarm,) = told[2]
    assert "is sound, though its checker complains" in alarm and "RHEL 7" in alarm
    (damage,) = told[3]
    assert "is damaged: e2fsck: " in damage and "ref count is 9, should be 2" in damage
    (damage,) = told[4]
    assert "is damaged: fsck.fat: " in damage
    (alarm,) = told[5]
    assert "is sound, though its checker complains" in alarm
    assert not any("damaged" in line for line in host.result("silent/result.json")["warnings"])
    error = failed(refused)
    assert (error["stage"], error["class"], error["reason"]) == ("fix", "unsupported", "FilesystemDamaged"), error
    assert "fsck" in error["suggestion"]
    assert not list((host.output / "refused").glob("*.qcow2*"))
    assert sha256(source) == before


def test_what_the_fix_leaves_is_what_is_checked(build: Builder, host: ConversionHost) -> None:
    """A journal that is still to be replayed is no damage; the fix replays it. Where nothing is fixed it is told."""
    root = build.filesystem("ext4", build.system())
    run("debugfs", "-w", "-R", "feature +needs_recovery", root)
    build.disk(root).rename(host.input / "vm.raw")
    fixed, left = host.run(moved("fixed", "require", hostname="checked"), moved("left", "require", enabled=False))
    completed(fixed)
    error = failed(left)
    assert (error["stage"], error["reason"]) == ("fix", "FilesystemUnchecked")
    assert "journal" in error["message"]


def test_where_a_guest_cannot_be_opened_it_is_told_and_refused_only_where_that_is_asked(
    build: Builder, host: ConversionHost, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The begin of an encrypted container, and a key: no kernel gets further than that."""
    build.disk(build.filesystem("ext4", build.system()), header("luks", build)).rename(host.input / "vm.raw")
    (tmp_path / "secrets/vm").mkdir(parents=True)
    (tmp_path / "secrets/vm/disk").write_text("key", encoding="utf-8")
    monkeypatch.setenv("HYPER2KVM_SECRETS_ROOT", str(tmp_path / "secrets"))
    jobs = [moved(policy, policy, enabled=False) for policy in ("warn", "require")]
    for wanted in jobs:
        wanted["spec"]["source"]["keys"] = [{"secret": {"name": "vm", "key": "disk"}}]
    warned, refused = host.run(*jobs)
    completed(warned)
    told = [line for line in host.result("warn/result.json")["warnings"] if "filesystems were not checked: " in line]
    assert len(told) == 1
    # Where this kernel lacks what it takes, the job waits for a worker that has it; else it has failed.
    assert refused["status"]["phase"] in ("QUEUED", "FAILED")
    error = refused["status"]["lastError"]
    assert (error["stage"], error["reason"]) == ("fix", "FilesystemUnchecked"), error
    assert not list((host.output / "require").glob("*.qcow2*"))
