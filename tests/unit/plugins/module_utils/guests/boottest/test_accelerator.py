# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The accelerator is what a boot sector ran on, not what ``/dev/kvm`` promises."""

from __future__ import annotations

import pathlib
import stat
import tempfile
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import accelerator, confinement
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError


@pytest.fixture(autouse=True)
def _fresh() -> t.Iterator[None]:
    accelerator.probe_accelerator.cache_clear()
    yield
    accelerator.probe_accelerator.cache_clear()


@pytest.fixture
def device(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Something that exists where the KVM device would be."""
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(confinement, "KVM_DEVICE", path)
    return path


def _qemu(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a program in QEMU's place; ``$*`` are its arguments."""
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXOTH)
    # QEMU runs as nobody. One folder more where tests run side by side; that of all temporary files stays as it is.
    for folder in (tmp_path, *tmp_path.parents):
        if folder == pathlib.Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    monkeypatch.setattr(confinement, "find_program", lambda: str(program))
    monkeypatch.setattr(accelerator, "_TRY_SECONDS", 0.5)


def test_the_real_qemu_runs_the_boot_sector() -> None:
    found = accelerator.probe_accelerator()
    assert found.name in ("kvm", "tcg")
    assert "boot sector" in found.detail or "emulates" in found.detail


def test_boot_sector_is_one_bootable_sector() -> None:
    sector = accelerator.boot_sector(5)
    assert len(sector) == 512
    assert sector.endswith(b"\x55\xaa")
    assert sector[3:7] == b"\x05\0\0\0"


def test_kvm_that_runs_is_taken_with_the_first_cpu_that_works(
    tmp_path: pathlib.Path, device: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _qemu(tmp_path, monkeypatch, 'case "$*" in *"-cpu max "*) echo "failed to set MSR" >&2; exit 134;; esac; exit 67')
    found = accelerator.probe_accelerator()
    assert (found.name, found.cpu) == ("kvm", "max,-arch-capabilities")


def test_kvm_that_is_too_slow_is_not_taken_and_is_tried_once(
    tmp_path: pathlib.Path, device: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _qemu(tmp_path, monkeypatch, 'case "$*" in *accel=kvm*) exec sleep 20;; esac; exit 67')
    found = accelerator.probe_accelerator()
    assert found.name == "tcg"
    assert "present but too slow" in found.detail


def test_what_kvm_said_is_told(tmp_path: pathlib.Path, device: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _qemu(tmp_path, monkeypatch, 'case "$*" in *accel=kvm*) echo "Permission denied" >&2; exit 1;; esac; exit 67')
    found = accelerator.probe_accelerator()
    assert found.name == "tcg"
    assert "Permission denied" in found.detail


def test_no_kvm_device(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "KVM_DEVICE", tmp_path / "absent")
    _qemu(tmp_path, monkeypatch, 'case "$*" in *accel=kvm*) exit 99;; esac; exit 67')
    assert "there is no" in accelerator.probe_accelerator().detail


def test_a_qemu_that_runs_nothing_is_an_error_of_the_environment(
    tmp_path: pathlib.Path, device: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _qemu(tmp_path, monkeypatch, 'echo "no such machine" >&2; exit 1')
    with pytest.raises(JobError) as caught:
        accelerator.probe_accelerator()
    assert caught.value.reason == "QemuUnusable"
    assert "no such machine" in caught.value.message


def test_qemu_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_PROGRAMS", ("no-such-qemu",))
    with pytest.raises(JobError) as caught:
        accelerator.probe_accelerator()
    assert caught.value.reason == "QemuMissing"
