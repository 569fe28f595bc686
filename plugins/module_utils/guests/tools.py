# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Software in a guest that belongs to a hypervisor: how it is recognised and what starts it. Plain data."""

from __future__ import annotations

import dataclasses

from .facts import Tool
from .reading import Reading

UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")


@dataclasses.dataclass(frozen=True)
class ToolKind:
    """One such software."""

    name: str
    units: tuple[str, ...]
    """systemd units that start it, and their aliases."""
    scripts: tuple[str, ...] = ()
    """Names of its scripts in /etc/init.d (System V, OpenRC), and of its jobs in /etc/init (Upstart)."""
    modules: tuple[str, ...] = ()
    """Kernel modules that it has loaded at every boot, and that are of no use elsewhere."""
    files: tuple[str, ...] = ()
    """One of these shows that it is installed."""


#: What ties a guest to the hypervisor that it leaves. A further one needs a further line.
OLD_HYPERVISORS = (
    ToolKind(
        name="vmware-tools",
        units=(
            "open-vm-tools.service",
            "vmtoolsd.service",
            "vgauth.service",
            "vgauthd.service",
            "vmware-tools.service",
            "vmware-tools-thinprint.service",
            "run-vmblock\\x2dfuse.mount",
        ),
        scripts=("open-vm-tools", "vmware-tools", "vmware-tools-thinprint", "vmware-tools-services"),
        modules=(
            "vmw_balloon",
            "vmw_vmci",
            "vmw_vsock_vmci_transport",
            "vmhgfs",
            "vmblock",
            "vmmemctl",
            "vmsync",
            "vmxnet",
            "vmxnet3",
            "vmw_pvscsi",
        ),
        files=("/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/etc/vmware-tools/locations"),
    ),
    ToolKind(
        name="virtualbox-additions",
        units=(
            "vboxadd.service",
            "vboxadd-service.service",
            "vboxadd-x11.service",
            "vboxservice.service",
            "virtualbox-guest-utils.service",
        ),
        scripts=(
            "vboxadd",
            "vboxadd-service",
            "vboxadd-x11",
            "virtualbox-guest-utils",
            "virtualbox-guest-x11",
            "virtualbox-guest-additions",
        ),
        modules=("vboxguest", "vboxsf", "vboxvideo"),
        files=("/usr/sbin/VBoxService", "/opt/VBoxGuestAdditions", "/var/lib/VBoxGuestAdditions/config"),
    ),
    ToolKind(
        name="hyperv-daemons",
        units=(
            "hypervkvpd.service",
            "hypervvssd.service",
            "hypervfcopyd.service",
            "hv-kvp-daemon.service",
            "hv-vss-daemon.service",
            "hv-fcopy-daemon.service",
            "hv_kvp_daemon.service",
            "hv_vss_daemon.service",
            "hv_fcopy_daemon.service",
            "hyperv-daemons.hv-kvp-daemon.service",
            "hyperv-daemons.hv-vss-daemon.service",
            "hyperv-daemons.hv-fcopy-daemon.service",
        ),
        scripts=("hypervkvpd", "hypervvssd", "hypervfcopyd", "hv_kvp_daemon", "hv_vss_daemon", "hv_fcopy_daemon"),
        modules=("hv_vmbus", "hv_storvsc", "hv_netvsc", "hv_utils", "hv_balloon", "hyperv_keyboard", "hyperv_fb"),
        files=("/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd"),
    ),
    ToolKind(
        name="azure-agent",
        units=("waagent.service", "walinuxagent.service"),
        scripts=("waagent", "walinuxagent"),
        files=("/usr/sbin/waagent",),
    ),
    ToolKind(
        name="xen-guest-utilities",
        units=("xe-linux-distribution.service", "xe-daemon.service", "xenstored.service"),
        scripts=("xe-linux-distribution", "xe-daemon", "xe-guest-utilities"),
        modules=("xen_blkfront", "xen_netfront", "xen_evtchn", "xen_gntdev", "xenfs", "xenbus", "xen_vbd", "xen_vnif"),
        files=("/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"),
    ),
    ToolKind(
        name="parallels-tools",
        units=("prltoolsd.service", "prltoolsd_upd.service", "prltools_updater.service"),
        scripts=("prltoolsd", "prl-x11", "prltools_updater"),
        modules=("prl_tg", "prl_eth", "prl_fs", "prl_fs_freeze", "prl_vid", "prl_notifier"),
        files=("/usr/bin/prltoolsd", "/usr/lib/parallels-tools/install"),
    ),
)

