# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the machines of a cluster are: the one with the control plane, and the nodes."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from tests.cluster.certificates import Authority
from tests.cluster.init import Plan, Service

#: The control plane's own port. The host reaches it by another one, see the service ``relay``.
API_PORT = 6443
CONTROL_PLANE_ADDRESS = "10.99.0.1"
BRIDGE = "nodes"
_NETWORK_BITS = 24
_SERVICES = "10.96.0.0/16"
#: Where pods find the API server.
API_SERVICE = "10.96.0.1"
_PODS = "10.244.0.0/16"

#: As node machines see them. The volume provisioner knows both.
_SHARED_VOLUMES = "/opt/shared-volumes"
#: Every node has its own; of what the host has there nothing is needed.
_OWN_FOLDERS = ("/opt", "/opt/volumes", _SHARED_VOLUMES, "/var/lib", "/var/log")
#: Kubelet insists on these settings, which are the whole kernel's. It is shown what it wants instead.
_KUBELETS_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
}
#: A node that is silent for so long is NotReady. It renews its lease each quarter of the latter.
_GRACE_SECONDS, _LEASE_SECONDS = 20, 8

STORAGE_PROVISIONER = "hyper2kvm.test/folders"
_STORAGE_CLASSES: dict[str, tuple[str, str, bool]] = {
    # name: (scope, binding mode, default)
    "per-node": ("node", "WaitForFirstConsumer", True),
    "shared": ("cluster", "Immediate", False),
}
PAUSE_IMAGE = "localhost/pause:1"
#: Fake nodes have this annotation, and a taint of this name.
FAKE_NODE = "kwok.x-k8s.io/node"


@dataclasses.dataclass(frozen=True)
class Site:
    """Where one cluster's files are."""

    root: pathlib.Path
    cgroup: pathlib.PurePath
    """Below each hierarchy's root; the nodes' are below it."""
    programs: pathlib.Path
    """Of Kubernetes, where they are kept."""
    authority: Authority

    @property
    def mounted_programs(self) -> pathlib.Path:
        """Where machines see them: a place that no machine hides."""
        return self.root / "programs"

    @property
    def shared_volumes(self) -> pathlib.Path:
        """What all nodes see at the same place."""
        return self.root / "shared-volumes"

    @property
    def kwok(self) -> pathlib.Path:
        """Where the program ``kwok`` and its ``stages.yaml`` are put when fake nodes are wanted."""
        return self.root / "kwok"

    def folder(self, machine: str) -> pathlib.Path:
        """A machine's own files."""
        return self.root / machine

    def environment(self) -> dict[str, str]:
        """Of all that runs in machines: nothing of the caller's, such as a proxy for registries."""
        path = f"{self.mounted_programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"HOME": "/root", "LC_ALL": "C.UTF-8", "PATH": path}

    def programs_mount(self) -> tuple[str, ...]:
        """The command that makes :attr:`mounted_programs`."""
        return ("mount", "--bind", str(self.programs), str(self.mounted_programs))


@dataclasses.dataclass(frozen=True)
class Node:
    """The addresses and names of node ``number`` (1 and up)."""

    number: int

    @classmethod
    def named(cls, name: str) -> Node:
        """The node of that name."""
        return cls(int(name.removeprefix("node")))

    @property
    def name(self) -> str:
        """The machine's and the Kubernetes node's."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its own in the nodes' network."""
        return f"10.99.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def link(self) -> str:
        """Its cable's end at the bridge."""
        return f"to-{self.name}"


