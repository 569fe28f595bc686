# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of a target's files, and the output root as their border."""

from __future__ import annotations

import pathlib
import re

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.layout import layout_of, slug
from hypothesis import given
from hypothesis import strategies as st


def job(**target: object) -> models.MigrationJob:
    return models.MigrationJob.model_validate(
        {"metadata": {"name": "web01-convert"}, "spec": {"source": {"path": "web01.ova"}, "target": target}}
    )


def test_names_follow_the_target(tmp_path: pathlib.Path) -> None:
    submitted = job(path="night1/Web_01", format="raw")
    submitted.metadata.uid = "0d2f4a5e-0000-4000-8000-000000000000"
    layout = layout_of(submitted, tmp_path)
    assert layout.disk(0) == tmp_path / "night1/Web_01/web-01.img"
    assert layout.partial(1, 7).name == "web-01-disk1.img.0d2f4a5e.7.partial"
    assert layout.result.name == "result.json"


def test_former_partials_are_this_very_jobs_of_earlier_attempts(tmp_path: pathlib.Path) -> None:
    submitted = job(path="web01")
    submitted.metadata.uid = "0d2f4a5e-0000-4000-8000-000000000000"
    layout = layout_of(submitted, tmp_path)
    layout.folder.mkdir()
    for epoch in (1, 3, 4, 12):
        layout.partial(0, epoch).touch()
    (layout.folder / "web01.qcow2.11111111.1.partial").touch()
    assert layout.former_partials(0, 4) == [layout.partial(0, 1), layout.partial(0, 3)]
    assert layout.former_partials(1, 4) == []


def test_the_job_names_the_folder_where_the_target_does_not(tmp_path: pathlib.Path) -> None:
    assert layout_of(job(), tmp_path).folder == tmp_path / "web01-convert"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc", ".hyper2kvm/scratch", ".", "link/x"])
def test_a_target_outside_the_root_is_refused(path: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    # Put in unchecked, as by a backend that trusts its store: the layout must hold by itself.
    outside = job()
    outside.spec.target.path = path
    with pytest.raises(JobError) as caught:
        layout_of(outside, tmp_path)
    assert caught.value.reason == "PathOutsideRoot"


def test_an_absolute_path_below_the_root_is_taken(tmp_path: pathlib.Path) -> None:
    assert layout_of(job(path=str(tmp_path / "web01")), tmp_path).folder == tmp_path / "web01"


@given(st.text())
def test_a_slug_is_a_dns_label(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", slug(text))
