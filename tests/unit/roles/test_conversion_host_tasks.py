# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of the role ``conversion_host`` that can be run on this machine; the e2e tests run the whole on another one."""

from __future__ import annotations

import json
import os
import pathlib
import typing as t

from tests.e2e.playbooks import Played, ansible_playbook

ROOT = pathlib.Path(__file__).parents[3]


def play(folder: pathlib.Path, tasks: str, **variables: t.Any) -> Played:
    """Run one file of the role's tasks here, with ``variables`` beside folders below ``folder``."""
    role = {"name": "hyper2kvm.core.conversion_host", "tasks_from": tasks}
    document = [{"hosts": "localhost", "connection": "local", "tasks": [{"include_role": role}]}]
    playbook = folder / "play.yml"
    playbook.write_text(json.dumps(document), encoding="utf-8")
    folders = {f"hyper2kvm_{name}": f"{folder}/{name}" for name in ("input_root", "output_root", "secrets_root")}
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    with (folder / "play.log").open("w", encoding="utf-8") as log:
        return ansible_playbook(playbook, folder=folder, log=log, extra=folders | variables, settings=settings)


def mode(path: pathlib.Path) -> int:
    """Who may do what with a file."""
    return path.stat().st_mode & 0o7777


def test_a_root_that_is_there_keeps_its_owner_and_mode(tmp_path: pathlib.Path) -> None:
    shared = tmp_path / "exports"
    shared.mkdir()
    shared.chmod(0o2770)
    os.chown(shared, 12345, 12345)
    linked = tmp_path / "input_root"
    linked.symlink_to(shared)
    first = play(tmp_path, "folders.yml")
    assert first.status == 0, first.output
    assert (mode(shared), shared.stat().st_uid, shared.stat().st_gid) == (0o2770, 12345, 12345)
    assert linked.is_symlink()
    private = (tmp_path / name for name in ("output_root/.hyper2kvm", "output_root/.hyper2kvm/scratch", "secrets_root"))
    assert [mode(tmp_path / "output_root"), *map(mode, private)] == [0o755, 0o700, 0o700, 0o700]
    again = play(tmp_path, "folders.yml")
    assert again.recap("localhost")["changed"] == 0, again.output


def test_a_root_that_is_a_file_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "input_root").touch()
    played = play(tmp_path, "folders.yml")
    assert played.status == 2
    assert f"{tmp_path}/input_root already exists as a file" in played.output
