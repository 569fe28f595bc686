# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which interfaces a guest's configuration names, and which cards they become."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.cards import assign
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.facts import Interface
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.netconfig import read_interfaces

from tests.unit.plugins.module_utils.guests.phony import Phony

A, B, C = "00:50:56:00:00:0a", "00:50:56:00:00:0b", "00:50:56:00:00:0c"
X, Y, Z = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"


def read(tmp_path: pathlib.Path, files: dict[str, str]) -> list[Interface]:
    """Interfaces of a guest with these files."""
    guest = Phony(tmp_path / "guest")
    for path, text in files.items():
        guest.put(path, text)
    with guest.tree() as tree:
        return read_interfaces(tree)


def test_ifupdown(tmp_path: pathlib.Path) -> None:
    found = read(
        tmp_path,
        {
            "/etc/network/interfaces": "source /etc/network/interfaces.d/*\nsource-directory more.d\nauto lo ens192\n"
            "iface lo inet loopback\niface ens192 inet static\n  address 10.0.0.2\n  netmask 255.255.255.0\n"
            "iface ens192 inet6 auto\n# iface ens999 inet dhcp\niface bond0 inet dhcp\n  bond-slaves ens224 ens256\n"
            "iface ens192.100 inet static\n address 10.1.0.2/16\n vlan-raw-device ens192\n",
            "/etc/network/interfaces.d/br": "iface br0 inet dhcp\n  bridge_ports ens161\n",
            "/etc/network/more.d/x": "iface eth7 inet dhcp\n",
        },
    )
    assert [(i.name, i.dhcp, i.addresses) for i in found] == [
        ("ens192", False, ("10.0.0.2/24",)),
        ("ens192", False, ()),
        ("ens224", False, ()),
        ("ens256", False, ()),
        ("ens161", False, ()),
        ("eth7", True, ()),
    ]


def test_ifupdown_that_sources_itself_ends(tmp_path: pathlib.Path) -> None:
    text = "source /etc/network/*\niface ens1 inet dhcp\n"
    assert len(read(tmp_path, {"/etc/network/interfaces": text, "/etc/network/b": text})) == 2


def test_ifcfg(tmp_path: pathlib.Path) -> None:
    scripts = "/etc/sysconfig/network-scripts/"
    found = read(
        tmp_path,
        {
            scripts
            + "ifcfg-ens192": f'TYPE="Ethernet"\nDEVICE=ens192\nHWADDR={A.upper()}\nIPADDR=10.0.0.2\nPREFIX=24\n',
            scripts + "ifcfg-Wired_1": f"TYPE=Ethernet\nBOOTPROTO=dhcp\nHWADDR={B}\n",
            scripts + "ifcfg-bond0": "TYPE=Bond\nDEVICE=bond0\n",
            scripts + "ifcfg-ens192.7": "DEVICE=ens192.7\nVLAN=yes\n",
            scripts + "ifcfg-ens192.bak": "DEVICE=ens999\n",
            scripts + "ifcfg-lo": "DEVICE=lo\n",
            "/etc/sysconfig/network/ifcfg-eth0": "BOOTPROTO='static'\nIPADDR='10.0.0.9/24'\n",
        },
    )
    assert [(i.name, i.mac, i.dhcp, i.addresses) for i in found] == [
        ("", B, True, ()),
        ("ens192", A, False, ("10.0.0.2/24",)),
        ("eth0", "", False, ("10.0.0.9/24",)),
    ]


def test_networkmanager(tmp_path: pathlib.Path) -> None:
    folder = "/etc/NetworkManager/system-connections/"
    found = read(
        tmp_path,
        {
            folder
            + "a.nmconnection": f"[connection]\ntype=ethernet\ninterface-name=ens192\n[ethernet]\nmac-address={A}\n"
            "[ipv4]\nmethod=manual\naddress1=10.0.0.2/24,10.0.0.1\n",
            folder + "b": "[connection]\ntype=802-3-ethernet\n[ipv4]\nmethod=auto\n",
            folder + "c.nmconnection": "[connection]\ntype=wifi\ninterface-name=wlan0\n",
            folder + "d.nmconnection": "[connection]\ntype=vlan\n[vlan]\nparent=ens224\nid=5\n",
        },
    )
    assert [(i.name, i.mac, i.addresses) for i in found] == [("ens192", A, ("10.0.0.2/24",)), ("ens224", "", ())]


