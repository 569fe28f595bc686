# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Storage that fails: full disks, roots that cannot be written, sources that cannot be read or that change."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import tarfile
import typing as t

from tests.e2e.migration import job
from tests.faults.content import compare
from tests.faults.faulty_host import STAGES, FaultyHost
from tests.guests import build
from tests.tools.machine import sha256, wait_for

TINY: dict[str, t.Any] = {"verify": {"boot": False}, "backoffLimit": 0}
MIB = 1024**2


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: int) -> t.Iterator[pathlib.Path]:
    """Mount an ext4 filesystem of ``size`` bytes at ``folder``."""
    image = folder.with_name(f"{folder.name}.small")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
        image.unlink()


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Leave no room on the disk of ``folder``; the file that takes it."""
    ballast = folder / "ballast"
    end, step = 0, 64 * MIB
    with ballast.open("wb") as file:
        while step >= 1024:
            try:
                os.posix_fallocate(file.fileno(), end, step)
                end += step
            except OSError:
                step //= 2
    return ballast


def test_a_full_output_is_told_and_freed(host: FaultyHost) -> None:
    host.add_guest("tiny")
    host.state = host.folder / "state"
    with small_disk(host.output, 16 * MIB):
        name = host.submit(job("tiny", "tiny.ova", **TINY))
        host.finish(status=1)
        error = host.failed(name)
        assert (error["class"], error["reason"], error["stage"]) == ("environment", "NoSpace", "copy")
        assert host.files() == set()
        # There is as much room as before for whoever needs it.
        assert os.statvfs(host.output).f_bavail * 4096 > 8 * MIB
    host.check_nothing_left()


def test_a_full_scratch_is_told(host: FaultyHost) -> None:
    host.add_guest("tiny")
    with small_disk(host.folder / "scratch", 256 * MIB) as scratch:
        name = host.submit(job("tiny", "tiny.ova", **TINY))
        worker = host.halt("inspect:begin", "--scratch", str(scratch))
        ballast = fill(scratch)
        host.go_on()
        assert worker.wait(120) == 1, host.log()
        error = host.failed(name)
        assert (error["class"], error["reason"], error["stage"]) == ("environment", "NoSpace", "inspect")
        assert {path.name for path in scratch.iterdir()} == {"ballast", "lost+found"}
        ballast.unlink()
        host.submit(job("tiny", "tiny.ova", **TINY))
        host.finish("--scratch", str(scratch))
        host.completed(name)
        assert {path.name for path in scratch.iterdir()} == {"lost+found"}
    host.check_nothing_left()


def test_a_worker_that_finds_its_scratch_full_says_what_it_cannot_do(host: FaultyHost) -> None:
    host.add_guest("tiny")
    with small_disk(host.folder / "scratch", 16 * MIB) as scratch:
        fill(scratch)
        name = host.submit(job("tiny", "tiny.ova", **TINY))
        host.finish("--scratch", str(scratch))
        assert host.job(name)["status"]["phase"] == "QUEUED"
        told = host.command("capabilities", "--state-dir", scratch)
    assert "No space left on device" in told
    assert "within their time" not in told


def test_a_queue_without_room_loses_no_job(host: FaultyHost) -> None:
    host.add_guest("tiny")
    host.state = host.folder / "state"
    scratch = host.folder / "scratch"
    with small_disk(host.state, 8 * MIB):
        name = host.submit(job("tiny", "tiny.ova", **TINY))
        worker = host.halt("fix:begin", "--scratch", str(scratch), "--lease-seconds", "6")
        ballast = fill(host.state)
        host.go_on()
        # The stage's end cannot be recorded, the lease cannot be renewed: the job stops, the worker lives.
        wait_for(lambda: "stopping all jobs" in host.log())
        assert worker.poll() is None
        refused = host.command("submit", host.folder / "tiny.json", "--state-dir", host.state, "--force", ok=False)
        assert "Traceback" not in refused
        ballast.unlink()
        assert worker.wait(120) == 0, host.log()
        host.completed(name)
        assert "Traceback" not in host.log()
        host.check_unharmed()
        assert host.started(name).count("inspect") == 1
    host.check_nothing_left()
    assert list(scratch.iterdir()) == []


def test_an_output_that_may_not_be_written_is_told(host: FaultyHost) -> None:
    host.add_guest("tiny")
    host.state = host.folder / "state"
    name = host.submit(job("tiny", "tiny.ova", **TINY))
    subprocess.run(["mount", "--bind", host.output, host.output], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", host.output], check=True)
        host.finish(status=1)
    finally:
        subprocess.run(["umount", host.output], check=True)
    error = host.failed(name)
    assert (error["class"], error["reason"]) == ("environment", "NotPermitted")
    assert str(host.output) in error["message"]
    host.command("delete", name, "--state-dir", host.state)
    host.finish()
    host.check_nothing_left()


def test_a_source_that_cannot_be_read_is_told_and_taken_up_when_it_can(host: FaultyHost) -> None:
    """A btrfs whose block does not fit its checksum answers a read with EIO, as a bad disk does."""
    place = host.input / "store"
    disk = build("tiny") / "disk.raw"
    block = _middle_block(disk)
    with _btrfs(place, 400 * MIB) as image:
        subprocess.run(["cp", "--sparse=always", disk, place / "tiny.raw"], check=True)
        with _unmounted(place, image):
            where = _find(image, block)
            _write(image, where, bytes(4096))
        document = job("tiny", "store/tiny.raw", **TINY)
        name = host.submit(document)
        host.finish(status=1)
        error = host.failed(name)
        assert (error["class"], error["reason"], error["stage"]) == ("transient", "ReadFailed", "copy")
        assert "tiny.raw" in error["message"]
        # What was done waits for whoever mends the disk, and for nothing else.
        assert len(host.work_folders()) == 1
        with _unmounted(place, image):
            _write(image, where, block)
        host.submit(document)
        host.finish()
        host.completed(name)
        assert host.started(name) == list(STAGES[STAGES.index("copy") :])
    host.check_nothing_left()


def test_a_source_that_changes_under_the_copy_is_noticed(host: FaultyHost) -> None:
    source = host.input / "tiny.raw"
    subprocess.run(["cp", "--sparse=always", build("tiny") / "disk.raw", source], check=True)
    name = host.submit(job("tiny", "tiny.raw", **TINY))
    worker = host.halt("copy:30")
    with source.open("r+b") as file:
        file.seek(300 * MIB)
        file.write(b"changed")
    host.go_on()
    assert worker.wait(120) == 1, host.log()
    error = host.failed(name)
    assert (error["class"], error["reason"], error["stage"]) == ("invalid", "SourceChanged", "copy")
    assert host.files() == set()
    host.check_nothing_left()


def test_a_source_that_changes_between_two_attempts_is_noticed(host: FaultyHost) -> None:
    source = host.input / "tiny.raw"
    subprocess.run(["cp", "--sparse=always", build("tiny") / "disk.raw", source], check=True)
    name = host.submit(job("tiny", "tiny.raw", **TINY))
    host.kill(host.halt("copy:30"))
    os.utime(source)
    host.finish(status=1)
    assert host.failed(name)["reason"] == "SourceChanged"
    host.check_nothing_left()


def test_a_copy_that_the_storage_changed_is_made_anew(host: FaultyHost) -> None:
    host.add_guest("tiny")
    spec = {"target": {"contents": "all"}, "guest": {"enabled": False}, "verify": {"boot": False}, "backoffLimit": 1}
    name = host.submit(job("tiny", "tiny.ova", **spec))
    worker = host.halt("verify:begin")
    [partial] = host.output.rglob("*.partial")
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 300M 64k", partial], check=True, capture_output=True)
    host.go_on()
    # The second attempt comes by there as well.
    wait_for(host.halted.exists)
    host.go_on()
    assert worker.wait(120) == 0, host.log()
    document = host.completed(name)
    assert [one["error"]["reason"] for one in document["status"]["attempts"] if "error" in one] == ["CopyDiffers"]
    assert host.started(name).count("copy") == 2
    assert host.started(name).count("inspect") == 1
    [target] = host.output.rglob("*.qcow2")
    compare(target, build("tiny") / "disk.raw")
    host.check_unharmed()
    host.check_nothing_left()


def test_a_truncated_vmdk_is_told(host: FaultyHost) -> None:
    with tarfile.open(build("tiny") / "tiny.ova") as archive:
        archive.extract("tiny-disk1.vmdk", host.input, filter="data")
    vmdk = host.input / "tiny-disk1.vmdk"
    os.truncate(vmdk, vmdk.stat().st_size // 2)
    name = host.submit(job("tiny", vmdk.name, **TINY))
    host.finish(status=1)
    error = host.failed(name)
    assert error["class"] == "invalid"
    assert vmdk.name in error["message"]
    assert host.files() == set()
    host.check_nothing_left()


def test_two_jobs_with_one_target_do_not_mix(host: FaultyHost) -> None:
    host.add_guest("tiny")
    target = {"target": {"path": "vm", "name": "vm"}}
    first = host.submit(job("first", "tiny.ova", **TINY, **target))
    worker = host.halt("first/copy:begin")
    second = host.submit(job("second", "tiny.ova", **TINY, **target))
    host.command("submit", host.folder / "second.json", "--wait", "--state-dir", host.state, ok=False)
    error = host.failed(second)
    assert (error["class"], error["reason"]) == ("invalid", "TargetInUse")
    host.go_on()
    assert worker.wait(120) == 1
    host.completed(first)
    host.check_nothing_left()


def test_what_another_job_published_meanwhile_is_not_replaced(host: FaultyHost) -> None:
    host.add_guest("tiny")
    first = host.submit(job("first", "tiny.ova", **TINY, target={"path": "vm", "name": "vm"}))
    host.kill(host.halt("verify:recorded"))
    host.command("suspend", first, "--state-dir", host.state)
    second = host.submit(job("second", "tiny.ova", **TINY, target={"path": "vm", "name": "vm"}))
    host.finish()
    host.completed(second)
    before = sha256(host.output / "vm/vm.qcow2"), host.result("vm/result.json")
    host.command("resume", first, "--state-dir", host.state)
    host.finish(status=1)
    error = host.failed(first)
    assert (error["reason"], error["stage"]) == ("TargetExists", "publish")
    assert before == (sha256(host.output / "vm/vm.qcow2"), host.result("vm/result.json"))
    host.check_nothing_left()


# -- helpers -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _btrfs(folder: pathlib.Path, size: int) -> t.Iterator[pathlib.Path]:
    """A btrfs with single metadata at ``folder``; gives the image that it lies on."""
    image = folder.parents[1] / "store.img"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.btrfs", "-q", "-K", "-d", "single", "-m", "single", image], check=True, capture_output=True)
    folder.mkdir()
    subprocess.run(["mount", "-o", "loop,max_inline=0", image, folder], check=True)
    try:
        yield image
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def _unmounted(folder: pathlib.Path, image: pathlib.Path) -> t.Iterator[None]:
    subprocess.run(["umount", folder], check=True)
    yield
    subprocess.run(["mount", "-o", "loop,max_inline=0", image, folder], check=True)


def _middle_block(disk: pathlib.Path) -> bytes:
    """4 KiB from the middle of the longest run of data: of a large file, which nothing but the copy reads."""
    with disk.open("rb") as file:
        runs, position = [], 0
        with contextlib.suppress(OSError):
            while True:
                begin = os.lseek(file.fileno(), position, os.SEEK_DATA)
                position = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                runs.append((position - begin, begin))
        length, begin = max(runs)
        return os.pread(file.fileno(), 4096, (begin + length // 2) // 4096 * 4096)


def _find(image: pathlib.Path, block: bytes) -> int:
    with image.open("rb") as file:
        position = 0
        while piece := file.read(MIB):
            for start in range(0, len(piece), 4096):
                if piece[start : start + 4096] == block:
                    return position + start
            position += len(piece)
    raise AssertionError("the block is not on the disk as it is")


def _write(image: pathlib.Path, where: int, block: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(where)
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
