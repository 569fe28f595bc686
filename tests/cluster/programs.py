# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs that a cluster is made of, built once from their published sources and kept."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import typing as t

from tests.guests import kept
from tests.guests.host import REPOSITORY, BuildError, run

#: What is built is kept here, by what it was made of.
CACHE = REPOSITORY / ".cache" / "cluster"

_SOURCES = pathlib.Path(__file__).parent / "hyperkube"
#: All names by which hyperkube is called.
_NAMES = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubelet", "kubectl"),
    *("relay", "volume-provisioner"),
)
#: One compiler's run over all of Kubernetes, on a machine that has other work as well.
_BUILD_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class Tool:
    """A program that is used as it is published."""

    module: str
    package: str
    """Below the module."""
    version: str


TOOLS: t.Mapping[str, Tool] = {
    "helm": Tool("helm.sh/helm/v3", "cmd/helm", "v3.22.0"),
    "kubeconform": Tool("github.com/yannh/kubeconform", "cmd/kubeconform", "v0.8.0"),
    "kwok": Tool("sigs.k8s.io/kwok", "cmd/kwok", "v0.8.0"),
}


def kubernetes() -> pathlib.Path:
    """The folder with the programs of Kubernetes, etcd, kubectl, and our own for clusters.

    Minutes where the Go compiler has seen nothing of it, seconds where it has.

    :raises BuildError: they could not be built.
    """

    def produce(folder: pathlib.Path) -> None:
        version = _go("list", "-C", str(_SOURCES), "-m", "-f", "{{.Version}}", "k8s.io/kubernetes").strip()
        major, minor, _patch = version.removeprefix("v").split(".")
        said = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        flags = " ".join(["-s -w", *(f"-X {one}.{key}={value}" for one in packages for key, value in said.items())])
        build = ("build", "-C", str(_SOURCES), "-buildvcs=false", "-trimpath", f"-ldflags={flags}")
        _go(*build, "-o", str(folder / "hyperkube"), ".")
        _go(*build, "-o", str(folder / "pause"), "./pause")
        for name in _NAMES:
            (folder / name).symlink_to("hyperkube")

    sources = {str(path.relative_to(_SOURCES)): path.read_text() for path in sorted(_SOURCES.rglob("*.*"))}
    return kept("kubernetes", {"sources": sources, "go": _go("version")}, produce, CACHE)


def tool(name: str) -> pathlib.Path:
    """The program of one of :data:`TOOLS`, which brings nothing else with it.

    :raises BuildError: it could not be built.
    """
    wanted = TOOLS[name]

    def produce(folder: pathlib.Path) -> None:
        package = f"{wanted.module}/{wanted.package}@{wanted.version}"
        _go("install", "-trimpath", "-ldflags=-s -w", package, into=folder)

    made_of = {**dataclasses.asdict(wanted), "go": _go("version")}
    return kept(name, made_of, produce, CACHE) / name


def kwok_stages() -> pathlib.Path:
    """How kwok's nodes and pods behave: a file that its module has."""

    def produce(folder: pathlib.Path) -> None:
        wanted = TOOLS["kwok"]
        module = json.loads(_go("mod", "download", "-json", f"{wanted.module}@{wanted.version}"))
        stages = pathlib.Path(module["Dir"]) / "kustomize" / "stage"
        parts = [stages / "node" / "fast", stages / "node" / "heartbeat-with-lease", stages / "pod" / "fast"]
        with (folder / "stages.yaml").open("wb") as out:
            for path in sorted(path for part in parts for path in part.glob("[!k]*.yaml")):
                out.write(b"---\n")
                with path.open("rb") as one:
                    shutil.copyfileobj(one, out)

    return kept("kwok-stages", dataclasses.asdict(TOOLS["kwok"]), produce, CACHE) / "stages.yaml"


def _go(*arguments: str, into: pathlib.Path | None = None) -> str:
    if shutil.which("go") is None:
        raise BuildError("there is no Go compiler; `make setup-cluster` installs one")
    place = [f"GOBIN={into}"] if into else []
    return run(["env", "CGO_ENABLED=0", *place, "go", *arguments], timeout=_BUILD_SECONDS)
