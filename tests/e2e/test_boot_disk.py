# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""VMs whose disks are listed in another order than they boot in, moved by whole jobs."""

from __future__ import annotations

import pathlib
import re
import subprocess
import typing as t
import xml.etree.ElementTree as ET

import pytest
import yaml

from tests.e2e.migration import ConversionHost, changes_left, completed, job, same_content
from tests.guests import build

MIB = 1024**2


def blank(path: pathlib.Path) -> None:
    """A disk as a hypervisor makes it."""
    with path.open("wb") as file:
        file.truncate(64 * MIB)


def data(path: pathlib.Path) -> None:
    """A disk with a table whose one partition is even marked active, with a filesystem, and without boot code."""
    blank(path)
    table = "label: dos\nstart=2048, type=83, bootable\n"
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True)
    subprocess.run(["mkfs.ext4", "-q", "-E", f"offset={MIB}", path, str(62 * 1024)], check=True, capture_output=True)
    with path.open("rb") as file:
        sector = file.read(512)
    assert sector[510:] == b"\x55\xaa" and not any(sector[:440])


def moved_behind(front: pathlib.Path, guest: str, host: ConversionHost, firmware: str) -> dict[str, t.Any]:
    """Plan and convert a VM of which ``front`` is the first disk and a guest of the cache the second; the result."""
    host.add(build(guest) / "disk.raw", "system.raw")

    def document(name: str, operation: str) -> dict[str, t.Any]:
        made = job(name, "", operation, target={"path": "vm", "name": "vm"}, verify={"rehearse": "never"})
        made["spec"]["source"] = {"type": "raw", "disks": [{"path": front.name}, {"path": "system.raw"}]}
        return made

    for done in host.run(document("vm-plan", "plan"), document("vm-convert", "convert"), slots=1):
        completed(done)
    result = host.result("vm/result.json")
    for told in (host.result("vm/plan.json"), result):
        assert (told["hardware"]["bootDisk"], told["hardware"]["firmware"]) == ("disk1", firmware)
        assert [w for w in told["warnings"] if w.startswith("The VM boots from disk1, which is not the first")]
    assert result["bootTest"]["verdict"] == "booted"
    assert [(disk["name"], disk["source"]) for disk in result["disks"]] == [
        ("disk0", front.name),
        ("disk1", "system.raw"),
    ]
    first, second = (host.output / disk["target"] for disk in result["disks"])
    same_content(first, "qcow2", front)
    domain = ET.parse(host.output / "vm/vm.libvirt.xml")
    disks = [
        tuple(disk.find(tag).get(name) for tag, name in (("source", "file"), ("target", "dev"), ("boot", "order")))  # type: ignore[union-attr]
        for disk in domain.findall("devices/disk")
    ]
    assert disks == [(str(first), "vda", "2"), (str(second), "vdb", "1")]
    manifest = yaml.safe_load((host.output / "vm/vm.kubevirt.yaml").read_text(encoding="utf-8"))
    wanted = manifest["spec"]["template"]["spec"]["domain"]["devices"]["disks"]
    assert [(disk["name"], disk["bootOrder"]) for disk in wanted] == [("disk0", 2), ("disk1", 1)]
    started = re.findall(r"id=(disk\d),format=qcow2,file=(\S+) .*?drive=\1,bootindex=(\d)", result["startCommand"])
    assert started == [("disk0", str(first), "1"), ("disk1", str(second), "0")]
    return result


@pytest.mark.parametrize("front", [blank, data])
def test_the_disk_that_boots_may_come_second(host: ConversionHost, front: t.Callable[[pathlib.Path], None]) -> None:
    """In its old order the guest called it sda."""
    path = host.input / "front.raw"
    front(path)
    result = moved_behind(path, "tiny", host, "bios")
    diffs = "".join(change["diff"] for change in result["changes"])
    assert "-/dev/sda1" in diffs and "root=UUID=" in diffs
    assert changes_left(host, result) == []


@pytest.mark.long
def test_the_disk_with_the_efi_loader_may_come_second(host: ConversionHost) -> None:
    path = host.input / "front.raw"
    blank(path)
    moved_behind(path, "debian12-uefi", host, "uefi")
