# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From an earlier chart to this one and back, with a job under way, and what is left when all of it is removed."""

from __future__ import annotations

import collections.abc as c
import os
import pathlib
import subprocess

import pytest

from tests.cluster import images
from tests.cluster.cluster import Cluster, default_name
from tests.cluster.machine import until
from tests.cluster.product import NAMESPACE, PATIENCE, RELEASE, REPOSITORY, SLOWER, Product

#: A chart before the probes that cost nothing, with its definitions. It is never made anew.
EARLIER = pathlib.Path(__file__).with_name("hyper2kvm-worker-1.1.0-alpha.1.tgz")
#: The tag under which the nodes have the image that goes with it: another one, so that every pod is replaced.
EARLIER_TAG = "earlier"
DEFINITIONS = ("migrationjobs.hyper2kvm.io", "migrationworkers.hyper2kvm.io")


@pytest.fixture
def empty(cluster: Cluster) -> c.Iterator[Cluster]:
    """The cluster, with nothing of a release before the test nor after it."""
    for node in cluster.nodes():
        name = f"docker.io/library/{images.PRODUCT_IMAGE}"  # as a pod's name without a registry is read
        earlier = f"{name.rpartition(':')[0]}:{EARLIER_TAG}"
        node.run("ctr", "--namespace=k8s.io", "images", "tag", "--force", name, earlier)
    yield cluster
    if "hyper2kvm" in cluster.helm("list", "--all", "--short", f"--namespace={NAMESPACE}"):
        cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=3m")
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", timeout=150)
    cluster.kubectl("delete", "crd", "--ignore-not-found", *DEFINITIONS)


def test_a_job_survives_upgrade_and_rollback_and_uninstalling_leaves_what_is_the_users(
    empty: Cluster, namespace: str
) -> None:
    product = Product(empty)
    product.install("--set", f"worker.image.tag={EARLIER_TAG}", chart=EARLIER)
    workers = product.workers()
    assert "storage" not in fields_of_an_artifact(empty)
    product.upload(namespace)
    product.submit(namespace, "vm", **SLOWER)
    product.until_copying(namespace, "vm")

    product.install("--set", "worker.slots=3")
    assert product.workers().isdisjoint(workers)
    assert empty.get("migrationworker", "node1")["status"]["slots"] == 3
    # A field that the earlier definitions do not have.
    assert "storage" in fields_of_an_artifact(empty)
    status = product.completed(namespace, "vm")
    # It was handed back by one worker or both, and did not fail.
    assert len(status["attempts"]) > 1
    assert [one for one in status["attempts"] if "error" in one] == []

    empty.helm("rollback", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=5m")
    until(lambda: empty.get("migrationworker", "node1")["status"]["slots"] == 2, "the rollback", PATIENCE)
    product.until_ready()
    product.submit(namespace, "again")
    product.completed(namespace, "again")

    empty.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=3m")
    until(lambda: left(empty) == USERS, f"nothing but the user's to be left, and not {left(empty) - USERS}")
    assert product.jobs(namespace).keys() == {"vm", "again"}

    # In the midst of a job, which waits for the next release. Helm takes the workers' rights away while they still end,
    # so that they may not be able to say so.
    product.install()
    product.submit(namespace, "midst", **SLOWER)
    product.until_copying(namespace, "midst")
    empty.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--wait", "--timeout=3m")
    until(lambda: left(empty) == USERS, f"nothing but the user's to be left, and not {left(empty) - USERS}")
    product.check_nothing_works()
    assert product.jobs(namespace)["midst"]["phase"] in ("QUEUED", "RUNNING")
    product.install()
    status = product.completed(namespace, "midst")
    told = [one["error"]["reason"] for one in status["attempts"] if "error" in one]
    assert len(status["attempts"]) == 2 and told in ([], ["WorkerLost"], ["LeaseExpired"])

    # The same for whoever deletes all of its namespace.
    product.submit(namespace, "late", **SLOWER)
    product.until_copying(namespace, "late")
    empty.kubectl("delete", "namespace", NAMESPACE, "--timeout=180s", timeout=200)
    product.check_nothing_works()


#: What a release leaves: the storage with sources and targets, and the definitions of the jobs' records.
USERS = {
    "persistentvolumeclaim/hyper2kvm-input",
    "persistentvolumeclaim/hyper2kvm-output",
    *(f"customresourcedefinition.apiextensions.k8s.io/{one}" for one in DEFINITIONS),
}
_CLUSTERS = (
    *("clusterroles", "clusterrolebindings", "crds", "migrationworkers"),
    *("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
)
_NAMESPACES = (
    *("pods", "deployments", "daemonsets", "services", "configmaps", "secrets", "serviceaccounts", "leases"),
    *("persistentvolumeclaims", "roles", "rolebindings", "networkpolicies", "poddisruptionbudgets"),
)
#: What every namespace has, or gets from pods that came and went.
_EVERYBODYS = {"serviceaccount/default", "configmap/kube-root-ca.crt"}


def left(cluster: Cluster) -> set[str]:
    """All objects that are, or may be, of a release."""
    wide = cluster.kubectl("get", ",".join(_CLUSTERS), "--output=name").split()
    here = cluster.kubectl("--namespace", NAMESPACE, "get", ",".join(_NAMESPACES), "--output=name").split()
    return {one for one in wide if "hyper2kvm" in one} | (set(here) - _EVERYBODYS)


def fields_of_an_artifact(cluster: Cluster) -> set[str]:
    """What the cluster's definition of jobs knows of an artifact."""
    (version,) = cluster.get("crd", DEFINITIONS[0])["spec"]["versions"]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    return set(status["properties"]["artifacts"]["items"]["properties"])


@pytest.fixture
def single() -> c.Iterator[Cluster]:
    """A cluster with one node, as k3d makes them."""
    found = Cluster(f"{default_name()}-single")
    try:
        found.up(nodes=1)
        found.load_image(images.product())
        yield found
    finally:
        found.down()


def test_the_steps_of_the_k3d_test(single: Cluster) -> None:
    command = ["make", "--no-print-directory", "-C", str(REPOSITORY / "k8s"), "full-test"]
    environment = {**os.environ, **single.environment()}
    done = subprocess.run(
        [*command, f"IMAGE={images.PRODUCT_IMAGE}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "migrationjob.hyper2kvm.io/full-test condition met" in done.stdout
    until(lambda: left(single) == USERS, f"nothing but the user's to be left, and not {left(single) - USERS}")
