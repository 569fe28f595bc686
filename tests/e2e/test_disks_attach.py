# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attached disks: what arrives in the image, and what stays on the host. Needs root, FUSE and loop devices."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import loop
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import Attachment, attach, export_flat
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.commit import commit_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import DiskImage
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_overlay
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.source import open_source
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError

from tests.e2e.migration import REPOSITORY
from tests.tools.machine import text, wait_for

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2
LABEL = r'a "b\c'


def run(*command: str | pathlib.Path) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A disk with an ext4 and a swap partition."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    table = "label: gpt\nstart=1MiB, size=40MiB, type=L\nstart=41MiB, size=8MiB, type=S\n"
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True, stderr=subprocess.DEVNULL)
    run("mkfs.ext4", "-q", "-L", LABEL, "-E", f"offset={MIB}", path, "40960k")
    swap = path.with_name("swap")
    swap.touch()
    os.truncate(swap, 8 * MIB)
    run("mkswap", "-q", swap)
    with path.open("r+b") as file:
        file.seek(41 * MIB)
        file.write(swap.read_bytes())
    return path


@pytest.fixture
def image(raw: pathlib.Path, tmp_path: pathlib.Path) -> DiskImage:
    """The disk as a source: a streamOptimized VMDK."""
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, tmp_path / "disk.vmdk")
    return open_source(models.SourceSpec(path="disk.vmdk"), tmp_path).images[0]


@pytest.fixture
def overlay(image: DiskImage, tmp_path: pathlib.Path) -> pathlib.Path:
    create_overlay(tmp_path / "overlay.qcow2", image)
    return tmp_path / "overlay.qcow2"


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: pathlib.Path) -> t.Iterator[None]:
    """Whatever a test does: no loop device, mount or folder of its own is left."""
    yield
    assert ours(tmp_path) == []
    assert not list(tmp_path.glob("hyper2kvm-*"))


def ours(folder: pathlib.Path) -> list[str]:
    """Loop devices that lie in ``folder``, and processes in whose namespace something is mounted there."""
    found = [
        f"{backing.parents[1].name}: {path}"
        for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
        if str(folder) in (path := text(backing))
    ]
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        if str(folder) in text(process / "mountinfo"):
            found.append(f"process {process.name} has mounts: {text(process / 'comm').strip()}")
    return found


@contextlib.contextmanager
def mounted(attachment: Attachment, folder: pathlib.Path, name: str = "disk0") -> t.Iterator[pathlib.Path]:
    found, *_rest = [f for f in probe(attachment) if f.partition.disk == name]
    device = attachment.disks[name].partition_device(found.partition)
    place = folder / f"mnt-{name}"
    place.mkdir(exist_ok=True)
    run("mount", "-o", "nosuid,nodev", device, place)
    try:
        yield place
    finally:
        run("sync", "-f", place)
        run("umount", place)