def test_networkd(tmp_path: pathlib.Path) -> None:
    folder = "/etc/systemd/network/"
    found = read(
        tmp_path,
        {
            folder + "10-lan.network": "[Match]\nName=ens192\n[Network]\nAddress=10.0.0.2/24\nGateway=10.0.0.1\n",
            folder + "20-mac.network": f"[Match]\nMACAddress={B}\n[Network]\nDHCP=yes\n",
            folder + "30-any.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
            folder + "40-vlan.network": "[Match]\nName=office\n[Network]\nDHCP=yes\n",
            folder + "40-vlan.netdev": "[NetDev]\nName=office\nKind=vlan\n",
            folder + "50-x.link": f"[Match]\nMACAddress={C}\n[Link]\nName=storage\n",
        },
    )
    assert [(i.name, i.mac, i.dhcp) for i in found] == [
        ("ens192", "", False),
        ("", B, True),
        ("storage", C, False),
    ]


def test_netplan(tmp_path: pathlib.Path) -> None:
    found = read(
        tmp_path,
        {
            "/etc/netplan/50.yaml": "network:\n  version: 2\n  ethernets:\n"
            "    ens192:\n      addresses: [10.0.0.2/24]\n"
            f'    lan:\n      match: {{macaddress: "{A}"}}\n      set-name: lan0\n      dhcp4: true\n'
            f'    only:\n      match: {{macaddress: "{B}"}}\n    any:\n      match: {{name: "en*"}}\n'
            "  vlans:\n    v5: {id: 5, link: ens192}\n",
            "/etc/netplan/60.yaml": "network: [not, what, it, should, be]\n",
            "/etc/netplan/70.yaml": "a: &a [1,2]\nb: &b [*a,*a]\n: : :\n",
        },
    )
    assert [(i.name, i.mac, i.dhcp, i.addresses) for i in found] == [
        ("ens192", "", False, ("10.0.0.2/24",)),
        ("lan0", A, True, ()),
        ("", B, False, ()),
    ]


def test_old_udev_rules(tmp_path: pathlib.Path) -> None:
    line = f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{{address}}=="{A}", KERNEL=="eth*", NAME="eth0"\n'
    found = read(tmp_path, {"/etc/udev/rules.d/70-persistent-net.rules": "# PCI device (vmxnet3)\n" + line})
    assert [(i.name, i.mac) for i in found] == [("eth0", A)]


def nics(*macs: str | None) -> list[Nic]:
    """Cards with these addresses."""
    return [Nic(mac=mac) for mac in macs]


def names(*interfaces: str) -> list[Interface]:
    """Interfaces: ``name``, ``name=mac`` or ``=mac``."""
    return [Interface(text.partition("=")[0], "/etc/x", text.partition("=")[2]) for text in interfaces]


@pytest.mark.parametrize(
    ("interfaces", "source", "target", "pinned", "moved"),
    [
        (names("ens192"), nics(A), nics(A), {"ens192": A}, {}),
        (names("ens192"), nics(A), nics(X), {"ens192": X}, {A: X}),
        # In order, as a person orders them.
        (names("ens224", "ens192"), nics(A, B), nics(X, Y), {"ens192": X, "ens224": Y}, {A: X, B: Y}),
        (names("eth10", "eth2"), nics(A, B), nics(A, B), {"eth2": A, "eth10": B}, {}),
        # A known address decides, and takes its card out of the order.
        (names("ens192", f"ens160={A}"), nics(B, A), nics(B, A), {"ens160": A, "ens192": B}, {}),
        (names(f"={A}", "ens224"), nics(A, B), nics(X, Y), {"ens224": Y}, {A: X, B: Y}),
        # The export does not tell addresses; the guest knows as many.
        (names(f"ens192={A}"), nics(None), nics(X), {"ens192": X}, {A: X}),
        # Cards that exchange their addresses.
        (names(f"a={A}", f"b={B}"), nics(A, B), nics(B, A), {"a": B, "b": A}, {A: B, B: A}),
        # Converted before: bound to the new address already.
        (names("ens192", f"ens192={X}"), nics(A), nics(X), {"ens192": X}, {A: X}),
        ([], nics(A), nics(X), {}, {A: X}),
    ],
)
def test_which_card_a_name_means(
    interfaces: list[Interface], source: list[Nic], target: list[Nic], pinned: dict[str, str], moved: dict[str, str]
) -> None:
    result = assign(interfaces, source, target)
    assert (result.names, result.addresses, result.problems) == (pinned, moved, ())


@pytest.mark.parametrize(
    ("interfaces", "cards", "text"),
    [
        (names("ens192", "ens224"), nics(A), "2 network interfaces"),
        (names("ens192"), nics(A, B), "has 2 cards"),
        (names(f"ens192={C}"), nics(A), C),
    ],
)
def test_what_cannot_be_matched_is_said(interfaces: list[Interface], cards: list[Nic], text: str) -> None:
    (problem,) = assign(interfaces, cards, cards).problems
    assert text in problem
