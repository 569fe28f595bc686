# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables at the end of a run."""

from __future__ import annotations

import typing as t

from ansible_collections.hyper2kvm.core.plugins.plugin_utils.report import Outcome, outcome, report

RESULT = {
    "operation": "convert",
    "verdict": "boots",
    "seconds": 93.0,
    "disks": [
        {
            "source": "web01.ova",
            "target": "web01/web01.qcow2",
            "bytesRead": 363633664,
            "bytesWritten": 1071120384,
            "virtualSizeBytes": 8589934592,
        }
    ],
    "bootTest": {"verdict": "booted", "seconds": 14.2},
    "stages": [{"name": "inspect", "seconds": 0.6}, {"name": "copy", "seconds": 2.6}],
    "artifacts": [
        {"path": "web01/web01.qcow2", "kind": "disk"},
        {"path": "web01/web01.libvirt.xml", "kind": "libvirt"},
        {"path": "web01/convert-verify/console.log", "kind": "console"},
    ],
    "libvirtCommand": "virsh define web01.libvirt.xml && virsh start web01",
    "startCommand": "qemu-system-x86_64 -nographic",
    "warnings": ["The source was in use."],
    "notCarried": [],
}


def job(operation: str = "convert", phase: str = "COMPLETED", **result: t.Any) -> dict[str, t.Any]:
    """A job document."""
    return {
        "metadata": {"name": f"web01-{operation}"},
        "spec": {"operation": operation, "source": {"path": "web01.ova"}},
        "status": {"phase": phase, "result": {**RESULT, **result}},
    }


ERROR = {
    "class": "unsupported",
    "stage": "rehearse",
    "reason": "NoRootDevice",
    "message": "The guest does not find its root device.\nThe console's last lines:\nGave up",
    "suggestion": "Look at its initramfs.",
}


def text(*outcomes: Outcome | None) -> str:
    """The report as one text."""
    return "\n".join(report([one for one in outcomes if one is not None]))


def test_a_disk_on_a_device_is_told_by_its_own_path() -> None:
    artifacts = [{"path": "/dev/vg0/web01", "kind": "disk"}, {"path": "web01/web01.libvirt.xml", "kind": "libvirt"}]
    shown = text(outcome("web01", [{"changed": True, "job": job(artifacts=artifacts)}], check=False))
    assert "web01: artifacts /dev/vg0/web01, web01/web01.libvirt.xml, web01/result.json" in shown


def test_a_conversion_tells_everything() -> None:
    shown = text(outcome("web01", [{"changed": True, "job": job()}], check=False))
    row = next(line for line in shown.splitlines() if line.startswith("web01 "))
    words = "web01 COMPLETED web01.ova web01/web01.qcow2 346.8 MiB 1021.5 MiB booted in 14 s 1 min 33 s"
    assert " ".join(row.split()) == words
    assert "web01: inspect 0.6 s, copy 2.6 s" in shown
    assert "web01: artifacts web01/web01.qcow2, web01/web01.libvirt.xml, web01/result.json" in shown
    assert "web01: start it with libvirt and KVM: virsh define web01.libvirt.xml && virsh start web01" in shown
    assert "web01: start it with QEMU alone: qemu-system-x86_64 -nographic" in shown
    assert "web01: warning: The source was in use." in shown


def test_what_was_there_already_is_unchanged() -> None:
    assert " unchanged " in text(outcome("web01", [{"changed": False, "job": job()}, {"skipped": True}], check=False))


def test_a_failure_says_why_and_what_to_do() -> None:
    found = outcome(
        "db01", [{"changed": True, "job": job(phase="QUEUED")}, {"failed": True, "error": ERROR}], check=False
    )
    shown = text(found)
    assert "db01  FAILED" in shown and "start it with" not in shown
    assert "NoRootDevice: rehearse: The guest does not find its root device." in shown
    assert "Look at its initramfs." in shown
    assert found is not None and found.to_data()["phase"] == "FAILED"


def test_a_host_that_cannot_be_reached_has_failed() -> None:
    assert "ssh: no route" in text(outcome("db01", [{"unreachable": True, "msg": "ssh: no route"}], check=False))


def test_a_rehearsal_gives_a_verdict_in_one_line() -> None:
    good = outcome(
        "web01", [{"changed": True, "job": job("rehearse", warnings=[], rehearsal=RESULT["bootTest"])}], check=False
    )
    failed = {"failed": True, "error": ERROR, "job": job("rehearse", "FAILED", verdict="will-not-boot")}
    unknown = {**ERROR, "reason": "Encrypted", "message": "It is encrypted.", "suggestion": "Give the key."}
    odd = {"failed": True, "error": unknown, "job": job("rehearse", "FAILED", verdict="not-verified")}
    shown = text(good, outcome("db01", [failed], check=False), outcome("app01", [odd], check=False))
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert "boots" in rows["web01"] and "booted in 14 s" in rows["web01"]
    assert "will not boot" in rows["db01"] and "NoRootDevice: The guest does not find its root device." in rows["db01"]
    assert rows["db01"].endswith("Look at its initramfs.") and "Gave up" not in shown
    assert "cannot tell" in rows["app01"] and rows["app01"].endswith("Give the key.")


