# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Targets on block devices: the disk arrives whole, nothing of others is overwritten or stays readable."""

from __future__ import annotations

import json
import pathlib
import subprocess
import typing as t
import xml.etree.ElementTree as ET

import pytest
import yaml

from tests.e2e.migration import job, same_content
from tests.faults.faulty_host import STAGES, FaultyHost
from tests.guests import build
from tests.tools.machine import wait_for

MIB = 1024**2
#: Of the guest tiny.
SIZE = 512 * MIB
#: The guest as it is: the same source gives the same disk.
AS_IT_IS: dict[str, t.Any] = {"guest": {"enabled": False}, "verify": {"boot": False}}

Devices = t.Callable[..., pathlib.Path]


@pytest.fixture
def devices(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Devices]:
    """Returns a function that makes a blank block device, with a stranger's data between its first and last MiB."""
    folder = tmp_path_factory.mktemp("devices")
    made: list[pathlib.Path] = []

    def make(size: int = SIZE) -> pathlib.Path:
        file = folder / f"{len(made)}.img"
        with file.open("wb") as disk:
            for begin in (100 * MIB, size // 2, size - 4 * MIB):
                disk.seek(begin)
                disk.write(b"stranger" * (2 * MIB // 8))
            disk.truncate(size)
        done = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True)
        made.append(pathlib.Path(done.stdout.strip()))
        return made[-1]

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


def onto(*targets: pathlib.Path, name: str = "tiny", source: str = "tiny.ova", **spec: t.Any) -> dict[str, t.Any]:
    """A job that writes onto devices."""
    target = {"format": "raw", "devices": [str(one) for one in targets], **spec.pop("target", {})}
    return job(name, source, target=target, **spec)


def allowing(*targets: pathlib.Path) -> list[str]:
    """The worker's options that allow these devices."""
    return [f"--target-device={target}" for target in targets]


def edges(device: pathlib.Path) -> bytes:
    """What is in a device's first and last MiB, apart from zeros."""
    with device.open("rb") as disk:
        first = disk.read(MIB)
        disk.seek(-MIB, 2)
        return (first + disk.read()).strip(b"\0")


def test_a_device_gets_what_a_file_gets(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices()
    host.submit(onto(device, name="device", **AS_IT_IS))
    host.submit(job("file", "tiny.ova", target={"format": "raw"}, **AS_IT_IS))
    host.finish(*allowing(device))
    document = host.completed("device")
    host.completed("file")
    same_content(host.output / "file/file.img", "raw", device)
    assert b"stranger" not in device.read_bytes()
    told, plain = host.result("device/result.json"), host.result("file/result.json")
    assert [disk["target"] for disk in told["disks"]] == [str(device)]
    assert told["disks"][0]["digests"] == plain["disks"][0]["digests"]
    (artifact,) = [one for one in document["status"]["artifacts"] if one["kind"] == "disk"]
    assert (artifact["path"], artifact["format"], artifact["sizeBytes"]) == (str(device), "raw", SIZE)
    assert str(device) in told["startCommand"]
    definition = ET.parse(host.output / "device/device.libvirt.xml")
    subprocess.run(["virt-xml-validate", host.output / "device/device.libvirt.xml", "domain"], check=True)
    disk = definition.find("devices/disk")
    assert disk is not None and disk.get("type") == "block"
    assert [one.attrib for one in disk.iter("source")] == [{"dev": str(device)}]
    text = (host.output / "device/device.kubevirt.yaml").read_text(encoding="utf-8")
    claim, machine = yaml.safe_load_all(text)
    assert (claim["kind"], claim["spec"]["volumeMode"]) == ("PersistentVolumeClaim", "Block")
    (volume,) = machine["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert f"{claim['metadata']['name']}: {device}" in text and "virtctl image-upload" not in text
    assert not [name for name in host.files() if name.startswith("device/") and name.endswith(".img")]
    host.check_nothing_left()


def test_a_larger_device_boots_and_is_zeros_behind_the_disk(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices(SIZE + 64 * MIB)
    name = host.submit(onto(device))
    host.finish(*allowing(device))
    host.completed(name)
    result = host.result("tiny/result.json")
    assert result["bootTest"]["verdict"] == "booted"
    (warning,) = [text for text in result["warnings"] if str(device) in text]
    assert f"{64 * MIB} bytes more" in warning and "GPT" in warning
    with device.open("rb") as disk:
        disk.seek(SIZE)
        assert disk.read().strip(b"\0") == b""
    host.check_nothing_left()


def test_a_killed_copy_goes_on_where_it_was(host: FaultyHost, devices: Devices) -> None:
    ova = host.add_guest("debian12")
    device = devices(8192 * MIB)
    name = host.submit(onto(device, name="web01", source="debian12.ova", target={"contents": "all"}, **AS_IT_IS))
    host.kill(host.halt("copy:70", *allowing(device)))
    assert edges(device)
    host.finish(*allowing(device))
    host.completed(name)
    begun = host.started(name)
    assert [begun.count(one) for one in STAGES] == [2 if one == "copy" else 1 for one in STAGES]
    (disk,) = host.result("web01/result.json")["disks"]
    assert disk["bytesRead"] < 0.75 * ova.stat().st_size
    same_content(build("debian12") / "disk.raw", "raw", device)
    host.check_nothing_left()


def test_a_kill_after_the_last_stage_leaves_the_device_whole(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices()
    name = host.submit(onto(device, target={"contents": "all"}, **AS_IT_IS))
    host.kill(host.halt("end:begin", *allowing(device)))
    # Somebody may take the documents away, and start the VM, before the queue knows of the end.
    (host.output / "tiny/result.json").unlink()
    host.finish(*allowing(device))
    host.completed(name)
    assert host.started(name) == list(STAGES)
    same_content(build("tiny") / "disk.raw", "raw", device)
    host.check_nothing_left()


def test_another_device_under_the_same_name_is_not_gone_on_with(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    one, other = devices(), devices()
    link = host.folder / "volume"
    link.symlink_to(one)
    name = host.submit(onto(link, **AS_IT_IS))
    host.kill(host.halt("verify:begin", *allowing(link)))
    link.unlink()
    link.symlink_to(other)
    subprocess.run(["mkfs.ext4", "-q", "-F", other], check=True)
    before = other.read_bytes()
    host.finish(*allowing(link), status=1)
    assert host.failed(name)["reason"] == "DeviceNotBlank"
    assert other.read_bytes() == before
    host.check_nothing_left()


def test_a_copy_begins_anew_on_another_blank_device(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    one, other = devices(), devices()
    link = host.folder / "volume"
    link.symlink_to(one)
    name = host.submit(onto(link, **AS_IT_IS))
    host.kill(host.halt("verify:begin", *allowing(link)))
    link.unlink()
    link.symlink_to(other)
    host.finish(*allowing(link))
    status = host.completed(name)["status"]
    assert [a["error"]["reason"] for a in status["attempts"] if "error" in a] == ["WorkerLost"]
    assert host.started(name).count("copy") == 2
    same_content(other, "raw", one)
    host.check_nothing_left()


@pytest.mark.parametrize("moment", ["copy:50", "verify:begin", "publish:placed"])
def test_a_cancel_wipes_what_was_begun(host: FaultyHost, devices: Devices, moment: str) -> None:
    host.add_guest("tiny")
    device = devices()
    name = host.submit(onto(device, **AS_IT_IS))
    worker = host.halt(moment, *allowing(device))
    host.command("cancel", name, "--state-dir", host.state)
    assert worker.wait(30) == 0, host.log()
    assert host.job(name)["status"]["phase"] == "CANCELLED"
    assert edges(device) == b""
    assert host.files() == set()
    host.check_nothing_left()


def test_a_job_that_may_be_retried_keeps_what_it_wrote(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices()
    name = host.submit(onto(device, activeDeadlineSeconds=15, **AS_IT_IS))
    assert host.halt("verify:begin", *allowing(device)).wait(60) == 1
    assert host.failed(name)["reason"] == "DeadlineExceeded"
    assert edges(device)
    # The record's end is the end of what was done for it.
    host.command("delete", name, "--state-dir", host.state)
    host.finish(*allowing(device))
    assert edges(device) == b""
    host.check_nothing_left()


def test_what_is_on_a_device_is_overwritten_by_force_alone(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices()
    for spoil, what in (
        (["mkfs.ext4", "-q", "-F", device], "ext4"),
        (["sh", "-c", f"wipefs -qa {device}; printf x | dd of={device} bs=1 seek=5000 2>/dev/null"], "first MiB"),
        (["sh", "-c", f"wipefs -qa {device}; dd if=/dev/zero of={device} bs=1M count=1 2>/dev/null; "
          f"printf x | dd of={device} bs=1 seek={SIZE - 9} 2>/dev/null"], "last MiB"),
    ):  # fmt: skip
        subprocess.run(spoil, check=True)
        name = host.submit(onto(device, **AS_IT_IS))
        host.finish(*allowing(device), status=1)
        error = host.failed(name)
        assert error["reason"] == "DeviceNotBlank" and what in error["message"] and "force" in error["suggestion"]
        # Nothing was written, so nothing is wiped.
        assert edges(device)
    name = host.submit(onto(device, target={"force": True}, **AS_IT_IS))
    host.finish(*allowing(device))
    host.completed(name)
    assert b"stranger" not in device.read_bytes()
    host.check_nothing_left()


def test_a_device_in_use_is_refused(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device, point = devices(), host.folder / "point"
    subprocess.run(["mkfs.ext4", "-q", "-F", device], check=True)
    point.mkdir()
    subprocess.run(["mount", device, point], check=True)
    try:
        name = host.submit(onto(device, target={"force": True}, **AS_IT_IS))
        host.finish(*allowing(device), status=1)
        assert host.failed(name)["reason"] == "DeviceInUse"
        assert list(point.iterdir())
    finally:
        subprocess.run(["umount", point], check=True)


def test_two_jobs_do_not_write_onto_one_device(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device = devices()
    host.submit(onto(device, name="one", backoffLimit=0, **AS_IT_IS))
    worker = host.halt("one/copy:50", *allowing(device))
    # Only now: of two at once either may be the first to have the device.
    host.submit(onto(device, name="other", backoffLimit=0, **AS_IT_IS))
    wait_for(lambda: host.job("other")["status"]["phase"] == "FAILED")
    assert host.failed("other")["reason"] == "DeviceInUse"
    host.go_on()
    assert worker.wait(60) == 1
    host.completed("one")
    assert edges(device)


def test_a_worker_writes_onto_allowed_devices_alone(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    device, other = devices(), devices()
    name = host.submit(onto(device, **AS_IT_IS))
    host.finish()
    assert host.job(name)["status"]["phase"] == "QUEUED"
    host.finish(*allowing(other), status=1)
    error = host.failed(name)
    assert error["reason"] == "DeviceNotAllowed" and str(device) in error["message"]
    assert "--target-device" in error["suggestion"]
    assert b"stranger" in device.read_bytes()


def test_waiting_for_a_worker_with_devices_is_explained(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    name = host.submit(onto(devices(), **AS_IT_IS))
    busy = host.submit(job("busy", "tiny.ova", **AS_IT_IS))
    worker = host.halt(f"{busy}/copy:begin")
    (reason,) = json.loads(host.command("explain", name, "--json", "--state-dir", host.state))
    assert reason["reason"] == "CapabilityMissing" and "without --target-device" in reason["message"]
    host.go_on()
    worker.wait(60)


def test_a_device_must_fit(host: FaultyHost, devices: Devices) -> None:
    host.add_guest("tiny")
    small, device = devices(SIZE - MIB), devices()
    for targets, reason in (((small,), "DeviceTooSmall"), ((device, small), "DeviceCount")):
        name = host.submit(onto(*targets, **AS_IT_IS))
        host.finish(*allowing(small, device), status=1)
        error = host.failed(name)
        assert error["reason"] == reason
        assert reason != "DeviceTooSmall" or (str(SIZE) in error["message"] and str(SIZE - MIB) in error["message"])
    plain = host.folder / "file"
    plain.write_bytes(bytes(MIB))
    name = host.submit(onto(plain, **AS_IT_IS))
    host.finish(*allowing(plain), status=1)
    assert host.failed(name)["reason"] == "NotABlockDevice"
    host.check_nothing_left()


def test_a_loop_device_of_a_source_is_no_target(host: FaultyHost) -> None:
    host.add_guest("tiny")
    source = host.add_guest("tiny", "disk.raw")
    done = subprocess.run(["losetup", "--find", "--show", source], check=True, capture_output=True, text=True)
    device = pathlib.Path(done.stdout.strip())
    try:
        name = host.submit(onto(device, target={"force": True}, **AS_IT_IS))
        host.finish(*allowing(device), status=1)
        assert host.failed(name)["reason"] == "WorkersOwnDevice"
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
