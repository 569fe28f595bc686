# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Parts of the role ``conversion_host`` that can be run on this machine; the e2e tests run the whole on another one."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import typing as t

from tests.e2e.playbooks import Played, ansible_playbook

ROOT = pathlib.Path(__file__).parents[3]


def play(folder: pathlib.Path, tasks: str, hosts: dict[str, dict[str, t.Any]]) -> Played:
    """Run one file of the role's tasks on this machine, once for each of ``hosts`` with its variables."""
    role = {"name": "hyper2kvm.core.conversion_host", "tasks_from": tasks, "public": True}
    show = {"debug": {"msg": "{{ inventory_hostname }} asks for {{ hyper2kvm_conversion_host_scratch_bytes }} bytes"}}
    playbook, inventory = folder / "play.yml", folder / "hosts.yml"
    playbook.write_text(json.dumps([{"hosts": "all", "tasks": [{"include_role": role}, show]}]), encoding="utf-8")
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": here}}), encoding="utf-8")
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections")}
    with (folder / "play.log").open("w", encoding="utf-8") as log:
        return ansible_playbook("-i", inventory, playbook, folder=folder, log=log, extra={}, settings=settings)


def roots(folder: pathlib.Path) -> dict[str, dict[str, t.Any]]:
    """One host with folders below ``folder``."""
    names = ("input_root", "output_root", "secrets_root")
    return {"conv1": {f"hyper2kvm_{name}": f"{folder}/{name}" for name in names}}


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
    first = play(tmp_path, "folders.yml", roots(tmp_path))
    assert first.status == 0, first.output
    assert (mode(shared), shared.stat().st_uid, shared.stat().st_gid) == (0o2770, 12345, 12345)
    assert linked.is_symlink()
    private = (tmp_path / name for name in ("output_root/.hyper2kvm", "output_root/.hyper2kvm/scratch", "secrets_root"))
    assert [mode(tmp_path / "output_root"), *map(mode, private)] == [0o755, 0o700, 0o700, 0o700]
    again = play(tmp_path, "folders.yml", roots(tmp_path))
    assert again.recap("conv1")["changed"] == 0, again.output


def test_a_root_that_is_a_file_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "input_root").touch()
    played = play(tmp_path, "folders.yml", roots(tmp_path))
    assert played.status == 2
    assert f"{tmp_path}/input_root already exists as a file" in played.output


def test_values_that_can_be(tmp_path: pathlib.Path) -> None:
    numbers = {"hyper2kvm_slots": 4, "hyper2kvm_scratch_free_gib": 0}
    texts = {"hyper2kvm_slots": "1", "hyper2kvm_scratch_free_gib": "0.5"}
    hosts = {
        "numbers": {**numbers, "hyper2kvm_worker_labels": {"site": "vienna", "rack": 7}},
        "texts": {**texts, "hyper2kvm_worker_labels": {"a.org/site": ""}},
    }
    played = play(tmp_path, "preflight.yml", hosts)
    assert played.status == 0, played.output
    assert "numbers asks for 0 bytes" in played.output
    assert f"texts asks for {1 << 29} bytes" in played.output


def test_values_that_cannot_be(tmp_path: pathlib.Path) -> None:
    wrong: list[tuple[str, object, str]] = [
        *(("slots", value, f"is {value}. Give a whole number of 1 or more") for value in (0, -1, 1.5, "two", True)),
        *(("scratch_free_gib", value, f"is {value}. Give a number of 0 or more") for value in (-1, "20G", "nan")),
        ("worker_labels", "site=vienna", "is site=vienna. Give a dictionary such as {site: vienna}"),
        ("worker_labels", ["site"], "Give a dictionary such as {site: vienna}"),
        ("worker_labels", {"site": "a --jobs-dir /"}, "The label site=a --jobs-dir / in hyper2kvm_worker_labels"),
        ("worker_labels", {"site": "%n"}, "The label site=%n in hyper2kvm_worker_labels"),
        ("worker_labels", {"site\n": "a"}, "cannot be one. Give a key and a value"),
        ("worker_labels", {"site": "a\n"}, "cannot be one. Give a key and a value"),
        ("worker_labels", {"ssd": True}, "The label ssd=True in hyper2kvm_worker_labels"),
        ("worker_labels", {"ssd": None}, "cannot be one. Give a key and a value"),
    ]
    hosts = {f"host{number}": {f"hyper2kvm_{name}": value} for number, (name, value, dummy) in enumerate(wrong)}
    played = play(tmp_path, "preflight.yml", hosts)
    # A loop tells it for its item, a task for itself.
    said = dict(re.findall(r"^(?:failed|fatal): \[(\w+)\](.*msg.*)$", played.output, re.MULTILINE))
    for host, (name, dummy, message) in zip(hosts, wrong, strict=True):
        assert f"hyper2kvm_{name} of {host}" in said[host]
        assert message in said[host]
