# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian servers whose root lies in volumes, moved by whole jobs on a host that has no device-mapper, and booted."""

from __future__ import annotations

import json
import pathlib
import typing as t

import pytest

from tests.e2e.kernels import debian_kernel
from tests.e2e.migration import PATIENCE_SECONDS, ConversionHost, completed, failed, job
from tests.guests import build
from tests.guests.specs import SPECS, ServerSpec
from tests.guests.volumes import PASSPHRASE
from tests.tools.luks_files import CLEVIS, CLEVIS_MARK, TPM2, add_tokens, container, luksmeta
from tests.tools.machine import sha256


def _job(name: str, source: dict[str, t.Any], **spec: t.Any) -> dict[str, t.Any]:
    """A job whose source is several disks."""
    document = job(name, "", **spec)
    document["spec"]["source"] = source
    return document


@pytest.mark.parametrize(
    "name",
    [
        "debian12-lvm",
        pytest.param("debian12-luks", marks=pytest.mark.matrix),
        pytest.param("debian12-raid", marks=pytest.mark.matrix),
    ],
)
def test_a_guest_in_volumes_is_moved_and_boots(
    name: str, host: ConversionHost, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    assert isinstance(spec, ServerSpec)
    folder = build(name)
    volumes = json.loads((folder / "guest.json").read_text(encoding="utf-8"))["volumes"]
    secret = tmp_path / "secrets/vm/disk"
    secret.parent.mkdir(parents=True)
    secret.write_text(f"{PASSPHRASE}\n", encoding="utf-8")
    monkeypatch.setenv("HYPER2KVM_SECRETS_ROOT", str(tmp_path / "secrets"))
    monkeypatch.setenv("HYPER2KVM_MICROVM_KERNEL", str(debian_kernel().tree))
    disks = [host.add(disk, f"{name}-{disk.name}") for disk in sorted(folder.glob("disk*.vmdk"))]
    assert len(disks) == spec.disks
    digests = [sha256(disk) for disk in disks]
    source: dict[str, t.Any] = {"type": "vmdk", "disks": [{"path": disk.name} for disk in disks]}
    if volumes["luks_uuid"]:
        source["keys"] = [{"secret": {"name": "vm", "key": "disk"}, "device": volumes["luks_uuid"]}]
    verify = {"rehearse": "never", "timeoutSeconds": PATIENCE_SECONDS}
    (done,) = host.run(_job(name, source, verify=verify))
    completed(done)
    result = host.result(f"{name}/result.json")
    assert result["verdict"] in ("boots", "boots-with-warnings")
    facts = result["bootTest"]["facts"]
    assert facts["target"] and facts["root"] == volumes["root"]
    assert {disk["driver"] for disk in facts["disks"].values() if disk["driver"]} == {"virtio_blk"}
    assert not facts["failedUnits"]
    assert result["guest"]["root"]["volume"]["kind"] == {"luks-lvm": "lvm"}.get(spec.storage, spec.storage)
    # What is free in the volumes was not read: of 1.2 GiB of root some 0.7 are used.
    read = sum(disk["bytesRead"] for disk in result["disks"])
    assert read < sum(disk["virtualSizeBytes"] for disk in result["disks"]) * 3 // 4
    assert [sha256(disk) for disk in disks] == digests
    told = [path for path in host.output.rglob("*") if path.is_file() and path.suffix not in (".qcow2", ".partial")]
    assert told and not any(PASSPHRASE.encode() in path.read_bytes() for path in told)


def test_a_job_waits_for_a_worker_that_can_open_its_guest(
    host: ConversionHost, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a device-mapper and without a kernel for a micro-VM; nothing is copied, and the reason is shown."""
    folder = build("debian12-lvm")
    disks = [host.add(disk, disk.name) for disk in sorted(folder.glob("disk*.vmdk"))]
    monkeypatch.setenv("HYPER2KVM_MICROVM_KERNEL", str(tmp_path))
    source: dict[str, t.Any] = {"type": "vmdk", "disks": [{"path": disk.name} for disk in disks]}
    (left,) = host.run(_job("lvm", source))
    assert left["status"]["phase"] == "QUEUED", left["status"]
    error = left["status"]["lastError"]
    assert error["reason"] == "NoDeviceMapper" and error["needs"] == ["guest-volumes"]
    assert "micro-VM" in error["message"]
    host.command("run", "--once", ok=False)
    assert len(host.jobs()["lvm"]["status"]["attempts"]) == 1, "a worker without it took the job"
    assert not host.files()


@pytest.mark.parametrize("kind", ["luks2", "luks1"])
def test_what_a_disk_is_bound_to_is_told_by_the_plan(kind: str, host: ConversionHost) -> None:
    """Of a disk of data that no key is given for: that the old machine opens it shows without opening it."""
    host.add(build("tiny") / "disk.raw", "system.raw")
    disk = container(host.input / "data.raw", kind)
    if kind == "luks2":
        add_tokens(disk, {**CLEVIS, "keyslots": ["0"]}, {**TPM2, "keyslots": ["0"]})
    else:
        luksmeta(disk, {0: CLEVIS_MARK})
    source = {"type": "raw", "disks": [{"path": "system.raw"}, {"path": "data.raw"}]}
    (done,) = host.run(_job("vm", source, operation="plan"))
    completed(done)
    told = [warning for warning in host.result("vm/plan.json")["warnings"] if "bound to the old machine" in warning]
    assert [warning.split(" is unlocked by ")[1].split(",")[0] for warning in told] == [
        f"{name} in its key slots 0" for name in (("clevis", "systemd-tpm2") if kind == "luks2" else ("clevis",))
    ]
    assert all(warning.startswith("disk1 (LUKS ") for warning in told)
    assert host.files() == {"vm/plan.json"}


def test_what_a_disk_is_bound_to_is_told_of_a_guest_that_nobody_can_look_into(host: ConversionHost) -> None:
    disk = container(host.input / "vm.raw", "luks2")
    add_tokens(disk, {**TPM2, "keyslots": ["0"]})
    as_it_is = job("moved", "vm.raw", guest={"enabled": False}, verify={"boot": False})
    planned, moved = host.run(job("planned", "vm.raw", "plan"), as_it_is)
    completed(moved)
    (told,) = [one for one in host.result("moved/result.json")["warnings"] if "not looked into" in one]
    error = failed(planned)
    assert error["reason"] == "Encrypted"
    for text in (error["message"], told):
        assert "is unlocked by systemd-tpm2 in its key slots 0" in text


def test_isolation_by_a_machine_is_waited_for(host: ConversionHost, tmp_path: pathlib.Path) -> None:
    """A job that wants it is not begun where it cannot be had."""
    host.add(build("tiny") / "tiny.ova", "tiny.ova")
    (left,) = host.run(job("tiny", "tiny.ova", isolation="vm"))
    assert left["status"]["phase"] == "QUEUED" and not left["status"].get("attempts")


@pytest.mark.long
def test_isolation_by_a_machine(host: ConversionHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same changes as without it."""
    host.add(build("tiny") / "tiny.ova", "tiny.ova")
    monkeypatch.setenv("HYPER2KVM_MICROVM_KERNEL", str(debian_kernel().tree))
    isolated, plain = job("isolated", "tiny.ova", "plan", isolation="vm"), job("plain", "tiny.ova", "plan")
    for done in host.run(isolated, plain):
        completed(done)
    changes = [
        [
            (change["path"], change["fixer"], change.get("after"))
            for change in host.result(f"{name}/plan.json")["changes"]
        ]
        for name in ("isolated", "plain")
    ]
    assert changes[0] == changes[1] and changes[0]
