# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VLANs, bonds and bridges on top of cards, in each way of writing them: addresses and names survive the move."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic

from tests.unit.plugins.module_utils.guests.phony import Phony, debian

OLD = ("00:50:56:00:00:0a", "00:50:56:00:00:0b")
NEW = ("52:54:00:00:00:01", "52:54:00:00:00:02")

IFUPDOWN = """\
auto lo
iface lo inet loopback
auto bond0
iface bond0 inet manual
    bond-slaves ens192 ens224
    bond-mode active-backup
auto bond0.100
iface bond0.100 inet manual
auto br0
iface br0 inet static
    bridge_ports bond0.100
    address 10.0.0.2/24
"""
NETPLAN = """\
network:
  version: 2
  ethernets:
    ens192: {}
    ens224: {}
  bonds:
    bond0: {interfaces: [ens192, ens224], parameters: {mode: active-backup}}
  vlans:
    bond0.100: {id: 100, link: bond0}
  bridges:
    br0: {interfaces: [bond0.100], addresses: [10.0.0.2/24]}
"""
KEYFILE = "[connection]\nid={0}\nuuid={0}\ninterface-name={0}\ntype={1}\n{2}"
SCRIPTS = "/etc/sysconfig/network-scripts/ifcfg-"
SUSE = "/etc/sysconfig/network/ifcfg-"
NM = "/etc/NetworkManager/system-connections/"
NETWORKD = "/etc/systemd/network/"

#: The same network, a bridge on a VLAN on a bond of two cards, as each program has it.
STACKS: dict[str, dict[str, str]] = {
    "ifupdown": {"/etc/network/interfaces": IFUPDOWN},
    "netplan": {"/etc/netplan/01.yaml": NETPLAN},
    "networkmanager": {
        f"{NM}bond0.nmconnection": KEYFILE.format("bond0", "bond", "[bond]\nmode=active-backup\n"),
        f"{NM}a.nmconnection": KEYFILE.format("ens192", "ethernet", "master=bond0\nslave-type=bond\n"),
        f"{NM}b.nmconnection": KEYFILE.format("ens224", "ethernet", "controller=bond0\nport-type=bond\n"),
        f"{NM}v.nmconnection": KEYFILE.format("bond0.100", "vlan", "master=br0\n[vlan]\nparent=bond0\nid=100\n"),
        f"{NM}br.nmconnection": KEYFILE.format("br0", "bridge", "[ipv4]\nmethod=manual\naddress1=10.0.0.2/24\n"),
    },
    "network-scripts": {
        f"{SCRIPTS}bond0": "DEVICE=bond0\nTYPE=Bond\nBONDING_MASTER=yes\n",
        f"{SCRIPTS}ens192": "DEVICE=ens192\nMASTER=bond0\nSLAVE=yes\n",
        f"{SCRIPTS}ens224": "DEVICE=ens224\nMASTER=bond0\nSLAVE=yes\n",
        f"{SCRIPTS}bond0.100": "DEVICE=bond0.100\nVLAN=yes\nBRIDGE=br0\n",
        f"{SCRIPTS}br0": "DEVICE=br0\nTYPE=Bridge\nIPADDR=10.0.0.2\nPREFIX=24\n",
    },
    "wicked": {
        f"{SUSE}bond0": "BONDING_MASTER='yes'\nBONDING_SLAVE0='ens192'\nBONDING_SLAVE1='ens224'\n",
        f"{SUSE}bond0.100": "ETHERDEVICE='bond0'\nVLAN_ID='100'\n",
        f"{SUSE}br0": "BRIDGE='yes'\nBRIDGE_PORTS='bond0.100'\nIPADDR='10.0.0.2/24'\n",
    },
    "systemd-networkd": {
        f"{NETWORKD}bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\n",
        f"{NETWORKD}v.netdev": "[NetDev]\nName=bond0.100\nKind=vlan\n[VLAN]\nId=100\n",
        f"{NETWORKD}br0.netdev": "[NetDev]\nName=br0\nKind=bridge\n",
        f"{NETWORKD}a.network": "[Match]\nName=ens192 ens224\n[Network]\nBond=bond0\n",
        f"{NETWORKD}b.network": "[Match]\nName=bond0\n[Network]\nVLAN=bond0.100\n",
        f"{NETWORKD}c.network": "[Match]\nName=bond0.100\n[Network]\nBridge=br0\n",
        f"{NETWORKD}d.network": "[Match]\nName=br0\n[Network]\nAddress=10.0.0.2/24\n",
    },
}


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> Phony:
    """A server without network configuration."""
    guest = debian(tmp_path / "guest")
    (guest.folder / "etc/network/interfaces").unlink()
    return guest


