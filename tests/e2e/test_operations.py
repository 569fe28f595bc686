# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every operation and every kind of source as a whole job, on the small real guest."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

import pytest

from tests.e2e.edited_guests import edited
from tests.e2e.migration import ConversionHost, completed, failed, job, same_content
from tests.guests import build
from tests.guests.specs import SPECS
from tests.tools.machine import leftovers, sha256

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2


@pytest.fixture(scope="module")
def tiny() -> pathlib.Path:
    return build("tiny")


def converted(source: pathlib.Path, target: pathlib.Path, fmt: str, source_fmt: str = "raw", *options: str) -> None:
    subprocess.run(["qemu-img", "convert", "-f", source_fmt, "-O", fmt, *options, source, target], check=True)


# -- sources -----------------------------------------------------------------------------------------------------------


def sources(tiny: pathlib.Path, place: pathlib.Path) -> dict[str, str]:
    """The guest as every kind of source below ``place``: paths by job names."""
    found = {"ova": "ova.ova", "ovf-folder": "folder", "qcow2": "vm.qcow2", "raw": "vm.img"}
    shutil.copyfile(tiny / "tiny.ova", place / found["ova"])
    (place / found["ovf-folder"]).mkdir()
    subprocess.run(["tar", "-xf", tiny / "tiny.ova", "-C", place / found["ovf-folder"]], check=True)
    for fmt in ("qcow2", "raw"):
        converted(tiny / "disk.raw", place / found[fmt], fmt)
    for subformat in ("streamOptimized", "monolithicSparse", "monolithicFlat"):
        found[subformat.lower()] = f"{subformat}.vmdk"
        converted(tiny / "disk.raw", place / f"{subformat}.vmdk", "vmdk", "raw", "-o", f"subformat={subformat}")
    return found


@pytest.mark.parametrize("fmt", ["qcow2", "raw"])
def test_a_source_of_every_kind_is_moved_bit_by_bit(host: ConversionHost, tiny: pathlib.Path, fmt: str) -> None:
    paths = sources(tiny, host.input)
    before = {file: sha256(file) for file in host.input.rglob("*") if file.is_file()}

    as_it_is = {"target": {"format": fmt}, "guest": {"enabled": False}, "verify": {"boot": False}}
    done = host.run(*(job(name, path, **as_it_is) for name, path in paths.items()))

    for name, ended in zip(paths, done, strict=True):
        completed(ended)
        result = host.result(f"{name}/result.json")
        assert result["verdict"] == "not-verified"
        (disk,) = result["disks"]
        assert disk["digests"]["source"] == disk["digests"]["copied"] == disk["digests"]["target"]
        extension = "qcow2" if fmt == "qcow2" else "img"
        same_content(host.output / name / f"{name}.{extension}", fmt, tiny / "disk.raw")
    assert {file: sha256(file) for file in host.input.rglob("*") if file.is_file()} == before
    assert leftovers(host.output.parent) == []


# -- operations --------------------------------------------------------------------------------------------------------


def test_an_inspection_tells_what_is_inside(host: ConversionHost, tiny: pathlib.Path) -> None:
    host.add(tiny / "tiny.ova", "tiny.ova")
    (done,) = host.run(job("look", "tiny.ova", "inspect"))
    completed(done)
    found = host.result("look/inspect.json")
    assert found["verdict"] == "done"
    assert (found["guest"]["osId"], found["guest"]["hostname"]) == ("debian", "tiny")
    assert len(found["guest"]["kernels"]) == 1
    assert (found["hardware"]["firmware"], found["hardware"]["cpus"]) == ("bios", 1)
    assert [nic["mac"] for nic in found["hardware"]["nics"]] == [SPECS["tiny"].mac]
    assert host.files() == {"look/inspect.json"}


def test_a_repaired_image_boots_and_is_then_found_to_boot_by_a_boot_test(
    host: ConversionHost, tiny: pathlib.Path
) -> None:
    converted(tiny / "disk.raw", host.input / "vm.qcow2", "qcow2")
    before = sha256(host.input / "vm.qcow2")
    card = {"network": {"macs": [SPECS["tiny"].mac]}}

    (done,) = host.run(job("repair", "vm.qcow2", "fix", guest=card, verify={"boot": False}))

    completed(done)
    changed = {change["path"] for change in host.result("repair/result.json")["changes"]}
    assert {"/etc/fstab", "/boot/grub/grub.cfg"} <= changed
    assert sha256(host.input / "vm.qcow2") == before

    # As the source of a boot test it is booted as it is, and nothing of it is published.
    host.add(host.output / "repair/repair.qcow2", "repaired.qcow2")
    (tested,) = host.run(job("test", "repaired.qcow2", "boot-test", guest=card))
    completed(tested)
    found = host.result("test/boot-test.json")
    assert (found["verdict"], found["bootTest"]["verdict"]) == ("boots", "booted")
    console = (host.output / "test/boot-test-verify/console.log").read_text(encoding="utf-8", errors="replace")
    assert "ens192    inet 192.168.56.11/24" in console
    assert {name for name in host.files() if name.startswith("test/")} == {
        "test/boot-test.json",
        "test/boot-test-verify/console.log",
        "test/boot-test-verify/screenshot.png",
    }


def test_a_repair_does_not_change_the_format(host: ConversionHost, tiny: pathlib.Path) -> None:
    host.add(tiny / "tiny.ova", "tiny.ova")
    (done,) = host.run(job("repair", "tiny.ova", "fix", verify={"boot": False}))
    assert failed(done)["reason"] == "FormatDiffers"
    assert host.files() == set()


# -- several disks -----------------------------------------------------------------------------------------------------


def test_a_vm_with_two_disks_finds_its_data_after_the_move(host: ConversionHost, tiny: pathlib.Path) -> None:
    content = host.output.parent / "content"
    content.mkdir()
    (content / "told").write_text("the data disk is here\n", encoding="ascii")
    data = host.input / "data.raw"
    data.touch()
    os.truncate(data, 64 * MIB)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", content, data], check=True)
    overlay = host.output.parent / "system.qcow2"
    with edited(tiny / "disk.raw", overlay) as tree:
        tree.append("/etc/fstab", b"/dev/sdb /data ext4 defaults 0 2\n")
        tree.mkdir("/data")
        tree.append("/etc/init.d/rcS", b"cat /data/told\n")
    converted(overlay, host.input / "system.vmdk", "vmdk", "qcow2")
    wanted = job("two", "", verify={"marker": "the data disk is here"})
    wanted["spec"]["source"] = {"disks": [{"path": "system.vmdk"}, {"path": "data.raw"}]}

    (done,) = host.run(wanted)

    completed(done)
    result = host.result("two/result.json")
    assert result["bootTest"]["verdict"] == "booted"
    (fstab,) = [change for change in result["changes"] if change["path"] == "/etc/fstab"]
    assert "-/dev/sdb /data" in fstab["diff"] and "+UUID=" in fstab["diff"]
    assert [disk["target"] for disk in result["disks"]] == ["two/two.qcow2", "two/two-disk1.qcow2"]
    # Its own filesystem was mounted as well, which counts its mounts; what is in it is as it was.
    converted(host.output / "two/two-disk1.qcow2", host.output.parent / "data.raw", "raw", "qcow2")
    told = subprocess.run(
        ["debugfs", "-R", "cat /told", host.output.parent / "data.raw"], capture_output=True, check=True
    )
    assert told.stdout == b"the data disk is here\n"
    assert "two-disk1.qcow2" in (host.output / "two/two.libvirt.xml").read_text(encoding="utf-8")
