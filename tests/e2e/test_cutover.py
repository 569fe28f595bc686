# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook cutover against a real libvirtd, whose hypervisor is libvirt's own for tests."""

from __future__ import annotations

import json
import pathlib
import socket
import typing as t

import pytest

from tests.e2e.playbooks import Played, ansible_playbook
from tests.guests.host import REPOSITORY
from tests.tools.libvirt_daemon import Libvirt, libvirt

DOMAIN = """\
<domain type='test'><name>{name}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>
"""


@pytest.fixture
def daemon(tmp_path: pathlib.Path) -> t.Iterator[Libvirt]:
    """A libvirtd of this test."""
    with libvirt(tmp_path) as running:
        yield running


@pytest.fixture
def cutover(tmp_path: pathlib.Path, daemon: Libvirt) -> t.Callable[..., Played]:
    """Run the playbook for web01, whose migration left its definition."""
    folder = tmp_path / "output/web01"
    folder.mkdir(parents=True)
    disk = folder / "web01.qcow2"
    disk.write_bytes(b"disk")
    (folder / "web01.libvirt.xml").write_text(DOMAIN.format(name="web01", disk=disk), encoding="utf-8")

    def play(*arguments: str, **extra: t.Any) -> Played:
        kvm_host = {
            "ansible_connection": "local",
            # Which has Debian's binding of libvirt.
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        shared = {
            "hyper2kvm_output_root": str(tmp_path / "output"),
            "hyper2kvm_libvirt_host": "kvm1",
            "hyper2kvm_libvirt_uri": daemon.uri,
            "hyper2kvm_libvirt_autostart": False,
            "hyper2kvm_cutover_timeout": 5,
        }
        groups = {"vms": {"hosts": {"web01": {}}, "vars": shared}, "conversion_hosts": {"hosts": {"kvm1": kvm_host}}}
        (tmp_path / "inventory.json").write_text(json.dumps(groups), encoding="utf-8")
        path = {"ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".collections")}
        with (tmp_path / "ansible.log").open("w") as log:
            command = ("-i", tmp_path / "inventory.json", "hyper2kvm.core.cutover", *arguments)
            return ansible_playbook(*command, folder=tmp_path, log=log, extra=extra, settings=path)

    return play


def test_a_migrated_vm_is_defined_and_started_once(cutover: t.Callable[..., Played], daemon: Libvirt) -> None:
    checked = cutover("--check")
    assert checked.status == 0 and "web01 would be defined and started." in checked.output, checked.output
    assert daemon.state("web01") == ""
    first = cutover()
    assert first.status == 0 and first.recap("web01")["changed"] > 0, first.output
    assert daemon.state("web01") == "running"
    again = cutover()
    assert again.status == 0 and again.recap("web01")["changed"] == 0, again.output
    daemon.virsh("destroy", "web01")
    assert cutover().status == 0 and daemon.state("web01") == "running"


def test_what_does_not_get_healthy_is_taken_back(cutover: t.Callable[..., Played], daemon: Libvirt) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        healthy = cutover(hyper2kvm_cutover_address="127.0.0.1", hyper2kvm_cutover_port=port)
    assert healthy.status == 0 and daemon.state("web01") == "running", healthy.output
    daemon.virsh("destroy", "web01")
    # It was defined before, and stays so.
    sick = cutover(hyper2kvm_cutover_address="127.0.0.1", hyper2kvm_cutover_port=port)
    assert sick.status == 2 and daemon.state("web01") == "shut off", sick.output
    daemon.virsh("undefine", "web01")
    sick = cutover(hyper2kvm_cutover_address="127.0.0.1", hyper2kvm_cutover_port=port)
    assert sick.status == 2 and daemon.state("web01") == "", sick.output
    told = " ".join(sick.output.split())
    assert f"Nothing answered at 127.0.0.1, port {port}, within 5 s." in told
    assert "web01 is on kvm1 as it was before; its disks stay." in told


def test_another_vm_of_that_name_is_left_alone(
    cutover: t.Callable[..., Played], daemon: Libvirt, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "other.xml").write_text(DOMAIN.format(name="web01", disk="/srv/other.qcow2"), encoding="utf-8")
    daemon.virsh("define", str(tmp_path / "other.xml"))
    refused = cutover()
    assert refused.status == 2 and daemon.state("web01") == "shut off"
    assert "whose disks are not those of this migration" in " ".join(refused.output.split())