#: What talks to the new hypervisor.
AGENT = ToolKind(
    "qemu-guest-agent",
    ("qemu-guest-agent.service", "qemu-ga.service"),
    scripts=("qemu-guest-agent", "qemu-ga"),
    files=("/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"),
)
#: What a portrait tells of besides.
HELPERS = (
    AGENT,
    ToolKind("cloud-init", ("cloud-init.service", "cloud-init-main.service"), files=("/usr/bin/cloud-init",)),
)


def find_tools(tree: Reading) -> tuple[Tool, ...]:
    """Return those of the known tools that are installed, and whether something starts them."""
    return tuple(
        Tool(kind.name, bool(start_links(tree, kind) or upstart_jobs(tree, kind) or is_activated(tree, kind)))
        for kind in (*OLD_HYPERVISORS, *HELPERS)
        if any(tree.exists(path) for path in kind.files) or any(unit_file(tree, unit) for unit in kind.units)
    )


def unit_file(tree: Reading, unit: str) -> str:
    """Return the path of a unit's own file; empty where there is none. Masks and aliases are none."""
    for folder in UNIT_FOLDERS:
        path = f"{folder}/{unit}"
        if not tree.is_symlink(path) and tree.is_file(path):
            return path
    return ""


def is_activated(tree: Reading, kind: ToolKind) -> bool:
    """Whether a rule of udev starts the tool once its device is there."""
    rules = tree.files("/usr/lib/udev/rules.d/*.rules", "/lib/udev/rules.d/*.rules", "/etc/udev/rules.d/*.rules")
    named = [path for path in rules if kind.name in path]
    return any("SYSTEMD_WANTS" in tree.read_text(path) for path in named) and not any(
        is_masked(tree, unit) for unit in kind.units
    )


def is_masked(tree: Reading, unit: str) -> bool:
    """Whether systemd refuses to start ``unit``."""
    path = f"/etc/systemd/system/{unit}"
    return tree.is_symlink(path) and tree.readlink(path) == "/dev/null"


def start_links(tree: Reading, kind: ToolKind) -> list[str]:
    """Return the links by which systemd or the run levels start a tool."""
    folder = "/etc/systemd/system"
    links = []
    for name in tree.names(folder):
        path = f"{folder}/{name}"
        if name in kind.units and tree.is_symlink(path) and not is_masked(tree, name):
            links.append(path)
        elif name.endswith((".wants", ".requires")) and not tree.is_symlink(path):
            links += [f"{path}/{u}" for u in tree.names(path) if u in kind.units and not is_masked(tree, u)]
    for path in tree.glob("/etc/rc*.d/S*") + tree.glob("/etc/rc.d/rc*.d/S*"):
        script = path.rpartition("/")[2][3:]
        # systemd starts a script only where there is no unit of its name.
        if script in kind.scripts and not unit_file(tree, f"{script}.service"):
            links.append(path)
    # OpenRC.
    links += [path for path in tree.glob("/etc/runlevels/*/*") if path.rpartition("/")[2] in kind.scripts]
    return list(dict.fromkeys(tree.resolve(link, follow=False) for link in links))


def upstart_jobs(tree: Reading, kind: ToolKind) -> list[str]:
    """Return the files by which Upstart starts a tool; those that an override makes manual are left out."""
    jobs = [f"/etc/init/{script}.conf" for script in kind.scripts]
    return [j for j in jobs if tree.is_file(j) and "manual" not in tree.text(f"{j[:-5]}.override").split()]
