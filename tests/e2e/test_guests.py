# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guests are what they are said to be: they boot on VMware's hardware and not on virtio. Needs root and QEMU."""

from __future__ import annotations

import collections.abc as c
import concurrent.futures
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import pytest

from tests.guests import build, package_tree
from tests.guests.host import REPOSITORY
from tests.guests.specs import SPECS, ServerSpec
from tests.guests.trees import DEBIAN
from tests.guests.vm import NO_ROOT_DEVICE, boot, started

BOOTING = [
    "debian12",
    *(pytest.param(name, marks=pytest.mark.long) for name in ("debian12-uefi", "debian12-btrfs", "tiny")),
]


def _variables(folder: pathlib.Path) -> pathlib.Path | None:
    variables = folder / "nvram.fd"
    return variables if variables.exists() else None


@pytest.mark.parametrize("name", BOOTING)
def test_a_guest_boots_with_the_hardware_that_vmware_gave_it_and_not_with_virtio(name: str) -> None:
    spec, folder = SPECS[name], build(name)

    def on_vmware() -> str:
        with started(spec, folder / "disk.raw", variables=_variables(folder)) as machine:
            screen = machine.wait_for(rf"{spec.hostname} login:")
            if spec.kind == "debian":
                assert machine.wait_for_ssh().startswith("SSH-2.0-")
            return screen

    def on_virtio() -> str:
        return boot(spec, folder / "disk.raw", NO_ROOT_DEVICE, hardware="virtio", variables=_variables(folder))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        vmware, virtio = pool.submit(on_vmware), pool.submit(on_virtio)
        screen = vmware.result()
        assert "login:" not in virtio.result()
    if spec.kind == "tiny":  # it has no ssh server, but shows its addresses
        assert f"inet {spec.address}" in screen and "ens192" in screen


def _read(name: str, path: str) -> str:
    """A file of a guest whose root is an ext4 filesystem in its first partition."""
    disk = f"{build(name) / 'disk.raw'}?offset={1024**2}"
    shown = subprocess.run(["debugfs", "-R", f"cat {path}", disk], check=True, capture_output=True, text=True)
    return shown.stdout


@pytest.mark.parametrize("name", ["debian12", "tiny"])
def test_a_guest_names_vmwares_devices_and_has_no_serial_console(name: str) -> None:
    grub = _read(name, "/boot/grub/grub.cfg")
    assert "root=/dev/sda1" in grub and "ttyS" not in grub
    assert "/dev/sda1 / ext4" in _read(name, "/etc/fstab")
    assert "GRUB_DISABLE_LINUX_UUID=true" in _read(name, "/etc/default/grub")
    assert "(hd0)\t/dev/sda" in _read(name, "/boot/grub/device.map")
    assert "iface ens192 inet static" in _read(name, "/etc/network/interfaces")
    assert "MODULES=list" in _read(name, "/etc/initramfs-tools/conf.d/driver-policy")
    assert "virtio" not in _read(name, "/etc/initramfs-tools/modules")


def test_the_demo_guest_resumes_from_a_device_name() -> None:
    assert _read("debian12", "/etc/initramfs-tools/conf.d/resume") == "RESUME=/dev/sda2\n"


def test_the_loader_of_the_uefi_guest_is_known_to_the_firmwares_variables_only() -> None:
    disk = build("debian12-uefi") / "disk.raw"
    command = ["mdir", "-b", "-/", "-i", f"{disk}@@{1024**2}", "::"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line for line in shown.stdout.split() if not line.endswith("/")] == ["::/EFI/debian/grubx64.efi"]


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if not isinstance(spec, ServerSpec)])
def test_the_ova_holds_the_disk(name: str) -> None:
    folder = build(name)
    ova = folder / f"{name}.ova"
    with tarfile.open(ova) as archive:
        (vmdk,) = (member for member in archive if member.name.endswith(".vmdk"))
    file = {"driver": "raw", "offset": vmdk.offset_data, "size": vmdk.size, "file.filename": str(ova)}
    image = "json:" + json.dumps({"driver": "vmdk", "file": {**file, "file.driver": "file"}})
    subprocess.run(["qemu-img", "compare", "-F", "raw", image, folder / "disk.raw"], check=True, capture_output=True)


def _command(name: str, cache: pathlib.Path) -> list[str]:
    return [sys.executable, "-m", "tests.guests", "build", name, "--cache", str(cache)]


def test_two_builders_at_once_make_one_guest(tmp_path: pathlib.Path) -> None:
    both = [subprocess.Popen(_command("tiny-blank", tmp_path), cwd=REPOSITORY) for dummy in range(2)]

    assert [process.wait() for process in both] == [0, 0]

    (entry,) = tmp_path.glob("tiny-blank-*")
    made = (entry / "tiny-blank.ova").stat().st_mtime_ns
    subprocess.run(_command("tiny-blank", tmp_path), cwd=REPOSITORY, check=True)
    assert (entry / "tiny-blank.ova").stat().st_mtime_ns == made


def _behind_loops(folder: pathlib.Path) -> list[str]:
    found = []
    for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append(backing.read_text(encoding="utf-8"))
    return [path for path in found if path.startswith(str(folder))]


def _working_in(folder: pathlib.Path) -> list[str]:
    found = []
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(command.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


def _wait_until(what: str, condition: c.Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@pytest.mark.long
def test_a_builder_that_is_killed_leaves_nothing_and_is_followed_by_another(tmp_path: pathlib.Path) -> None:
    packages = package_tree(DEBIAN)
    (tmp_path / packages.name).symlink_to(packages)
    builder = subprocess.Popen(_command("tiny", tmp_path), cwd=REPOSITORY)
    _wait_until("the guest's disk is mounted", lambda: bool(_behind_loops(tmp_path)))

    builder.send_signal(signal.SIGKILL)
    builder.wait()

    _wait_until("no loop device is left", lambda: not _behind_loops(tmp_path), 30)
    _wait_until("no process is left", lambda: not _working_in(tmp_path), 30)
    assert not list(tmp_path.glob("tiny-*"))
    assert str(tmp_path) not in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    subprocess.run(_command("tiny", tmp_path), cwd=REPOSITORY, check=True)
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {".tiny.lock", "tiny", "tree"}
    assert not _behind_loops(tmp_path)