def test_what_is_seen(overlay: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with attach({"disk0": overlay}, writable=False, workdir=tmp_path) as attachment:
        ext4, swap = probe(attachment)
        assert (ext4.type, ext4.label, ext4.partition.number) == ("ext4", LABEL, 1)
        assert re.fullmatch(r"[0-9a-f-]{36}", ext4.uuid)
        assert (swap.type, swap.partition.start, swap.partition.size) == ("swap", 41 * MIB, 8 * MIB)
        device = attachment.disks["disk0"].partition_device(ext4.partition)
        assert device == attachment.disks["disk0"].partition_device(ext4.partition)
        assert device.is_block_device()
        with device.open("rb") as file:
            assert file.seek(0, os.SEEK_END) == 40 * MIB
        with pytest.raises(PermissionError), device.open("r+b", buffering=0) as file:
            file.write(b"x" * 512)


def test_a_source_is_attached_itself_and_never_for_writing(image: DiskImage, tmp_path: pathlib.Path) -> None:
    with attach({"disk0": image}, writable=False, workdir=tmp_path) as attachment:
        assert [f.type for f in probe(attachment)] == ["ext4", "swap"]
    with pytest.raises(ValueError), attach({"disk0": image}, writable=True, workdir=tmp_path):
        pass


def test_writes_arrive_in_the_overlay_and_by_commit_in_the_copy(
    raw: pathlib.Path, image: DiskImage, overlay: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = hashlib.sha256(image.path.read_bytes()).hexdigest()
    with (
        attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment,
        mounted(attachment, tmp_path) as place,
    ):
        (place / "file").write_bytes(b"new" * 100_000)
    assert hashlib.sha256(image.path.read_bytes()).hexdigest() == before
    for fmt in ("qcow2", "raw"):
        copy = tmp_path / f"copy.{fmt}"
        run("qemu-img", "convert", "-O", fmt, raw, copy)
        for _again in range(2):
            commit_overlay(overlay, copy, fmt)
        flat = DiskImage("disk0", copy, fmt, "", 64 * MIB)  # type: ignore[arg-type]
        with attach({"disk0": flat}, writable=False, workdir=tmp_path) as attachment:
            found, _swap = probe(attachment)
            device = attachment.disks["disk0"].partition_device(found.partition)
            out = subprocess.run(["debugfs", "-R", "cat /file", str(device)], capture_output=True, check=True)
            assert out.stdout == b"new" * 100_000


def test_attaching_is_fast(overlay: pathlib.Path, tmp_path: pathlib.Path) -> None:
    took = []
    for _round in range(3):
        began = time.monotonic()
        with attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment:
            attachment.disks["disk0"].partition_device(probe(attachment)[0].partition)
        took.append(time.monotonic() - began)
    assert min(took) < 0.5


def test_several_disks_at_once(image: DiskImage, tmp_path: pathlib.Path) -> None:
    layers = {}
    for number in range(3):
        layers[f"disk{number}"] = tmp_path / f"o{number}.qcow2"
        create_overlay(layers[f"disk{number}"], image)
    with attach(layers, writable=True, workdir=tmp_path) as attachment, contextlib.ExitStack() as stack:
        for name in layers:
            (stack.enter_context(mounted(attachment, tmp_path, name)) / name).write_text(name)
    for name, layer in layers.items():
        with (
            attach({name: layer}, writable=False, workdir=tmp_path) as attachment,
            mounted(attachment, tmp_path, name) as place,
        ):
            assert (place / name).read_text() == name


def test_jobs_side_by_side_do_not_disturb_each_other(image: DiskImage, tmp_path: pathlib.Path) -> None:
    def job(number: int) -> str:
        folder = tmp_path / f"job{number}"
        folder.mkdir()
        layer = folder / "overlay.qcow2"
        create_overlay(layer, image)
        for _round in range(4):
            with (
                attach({"disk0": layer}, writable=True, workdir=folder) as attachment,
                mounted(attachment, folder) as place,
                (place / "log").open("a") as file,
            ):
                file.write(f"{number}\n")
        with (
            attach({"disk0": layer}, writable=False, workdir=folder) as attachment,
            mounted(attachment, folder) as place,
        ):
            return (place / "log").read_text()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(job, range(4))) == [f"{number}\n" * 4 for number in range(4)]


def test_an_attachment_that_began_later_does_not_hold_an_earlier_one(
    image: DiskImage, overlay: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server's mount namespace began as a copy of ours, the first guest's mount in it."""
    monkeypatch.setattr(loop, "_RELEASE_TIMEOUT", 2.0)
    with contextlib.ExitStack() as second:
        with attach({"disk0": overlay}, writable=True, workdir=tmp_path) as first, mounted(first, tmp_path):
            later = second.enter_context(attach({"disk1": image}, writable=False, workdir=tmp_path))
        assert len(probe(later)) == 2


def test_an_error_inside_tears_everything_down(overlay: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment,
        mounted(attachment, tmp_path),
    ):
        raise RuntimeError("mine")


def test_a_killed_server_is_no_success(overlay: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Reads come from the page cache, umount and losetup return 0: only the closing order finds it out."""
    with pytest.raises(JobError) as caught, attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment:
        found, _swap = probe(attachment)
        device = attachment.disks["disk0"].partition_device(found.partition)
        with device.open("r+b", buffering=0) as file:
            file.seek(30 * MIB)
            file.write(b"lost" * 1024)
            server = _server_of(tmp_path)
            os.kill(server, signal.SIGKILL)
    assert caught.value.retryable


def test_a_filesystem_left_mounted_is_no_success(
    overlay: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_RELEASE_TIMEOUT", 1.0)
    place = tmp_path / "mnt"
    place.mkdir()
    try:
        with (
            pytest.raises(JobError, match="still in use"),
            attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment,
        ):
            found, _swap = probe(attachment)
            run("mount", attachment.disks["disk0"].partition_device(found.partition), place)
    finally:
        subprocess.run(["umount", str(place)], check=False)


def test_a_damaged_image_is_no_success(overlay: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught, attach({"disk0": overlay}, writable=True, workdir=tmp_path) as attachment:
        with attachment.disks["disk0"].device.open("r+b", buffering=0) as file:
            file.write(b"x" * 512)
            os.fsync(file.fileno())
        # The refcount block, behind QEMU's back.
        with overlay.open("r+b") as file:
            file.seek(0x20000)
            file.write(bytes(65536))
    assert caught.value.reason in ("ImageDamaged", "StorageDaemonRefused", "StorageDaemonLost")


@pytest.mark.parametrize("namespaces", [["--mount"], ["--mount", "--pid", "--fork"]], ids=" ".join)
@pytest.mark.parametrize("killed", ["leader", "group"])
def test_what_a_killed_process_leaves(
    overlay: pathlib.Path, tmp_path: pathlib.Path, namespaces: list[str], killed: str
) -> None:
    """In namespaces of its own, as jobs run: nothing at all, though a filesystem was mounted and written to."""
    program = f"""
import pathlib, subprocess, sys, time
from {attach.__module__} import attach
from {probe.__module__} import probe
folder = pathlib.Path(sys.argv[1])
with attach({{"disk0": folder / "overlay.qcow2"}}, writable=True, workdir=folder) as attachment:
    device = attachment.disks["disk0"].partition_device(probe(attachment)[0].partition)
    (folder / "mnt").mkdir()
    subprocess.run(["mount", device, folder / "mnt"], check=True)
    (folder / "mnt" / "file").write_bytes(b"x" * 1_000_000)
    print(device.name, flush=True)
    time.sleep(600)
"""
    child = subprocess.Popen(
        ["unshare", *namespaces, "--kill-child", "--propagation", "private", sys.executable, "-c", program, tmp_path],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / ".collections")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    device = pathlib.Path("/sys/block") / child.stdout.readline().strip()
    use = text(device / "diskseq")
    assert (device / "loop").exists() and any("qemu" in line for line in ours(tmp_path))
    (os.killpg if killed == "group" else os.kill)(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    def left() -> list[str]:
        # Once its server is gone, the device does not tell its file's name any more.
        same = (device / "loop").exists() and text(device / "diskseq") == use
        return [*ours(tmp_path), *([device.name] if same else [])]

    wait_for(lambda: not left())
    for folder in tmp_path.glob("hyper2kvm-*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_flat_export_has_the_image_s_holes(image: DiskImage, raw: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with export_flat(image, tmp_path) as flat, flat.open("rb") as file:
        assert file.read() == raw.read_bytes()
        assert os.lseek(file.fileno(), 50 * MIB, os.SEEK_DATA) > 60 * MIB


def _server_of(folder: pathlib.Path) -> int:
    """Who serves an image below ``folder``: the process of QEMU's that has it open."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        if text(process / "comm").strip().startswith(("qemu-storage", "qemu-nbd")):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(folder) in os.readlink(descriptor):
                        return int(process.name)
    raise AssertionError("no server found")
