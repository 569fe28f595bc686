# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole jobs on real guests: what a user gets, and what happens when it cannot be had."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest

from tests.e2e.conftest import Demo
from tests.e2e.migration import ConversionHost, completed, failed, job, same_content
from tests.e2e.playbooks import BOOTED
from tests.guests import build
from tests.tools.machine import leftovers, sha256

STAGES = ["inspect", "plan", "fix", "rehearse", "copy", "commit", "verify", "publish"]


def test_the_demo_moves_a_guest_and_says_how(demo: Demo) -> None:
    played = demo.played
    assert played.status == 0, played.output
    row = played.row("web01")
    assert "COMPLETED" in row and "web01.qcow2" in row and re.search(BOOTED, row)
    assert re.search(r"^\[web01\] copy", played.output, re.MULTILINE), played.output
    assert re.search(rf"^\[web01\] COMPLETED in .*, {BOOTED}", played.output, re.MULTILINE), played.output
    for artifact in ("web01.qcow2", "web01.libvirt.xml", "web01.kubevirt.yaml", "result.json"):
        assert artifact in played.output
    assert "virsh" in played.output


def test_an_ova_becomes_a_guest_that_boots(demo: Demo) -> None:
    host = demo.host
    status = completed(host.jobs()["web01-convert"])
    assert [stage["name"] for stage in status["stages"]] == STAGES
    result = host.result("web01/result.json")
    assert (result["verdict"], result["bootTest"]["verdict"]) == ("boots", "booted")
    facts = result["bootTest"]["facts"]
    assert "192.168.10.21/24" in facts["addresses"]["ens192"]
    assert facts["interfaces"]["ens192"] == {"mac": "00:50:56:ab:10:21", "driver": "virtio_net"}
    assert facts["failedUnits"] == []
    assert (facts["hostname"], facts["target"]) == ("web01", "graphical.target")
    assert (facts["root"], facts["swaps"]) == ("/dev/vda1", ["/dev/vda2"])
    console = (host.output / "web01/convert-verify/console.log").read_text(encoding="utf-8", errors="replace")
    assert "[    0.000000] Linux version" in console
    (disk,) = result["disks"]
    assert disk["digests"]["source"] == disk["digests"]["copied"] != disk["digests"]["target"]
    assert host.files() >= {"web01/web01.qcow2", "web01/web01.libvirt.xml", "web01/web01.kubevirt.yaml"}
    assert not [name for name in host.files() if name.endswith(".partial")]
    subprocess.run(["qemu-img", "check", "-q", host.output / "web01/web01.qcow2"], check=True)
    subprocess.run(["virt-xml-validate", host.output / "web01/web01.libvirt.xml", "domain"], check=True)
    assert sha256(host.input / "web01.ova") == demo.digest
    host.end_workers()
    assert leftovers(host.output.parent) == []


def test_what_was_converted_needs_nothing_more(demo: Demo, host: ConversionHost) -> None:
    again = host.add(demo.host.output / "web01/web01.qcow2", "again.qcow2")
    # A bare disk does not tell its card's address, so the job does.
    card = {"network": {"macs": ["00:50:56:ab:10:21"]}}
    (planned,) = host.run(job("again", again.name, "plan", guest=card))
    completed(planned)
    assert host.result("again/plan.json")["changes"] == []


def test_without_fixes_it_fails_with_the_reason_and_leaves_no_target(host: ConversionHost) -> None:
    host.add(build("debian12") / "debian12.ova", "web01.ova")

    (done,) = host.run(job("web01", "web01.ova", guest={"enabled": False}))

    error = failed(done)
    assert (error["stage"], error["reason"]) == ("verify", "NoRootDevice")
    assert "ALERT!" in error["message"] and "/dev/sda1" in error["message"] and "virtio" in error["suggestion"]
    assert error["message"].endswith("(initramfs)")
    assert host.files() == {"web01/convert-verify/console.log", "web01/convert-verify/screenshot.png"}


