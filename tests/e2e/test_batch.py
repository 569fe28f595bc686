# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks as users install them, with the real engine on real guests: a batch, a rehearsal, the way back."""

from __future__ import annotations

import collections.abc as c
import contextlib
import pathlib
import re
import subprocess
import typing as t

import pytest

from tests.e2e.migration import ConversionHost
from tests.e2e.playbooks import BOOTED, Inventory
from tests.guests import build
from tests.tools.machine import leftovers, sha256

MIGRATE = "hyper2kvm.core.migrate"
GOOD = [f"vm{number}" for number in range(8)]
BAD = ["blank", "nokernel"]


def ova(name: str) -> pathlib.Path:
    return build(name) / f"{name}.ova"


@pytest.fixture
def inventory(tmp_path: pathlib.Path, installed: pathlib.Path) -> Inventory:
    """An inventory without VMs, whose jobs the real engine does."""
    return Inventory(tmp_path, installed)


@pytest.mark.long
def test_a_batch_of_ten_with_two_bad_ones_is_run_until_all_are_moved(
    inventory: Inventory, host: ConversionHost
) -> None:
    for name in GOOD:
        inventory.add_export(name, ova("tiny"), hyper2kvm_verify_boot=name == "vm0")
    inventory.add_export("blank", ova("tiny-blank"))
    inventory.add_export("nokernel", ova("tiny-nokernel"))

    first = inventory.play(MIGRATE)

    assert first.status == 2, first.output
    for name in GOOD:
        assert "COMPLETED" in first.row(name)
        assert (first.recap(name)["changed"], first.recap(name)["failed"]) == (1, 0)
    assert re.search(BOOTED, first.row("vm0")) and "not verified" in first.row("vm1")
    for name in BAD:
        assert "FAILED" in first.row(name) and first.recap(name)["failed"] == 1
    assert re.search(r"^blank: BlankDisk: inspect: .* blank disk", first.output, re.MULTILINE), first.output
    assert re.search(r"^nokernel: NoKernel: verify: ", first.output, re.MULTILINE), first.output
    assert not [name for name in host.files() if name.startswith("blank/") or name.endswith((".partial", "el.qcow2"))]

    # Again: the two only.
    before, jobs = published(host), host.jobs()
    second = inventory.play(MIGRATE)
    again = host.jobs()
    assert second.status == 2
    for name in GOOD:
        assert "unchanged" in second.row(name) and second.recap(name)["changed"] == 0
        assert again[f"{name}-convert"] == jobs[f"{name}-convert"]
    for name in BAD:
        assert "FAILED" in second.row(name)
        assert again[f"{name}-convert"]["metadata"]["uid"] != jobs[f"{name}-convert"]["metadata"]["uid"]
    assert published(host) == before

    # Exported anew, these two are moved as well, and then there is nothing left to do.
    for name in BAD:
        inventory.add_export(name, ova("tiny"), hyper2kvm_verify_boot=False)
    third = inventory.play(MIGRATE)
    assert third.status == 0, third.output
    assert {name: third.recap(name)["changed"] for name in GOOD + BAD} == dict.fromkeys(GOOD, 0) | dict.fromkeys(BAD, 1)
    fourth = inventory.play(MIGRATE)
    assert fourth.status == 0
    assert all("unchanged" in fourth.row(name) and fourth.recap(name)["changed"] == 0 for name in GOOD + BAD)


def published(host: ConversionHost) -> dict[str, tuple[int, str]]:
    """Modification time and digest of everything that lies in the good VMs' folders."""
    paths = [host.output / name for name in host.files() if name.startswith("vm")]
    return {str(path): (path.stat().st_mtime_ns, sha256(path)) for path in paths}


def test_a_rehearsal_tells_what_boots_and_moves_nothing(inventory: Inventory, host: ConversionHost) -> None:
    inventory.add_export("web01", ova("tiny"))
    inventory.add_export("bad01", ova("tiny-nokernel"))
    inventory.add_export("bad02", ova("tiny-blank"))

    played = inventory.play("hyper2kvm.core.rehearse")

    assert played.status == 2, played.output
    assert re.search(rf"^web01 +boots +{BOOTED}", played.output, re.MULTILINE), played.output
    why, what = r"NoKernel: The boot loader found no kernel to load", r"Check that the guest's /boot"
    assert re.search(rf"^bad01 +will not boot +{why}.* +{what}", played.output, re.MULTILINE), played.output
    assert re.search(
        r"^bad02 +[a-z ]+ +BlankDisk: .* a blank disk.* Check that", played.output, re.MULTILINE
    ), played.output
    evidence = {"console.log", "screenshot.png"}
    assert {pathlib.Path(name).name for name in host.files()} <= {"rehearse.json", *evidence}
    assert host.result("web01/rehearse.json")["rehearsal"]["verdict"] == "booted"
    host.end_workers()
    assert leftovers(inventory.folder) == []


def test_rollback_removes_targets_but_none_that_is_open_or_was_changed(
    inventory: Inventory, host: ConversionHost
) -> None:
    names = ("free", "open", "changed")
    for name in names:
        inventory.add_export(name, ova("tiny"), hyper2kvm_verify_boot=False)
    moved = inventory.play(MIGRATE)
    assert moved.status == 0, moved.output
    published = host.files()
    write(host.output / "changed/changed.qcow2")

    with running(host.output / "open/open.qcow2"):
        played = inventory.play("hyper2kvm.core.rollback")

    assert played.status == 2
    assert {name: (played.recap(name)["changed"], played.recap(name)["failed"]) for name in names} == {
        "free": (1, 0),
        "open": (0, 1),
        "changed": (0, 1),
    }
    assert "open.qcow2 is in use" in played.output and "Shut the VM down" in played.output
    assert "changed.qcow2 was changed since it was published" in played.output
    assert host.files() == {name for name in published if not name.startswith("free/")}
    assert (host.input / "free.ova").exists()

    # Once it is shut down, there is nothing against it.
    again = inventory.play("hyper2kvm.core.rollback", "--limit", "free,open")
    assert (again.status, again.recap("free")["changed"], again.recap("open")["changed"]) == (0, 0, 1), again.output
    assert host.files() == {name for name in published if name.startswith("changed/")}


def write(image: pathlib.Path) -> None:
    """Change one byte of a published disk, as a VM does that was started once."""
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 512", image], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def running(image: pathlib.Path) -> c.Iterator[None]:
    """Hold a disk open as QEMU does while the VM runs."""
    process = subprocess.Popen(["qemu-io", "-f", "qcow2", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stdin, stdout = t.cast("t.IO[bytes]", process.stdin), t.cast("t.IO[bytes]", process.stdout)
    try:
        stdin.write(b"length\n")
        stdin.flush()
        stdout.readline()  # It answers only when it has the image open.
        yield
    finally:
        process.communicate(b"quit\n")
