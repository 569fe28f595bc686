# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole jobs on real guests: what a user gets, and what happens when it cannot be had."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.e2e.migration import GUESTS, ConversionHost, job, leftovers, sha256
from tests.guests import build

STAGES = ["inspect", "plan", "fix", "rehearse", "copy", "commit", "verify", "publish"]


def test_an_ova_becomes_a_guest_that_boots(host: ConversionHost) -> None:
    ova = host.add(build("debian12", GUESTS) / "debian12.ova", "web01.ova")
    before = sha256(ova)

    (done,) = host.run(job("web01-convert", "web01.ova", target={"path": "web01"}))

    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    assert [stage["name"] for stage in done["status"]["stages"]] == STAGES
    result = host.result("web01/result.json")
    assert result["verdict"] == "boots"
    facts = result["bootTest"]["facts"]
    assert "192.168.10.21" in str(facts["addresses"]["ens192"])
    assert facts["failedUnits"] == []
    (disk,) = result["disks"]
    assert disk["digests"]["source"] == disk["digests"]["copied"] != disk["digests"]["target"]
    assert host.files() >= {"web01/web01.qcow2", "web01/web01.libvirt.xml", "web01/web01.kubevirt.yaml"}
    assert not [name for name in host.files() if name.endswith(".partial")]
    subprocess.run(["qemu-img", "check", "-q", host.output / "web01/web01.qcow2"], check=True)
    subprocess.run(["virt-xml-validate", host.output / "web01/web01.libvirt.xml", "domain"], check=True)
    assert sha256(ova) == before
    assert leftovers(host.output.parent) == []

    # What was converted needs nothing more. A bare disk does not tell its card's address, so the job does.
    again = host.add(host.output / "web01/web01.qcow2", "again.qcow2")
    card = {"network": {"macs": ["00:50:56:ab:10:21"]}}
    (planned,) = host.run(job("again", again.name, "plan", guest=card))
    assert planned["status"]["phase"] == "COMPLETED", planned["status"].get("lastError")
    assert host.result("again/plan.json")["changes"] == []


def test_without_fixes_it_fails_with_the_reason_and_leaves_no_target(host: ConversionHost) -> None:
    host.add(build("debian12", GUESTS) / "debian12.ova", "web01.ova")

    (done,) = host.run(job("web01", "web01.ova", guest={"enabled": False}))

    assert done["status"]["phase"] == "FAILED"
    error = done["status"]["lastError"]
    assert (error["stage"], error["reason"]) == ("verify", "NoRootDevice")
    assert "ALERT!" in error["message"] and error["suggestion"]
    assert host.files() == {"web01/convert-verify/console.log", "web01/convert-verify/screenshot.png"}


def test_a_rehearsal_copies_nothing_and_spares_the_conversion_its_own(host: ConversionHost) -> None:
    host.add(build("debian12-uefi", GUESTS) / "debian12-uefi.ova", "db01.ova")

    (rehearsed,) = host.run(job("db01-rehearse", "db01.ova", "rehearse", target={"path": "db01"}))
    assert rehearsed["status"]["phase"] == "COMPLETED", rehearsed["status"].get("lastError")
    assert host.result("db01/rehearse.json")["verdict"] == "boots"
    assert not [name for name in host.files() if ".qcow2" in name]

    (done,) = host.run(
        job(
            "db01-convert",
            "db01.ova",
            target={"path": "db01", "format": "raw"},
        )
    )
    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    stages = {stage["name"]: stage for stage in done["status"]["stages"]}
    assert stages["rehearse"]["skipped"] and "rehearsed before" in stages["rehearse"]["detail"]
    assert host.result("db01/result.json")["hardware"]["firmware"] == "uefi"


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_what_was_converted_is_the_source_but_for_the_changes(host: ConversionHost, fmt: str) -> None:
    folder = build("debian12-btrfs", GUESTS)
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

    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    assert host.result("app01/result.json")["verdict"] == "not-verified"
    target = host.output / "app01" / ("app01.qcow2" if fmt == "qcow2" else "app01.img")
    subprocess.run(
        ["qemu-img", "compare", "-f", fmt, "-F", "raw", target, folder / "disk.raw"],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_a_btrfs_guest_boots_after_the_move(host: ConversionHost) -> None:
    host.add(build("debian12-btrfs", GUESTS) / "debian12-btrfs.ova", "app01.ova")
    (done,) = host.run(job("app01", "app01.ova", target={"compression": "zstd"}))
    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    assert host.result("app01/result.json")["verdict"] == "boots"


def test_an_existing_target_is_never_overwritten(host: ConversionHost) -> None:
    host.add(build("tiny", GUESTS) / "tiny.ova", "tiny.ova")
    target = host.output / "tiny/tiny.qcow2"
    target.parent.mkdir()
    target.write_bytes(b"precious")

    (done,) = host.run(job("tiny", "tiny.ova", verify={"boot": False}))

    assert done["status"]["phase"] == "FAILED"
    assert done["status"]["lastError"]["reason"] == "TargetExists"
    assert target.read_bytes() == b"precious"


def test_a_source_that_is_being_written_is_refused(host: ConversionHost) -> None:
    source = host.input / "tiny.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", build("tiny", GUESTS) / "disk.raw", source], check=True)
    with source.open("r+b"):
        (done,) = host.run(job("tiny", "tiny.qcow2", verify={"boot": False}))
    assert done["status"]["lastError"]["reason"] == "SourceInUse"


def test_preview_alters_nothing(host: ConversionHost, tmp_path: pathlib.Path) -> None:
    host.add(build("tiny", GUESTS) / "tiny.ova", "tiny.ova")
    (done,) = host.run(job("tiny", "tiny.ova", "plan"))
    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    changes = {change["path"]: change for change in host.result("tiny/plan.json")["changes"]}
    assert "-/dev/sda1" in changes["/etc/fstab"]["diff"]
    assert host.files() == {"tiny/plan.json"}
