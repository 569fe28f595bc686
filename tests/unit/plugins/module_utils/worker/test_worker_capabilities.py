# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker can do, tried on this very machine; and what the trials say when something is missing."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import accelerator
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import capabilities


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def found(site: pathlib.Path) -> capabilities.Found:
    return capabilities.probe(site, site)


def test_everything_is_tried_and_nothing_stays(site: pathlib.Path, found: capabilities.Found) -> None:
    assert set(found) == {
        *("attach", "boot-test", "device-mapper", "fs-btrfs", "fs-ext4", "fs-vfat", "fs-xfs", "fuse-export"),
        *("guest-volumes", "isal", "kernel-nbd", "kvm", "loop", "microvm", "mtools", "partclone", "qemu-img", "root"),
    }
    assert all(one.detail for one in found.values())
    assert [one.name for one in site.iterdir()] == ["capabilities.json"]
    for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            assert str(site) not in entry.read_text()
    assert str(site) not in pathlib.Path("/proc/self/mountinfo").read_text()


def test_the_answers_agree_with_the_machine(found: capabilities.Found) -> None:
    filesystems = pathlib.Path("/proc/filesystems").read_text().split()
    for name in ("ext4", "xfs", "btrfs"):
        if name in filesystems:
            assert found[f"fs-{name}"].available, found[f"fs-{name}"].detail
    if "vfat" not in filesystems and subprocess.run(["modinfo", "vfat"], capture_output=True, check=False).returncode:
        assert not found["fs-vfat"].available
        assert "vfat" in found["fs-vfat"].detail
    for name in ("qemu-img", "loop", "attach", "mtools", "partclone", "boot-test", "root"):
        assert found[name].available, found[name].detail
    assert found["kvm"].available == (accelerator.probe_accelerator().name == "kvm")


def test_volumes_are_opened_by_the_kernel_or_in_a_micro_vm(
    site: pathlib.Path, found: capabilities.Found, tmp_path: pathlib.Path
) -> None:
    """A kernel that is installed somewhere makes the difference, if it has its modules."""
    assert found["guest-volumes"].available == (found["device-mapper"].available or found["microvm"].available)
    modules = tmp_path / "lib/modules/6.1.0-9-amd64"
    modules.mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6.1.0-9-amd64").write_bytes(b"kernel")
    (modules / "modules.dep").write_text("kernel/drivers/block/virtio_blk.ko.xz:\nkernel/drivers/block/loop.ko:\n")
    assert not capabilities.probe(site, site, kernel_root=tmp_path)["microvm"].available
    (modules / "modules.builtin").write_text(
        "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n"
    )
    again = capabilities.probe(site, site, kernel_root=tmp_path)
    assert again["microvm"].available and "6.1.0-9-amd64" in again["microvm"].detail
    assert again["guest-volumes"].available


def test_what_worked_is_remembered_and_what_did_not_is_tried_again(
    site: pathlib.Path, found: capabilities.Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = json.loads((site / "capabilities.json").read_text())
    assert all(one["available"] for one in cache["found"].values())
    with monkeypatch.context() as patch:
        tried = models.Capability(available=False, detail="tried again")
        patch.setattr(capabilities, "_attempt", lambda trial, place: tried)
        again = capabilities.probe(site, site)
    assert {name: one.available for name, one in again.items()} == {n: one.available for n, one in found.items()}
    concluded = {"attach", "guest-volumes", "kvm", "root"}
    lacking = {name for name, one in found.items() if not one.available}
    assert {name for name, one in again.items() if one.detail == "tried again"} == lacking - concluded
    # Another search path: nothing of what is remembered holds any more.
    monkeypatch.setenv("PATH", "/nonexistent")
    bare = capabilities.probe(site, site)
    assert not bare["qemu-img"].available
    assert bare["qemu-img"].detail == "qemu-img is not installed"
    assert not bare["attach"].available
    assert "fuse-export: qemu-storage-daemon is not installed" in bare["attach"].detail


def test_without_privilege_the_answer_says_so(site: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(capabilities.kernel, "fork_into_pid_namespace", refuse)
    before = len(os.listdir("/proc/self/fd"))
    found = capabilities.probe(site)
    assert {name: one.available for name, one in found.items()} == {"root": False}
    assert "must be root" in found["root"].detail
    assert len(os.listdir("/proc/self/fd")) == before