def control_plane(site: Site, relay: int) -> Plan:
    """The machine without pods.

    :param relay: the file descriptor of a socket on which somebody outside listens for it.
    """
    authority = site.authority
    server = f"127.0.0.1:{API_PORT}"
    api_addresses = (CONTROL_PLANE_ADDRESS, API_SERVICE, "127.0.0.1")
    names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    authority.certify(
        "apiserver", "kube-apiserver", "kube", *(f"IP:{one}" for one in api_addresses), *(f"DNS:{one}" for one in names)
    )
    authority.certify("kubelet-client", "apiserver-kubelet-client", "system:masters")

    def client(name: str) -> tuple[str, ...]:
        config = authority.kubeconfig(name, f"system:{name}", "kube", server)
        options = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
        return (*(f"{option}={config}" for option in options), "--leader-elect=false", "--bind-address=127.0.0.1")

    def administrator(name: str) -> str:
        return f"--kubeconfig={authority.kubeconfig(name, name, 'system:masters', server)}"

    commands: dict[str, tuple[str, ...]] = {
        "etcd": (
            "etcd",
            f"--data-dir={site.folder('control-plane') / 'etcd'}",
            # Its data need not outlive the host.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        "kube-apiserver": (
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={API_PORT}",
            f"--advertise-address={CONTROL_PLANE_ADDRESS}",
            "--allow-privileged",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={_SERVICES}",
            f"--cert-dir={site.folder('control-plane') / 'apiserver'}",
            f"--client-ca-file={authority.path('ca.crt')}",
            f"--tls-cert-file={authority.path('apiserver.crt')}",
            f"--tls-private-key-file={authority.path('apiserver.key')}",
            f"--kubelet-client-certificate={authority.path('kubelet-client.crt')}",
            f"--kubelet-client-key={authority.path('kubelet-client.key')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={authority.path('sa.pub')}",
            f"--service-account-signing-key-file={authority.path('sa.key')}",
            # This machine has no kube-proxy: webhooks are called at their pods' addresses.
            "--enable-aggregator-routing",
            # Pods without tolerations of their own leave a lost node soon.
            "--default-not-ready-toleration-seconds=5",
            "--default-unreachable-toleration-seconds=5",
        ),
        "kube-controller-manager": (
            "kube-controller-manager",
            *client("kube-controller-manager"),
            "--use-service-account-credentials",
            f"--root-ca-file={authority.path('ca.crt')}",
            f"--service-account-private-key-file={authority.path('sa.key')}",
            f"--cluster-signing-cert-file={authority.path('ca.crt')}",
            f"--cluster-signing-key-file={authority.path('ca.key')}",
            f"--node-monitor-grace-period={_GRACE_SECONDS}s",
            "--node-monitor-period=1s",
        ),
        "kube-scheduler": ("kube-scheduler", *client("kube-scheduler")),
        "volume-provisioner": (
            "volume-provisioner",
            administrator("volume-provisioner"),
            f"--name={STORAGE_PROVISIONER}",
            f"--root={site.root}",
        ),
        "relay": ("relay", f"--descriptor={relay}", f"--to={server}"),
    }
    stages = str(site.kwok / "stages.yaml")
    kwok = (
        str(site.kwok / "kwok"),
        administrator("kwok"),
        f"--config={stages}",
        f"--manage-nodes-with-annotation-selector={FAKE_NODE}=fake",
        "--node-lease-duration-seconds=40",
    )
    return Plan(
        hostname="control-plane",
        furnishing=(
            site.programs_mount(),
            ("hostname", "control-plane"),
            ("ip", "link", "set", "lo", "up"),
            ("ip", "link", "add", BRIDGE, "type", "bridge"),
            ("ip", "address", "add", f"{CONTROL_PLANE_ADDRESS}/{_NETWORK_BITS}", "dev", BRIDGE),
            ("ip", "link", "set", BRIDGE, "up"),
            _FORWARD,
        ),
        environment=site.environment(),
        services=(
            *(Service(name, command) for name, command in commands.items()),
            Service("kwok", kwok, waits_for=stages),
        ),
    )


