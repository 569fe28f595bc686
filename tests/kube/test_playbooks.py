# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shipped playbooks with the backend ``kubernetes``, on a real API server. The test is operator and worker."""

from __future__ import annotations

import json
import pathlib
import re
import typing as t

import pytest

from tests.e2e.playbooks import Played, ansible_playbook
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer
from tests.kube.cluster_by_hand import Cluster

Play = t.Callable[..., Played]


@pytest.fixture
def play(tmp_path: pathlib.Path, api_server: ApiServer, namespace: str) -> Play:
    """Run a playbook on an inventory of VMs: their names, with their job's annotations."""

    def call(playbook: str, vms: dict[str, dict[str, str]], *arguments: str, **settings: str) -> Played:
        hosts = {
            name: {"hyper2kvm_source_path": f"{name}.ova", "hyper2kvm_annotations": annotations}
            for name, annotations in vms.items()
        }
        inventory = tmp_path / "inventory.yml"
        inventory.write_text(json.dumps({"vms": {"hosts": hosts}}), encoding="utf-8")
        extra = {
            "hyper2kvm_backend": "kubernetes",
            "hyper2kvm_kubernetes_kubeconfig": str(api_server.kubeconfig()),
            "hyper2kvm_kubernetes_namespace": namespace,
            "hyper2kvm_wait_timeout": 90,
            **settings,
        }
        path = {"ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
        with (tmp_path / "ansible.log").open("w", encoding="utf-8") as log:
            arguments = ("-i", str(inventory), f"hyper2kvm.core.{playbook}", *arguments)
            return ansible_playbook(*arguments, folder=tmp_path, log=log, extra=extra, settings=path)

    return call


def test_a_batch_ends_in_the_same_table_as_on_a_host(
    play: Play, api_server: ApiServer, namespace: str, tmp_path: pathlib.Path
) -> None:
    vms = {"web01": {}, "db01": {}, "bad01": {"fail": "yes"}}
    log = tmp_path / "ansible.log"

    def watched() -> bool:
        """Whether a task waits for the jobs: before that nobody would see their progress."""
        return log.exists() and all(f"[{host}] queued" in log.read_text(encoding="utf-8") for host in vms)

    with Cluster(api_server, namespace).working(begin=watched):
        first = play("migrate", vms)
        assert first.status == 2, first.output
        assert re.search(r"^VM +result +source +target +read +written +boot test +time$", first.output, re.MULTILINE)
        assert "COMPLETED" in first.row("web01") and "COMPLETED" in first.row("db01") and "FAILED" in first.row("bad01")
        assert "bad01: NoRootDevice: inspect: There is no root filesystem." in first.output
        for line in ("[web01] queued", "[web01] COMPLETED in 4.2 s", "[bad01] FAILED in inspect: NoRootDevice"):
            assert line in first.output, first.output

        del vms["bad01"]
        second = play("migrate", vms)
        assert second.status == 0 and second.recap("web01")["changed"] == 0 and "unchanged" in second.row("web01")


def test_check_mode_shows_the_documents_and_hands_nothing_in(play: Play, api_server: ApiServer, namespace: str) -> None:
    seen = play("migrate", {"web01": {}}, "--check", "--diff")
    assert seen.status == 0 and "would run" in seen.row("web01"), seen.output
    assert re.search(r'^\+ +"path": "web01.ova"$', seen.output, re.MULTILINE), seen.output
    jobs = api_server.kubectl("get", "migrationjobs", "--namespace", namespace)
    assert "web01" not in jobs


def test_a_cluster_out_of_reach_is_told_without_a_traceback(play: Play) -> None:
    seen = play("migrate", {"web01": {}}, hyper2kvm_kubernetes_host="https://127.0.0.1:1")
    assert seen.status == 2 and "Traceback" not in seen.output
    assert "web01: ApiUnreachable: The API server cannot be reached" in seen.output, seen.output


def test_rollback_says_what_it_cannot_do(play: Play) -> None:
    seen = play("rollback", {"web01": {}})
    assert seen.status == 2 and "output storage" in seen.output
