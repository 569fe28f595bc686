# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which files of a folder are virtual machines, and the jobs that look into them."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.assess import find_sources, plan_jobs

FILES = (
    "a.ova",
    "b/b.ovf",
    "b/b-disk1.vmdk",
    "c/c.vmx",
    "c/c.vmdk",
    "c/c-flat.vmdk",
    "d/disk.vmdk",
    "d/disk-flat.vmdk",
    "d/disk-000001.vmdk",
    "d/disk-s001.vmdk",
    "e/x y.VHDX",
    "e/x_y.vhdx",
    "notes.txt",
    ".hidden/z.ova",
)
FOUND = ["a.ova", "b/b.ovf", "c/c.vmx", "d/disk.vmdk", "e/x y.VHDX", "e/x_y.vhdx"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Exports of several hypervisors."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    return tmp_path


def test_each_vm_is_found_once(folder: pathlib.Path) -> None:
    assert [str(path.relative_to(folder)) for path in find_sources(folder)] == FOUND


def test_each_vm_gets_a_job_of_its_own_name(folder: pathlib.Path) -> None:
    jobs = plan_jobs(find_sources(folder), folder)
    assert [job.metadata.name for job in jobs] == [
        "a-plan",
        "b-b-plan",
        "c-c-plan",
        "d-disk-plan",
        "e-x-y-plan",
        "e-x-y-2-plan",
    ]
    assert {job.spec.operation for job in jobs} == {models.Operation.PLAN}
    assert [job.spec.source.path for job in jobs] == FOUND
    assert len({job.spec.target.path for job in jobs}) == len(FOUND)


def test_long_names_stay_names(tmp_path: pathlib.Path) -> None:
    for number in range(12):
        (tmp_path / f"{'x' * 100}-{number}.ova").touch()
    names = [job.metadata.name for job in plan_jobs(find_sources(tmp_path), tmp_path)]
    assert len(set(names)) == 12 and max(map(len, names)) <= 63


def test_an_empty_folder_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught:
        plan_jobs(find_sources(tmp_path), tmp_path)
    assert caught.value.reason == "NothingFound"
