# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The chart, and the manifests of k8s/, as Helm, kubeconform and a real API server see them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import typing as t

import pytest
import yaml
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.client import KubernetesBackend

from tests.guests.host import REPOSITORY, run
from tests.kube.api_server import ApiServer
from tests.kube.cluster_by_hand import Cluster
from tests.kube.manifest_schemas import write_schemas

CHART = REPOSITORY / "helm/hyper2kvm-worker"
RELEASE_NAMESPACE = "some-namespace"

#: What is Prometheus' operator's, and the API server of the tests does not know.
MONITORING = ("ServiceMonitor", "PrometheusRule", "AlertmanagerConfig")

Objects = list[dict[str, t.Any]]


def tool(name: str) -> str:
    """A program of the cluster tests; ``HYPER2KVM_TEST_HELM`` and so on name another."""
    named = os.environ.get(f"HYPER2KVM_TEST_{name.upper()}")
    if named:
        return named
    from tests.cluster import programs

    return str(programs.tool(name))


def rendered(*arguments: str, hooks: bool = False) -> str:
    """What Helm makes of the chart."""
    settings = [] if hooks else ["--no-hooks"]
    return run([tool("helm"), "template", "test", CHART, "--namespace", RELEASE_NAMESPACE, *settings, *arguments])


def objects(*arguments: str) -> Objects:
    """The same as data."""
    return [found for found in yaml.safe_load_all(rendered(*arguments)) if found]


def of_kind(found: Objects, kind: str) -> Objects:
    """Those of one kind."""
    return [one for one in found if one["kind"] == kind]


def values(name: str) -> tuple[str, str]:
    """Arguments for a file of values beside the chart's own."""
    return "--values", str(CHART / name)


#: What people are told to install.
VARIANTS: dict[str, tuple[str, ...]] = {
    "defaults": ("--set", "worker.image.tag=test"),
    "production": values("production-values.yaml"),
    "custom": values("custom-values.yaml"),
    "claims-per-node": ("--set", "worker.nodes={node1,node2}", "--set", "storage.input.accessModes={ReadOnlyMany}"),
    "all-switches": (
        *("--set", "alerting.enabled=true", "--set", "alerting.slack.webhook=https://example.org/hook"),
        *("--set", "monitoring.serviceMonitor.enabled=true", "--set", "monitoring.serviceMonitor.labels.release=prom"),
        *("--set", "monitoring.grafanaDashboard.enabled=true", "--set", "alerting.slack.alertmanagerConfig=always"),
        *("--set", "worker.secrets[0].name=guest-keys", "--set", "worker.secrets[0].namespaces={team-a,team-b}"),
        *("--set", "worker.labels.site=vienna"),
    ),
}


