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
    """Names of its scripts in /etc/init.d."""
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
        scripts=("open-vm-tools", "vmware-tools", "vmware-tools-thinprint"),
        modules=("vmw_balloon", "vmw_vmci", "vmw_vsock_vmci_transport", "vmhgfs", "vmblock", "vmmemctl", "vmsync"),
        files=("/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/etc/vmware-tools/locations"),
    ),
)

#: What a portrait tells of besides.
HELPERS = (
    ToolKind("qemu-guest-agent", ("qemu-guest-agent.service",), files=("/usr/sbin/qemu-ga", "/usr/bin/qemu-ga")),
    ToolKind("cloud-init", ("cloud-init.service", "cloud-init-main.service"), files=("/usr/bin/cloud-init",)),
)


def find_tools(tree: Reading) -> tuple[Tool, ...]:
    """Return those of the known tools that are installed, and whether something starts them."""
    return tuple(
        Tool(kind.name, bool(start_links(tree, kind)))
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
    for path in tree.glob("/etc/rc*.d/S*"):
        script = path.rpartition("/")[2][3:]
        # systemd starts a script only where there is no unit of its name.
        if script in kind.scripts and not unit_file(tree, f"{script}.service"):
            links.append(path)
    return links
