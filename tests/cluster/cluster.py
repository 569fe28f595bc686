# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Kubernetes cluster on this machine: its programs are Kubernetes' own, its nodes are namespaces.

The host gets one listener on its loopback address and one folder below ``/var/tmp``, nothing else. Several clusters
live side by side if their names differ.
"""

from __future__ import annotations

import collections.abc as c
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import shutil
import socket
import typing as t

from tests.cluster import cgroups, images, plans, programs
from tests.cluster.certificates import Authority
from tests.cluster.init import Plan
from tests.cluster.machine import ClusterError, Machine, execute, until
from tests.guests.host import REPOSITORY

#: On a disk: nodes keep images here. Not below the checkout, so that no tool that walks that one meets it.
_CLUSTERS = pathlib.Path("/var/tmp")
_CONTROL_PLANE = "control-plane"


def default_name() -> str:
    """This checkout's own, unless HYPER2KVM_TEST_CLUSTER gives one."""
    return os.environ.get("HYPER2KVM_TEST_CLUSTER") or hashlib.sha256(bytes(REPOSITORY)).hexdigest()[:6]


class Cluster:
    """The cluster ``name``, whether it is up or not."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name or default_name()
        self.root = _CLUSTERS / f"hyper2kvm-cluster-{self.name}"
        self._cgroup = pathlib.PurePath(self.root.name)

    # -- up and down ---------------------------------------------------------------------------------------------------

    def up(self, nodes: int = 2) -> None:
        """Bring it up with at least ``nodes`` nodes, whatever of it runs already; returns when all are Ready.

        :raises BuildError: its programs could not be built.
        :raises ClusterError: it does not come up.
        """
        try:
            self._up([plans.Node(number) for number in range(1, nodes + 1)])
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self._last_words()}") from error

    def down(self) -> None:
        """End it and remove all that it left on this machine.

        :raises ClusterError: something stays.
        """
        if not self.root.exists():
            return
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(Machine.kill, self.machines()))
        self._detach_loops()
        cgroups.remove(self._cgroup)
        shutil.rmtree(self.root)

    def is_up(self) -> bool:
        """Whether its control plane runs."""
        return self._machine(_CONTROL_PLANE).is_running()

    # -- using it ------------------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> pathlib.Path:
        """With which its administrator logs in."""
        return self.root / "pki" / "admin.kubeconfig"

    def environment(self) -> dict[str, str]:
        """For programs that are to use it: KUBECONFIG, and a PATH with kubectl, helm and kubeconform."""
        tools = [str(programs.tool(name).parent) for name in ("helm", "kubeconform")]
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join([str(self._site.programs), *tools, os.environ["PATH"]]),
        }

    def kubectl(self, *arguments: str, text: str = "", timeout: float = 120) -> str:
        """Run kubectl, with ``text`` as its standard input, and return what it printed.

        :raises ClusterError: it failed, or took longer than ``timeout`` seconds.
        """
        command = [str(self._site.programs / "kubectl"), *arguments]
        return execute(command, stdin=text.encode(), timeout=timeout, environment={"KUBECONFIG": str(self.kubeconfig)})

    def get(self, *arguments: str) -> dict[str, t.Any]:
        """The document that ``kubectl get`` gives."""
        return t.cast("dict[str, t.Any]", json.loads(self.kubectl("get", "--output=json", *arguments)))

    def apply(self, *documents: c.Mapping[str, t.Any]) -> None:
        """Create or change what these documents say."""
        listed = {"apiVersion": "v1", "kind": "List", "items": documents}
        self.kubectl("apply", "--filename=-", text=json.dumps(listed))

    def helm(self, *arguments: str, timeout: float = 300) -> str:
        """Run helm, and return what it printed.

        :raises ClusterError: it failed, or took longer than ``timeout`` seconds.
        """
        return execute([str(programs.tool("helm")), *arguments], timeout=timeout, environment=self.environment())

    def until_ready(self, *nodes: str, ready: bool = True, seconds: float = 120) -> None:
        """Wait until these nodes are Ready, or, if not ``ready``, until the cluster has seen that they are not."""
        for node in nodes:
            state = "Ready" if ready else "not Ready"
            until(functools.partial(self._is_ready, node, ready), f"{node} to be {state}", seconds)

    def until_api_answers(self, seconds: float = 120) -> None:
        """Wait until the API server is ready."""
        until(self._answers, "the API server", seconds)

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def nodes(self) -> list[Machine]:
        """Its nodes, those that do not run at present too."""
        return [machine for machine in self.machines() if machine.name != _CONTROL_PLANE]

    def node(self, name: str) -> Machine:
        """One of its nodes.

        :raises ClusterError: it has none of that name.
        """
        for machine in self.nodes():
            if machine.name == name:
                return machine
        raise ClusterError(f"there is no node {name}; there are {', '.join(one.name for one in self.nodes())}")

    def machines(self) -> list[Machine]:
        """Its nodes, and the machine of its control plane."""
        return [Machine(path.parent.name, path.parent) for path in sorted(self.root.glob("*/plan.json"))]

    def load_image(self, archive: pathlib.Path) -> None:
        """Give all nodes the images of an archive. Pods find them by the names that the archive gives them."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: _load(node, archive), self.nodes()))

    def add_fake_nodes(self, number: int) -> None:
        """Add nodes ``fake-1`` … that report whatever is expected of them and run nothing.

        They keep everything away that does not tolerate the taint ``kwok.x-k8s.io/node=fake``.
        """
        for link, target in (("kwok", programs.tool("kwok")), ("stages.yaml", programs.kwok_stages())):
            # The service that waits for the latter starts.
            with contextlib.suppress(FileExistsError):
                (self._site.kwok / link).symlink_to(target)
        names = [f"fake-{number}" for number in range(1, number + 1)]
        self.apply(*(_fake_node(name) for name in names))
        self.until_ready(*names)

    # -- faults --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def without_api_server(self) -> c.Iterator[None]:
        """While this lasts, nobody answers at the API server's address. Afterwards it is ready again."""
        control_plane = self._machine(_CONTROL_PLANE)
        control_plane.stop("kube-apiserver")
        try:
            yield
        finally:
            control_plane.resume("kube-apiserver")
            self.until_api_answers()

    @contextlib.contextmanager
    def cut_off(self, node: str) -> c.Iterator[None]:
        """While this lasts, a node and what runs on it have no network, and know nothing of it."""
        link = plans.Node.named(self.node(node).name).link
        control_plane = self._machine(_CONTROL_PLANE)
        control_plane.run("ip", "link", "set", link, "down")
        try:
            yield
        finally:
            control_plane.run("ip", "link", "set", link, "up")

    # -- parts ---------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _site(self) -> plans.Site:
        return plans.Site(self.root, self._cgroup, programs.kubernetes(), Authority(self.root / "pki"))

    @property
    def _port(self) -> pathlib.Path:
        return self.root / "port"

    def _up(self, wanted: c.Sequence[plans.Node]) -> None:
        pause = images.pause()
        site = self._site
        for folder in (site.mounted_programs, site.shared_volumes, site.kwok):
            folder.mkdir(parents=True, exist_ok=True)
        for node in wanted:
            cgroups.make(self._cgroup / node.name)
        self._start_control_plane()
        # One after another: they have a certificate in common, which the first of them makes.
        starting = [(one, plans.node(site, one)) for one in wanted if not self._machine(one.name).is_running()]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for start in [pool.submit(self._start_node, node, plan, pause) for node, plan in starting]:
                start.result()
        self.until_api_answers()
        self.apply(*plans.storage_classes())
        self.until_ready(*(node.name for node in wanted))
        for machine in (self._machine(node.name) for node in wanted):
            # Kubelet is Ready whether kube-proxy has begun or not.
            until(functools.partial(_has_services, machine), f"kube-proxy on {machine.name}")

    def _last_words(self) -> str:
        logs = sorted(self.root.glob("*/log/*.log"))
        ends = ((log, log.read_text(errors="replace").splitlines()[-3:]) for log in logs)
        return "\n".join(f"{log}:\n" + "\n".join(f"    {line[:300]}" for line in lines) for log, lines in ends)

    def _machine(self, name: str) -> Machine:
        return Machine(name, self.root / name)

    def _start_control_plane(self) -> None:
        machine = self._machine(_CONTROL_PLANE)
        if machine.is_running():
            return
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            known = int(self._port.read_text(encoding="ascii")) if self._port.exists() else 0
            listener.bind(("127.0.0.1", known))
            listener.listen(128)
            port = listener.getsockname()[1]
            self._port.write_text(str(port), encoding="ascii")
            self._site.authority.kubeconfig("admin", "admin", "system:masters", f"127.0.0.1:{port}")
            plan = plans.control_plane(self._site, relay=listener.fileno())
            machine.start(plan, connect=lambda _machine: None, inherited=[listener.fileno()])

    def _start_node(self, node: plans.Node, plan: Plan, pause: pathlib.Path) -> None:
        machine = self._machine(node.name)
        machine.start(plan, connect=functools.partial(self._connect, node))
        until(lambda: _responds(machine), f"containerd on {node.name}")
        _load(machine, pause)

    def _connect(self, node: plans.Node, machine: Machine) -> None:
        control_plane = self._machine(_CONTROL_PLANE)
        end = str(machine.first_process())
        # From outside both: who is in one machine cannot name the other.
        hub = ("nsenter", "--target", str(control_plane.first_process()), "--net", "--", "ip")
        execute([*hub, "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", end])
        execute([*hub, "link", "set", node.link, "up", "master", plans.BRIDGE])
        execute([*hub, "route", "replace", node.pods, "via", node.address])
        for command in plans.node_network(node):
            machine.run(*command)

    def _answers(self) -> bool:
        with contextlib.suppress(ClusterError):
            self.kubectl("get", "--raw=/readyz", "--request-timeout=5s")
            return True
        return False

    def _is_ready(self, node: str, ready: bool) -> bool:
        with contextlib.suppress(ClusterError):
            conditions = self.get("node", node)["status"]["conditions"]
            return any(one["type"] == "Ready" and (one["status"] == "True") == ready for one in conditions)
        return False

    def _detach_loops(self) -> None:
        """Pods that were killed had no time to detach the files of theirs."""
        listed = execute(["losetup", "--list", "--json", "--output=NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN"])
        devices = json.loads(listed or '{"loopdevices": []}')["loopdevices"]
        if not devices:
            return
        disk = self.root.stat().st_dev
        number = f"{os.major(disk)}:{os.minor(disk)}"
        # By their inodes, since the names are those of a machine that is gone.
        ours = {path.lstat().st_ino for path in self.root.rglob("*")}
        for device in devices:
            if device["back-maj:min"].strip() == number and device["back-ino"] in ours:
                execute(["losetup", "--detach", device["name"]])


def _responds(machine: Machine) -> bool:
    with contextlib.suppress(ClusterError):
        machine.run("ctr", "version")
        return True
    return False


def _has_services(machine: Machine) -> bool:
    with contextlib.suppress(ClusterError):
        return f" {plans.API_SERVICE}/32 " in machine.run("iptables-save", "--table", "nat")
    return False


def _load(machine: Machine, archive: pathlib.Path) -> None:
    with archive.open("rb") as file:
        machine.run("ctr", "--namespace=k8s.io", "images", "import", "-", stdin=file)


def _fake_node(name: str) -> dict[str, t.Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": {plans.FAKE_NODE: "fake"}, "labels": {**labels, "type": "kwok"}},
        "spec": {"taints": [{"key": plans.FAKE_NODE, "value": "fake", "effect": "NoSchedule"}]},
    }