def node(site: Site, self: Node) -> Plan:
    """A machine that runs pods. Its files are made ready below its folder."""
    folder, server = site.folder(self.name), f"{CONTROL_PLANE_ADDRESS}:{API_PORT}"
    authority = site.authority
    for path in _OWN_FOLDERS:
        (folder / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    settings = folder / "settings"
    settings.mkdir(exist_ok=True)
    shown = []
    for key, value in _KUBELETS_SETTINGS.items():
        setting = settings / key.replace("/", ".")
        setting.write_text(f"{value}\n", encoding="ascii")
        shown.append(("mount", "--bind", str(setting), f"/proc/sys/{key}"))
    network = folder / "cni"
    network.mkdir(exist_ok=True)
    _write_json(network / "pods.conflist", _pod_network(self))
    (folder / "containerd.toml").write_text(_CONTAINERD.format(network=network, pause=PAUSE_IMAGE), encoding="ascii")
    (folder / "resolv.conf").touch()
    _write_json(folder / "kubelet.json", _kubelet(site, self))
    kubelet = authority.kubeconfig(self.name, f"system:node:{self.name}", "system:nodes", server)
    proxy = authority.kubeconfig("kube-proxy", "system:kube-proxy", "kube", server)
    own_mounts = [("mount", "--bind", f"{folder}{path}", path) for path in ("/opt", "/var/lib", "/var/log")]
    return Plan(
        hostname=self.name,
        furnishing=(
            # Mounts that pods make may be seen by other pods, if these ask for it.
            ("mount", "--make-rshared", "/"),
            site.programs_mount(),
            ("hostname", self.name),
            *own_mounts,
            ("mount", "--bind", str(site.shared_volumes), _SHARED_VOLUMES),
            ("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"),
            *shown,
            ("ip", "link", "set", "lo", "up"),
            _FORWARD,
        ),
        environment=site.environment(),
        services=(
            Service("containerd", ("containerd", f"--config={folder / 'containerd.toml'}")),
            Service(
                "kubelet",
                (
                    "kubelet",
                    f"--config={folder / 'kubelet.json'}",
                    f"--kubeconfig={kubelet}",
                    f"--hostname-override={self.name}",
                    f"--node-ip={self.address}",
                ),
                waits_for=CONTAINERD_SOCKET,
            ),
            Service(
                "kube-proxy",
                (
                    "kube-proxy",
                    f"--kubeconfig={proxy}",
                    f"--hostname-override={self.name}",
                    f"--cluster-cidr={_PODS}",
                    # These settings belong to the host's network.
                    "--conntrack-max-per-core=0",
                    "--conntrack-tcp-timeout-established=0",
                    "--conntrack-tcp-timeout-close-wait=0",
                ),
            ),
        ),
    )


def node_network(self: Node) -> tuple[tuple[str, ...], ...]:
    """Commands for the node's machine, once it has the link ``eth0``."""
    return (
        ("ip", "address", "add", f"{self.address}/{_NETWORK_BITS}", "dev", "eth0"),
        ("ip", "link", "set", "eth0", "up"),
        ("ip", "route", "add", "default", "via", CONTROL_PLANE_ADDRESS),
    )


def storage_classes() -> list[dict[str, object]]:
    """What claims may ask for: a folder of one node, or one that all nodes see."""
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": name,
                "annotations": {"storageclass.kubernetes.io/is-default-class": str(default).lower()},
            },
            "provisioner": STORAGE_PROVISIONER,
            "parameters": {"scope": scope},
            "volumeBindingMode": binding,
        }
        for name, (scope, binding, default) in _STORAGE_CLASSES.items()
    ]


CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_FORWARD = ("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
_CONTAINERD = """\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{network}"
"""


def _pod_network(self: Node) -> dict[str, object]:
    addresses = {"type": "host-local", "subnet": self.pods, "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [
        {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": addresses},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}


def _kubelet(site: Site, self: Node) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(site.authority.path("ca.crt"))},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{site.cgroup / self.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "resolvConf": str(site.folder(self.name) / "resolv.conf"),
        "nodeLeaseDurationSeconds": _LEASE_SECONDS,
        # The host's disk may be as full as it likes, and images come from nowhere but from tests.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }


def _write_json(path: pathlib.Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