@pytest.fixture(scope="module")
def schemas(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Schemas of all that the API server knows."""
    folder = tmp_path_factory.mktemp("schemas")
    write_schemas(json.loads(api_server.kubectl("get", "--raw", "/openapi/v2")), folder)
    return folder


def conform(manifests: str, schemas: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """What kubeconform says."""
    # kubeconform cannot read the schema of schemas; the API server below looks at those.
    command = [tool("kubeconform"), "-strict", "-summary", "-skip", ",".join([*MONITORING, "CustomResourceDefinition"])]
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    return subprocess.run(
        [*command, "-schema-location", location], input=manifests, capture_output=True, text=True, check=False
    )


def test_lint() -> None:
    for arguments in VARIANTS.values():
        run([tool("helm"), "lint", "--strict", CHART, *arguments])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_obeys_kubernetes_schemas(variant: str, schemas: pathlib.Path) -> None:
    found = conform(rendered(*VARIANTS[variant], hooks=True), schemas)
    assert found.returncode == 0 and "Invalid: 0, Errors: 0" in found.stdout, found.stdout


def test_the_examples_obey_our_schemas_and_a_mistake_is_found(schemas: pathlib.Path) -> None:
    for path in sorted((REPOSITORY / "k8s/examples").iterdir()):
        text = path.read_text(encoding="utf-8")
        found = conform(text, schemas)
        assert found.returncode == 0 and "Valid: 1" in found.stdout, f"{path.name}: {found.stdout}"
        wrong = yaml.safe_load(text)
        wrong["spec"]["sauce"] = {}
        assert conform(json.dumps(wrong), schemas).returncode == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_api_server_takes_the_chart(variant: str, api_server: ApiServer) -> None:
    make_namespace(api_server, RELEASE_NAMESPACE)
    found = [one for one in objects(*VARIANTS[variant]) if one["kind"] not in MONITORING]
    for one in found:
        api_server.kubectl(
            *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"),
            stdin=json.dumps(one),
        )


def test_an_api_server_takes_the_manifests(api_server: ApiServer) -> None:
    make_namespace(api_server, "hyper2kvm-workers")
    manifests = api_server.kubectl("kustomize", str(REPOSITORY / "k8s"))
    kinds = {one["kind"] for one in yaml.safe_load_all(manifests)}
    assert {"CustomResourceDefinition", "ValidatingAdmissionPolicy", "DaemonSet", "PersistentVolumeClaim"} <= kinds
    api_server.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"),
        stdin=manifests,
    )


def test_the_policies_are_for_the_releases_namespace() -> None:
    found = objects()
    policies = of_kind(found, "ValidatingAdmissionPolicy")
    user = f"system:serviceaccount:{RELEASE_NAMESPACE}:hyper2kvm-worker"
    assert len(policies) == 3
    assert all(user in one["spec"]["matchConditions"][0]["expression"] for one in policies)
    assert "hyper2kvm-workers" not in json.dumps(found)


def test_a_default_installation_has_five_claims_and_no_demands_on_the_node() -> None:
    found = objects()
    claims = {one["metadata"]["name"]: one for one in of_kind(found, "PersistentVolumeClaim")}
    assert set(claims) == {f"hyper2kvm-{name}" for name in ("state", "events", "input", "output", "temp")}
    assert all("storageClassName" not in one["spec"] for one in claims.values())
    (worker,) = of_kind(found, "DaemonSet")
    pod = worker["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod and "tolerations" not in pod
    mounts = {mount["mountPath"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts["/data/input"]["readOnly"] and "readOnly" not in mounts["/data/output"]


def test_production_goes_to_labelled_nodes_with_storage_of_their_own() -> None:
    found = objects(*VARIANTS["production"])
    (worker,) = of_kind(found, "DaemonSet")
    pod = worker["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"hyper2kvm.io/worker-enabled": "true"}
    assert pod["tolerations"][0]["key"] == "privileged"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert all("hostPath" in volumes[name] for name in ("state", "events", "temp"))
    assert {one["spec"]["accessModes"][0] for one in of_kind(found, "PersistentVolumeClaim")} == {"ReadWriteMany"}
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert environment["HYPER2KVM_OUTPUT_SHARED"] == "true"


def test_named_nodes_have_claims_of_their_own_for_what_is_not_shared() -> None:
    found = objects(*VARIANTS["claims-per-node"])
    claims = {one["metadata"]["name"] for one in of_kind(found, "PersistentVolumeClaim")}
    own = {f"hyper2kvm-{name}-{node}" for name in ("state", "events", "output", "temp") for node in ("node1", "node2")}
    assert claims == {*own, "hyper2kvm-input"}
    for worker in of_kind(found, "DaemonSet"):
        pod = worker["spec"]["template"]["spec"]
        node = pod["nodeSelector"]["kubernetes.io/hostname"]
        named = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"][1:]}
        assert named["state"] == f"hyper2kvm-state-{node}" and named["input"] == "hyper2kvm-input"
        environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        assert environment["HYPER2KVM_OUTPUT_STORAGE"] == named["output"]


@pytest.mark.parametrize("told", [True, False])
def test_a_worker_is_asked_how_it_is_without_starting_a_program_of_ours(told: bool) -> None:
    found = objects("--set", f"monitoring.metrics.enabled={json.dumps(told)}")
    (worker,) = of_kind(found, "DaemonSet")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    services = {one["metadata"]["name"] for one in of_kind(found, "Service")}
    assert ("hyper2kvm-worker" in services) == ("--metrics-port=8080" in container["args"]) == told
    for probe in (container["livenessProbe"], container["startupProbe"]):
        # Whoever keeps the port of the metrics busy must not have the worker stopped.
        assert "httpGet" not in probe and "find /data/state/node-agent" in probe["exec"]["command"][-1]


def test_the_dashboard_is_a_config_map_for_grafanas_sidecar() -> None:
    (board,) = of_kind(objects("--set", "monitoring.grafanaDashboard.enabled=true"), "ConfigMap")
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    committed = (REPOSITORY / "dashboards/hyper2kvm.json").read_text(encoding="utf-8")
    assert board["data"] == {"hyper2kvm.json": committed}


def test_what_is_the_users_stays_and_nothing_else_is_annotated() -> None:
    """The role control_plane goes by that."""
    found = objects()
    kept = {(one["kind"], one["metadata"]["name"]) for one in found if "annotations" in one["metadata"]}
    assert kept == {
        ("PersistentVolumeClaim", "hyper2kvm-input"),
        ("PersistentVolumeClaim", "hyper2kvm-output"),
        ("CustomResourceDefinition", "migrationjobs.hyper2kvm.io"),
        ("CustomResourceDefinition", "migrationworkers.hyper2kvm.io"),
    }
    assert all(
        one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        for one in found
        if "annotations" in one["metadata"]
    )
    assert "CustomResourceDefinition" not in {one["kind"] for one in objects("--set", "crds.enabled=false")}


def test_the_operator_is_of_the_restricted_profile(api_server: ApiServer) -> None:
    (operator,) = of_kind(objects(), "Deployment")
    make_namespace(api_server, "restricted")
    api_server.kubectl(
        "label", "--overwrite", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted"
    )
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": "restricted"}}
    spec = {**operator["spec"]["template"]["spec"], "serviceAccountName": "default"}
    api_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps({**pod, "spec": spec}))
    (worker,) = of_kind(objects(), "DaemonSet")
    spec = {**worker["spec"]["template"]["spec"], "serviceAccountName": "default"}
    with pytest.raises(Exception, match="violates PodSecurity"):
        api_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps({**pod, "spec": spec}))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("storage.state.size=big", "size"),
        ("worker.slots=0", "slots"),
        ("worker.imagee.tag=x", "imagee"),
        ("storage.output.accessModes={Everybody}", "accessModes"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, told: str) -> None:
    with pytest.raises(Exception, match=told):
        rendered("--set", setting)


def test_a_secret_is_there_for_the_namespaces_that_may_use_it() -> None:
    (worker,) = of_kind(objects(*VARIANTS["all-switches"]), "DaemonSet")
    spec = worker["spec"]["template"]["spec"]
    mounts = {one["mountPath"]: one["name"] for one in spec["containers"][0]["volumeMounts"] if "secret" in one["name"]}
    assert mounts == {f"/data/secrets/{team}/guest-keys": "secret-guest-keys" for team in ("team-a", "team-b")}
    (volume,) = [one for one in spec["volumes"] if one["name"] == "secret-guest-keys"]
    assert volume["secret"]["secretName"] == "guest-keys"


def test_what_is_written_from_elsewhere_is_up_to_date() -> None:
    command = [sys.executable, REPOSITORY / "scripts/write_chart.py", "--check", "--manifests", tool("helm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_chart_of_a_release_has_the_same_bytes_whoever_packs_it(tmp_path: pathlib.Path) -> None:
    found = []
    for name, umask, zone in (("one", 0o022, "UTC"), ("two", 0o077, "Pacific/Auckland")):
        command = [sys.executable, REPOSITORY / "scripts/make_release.py", tmp_path / name, "--helm", tool("helm")]
        subprocess.run(command, check=True, umask=umask, env={**os.environ, "TZ": zone})
        (chart,) = (tmp_path / name).glob("hyper2kvm-worker-*.tgz")
        found.append(chart.read_bytes())
    assert found[0] == found[1]
    run([tool("helm"), "lint", "--strict", tmp_path / "one" / chart.name])


def test_the_test_of_a_release_goes_by_the_jobs_end(
    api_server: ApiServer, namespace: str, tmp_path: pathlib.Path
) -> None:
    spec = importlib.util.spec_from_file_location("test_job", CHART / "files/test_job.py")
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    hook.INPUT, hook.OUTPUT, hook.SECONDS = tmp_path / "input", tmp_path / "output", 20.0
    with contextlib.closing(KubernetesBackend(api_server.login(), namespace)) as backend:
        assert hook.migrated(backend) == 1, "nobody does the job"
        with Cluster(api_server, namespace).working():
            assert hook.migrated(backend) == 0
        assert backend.list() == [] and not any((tmp_path / "input").rglob("*.raw"))


def make_namespace(api_server: ApiServer, name: str) -> None:
    """Make a namespace that other tests may have made, with the account that a controller would make."""
    for kind, metadata in (("Namespace", {"name": name}), ("ServiceAccount", {"name": "default", "namespace": name})):
        document = {"apiVersion": "v1", "kind": kind, "metadata": metadata}
        api_server.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
