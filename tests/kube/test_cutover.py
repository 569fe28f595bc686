# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook cutover on a real API server, which knows KubeVirt's resource; the test is KubeVirt."""

from __future__ import annotations

import concurrent.futures
import json
import pathlib
import time
import typing as t

import pytest

from tests.e2e.playbooks import Played, ansible_playbook
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer

#: As much of KubeVirt's own definition as the role goes by.
VIRTUAL_MACHINES = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "virtualmachines.kubevirt.io"},
    "spec": {
        "group": "kubevirt.io",
        "names": {
            "kind": "VirtualMachine",
            "plural": "virtualmachines",
            "singular": "virtualmachine",
            "shortNames": ["vm"],
        },
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
MANIFEST = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachine",
    "metadata": {"name": "web01", "labels": {"app.kubernetes.io/managed-by": "hyper2kvm"}},
    "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {}}}},
}
READY = {"status": {"conditions": [{"type": "Ready", "status": "True"}], "ready": True}}


@pytest.fixture(scope="module")
def kubevirt(api_server: ApiServer) -> ApiServer:
    """An API server that knows virtual machines."""
    api_server.kubectl("apply", "-f", "-", stdin=json.dumps(VIRTUAL_MACHINES))
    api_server.kubectl("wait", "--for=condition=Established", "crd/virtualmachines.kubevirt.io", "--timeout=60s")
    return api_server


class Site:
    """A namespace, and what a migration left for it."""

    def __init__(self, folder: pathlib.Path, server: ApiServer, namespace: str) -> None:
        self.folder, self.server, self.namespace = folder, server, namespace
        (folder / "output/web01").mkdir(parents=True)
        (folder / "output/web01/web01.kubevirt.yaml").write_text(json.dumps(MANIFEST), encoding="utf-8")

    def cutover(self, **extra: t.Any) -> Played:
        """Run the playbook."""
        shared = {
            "hyper2kvm_output_root": str(self.folder / "output"),
            "hyper2kvm_cutover_target": "kubevirt",
            "hyper2kvm_kubernetes_kubeconfig": str(self.server.kubeconfig()),
            "hyper2kvm_kubernetes_namespace": self.namespace,
            **extra,
        }
        inventory = self.folder / "inventory.json"
        inventory.write_text(json.dumps({"vms": {"hosts": {"web01": {}}, "vars": shared}}), encoding="utf-8")
        path = {"ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
        with (self.folder / "ansible.log").open("w") as log:
            command = ("-i", inventory, "hyper2kvm.core.cutover")
            return ansible_playbook(*command, folder=self.folder, log=log, extra={}, settings=path)

    def vms(self) -> list[dict[str, t.Any]]:
        """The namespace's virtual machines."""
        listed = self.server.kubectl("-n", self.namespace, "get", "virtualmachines", "-o", "json")
        found: list[dict[str, t.Any]] = json.loads(listed)["items"]
        return found

    def act(self) -> None:
        """Do as KubeVirt does: a machine that is to run gets ready."""
        while not any(vm["spec"]["runStrategy"] == "Always" for vm in self.vms()):
            time.sleep(0.5)
        patch = ["patch", "vm", "web01", "--subresource=status", "--type=merge", "-p", json.dumps(READY)]
        self.server.kubectl("-n", self.namespace, *patch)


@pytest.fixture
def site(tmp_path: pathlib.Path, kubevirt: ApiServer, namespace: str) -> Site:
    """Where the test's VM is to run."""
    return Site(tmp_path, kubevirt, namespace)


def test_a_migrated_vm_is_made_and_started_once(site: Site) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        acting = pool.submit(site.act)
        first = site.cutover(hyper2kvm_cutover_timeout=120)
        acting.result(timeout=60)
    assert first.status == 0 and first.recap("web01")["changed"] > 0, first.output
    (vm,) = site.vms()
    assert vm["spec"]["runStrategy"] == "Always"
    again = site.cutover(hyper2kvm_cutover_timeout=120)
    assert again.status == 0 and again.recap("web01")["changed"] == 0, again.output


def test_what_does_not_get_ready_is_taken_back(site: Site) -> None:
    sick = site.cutover(hyper2kvm_cutover_timeout=3)
    assert sick.status == 2 and site.vms() == [], sick.output
    assert f"web01 is in the namespace {site.namespace} as it was before" in " ".join(sick.output.split())
    # One that was there stays, and stays halted.
    site.server.kubectl("-n", site.namespace, "create", "-f", "-", stdin=json.dumps(MANIFEST))
    assert site.cutover(hyper2kvm_cutover_timeout=3).status == 2
    assert [vm["spec"]["runStrategy"] for vm in site.vms()] == ["Halted"]


def test_a_vm_that_no_migration_made_is_left_alone(site: Site) -> None:
    other = {**MANIFEST, "metadata": {"name": "web01"}}
    site.server.kubectl("-n", site.namespace, "create", "-f", "-", stdin=json.dumps(other))
    refused = site.cutover(hyper2kvm_cutover_timeout=3)
    assert refused.status == 2 and [vm["spec"]["runStrategy"] for vm in site.vms()] == ["Halted"]
    assert "that no migration made" in " ".join(refused.output.split())
