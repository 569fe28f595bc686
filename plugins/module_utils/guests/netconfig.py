# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which network interfaces a guest's configuration names: ifupdown, ifcfg, NetworkManager, networkd, netplan.

Only what stands for a network card is told; bonds, bridges and VLANs keep their names by themselves, the cards below
them are told. Formats: interfaces(5), nm-settings-keyfile(5), systemd.network(5), systemd.link(5), netplan(5),
Red Hat's and SUSE's ifcfg files, udev(7) for the rules of its former persistent-net generator.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import typing as t

from ..protocol import yaml_text
from . import paths
from .facts import Interface
from .reading import Reading

_NAME = re.compile(r"^[A-Za-z0-9_-]{1,15}$")
_VIRTUAL = re.compile(
    r"^(lo|bond\d+|br-?\d+|br-.*|vlan\d+|dummy\d*|tun\d*|tap\d*|veth.*|docker\d*|virbr\d*|wg\d*|ppp\d*|team\d+)$"
)
_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
_SOURCES_LIMIT = 200
#: Reading YAML takes a second for each 100 KB. Bytes.
_NETPLAN_LIMIT = 256 * 1024
_PORTS = ("bridge_ports", "bridge-ports", "bond-slaves", "bond_slaves", "slaves", "bond-primary")
_RAW_DEVICES = ("vlan-raw-device", "vlan_raw_device")

#: Places of the formats' files; patterns for :meth:`Reading.glob`.
IFCFG = ("/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*")
KEYFILES = ("/etc/NetworkManager/system-connections/*",)
NETWORKD = ("/etc/systemd/network/*.network",)
LINKS = ("/etc/systemd/network/*.link",)
NETPLAN = ("/etc/netplan/*.yaml", "/etc/netplan/*.yml")
UDEV_RULES = ("/etc/udev/rules.d/*.rules",)


def read_interfaces(tree: Reading) -> list[Interface]:
    """Return the cards that the configuration names or matches by MAC, each file's in its order.

    Raises:
        JobError: a configuration file is no regular file.
    """
    readers = (_ifupdown, _ifcfg, _keyfiles, _networkd, _netplan, _links, _udev_rules)
    found = [interface for reader in readers for interface in reader(tree)]
    seen: set[str] = set()
    kept = []
    for interface in found:
        # Alias eth0:1 and VLAN eth0.100 are on top of eth0.
        name = re.split(r"[:.]", interface.name)[0]
        if not (name or interface.mac) or _VIRTUAL.match(name) or (name and not _NAME.match(name)):
            continue
        interface = dataclasses.replace(interface, name=name, mac=plain_mac(interface.mac))
        if repr(interface) not in seen:
            seen.add(repr(interface))
            kept.append(interface)
    return kept


def plain_mac(text: str) -> str:
    """Return a MAC address in lower case with colons; empty where ``text`` is none."""
    mac = text.strip().strip("\"'").lower().replace("-", ":")
    return mac if _MAC.match(mac) else ""


def ini(text: str) -> list[tuple[str, dict[str, list[str]]]]:
    """Return the sections of a desktop-style file: name, and by key its values in order."""
    sections: list[tuple[str, dict[str, list[str]]]] = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            sections.append((line[1:-1], {}))
        elif sections and "=" in line and line[0] not in "#;":
            key, dummy, value = line.partition("=")
            sections[-1][1].setdefault(key.strip(), []).append(value.strip())
    return sections


def shell_values(text: str) -> dict[str, str]:
    """Return the assignments of a shell-style file, unquoted; of several to one name the last."""
    values = {}
    for line in text.splitlines():
        match = re.match(r"^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$", line)
        if match:
            try:
                words = shlex.split(match[2], comments=True)
            except ValueError:
                words = [match[2].strip().strip("\"'")]
            values[match[1]] = words[0] if words else ""
    return values


def ifupdown_stanzas(tree: Reading) -> t.Iterator[tuple[str, str, str, dict[str, list[str]]]]:
    """Yield file, interface, method and options of each stanza of ifupdown's configuration."""
    texts: list[tuple[str, str]] = []
    todo = ["/etc/network/interfaces"]
    known: set[str] = set()
    while todo and len(known) < _SOURCES_LIMIT:
        path = tree.resolve(todo.pop(0))
        if path in known or not tree.is_file(path):
            continue
        known.add(path)
        text = tree.read_text(path).replace("\\\n", " ")
        texts.append((path, text))
        for word, pattern in re.findall(r"(?m)^[ \t]*(source|source-directory)[ \t]+(\S+)", text):
            pattern = pattern if pattern.startswith("/") else f"/etc/network/{pattern}"
            todo += tree.files(f"{pattern.rstrip('/')}/*" if word == "source-directory" else pattern)
    for path, text in texts:
        yield from _stanzas(path, text)