@pytest.mark.parametrize("stack", STACKS)
def test_layers_are_told_and_left_alone(guest: Phony, stack: str) -> None:
    for path, text in STACKS[stack].items():
        guest.put(path, text)
    facts = guest.inspect()
    assert facts.network_tools == (stack,)
    assert {layer.name: (layer.kind, layer.below) for layer in facts.layers} == {
        "bond0": ("bond", ("ens192", "ens224")),
        "bond0.100": ("vlan", ("bond0",)),
        "br0": ("bridge", ("bond0.100",)),
    }
    assert {interface.name for interface in facts.interfaces} == {"ens192", "ens224"}
    request = dataclasses.replace(
        guest.request(fixers={"only": ["interface-names", "network-match"]}),
        nics=tuple(Nic(mac=mac) for mac in NEW),
        source_nics=tuple(Nic(mac=mac) for mac in OLD),
    )
    plan = guest.fix(request=request)
    assert plan.warnings == []
    assert [change.path for change in plan.edits.changes] == [
        f"{NETWORKD}05-hyper2kvm-{name}.link" for name in ("ens192", "ens224")
    ]
    for name, mac in zip(("ens192", "ens224"), NEW, strict=True):
        assert f"MACAddress={mac}\n" in guest.text(f"{NETWORKD}05-hyper2kvm-{name}.link")
    for path, text in STACKS[stack].items():
        assert guest.text(path) == text


MATCHES = {
    f"{NETWORKD}a.network": ("[Match]\nDriver=vmxnet3\n[Network]\nDHCP=yes\n", "Driver=virtio_net\n"),
    f"{NETWORKD}a.link": ("[Match]\nDriver=e1000e vmxnet3\n[Link]\nName=lan\n", "Driver=virtio_net virtio_net\n"),
    f"{NM}a.nmconnection": ("[connection]\ntype=ethernet\n[match]\ndriver=vmxnet3;\n", "driver=virtio_net;\n"),
    "/etc/netplan/a.yaml": (
        "network: \n  ethernets:\n    lan:\n      match:\n        driver: hv_netvsc\n",
        ": virtio_net\n",
    ),
    "/etc/udev/rules.d/70-x.rules": ('ACTION=="add", DRIVERS=="xen-netfront", NAME="lan"\n', 'DRIVERS=="virtio_net"'),
    f"{NETWORKD}p.network": ("[Match]\nPath=pci-0000:0b:00.0\n[Network]\nDHCP=yes\n", f"MACAddress={NEW[0]}\n"),
}


@pytest.mark.parametrize("path", MATCHES)
def test_a_card_is_picked_by_what_it_is_now(guest: Phony, path: str) -> None:
    text, now = MATCHES[path]
    guest.put(path, text)
    request = dataclasses.replace(guest.request(fixers={"only": ["network-match"]}), nics=(Nic(mac=NEW[0]),))
    plan = guest.fix(request=request)
    assert [change.path for change in plan.edits.changes] == [path] and plan.warnings == []
    assert now in guest.text(path)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{NETWORKD}p.network", "[Match]\nPath=pci-0000:0b:00.0\n[Network]\nDHCP=yes\n"),
        (f"{NM}a.nmconnection", "[connection]\ntype=ethernet\n[match]\npath=pci-0000:0b:00.0;\n"),
        ("/etc/udev/rules.d/70-x.rules", 'ACTION=="add", KERNELS=="0000:0b:00.0", NAME="lan"\n'),
    ],
)
def test_a_place_on_the_bus_that_could_be_any_card_is_said(guest: Phony, path: str, text: str) -> None:
    guest.put(path, text)
    request = dataclasses.replace(
        guest.request(fixers={"only": ["network-match"]}), nics=tuple(Nic(mac=mac) for mac in NEW)
    )
    plan = guest.fix(request=request)
    assert plan.edits.changes == [] and len(plan.warnings) == 1 and "0b:00.0" in plan.warnings[0]