def test_a_check_counts_the_files_that_would_change() -> None:
    changes = [{"path": "/etc/fstab"}, {"path": "/etc/fstab"}, {"path": "/etc/default/grub"}]
    shown = text(outcome("web01", [{"changed": True, "job": job(phase="QUEUED", changes=changes)}], check=True))
    assert "would run" in shown and "web01: 2 files of the guest would change" in shown and "booted" not in shown


def test_a_host_that_did_nothing_has_no_row() -> None:
    assert outcome("web01", [], check=False) is None
    assert outcome("web01", [{"skipped": True}], check=False) is None


def test_a_job_that_was_only_looked_at_is_told_as_it_is() -> None:
    looked = {"changed": False, "jobs": [job()]}
    assert " COMPLETED " in text(outcome("web01", [looked], check=False))
    assert " COMPLETED " in text(outcome("web01", [looked], check=True))
    failed = job(phase="FAILED")
    failed["status"]["lastError"] = ERROR
    assert "NoRootDevice" in text(outcome("web01", [{"changed": False, "jobs": [failed]}], check=False))
    going = job(phase="PROGRESSING")
    del going["status"]["result"]
    row = next(
        line
        for line in text(outcome("web01", [{"changed": False, "jobs": [going]}], check=False)).splitlines()
        if line.startswith("web01 ")
    )
    assert row.split() == ["web01", "PROGRESSING", "web01.ova", "-", "-", "-", "-", "-"]
    assert " no job " in text(outcome("web01", [{"changed": False, "jobs": []}], check=False))


def test_an_inspection_shows_the_guest() -> None:
    inspected = job(
        "inspect",
        guest={"prettyName": "Debian GNU/Linux 12 (bookworm)", "firmware": "uefi"},
        hardware={"cpus": 2, "memoryBytes": 2147483648, "nics": [{}]},
    )
    shown = text(outcome("web01", [{"changed": True, "job": inspected}], check=False))
    assert "Debian GNU/Linux 12 (bookworm)" in shown and "uefi" in shown and "2.0 GiB" in shown and "8.0 GiB" in shown


def test_what_no_inspection_has_told_is_no_number() -> None:
    found = outcome("web01", [{"changed": True, "job": job("inspect", "QUEUED", disks=[])}], check=True)
    row = next(line for line in text(found).splitlines() if line.startswith("web01 "))
    assert row.split() == ["web01", "would", "run", *"------"]


def test_a_guest_cannot_speak_to_the_terminal() -> None:
    inspected = job("inspect", guest={"prettyName": "\x1b[2JDebian"}, hardware={})
    assert "\x1b" not in text(outcome("web01", [{"changed": True, "job": inspected}], check=False))


def test_a_vm_that_got_no_job_has_a_document_all_the_same() -> None:
    refused = outcome("web01", [{"failed": True, "msg": "spec.source.path is missing"}], check=False)
    assert refused is not None
    document = refused.document()
    assert document["metadata"] == {"name": "web01"}
    assert document["status"]["phase"] == "FAILED"
    assert document["status"]["lastError"]["message"] == "spec.source.path is missing"
    assert document["status"]["lastError"]["retryable"] is False


def test_a_failed_jobs_document_says_why() -> None:
    told = {"failed": True, "changed": True, "job": job(phase="FAILED"), "error": {**ERROR, "retryable": True}}
    failed = outcome("web01", [told], check=False)
    assert failed is not None
    document = failed.document()
    assert document["metadata"]["name"] == "web01-convert"
    assert document["status"]["lastError"] == {**ERROR, "retryable": True}
    assert document["status"]["result"]["verdict"] == "boots"


def test_a_job_that_was_not_waited_for_is_no_failure_in_a_report() -> None:
    told = {"failed": True, "job": job(phase="RUNNING"), "error": {**ERROR, "reason": "WaitTimeout"}}
    going = outcome("web01", [told], check=False)
    assert going is not None
    assert going.document()["status"]["phase"] == "RUNNING"


def test_a_job_that_was_done_and_then_looked_at_was_done() -> None:
    whole = {"changed": False, "jobs": [job()]}
    done = outcome("web01", [{"changed": False, "job": job()}, whole], check=False)
    assert done is not None
    assert done.word == "unchanged"
    looked = outcome("web01", [whole], check=False)
    assert looked is not None
    assert looked.word == "COMPLETED"