def _ifupdown(tree: Reading) -> t.Iterator[Interface]:
    for path, name, method, options in ifupdown_stanzas(tree):
        yield from _stanza(path, name, method, options)


def _stanzas(path: str, text: str) -> t.Iterator[tuple[str, str, str, dict[str, list[str]]]]:
    name, method = "", ""
    options: dict[str, list[str]] = {}
    for line in [*text.splitlines(), "iface"]:
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("iface", "mapping", "source", "source-directory", "auto") or words[0].startswith("allow-"):
            if name:
                yield path, name, method, options
            name, method, options = "", "", {}
            if words[0] == "iface" and len(words) > 1:
                name, method = words[1], words[3] if len(words) > 3 else ""
        else:
            options.setdefault(words[0], []).extend(words[1:])


def _stanza(path: str, name: str, method: str, options: dict[str, list[str]]) -> t.Iterator[Interface]:
    below = [port for key in (*_PORTS, *_RAW_DEVICES) for port in options.get(key, []) if port not in ("none", "auto")]
    for port in below:
        yield Interface(port, path)
    if below or any(key.startswith(("bridge", "bond-mode", "bond_mode")) for key in options):
        return
    address = options.get("address", [""])[:1]
    netmask = options.get("netmask", [""])[:1]
    addresses = tuple(_with_prefix(a, netmask[0] if netmask else "") for a in address if a)
    yield Interface(name, path, "", method == "dhcp", addresses)


def ifcfg_kind(values: t.Mapping[str, str]) -> t.Literal["card", "vlan", "bond", "bridge", ""]:
    """Return what an ifcfg file describes, by its settings; empty: something else."""
    kind = values.get("TYPE", values.get("DEVICETYPE", "Ethernet")).lower()
    if values.get("VLAN") == "yes" or "ETHERDEVICE" in values or kind == "vlan":
        return "vlan"
    if values.get("BONDING_MASTER") == "yes" or kind in ("bond", "team"):
        return "bond"
    if "BRIDGE_PORTS" in values or values.get("BRIDGE") == "yes" or kind == "bridge":
        return "bridge"
    return "card" if kind in ("ethernet", "eth") else ""


def _ifcfg(tree: Reading) -> t.Iterator[Interface]:
    below: list[tuple[str, str]] = []
    named: set[str] = set()
    for path in tree.files(*IFCFG):
        if re.search(r"(\.bak|\.orig|\.old|~|\.rpmnew|\.rpmsave)$", path):
            continue
        values = shell_values(tree.read_text(path))
        if ifcfg_kind(values) != "card":
            device = values.get("DEVICE", "") or paths.split(path)[1][len("ifcfg-") :]
            named.add(device)
            below += [(port, path) for port in _ifcfg_below(values, device)]
            continue
        name = values.get("DEVICE", "") or ("" if values.get("HWADDR") else paths.split(path)[1][len("ifcfg-") :])
        named.add(name)
        address = values.get("IPADDR") or values.get("IPADDR0") or ""
        prefix = values.get("PREFIX") or values.get("PREFIXLEN") or values.get("PREFIX0") or values.get("NETMASK") or ""
        yield Interface(
            name,
            path,
            values.get("HWADDR") or values.get("LLADDR") or "",
            values.get("BOOTPROTO", "").lower().startswith("dhcp"),
            (_with_prefix(address, prefix),) if address else (),
        )
    # A card that only carries others needs no file of its own.
    yield from (Interface(port, path) for port, path in below if port not in named)


def _ifcfg_below(values: t.Mapping[str, str], device: str) -> list[str]:
    kind = ifcfg_kind(values)
    if kind == "vlan":
        parent = values.get("ETHERDEVICE") or values.get("PHYSDEV") or device.rpartition(".")[0]
        return [parent] if parent else []
    ports = [value for key, value in values.items() if re.match(r"^BONDING_SLAVE_?\d+$", key)]
    return [*ports, *values.get("BRIDGE_PORTS", "").split()]


def _keyfiles(tree: Reading) -> t.Iterator[Interface]:
    for path in tree.files(*KEYFILES):
        sections: dict[str, dict[str, list[str]]] = {}
        for name, values in ini(tree.read_text(path)):
            sections.setdefault(name, {}).update(values)
        connection = sections.get("connection", {})
        ethernet = sections.get("ethernet", sections.get("802-3-ethernet", {}))
        if _last(connection, "type") not in ("ethernet", "802-3-ethernet"):
            parent = _last(sections.get("vlan", {}), "parent")
            if parent:
                yield Interface(parent, path)
            continue
        ipv4 = sections.get("ipv4", {})
        addresses = [v[0].split(",")[0] for k, v in ipv4.items() if re.match(r"^address(es)?\d*$", k)]
        yield Interface(
            _last(connection, "interface-name"),
            path,
            _last(ethernet, "mac-address"),
            _last(ipv4, "method") == "auto",
            tuple(a.strip() for a in addresses if a),
        )


