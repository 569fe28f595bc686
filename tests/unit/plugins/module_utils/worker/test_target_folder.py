# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One job at a time writes into a target's folder."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.target_folder import remove_if_empty, reserved


def test_a_second_job_is_refused_until_the_first_has_ended(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "night1" / "web01"
    with reserved(folder):
        with pytest.raises(JobError) as caught, reserved(folder):
            raise AssertionError("two jobs have one folder")
        assert caught.value.reason == "TargetInUse"
        assert folder.is_dir()
        (folder / "web01.qcow2").touch()
    with reserved(folder):
        assert (folder / "web01.qcow2").exists()


def test_a_folder_in_which_nothing_was_made_goes(tmp_path: pathlib.Path) -> None:
    with reserved(tmp_path / "web01"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_removed_though_it_is_empty(tmp_path: pathlib.Path) -> None:
    with reserved(tmp_path / "web01"):
        remove_if_empty(tmp_path / "web01")
        assert (tmp_path / "web01").is_dir()