def test_a_rehearsal_copies_nothing_and_spares_the_conversion_its_own(host: ConversionHost) -> None:
    host.add(build("tiny") / "tiny.ova", "db01.ova")

    (rehearsed,) = host.run(job("db01-rehearse", "db01.ova", "rehearse", target={"path": "db01"}))
    completed(rehearsed)
    found = host.result("db01/rehearse.json")
    assert (found["verdict"], found["rehearsal"]["verdict"]) == ("boots", "booted")
    assert not [name for name in host.files() if ".qcow2" in name]

    (done,) = host.run(job("db01-convert", "db01.ova", target={"path": "db01"}))
    stages = {stage["name"]: stage for stage in completed(done)["stages"]}
    assert stages["rehearse"]["skipped"] and "rehearsed before" in stages["rehearse"]["detail"]
    assert host.result("db01/result.json")["verdict"] == "boots"


def test_a_uefi_guest_boots_after_the_move_with_empty_variables(host: ConversionHost) -> None:
    host.add(build("debian12-uefi") / "debian12-uefi.ova", "db01.ova")
    target = {"path": "db01", "format": "raw"}
    (done,) = host.run(job("db01-convert", "db01.ova", target=target, verify={"rehearse": "never"}))
    completed(done)
    result = host.result("db01/result.json")
    assert (result["verdict"], result["bootTest"]["verdict"]) == ("boots", "booted")
    assert result["hardware"]["firmware"] == "uefi"
    facts = result["bootTest"]["facts"]
    assert facts["mounts"]["/"]["type"] == "xfs"
    assert facts["interfaces"]["ens192"] == {"mac": "00:50:56:ab:10:31", "driver": "virtio_net"}
    assert "192.168.10.31/24" in facts["addresses"]["ens192"]
    # The boot test's firmware, like KVM's, knows nothing of the entry that named the guest's loader.
    assert "/boot/efi/EFI/BOOT/BOOTX64.EFI" in {change["path"] for change in result["changes"]}


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_without_fixes_the_target_is_the_source(host: ConversionHost, fmt: str) -> None:
    folder = build("debian12-btrfs")
    host.add(folder / "debian12-btrfs.ova", "app01.ova")

    (done,) = host.run(
        job(
            "app01",
            "app01.ova",
            target={"format": fmt, "contents": "all"},
            guest={"enabled": False},
            verify={"boot": False},
        )
    )

    completed(done)
    assert host.result("app01/result.json")["verdict"] == "not-verified"
    same_content(host.output / "app01" / ("app01.qcow2" if fmt == "qcow2" else "app01.img"), fmt, folder / "disk.raw")


def test_a_btrfs_guest_boots_after_the_move_though_its_export_names_no_mac(host: ConversionHost) -> None:
    host.add(build("debian12-btrfs") / "debian12-btrfs.ova", "app01.ova")
    (done,) = host.run(job("app01", "app01.ova", target={"compression": "zstd"}))
    completed(done)
    result = host.result("app01/result.json")
    assert (result["verdict"], result["bootTest"]["verdict"]) == ("boots", "booted")
    facts = result["bootTest"]["facts"]
    assert (facts["mounts"]["/"]["type"], facts["mounts"]["/home"]["type"]) == ("btrfs", "btrfs")
    assert "192.168.10.41/24" in facts["addresses"]["ens192"]


def test_an_existing_target_is_never_overwritten(host: ConversionHost) -> None:
    host.add(build("tiny") / "tiny.ova", "tiny.ova")
    target = host.output / "tiny/tiny.qcow2"
    target.parent.mkdir()
    target.write_bytes(b"precious")

    (done,) = host.run(job("tiny", "tiny.ova", verify={"boot": False}))

    assert failed(done)["reason"] == "TargetExists"
    assert target.read_bytes() == b"precious"


def test_a_source_that_is_being_written_is_refused(host: ConversionHost) -> None:
    source = host.input / "tiny.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", build("tiny") / "disk.raw", source], check=True)
    with source.open("r+b"):
        (done,) = host.run(job("tiny", "tiny.qcow2", verify={"boot": False}))
    assert failed(done)["reason"] == "SourceInUse"


def test_preview_alters_nothing(host: ConversionHost, tmp_path: pathlib.Path) -> None:
    host.add(build("tiny") / "tiny.ova", "tiny.ova")
    (done,) = host.run(job("tiny", "tiny.ova", "plan"))
    completed(done)
    changes = {change["path"]: change for change in host.result("tiny/plan.json")["changes"]}
    assert "-/dev/sda1" in changes["/etc/fstab"]["diff"]
    assert host.files() == {"tiny/plan.json"}
