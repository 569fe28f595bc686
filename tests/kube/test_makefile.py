# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The targets of k8s/Makefile that take no node, on an API server of their own."""

from __future__ import annotations

import pathlib
import subprocess
import typing as t

import pytest

from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer, programs, serving
from tests.kube.cluster_by_hand import Cluster, assigned, failed, queued, running

NAMESPACE = "hyper2kvm-workers"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[ApiServer]:
    """An API server without our definitions."""
    with serving(tmp_path_factory.mktemp("makefile")) as found:
        found.kubectl("delete", "-k", str(REPOSITORY / "k8s/crds"))
        yield found


def make(server: ApiServer, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make in k8s/ from another folder."""
    kubectl = f"KUBECTL={programs() / 'kubectl'} --kubeconfig {server.kubeconfig()}"
    command = ["make", "--no-print-directory", "-C", str(REPOSITORY / "k8s"), kubectl, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_the_way_of_a_job(server: ApiServer, tmp_path: pathlib.Path) -> None:
    first = make(server, "deploy-all", "IMAGE=hyper2kvm:test")
    assert first.returncode == 0, first.stderr
    images = server.kubectl("get", "ds,deploy", "-n", NAMESPACE, "-o", "jsonpath={..image}")
    assert set(images.split()) == {"hyper2kvm:test"}
    again = make(server, "deploy-all", "IMAGE=hyper2kvm:test")
    assert again.returncode == 0, again.stderr

    assert make(server, "submit-job", "JOB_FILE=examples/convert-job.json").returncode == 0
    assert "nobody has looked at it" in make(server, "explain", "JOB=web01-convert").stdout
    Cluster(server, NAMESPACE).turn("web01-convert", queued, assigned, running, failed)
    told = make(server, "explain", "JOB=web01-convert").stdout
    assert "web01-convert: FAILED" in told and "NoRootDevice in inspect: There is no root filesystem." in told, told
    status = make(server, "status")
    assert "web01-convert" in status.stdout and "FAILED" in status.stdout, status.stderr

    assert make(server, "submit-job", "JOB_FILE=examples/plan-job.yaml").returncode == 0
    assert make(server, "cancel", "JOB=web01-plan").returncode == 0
    cancelled = server.kubectl("get", "mj", "web01-plan", "-n", NAMESPACE, "-o", "jsonpath={.spec.cancel}")
    assert cancelled == "true"
    assert make(server, "events").returncode == 0 and make(server, "events", "JOB=web01-plan").returncode == 0

    bad = tmp_path / "bad.yaml"
    text = (REPOSITORY / "k8s/examples/plan-job.yaml").read_text(encoding="utf-8")
    bad.write_text(text.replace("web01-plan", "bad").replace("operation: plan", "operation: explode"), encoding="utf-8")
    refused = make(server, "submit-job", f"JOB_FILE={bad}")
    assert refused.returncode != 0 and "spec.operation" in refused.stderr, refused.stderr


def test_what_is_missing_is_said(server: ApiServer) -> None:
    found = make(server, "submit-job")
    assert found.returncode != 0 and "JOB_FILE=examples/convert-job.json" in found.stderr
