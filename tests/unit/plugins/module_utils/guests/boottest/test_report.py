# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guest's report: the script that writes it, and what is made of it."""

from __future__ import annotations

import pathlib
import platform
import posixpath
import stat
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import report

TOKEN = "0123456789abcdef"

TEXT = """\
state default
defaultTarget graphical.target
virtualization kvm
kernel 6.1.0-56-amd64
hostname web01
commandLine root=UUID=cdc91181 ro console=ttyS0,115200
mount 22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
mount 23 22 0:21 / /proc rw,nosuid - proc proc rw
mount 24 22 254:17 /@home /srv/my\\040data ro,noatime - btrfs /dev/vdb1 rw,subvol=/@home
swap Filename Type Size Used Priority
swap /dev/vda2 partition 524284 0 -2
address 1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever
address 2: ens192    inet 192.168.10.21/24 brd 192.168.10.255 scope global ens192\\       valid_lft forever
address 2: ens192    inet6 fe80::250:56ff:feab:1021/64 scope link \\       valid_lft forever
address 3: vlan7@ens192    inet6 2001:db8::1/64 scope global \\       valid_lft forever
interface ens192 00:50:56:ab:10:21 virtio_net
interface lo 00:00:00:00:00:00
disk vda 16777216 virtio_blk
failed open-vm-tools.service loaded failed failed Service for virtual machines hosted on VMware
job 12 hyper2kvm-boot-report@default.service start running
"""


def test_facts_of_a_report() -> None:
    found = report.parse(TEXT)
    assert found.state == "default"
    assert found.failed_units == ("open-vm-tools.service",)
    assert found.facts == {
        "target": "graphical.target",
        "kernel": "6.1.0-56-amd64",
        "hostname": "web01",
        "virtualization": "kvm",
        "commandLine": "root=UUID=cdc91181 ro console=ttyS0,115200",
        "root": "/dev/vda1",
        "mounts": {
            "/": {"source": "/dev/vda1", "type": "ext4", "options": "rw,relatime"},
            "/srv/my data": {"source": "/dev/vdb1", "type": "btrfs", "options": "ro,noatime"},
        },
        "swaps": ["/dev/vda2"],
        "addresses": {"ens192": ["192.168.10.21/24"], "vlan7": ["2001:db8::1/64"]},
        "interfaces": {"ens192": {"mac": "00:50:56:ab:10:21", "driver": "virtio_net"}},
        "disks": {"vda": {"sizeBytes": 8 * 1024**3, "driver": "virtio_blk"}},
        "failedUnits": ["open-vm-tools.service"],
        "errors": [],
        "waitingJobs": [],
    }


def test_the_target_of_emergency_mode() -> None:
    found = report.parse("state emergency\ndefaultTarget graphical.target\nlog Timed out waiting for /dev/sdz1\n")
    assert found.facts["target"] == "emergency"
    assert found.facts["errors"] == ["Timed out waiting for /dev/sdz1"]


def test_a_report_is_whole_between_its_lines_however_it_arrives() -> None:
    data = f"AT\r\r\nbegin {TOKEN}\r\n{TEXT}end {TOKEN}\r\n".replace("\n", "\r\n").encode()
    reader = report.Reader(TOKEN)
    found = [reader.feed(data[i : i + 7]) for i in range(0, len(data), 7)]
    assert [r.facts["hostname"] for r in found if r] == ["web01"]


@pytest.mark.parametrize(
    "data",
    [f"begin {TOKEN}\n{TEXT}", f"begin other\n{TEXT}end other\n", f"end {TOKEN}\n{TEXT}begin {TOKEN}\n"],
)
def test_what_is_no_report(data: str) -> None:
    assert report.Reader(TOKEN).feed(data.encode()) is None


def test_a_hostile_guest_gets_nowhere() -> None:
    reader = report.Reader(TOKEN)
    assert reader.feed(b"x" * 3_000_000) is None
    assert len(reader._data) < 1_000_000
    lines = "".join(f"failed unit{i}.service\n" for i in range(5000))
    found = report.parse(f"state default\nhostname \x1b[31mevil\x07\nkernel {'k' * 9999}\nmount\nswap\ndisk\n{lines}")
    assert "\x1b" not in found.facts["hostname"]
    assert len(found.facts["kernel"]) < 2000
    assert len(found.failed_units) <= 200


def test_the_script_tells_what_it_should(tmp_path: pathlib.Path) -> None:
    """Run by this host's shell, with a file for the serial port and stand-ins for systemd's programs."""
    port = tmp_path / "port"
    programs = {
        "systemctl": 'case $* in "is-active"*) exit 0 ;; get-default) echo multi-user.target ;; *--failed*) '
        'echo "cups.service loaded failed failed CUPS" ;; esac',
        "journalctl": 'case $* in *"-u cups.service "*) echo "no printer" ;; esac',
        "systemd-detect-virt": "echo kvm",
        "stty": "exit 1",
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    script = report.files(TOKEN)[report.SCRIPT].replace("/dev/ttyS1", str(port))
    subprocess.run(
        ["/bin/sh", "-s", "default"],
        input=script,
        text=True,
        check=True,
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin"},
    )
    found = report.Reader(TOKEN).feed(port.read_bytes())
    assert found is not None
    assert found.state == "default"
    assert found.facts["target"] == "multi-user.target"
    assert found.facts["kernel"] == platform.release()
    assert found.facts["virtualization"] == "kvm"
    assert found.failed_units == ("cups.service",)
    assert found.facts["errors"] == ["no printer"]


def test_the_script_is_silent_where_the_target_was_not_reached(tmp_path: pathlib.Path) -> None:
    port = tmp_path / "port"
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\ncase $1 in is-active) exit 3 ;; esac\n")
    systemctl.chmod(stat.S_IRWXU)
    script = report.files(TOKEN)[report.SCRIPT].replace("/dev/ttyS1", str(port))
    run = ["/bin/sh", "-s"]
    environment = {"PATH": f"{tmp_path}:/usr/sbin:/usr/bin"}
    subprocess.run([*run, "default"], input=script, text=True, check=True, env=environment)
    assert not port.exists()
    subprocess.run([*run, "emergency"], input=script, text=True, check=True, env=environment)
    found = report.Reader(TOKEN).feed(port.read_bytes())
    assert found is not None and found.state == "emergency"


def test_units_and_links_belong_together() -> None:
    files, links = report.files(TOKEN), report.links()
    for path, target in links.items():
        assert posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) in files
    assert "After=default.target" in files[f"{report.FOLDER}/hyper2kvm-boot-report@default.service"]
    assert "After=" not in files[f"{report.FOLDER}/hyper2kvm-boot-report@emergency.service"]
