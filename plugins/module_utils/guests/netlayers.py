# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a guest puts on top of its network cards: VLANs, bonds and bridges. They are told, and never changed.

Formats as in :mod:`.netconfig`; vlan-interfaces(5), ifenslave's and bridge-utils' options of interfaces(5).
"""

from __future__ import annotations

import re
import typing as t

from . import paths
from .facts import LayeredInterface, LayerKind
from .netconfig import (
    IFCFG,
    KEYFILES,
    NETPLAN,
    NETWORKD,
    ifcfg_kind,
    ifupdown_stanzas,
    ini,
    netplan_documents,
    shell_values,
)
from .reading import Reading

#: Which program configures the network, by the files that it reads.
_TOOLS = (
    ("ifupdown", ("/etc/network/interfaces",)),
    ("netplan", NETPLAN),
    ("networkmanager", KEYFILES),
    ("network-scripts", ("/etc/sysconfig/network-scripts/ifcfg-*",)),
    ("wicked", ("/etc/sysconfig/network/ifcfg-*",)),
    ("systemd-networkd", NETWORKD),
)
_VLAN_NAME = re.compile(r"^(?P<below>[A-Za-z0-9_-]+)\.\d+$")


def network_tools(tree: Reading) -> tuple[str, ...]:
    """Return the programs for which the guest has network configuration."""
    return tuple(name for name, patterns in _TOOLS if tree.files(*patterns))


def read_layers(tree: Reading) -> tuple[LayeredInterface, ...]:
    """Return the VLANs, bonds and bridges that the configuration makes, each once.

    Raises:
        JobError: a configuration file is no regular file.
    """
    found: dict[str, LayeredInterface] = {}
    for reader in (_ifupdown, _ifcfg, _keyfiles, _networkd, _netplan):
        for layer in reader(tree):
            found.setdefault(layer.name, layer)
    return tuple(found.values())


def _ifupdown(tree: Reading) -> t.Iterator[LayeredInterface]:
    for path, name, dummy, options in ifupdown_stanzas(tree):
        vlan = _VLAN_NAME.match(name)
        kinds: tuple[tuple[LayerKind, tuple[str, ...]], ...] = (
            ("vlan", ("vlan-raw-device", "vlan_raw_device")),
            ("bond", ("bond-slaves", "bond_slaves", "slaves")),
            ("bridge", ("bridge_ports", "bridge-ports")),
        )
        for kind, keys in kinds:
            below = [port for key in keys for port in options.get(key, []) if port not in ("none", "auto")]
            if any(key in options for key in keys) or (kind == "vlan" and vlan):
                parents = tuple(below) or ((vlan["below"],) if vlan else ())
                yield LayeredInterface(name, kind, path, parents)
                break


def _ifcfg(tree: Reading) -> t.Iterator[LayeredInterface]:
    files = [(path, shell_values(tree.read_text(path))) for path in tree.files(*IFCFG)]
    for path, values in files:
        name = values.get("DEVICE") or paths.split(path)[1][len("ifcfg-") :]
        kind = ifcfg_kind(values)
        ports = [values[key] for key in sorted(values) if re.match(r"^BONDING_SLAVE_?\d+$", key)]
        ports += values.get("BRIDGE_PORTS", "").split()
        for key in ("MASTER", "BRIDGE"):
            ports += [
                other.get("DEVICE") or paths.split(where)[1][len("ifcfg-") :]
                for where, other in files
                if other.get(key, "") == name
            ]
        parent = values.get("ETHERDEVICE") or values.get("PHYSDEV") or name.rpartition(".")[0]
        below = (parent,) if kind == "vlan" else tuple(dict.fromkeys(ports))
        if kind != "card" and kind != "":
            yield LayeredInterface(name, kind, path, below)


def _keyfiles(tree: Reading) -> t.Iterator[LayeredInterface]:
    profiles = []
    for path in tree.files(*KEYFILES):
        values: dict[str, str] = {}
        for section, pairs in ini(tree.read_text(path)):
            values.update({f"{section}.{key}": listed[-1] for key, listed in pairs.items()})
        profiles.append((path, values))
    for path, values in profiles:
        kind = values.get("connection.type", "")
        names = {values.get(f"connection.{key}", "") for key in ("interface-name", "uuid")} - {""}
        below = [
            other.get("connection.interface-name", "")
            for dummy, other in profiles
            if names & {other.get("connection.master", ""), other.get("connection.controller", "")}
        ]
        if kind == "vlan":
            parent = values.get("vlan.parent", "")
            name = values.get("connection.interface-name") or f"{parent}.{values.get('vlan.id', '')}"
            yield LayeredInterface(name, "vlan", path, (parent,))
        elif kind in ("bond", "team", "bridge"):
            yield LayeredInterface(
                values.get("connection.interface-name", ""),
                "bridge" if kind == "bridge" else "bond",
                path,
                tuple(port for port in below if port),
            )


def _networkd(tree: Reading) -> t.Iterator[LayeredInterface]:
    networks = []
    for path in tree.files(*NETWORKD):
        pairs: dict[str, list[str]] = {}
        for section, values in ini(tree.read_text(path)):
            if section in ("Match", "Network"):
                for key, listed in values.items():
                    pairs.setdefault(f"{section}.{key}", []).extend(" ".join(listed).split())
        networks.append(pairs)
    for path in tree.files("/etc/systemd/network/*.netdev"):
        device = next((values for section, values in ini(tree.read_text(path)) if section == "NetDev"), {})
        name, kind = device.get("Name", [""])[-1], device.get("Kind", [""])[-1]
        member = {"vlan": "VLAN", "bond": "Bond", "team": "Bond", "bridge": "Bridge"}.get(kind)
        if member is None:
            continue
        below = [
            port
            for network in networks
            if name in network.get(f"Network.{member}", [])
            for port in network.get("Match.Name", [])
        ]
        known: LayerKind = "vlan" if kind == "vlan" else "bridge" if kind == "bridge" else "bond"
        yield LayeredInterface(name, known, path, tuple(below))


def _netplan(tree: Reading) -> t.Iterator[LayeredInterface]:
    for path, network in netplan_documents(tree):
        for section, kind in (("vlans", "vlan"), ("bonds", "bond"), ("bridges", "bridge")):
            devices = network.get(section)
            for name, value in devices.items() if isinstance(devices, dict) else ():
                settings = value if isinstance(value, dict) else {}
                below = [settings.get("link")] if kind == "vlan" else settings.get("interfaces") or []
                known: LayerKind = kind  # type: ignore[assignment]
                ports = tuple(str(port) for port in below if port) if isinstance(below, list) else ()
                yield LayeredInterface(str(name), known, path, ports)
