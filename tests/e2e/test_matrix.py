# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Servers of every kind of storage, firmware, boot loader, initramfs and network, moved by whole jobs and booted.

What was seen of each is written to the folder that ``HYPER2KVM_MATRIX_RESULTS`` names, from which
``python -m tests.e2e.matrix_table`` makes the documentation's table.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import time
import typing as t

import pytest

from tests.e2e.kernels import debian_kernel
from tests.e2e.migration import PATIENCE_SECONDS, ConversionHost, changes_left, completed, failed, job
from tests.guests import build
from tests.guests.matrix import COVER, FACTORS, MATRIX
from tests.guests.specs import ServerSpec
from tests.guests.volumes import PASSPHRASE
from tests.tools.machine import sha256

#: Without a conversion none of these boots; each is the first of the matrix with its kind of initramfs that gets as
#: far: UEFI does not even find a loader without the firmware's own settings.
_UNCONVERTED = {
    tool: next(n for n, spec in MATRIX.items() if (spec.initramfs_tool, spec.firmware) == (tool, "bios"))
    for tool in FACTORS["initramfs"]
}

Source = t.Callable[[pathlib.Path], dict[str, t.Any]]
"""Puts the disks in a server's folder into the input root; a job's ``source``."""


@pytest.fixture
def source(host: ConversionHost, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Gives the worker what it needs for servers of the matrix."""
    secret = tmp_path / "secrets/vm/disk"
    secret.parent.mkdir(parents=True)
    secret.write_text(PASSPHRASE, encoding="utf-8")
    monkeypatch.setenv("HYPER2KVM_SECRETS_ROOT", str(tmp_path / "secrets"))
    monkeypatch.setenv("HYPER2KVM_MICROVM_KERNEL", str(debian_kernel().tree))

    def add(folder: pathlib.Path) -> dict[str, t.Any]:
        disks = [host.add(disk, disk.name) for disk in sorted(folder.glob("disk*.vmdk"))]
        document: dict[str, t.Any] = {"type": "vmdk", "disks": [{"path": disk.name} for disk in disks]}
        volumes = json.loads((folder / "guest.json").read_text(encoding="utf-8"))["volumes"]
        if volumes["luks_uuid"]:
            document["keys"] = [{"secret": {"name": "vm", "key": "disk"}, "device": volumes["luks_uuid"]}]
        return document

    return add


def _job(spec: ServerSpec, source: dict[str, t.Any], **guest: t.Any) -> dict[str, t.Any]:
    document = job(
        spec.name,
        "",
        guest={"network": {"macs": [spec.mac]}, **guest},
        verify={"rehearse": "never", "timeoutSeconds": PATIENCE_SECONDS},
    )
    document["spec"]["source"] = source
    if spec.storage != "plain":
        # The map of what volumes use takes a further micro-VM; tests/e2e/test_volumes.py has it.
        document["spec"]["target"] = {"contents": "all"}
    return document


def _expected_mounts(spec: ServerSpec) -> dict[str, str]:
    """Filesystem types by mount point."""
    mounts = {"/": spec.filesystem}
    if spec.filesystem == "btrfs":
        mounts["/home"] = "btrfs"
    if spec.firmware == "uefi":
        mounts["/boot/efi"] = "vfat"
    if spec.boot_partition:
        mounts["/boot"] = "ext4"
    return mounts


@pytest.mark.matrix
@pytest.mark.parametrize("name", MATRIX)
def test_a_server_is_moved_and_boots(name: str, host: ConversionHost, source: Source) -> None:
    spec = MATRIX[name]
    folder = build(name)
    known = json.loads((folder / "guest.json").read_text(encoding="utf-8"))
    wanted = source(folder)
    digests = [sha256(host.input / disk["path"]) for disk in wanted["disks"]]
    began = time.monotonic()
    (done,) = host.run(_job(spec, wanted))
    seconds = time.monotonic() - began
    _record(name, done, seconds, host, passed=False)
    completed(done)
    result = host.result(f"{name}/result.json")
    assert result["bootTest"]["verdict"] == "booted"
    assert result["hardware"]["firmware"] == spec.firmware
    facts = result["bootTest"]["facts"]
    assert facts["target"] == "graphical.target"
    assert facts["hostname"] == spec.hostname
    # The boot test's network gives it one of IPv6 as well.
    assert set(facts["addresses"]) == {"ens192"} and spec.address in facts["addresses"]["ens192"]
    assert facts["interfaces"]["ens192"] == {"mac": spec.mac, "driver": "virtio_net"}
    assert {disk["driver"] for disk in facts["disks"].values() if disk["driver"]} == {"virtio_blk"}
    mounts = {path: mount["type"] for path, mount in facts["mounts"].items()}
    assert mounts == _expected_mounts(spec)
    assert facts["root"] == known["root"].replace("/dev/sda", "/dev/vda")
    assert facts["failedUnits"] == [] and result["verdict"] == "boots", result["bootTest"]["warnings"]
    assert bool(facts["swaps"]) == bool(known["volumes"]["swap"])
    assert [sha256(host.input / disk["path"]) for disk in wanted["disks"]] == digests
    # A second conversion finds nothing to do.
    more = {"keys": wanted["keys"]} if "keys" in wanted else {}
    assert changes_left(host, result, **more) == []
    _record(name, done, seconds, host, passed=True)


@pytest.mark.matrix
@pytest.mark.parametrize("name", _UNCONVERTED.values(), ids=_UNCONVERTED)
def test_without_a_conversion_it_finds_no_disk(name: str, host: ConversionHost, source: Source) -> None:
    """Else the matrix would show nothing: the guest must be in want of what a conversion does."""
    (done,) = host.run(_job(MATRIX[name], source(build(name)), enabled=False))
    error = failed(done)
    assert (error["stage"], error["reason"]) == ("verify", "NoRootDevice"), error


def _record(name: str, done: dict[str, t.Any], seconds: float, host: ConversionHost, *, passed: bool) -> None:
    """Write down what became of it, where that is asked for."""
    place = os.environ.get("HYPER2KVM_MATRIX_RESULTS")
    if not place:
        return
    status = done["status"]
    path = host.output / name / "result.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    test = result.get("bootTest") or {}
    row = {
        "choice": COVER[name],
        "spec": dataclasses.asdict(MATRIX[name]),
        "passed": passed,
        "phase": status["phase"],
        "reason": (status.get("lastError") or {}).get("reason", ""),
        "verdict": result.get("verdict", ""),
        "failedUnits": test.get("facts", {}).get("failedUnits", []),
        "kernel": test.get("facts", {}).get("kernel", ""),
        "accelerator": test.get("accelerator", ""),
        "seconds": round(seconds, 1),
        "bootSeconds": test.get("seconds"),
        "stages": {stage["name"]: stage.get("seconds") for stage in status.get("stages", [])},
    }
    folder = pathlib.Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