def _networkd(tree: Reading) -> t.Iterator[Interface]:
    virtual = {
        name
        for path in tree.files("/etc/systemd/network/*.netdev", "/usr/lib/systemd/network/*.netdev")
        for section, values in ini(tree.read_text(path))
        if section == "NetDev"
        for name in values.get("Name", [])
    }
    for path in tree.files(*NETWORKD):
        sections = ini(tree.read_text(path))
        match = {k: v for name, values in sections if name == "Match" for k, v in values.items()}
        network = {k: v for name, values in sections if name in ("Network", "Address") for k, v in values.items()}
        macs = " ".join(match.get("MACAddress", []) + match.get("PermanentMACAddress", [])).split()
        names = [
            n for n in " ".join(match.get("Name", [])).split() if n not in virtual and not re.search(r"[*?\[!]", n)
        ]
        addresses = tuple(network.get("Address", []))
        dhcp = any(value in ("yes", "true", "ipv4", "both", "v4") for value in network.get("DHCP", []))
        for index in range(max(len(names), len(macs))):
            # Several of both mean any of the names that has any of the addresses: which has which is not told.
            mac = macs[index] if index < len(macs) and len(names) <= 1 else ""
            yield Interface(names[index] if index < len(names) else "", path, mac, dhcp, addresses)


def netplan_documents(tree: Reading) -> t.Iterator[tuple[str, dict[t.Any, t.Any]]]:
    """Yield each of netplan's files that can be read, with what it has below ``network``."""
    for path in tree.files(*NETPLAN):
        # Anchors and tags, which netplan files do without, are refused: they make small files of gigabytes.
        try:
            document = yaml_text.load(tree.read_text(path, _NETPLAN_LIMIT))
        except (ValueError, RecursionError):
            continue
        yield path, _dictionary(_dictionary(document).get("network"))


def _netplan(tree: Reading) -> t.Iterator[Interface]:
    for path, network in netplan_documents(tree):
        cards = _dictionary(network.get("ethernets"))
        for key, value in cards.items():
            card = _dictionary(value)
            match = _dictionary(card.get("match"))
            name = _plain_text(card.get("set-name")) or _plain_text(match.get("name")) or ("" if match else str(key))
            raw = card.get("addresses")
            listed = [next(iter(a), "") if isinstance(a, dict) else a for a in raw] if isinstance(raw, list) else []
            yield Interface(
                "" if re.search(r"[*?\[]", name) else name,
                path,
                _plain_text(match.get("macaddress")),
                str(card.get("dhcp4")).lower() in ("true", "yes", "on", "y"),
                tuple(address for address in listed if isinstance(address, str)),
            )


def _links(tree: Reading) -> t.Iterator[Interface]:
    for path in tree.files(*LINKS):
        sections = dict(ini(tree.read_text(path)))
        match, link = sections.get("Match", {}), sections.get("Link", {})
        mac = _last(match, "MACAddress") or _last(match, "PermanentMACAddress")
        if mac and _last(link, "Name"):
            yield Interface(_last(link, "Name"), path, mac)


def _udev_rules(tree: Reading) -> t.Iterator[Interface]:
    for path in tree.files(*UDEV_RULES):
        for line in tree.read_text(path).splitlines():
            mac = re.search(r'(?:ATTR|SYSFS)\{address\}=="([^"]+)"', line)
            name = re.search(r'NAME="([^"%$]+)"', line)
            if mac and name and not line.lstrip().startswith("#"):
                yield Interface(name[1], path, mac[1])


def _with_prefix(address: str, mask: str) -> str:
    if "/" in address or not mask:
        return address
    if mask.isdigit():
        return f"{address}/{mask}"
    try:
        bits = "".join(f"{int(part):08b}" for part in mask.split("."))
    except ValueError:
        return address
    return f"{address}/{bits.count('1')}"


def _last(values: t.Mapping[str, list[str]], key: str) -> str:
    return values.get(key, [""])[-1]


def _plain_text(value: t.Any) -> str:
    return value if isinstance(value, str) else ""


def _dictionary(value: t.Any) -> dict[t.Any, t.Any]:
    return value if isinstance(value, dict) else {}
