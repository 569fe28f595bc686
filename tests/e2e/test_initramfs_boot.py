# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Initramfs in every compression, patched by appending, booted: the kernel itself unpacks the result.

The guest is a kernel and busybox, whose ``init`` loads drivers by alias as udev and mdev do, and tells what it finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import os
import pathlib
import shutil
import subprocess

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.accelerator import probe_accelerator
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs import codec, modules, segments, virtio
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.initramfs.additions import Additions

from tests.e2e.kernels import RELEASES, TestKernel, debian_kernel

_INIT = """#!/bin/sh
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for bus in pci virtio; do
    modprobe -q -a $(cat /sys/bus/$bus/devices/*/modalias) 2>/dev/null
done
modprobe vmw_pvscsi
for try in 1 2 3 4 5 6 7 8 9 10; do test -b /dev/vda && break; usleep 100000; done
echo "REPORT vda=$(test -b /dev/vda && echo yes || echo no)" \
    "pvscsi=$(grep -q ^vmw_pvscsi /proc/modules && echo yes || echo no)" \
    "lib=$(readlink /lib) early=$(test -f /kernel/x86/microcode/GenuineIntel.bin && echo yes || echo no)" \
    "twin=$(md5sum < /etc/twin | cut -c -32) END"
reboot -f
"""
_APPLETS = (
    "sh",
    "mount",
    "cat",
    "find",
    "sort",
    "modprobe",
    "usleep",
    "echo",
    "test",
    "grep",
    "readlink",
    "reboot",
    "md5sum",
    "cut",
)
#: By accelerator. In emulation a kernel was seen to panic before it got to its initramfs, and well when booted again.
_TRIALS = {"kvm": 1, "tcg": 2}
_PACKERS = {
    "gzip": ("gzip", "-n"),
    "xz": ("xz", "--check=crc32", "-1"),
    "zstd": ("zstd", "-q", "-3"),
    "lz4": ("lz4", "-l", "-q"),
    "lzo": ("lzop", "-q"),
    "bzip2": ("bzip2",),
    "lzma": ("lzma", "-1"),
    "plain": ("cat",),
}


@dataclasses.dataclass(frozen=True)
class _Tree:
    root: pathlib.Path

    def is_file(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).is_file()

    def read_bytes(self, path: str, limit: int = 0) -> bytes:
        return (self.root / path.lstrip("/")).read_bytes()


@pytest.fixture(scope="module", params=RELEASES)
def kernel(request: pytest.FixtureRequest) -> TestKernel:
    return debian_kernel(request.param)


@pytest.fixture(scope="module")
def root(kernel: TestKernel, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An uncompressed initramfs as for VMware: its SCSI driver, indexes for that alone, ``lib`` a link."""
    root = tmp_path_factory.mktemp("initramfs")
    drivers = f"lib/modules/{kernel.version}/kernel/drivers/scsi"
    for folder in ("dev", "proc", "sys", "etc", "usr/bin", f"usr/{drivers}"):
        (root / folder).mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to("usr/bin" if name != "lib" else "usr/lib")
    shutil.copy(kernel.busybox, root / "usr/bin/busybox")
    for applet in _APPLETS:
        (root / "usr/bin" / applet).symlink_to("busybox")
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    for name in ("vmw_pvscsi", "scsi_mod", "scsi_common"):
        # Packed since Debian 13; 5.10 has no scsi_common.
        for module in (kernel.tree / drivers).glob(f"{name}.ko*"):
            data = module.read_bytes()
            (root / drivers / f"{name}.ko").write_bytes(lzma.decompress(data) if module.suffix == ".xz" else data)
    subprocess.run(["depmod", "-b", root, kernel.version], check=True, stderr=subprocess.DEVNULL)
    # dracut joins equal files: a second name of a file that gets new content must keep the old one.
    os.link(root / f"lib/modules/{kernel.version}/modules.alias", root / "etc/twin")
    return root


@pytest.fixture(scope="module")
def archive(root: pathlib.Path) -> bytes:
    return _cpio(root)


@pytest.fixture(scope="module")
def microcode(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An early archive, uncompressed, as microcode comes in front of an initramfs."""
    root = tmp_path_factory.mktemp("early")
    (root / "kernel/x86/microcode").mkdir(parents=True)
    (root / "kernel/x86/microcode/GenuineIntel.bin").write_bytes(b"no microcode" * 5)
    return _cpio(root)


def _cpio(root: pathlib.Path) -> bytes:
    names = b"\0".join(bytes(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    command = ["cpio", "-0", "-o", "-H", "newc", "-R", "0:0", "--quiet"]
    return subprocess.run(command, cwd=root, input=names, stdout=subprocess.PIPE, check=True).stdout


def _packed(archive: bytes, packer: str) -> bytes:
    return subprocess.run(
        [*_PACKERS[packer], "-c"][: None if packer != "plain" else 1], input=archive, stdout=subprocess.PIPE, check=True
    ).stdout


def _patched(path: pathlib.Path, kernel: TestKernel) -> bool:
    """Add virtio as the fixer does; whether there was anything to add."""
    supported = [codec.Compression.GZIP]
    with open(path, "r+b") as file:
        parsed = segments.parse(file.fileno(), lambda name, size: size < 65536)
        guest = modules.Kernel(_Tree(kernel.tree), f"/lib/modules/{kernel.version}")
        found = virtio.presence(parsed.root, kernel.version, guest)
        if not found.missing:
            return False
        additions = Additions(parsed.root)
        virtio.add_drivers(additions, parsed.root, guest, found)
        more = additions.archive()
        assert more is not None
        compression = segments.choose(parsed, supported)
        if segments.appendable(parsed):
            file.seek(0, os.SEEK_END)
            file.write(segments.appendix(parsed, more, compression))
        else:
            pieces = list(segments.rewritten(file.fileno(), parsed, more, compression))
            file.seek(0)
            file.truncate()
            file.writelines(pieces)
    return True


def _booted(initramfs: pathlib.Path, kernel: TestKernel) -> dict[str, str]:
    """Boot a machine with a virtio disk; return what its init reports."""
    accelerator = probe_accelerator()
    disk = initramfs.with_name("disk.raw")
    disk.write_bytes(bytes(1024**2))
    command = [
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-machine", f"q35,accel={accelerator.name}", "-cpu", accelerator.cpu, "-m", "512", "-serial", "stdio"),
        *("-kernel", str(kernel.vmlinux), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 loglevel=4 panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off nokaslr"),
        *("-blockdev", f"driver=file,filename={disk},node-name=disk,read-only=on"),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]
    for dummy in range(_TRIALS[accelerator.name]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=900, check=True)
        console = done.stdout.decode(errors="replace")
        reports = [line for line in console.splitlines() if "REPORT " in line and line.rstrip().endswith("END")]
        if reports:
            break
    assert len(reports) == 1, console[-3000:]
    words = reports[0].partition("REPORT ")[2].split()[:-1]
    return dict(word.split("=", 1) for word in words)


def test_without_the_archive_there_is_no_disk(archive: bytes, kernel: TestKernel, tmp_path: pathlib.Path) -> None:
    initramfs = tmp_path / "initrd.img"
    initramfs.write_bytes(_packed(archive, "gzip"))
    report = _booted(initramfs, kernel)
    assert report["vda"] == "no"
    assert report["pvscsi"] == "yes"


@pytest.mark.parametrize(
    ("packer", "early"),
    [
        pytest.param(packer, early, marks=() if early else pytest.mark.long)
        for packer in _PACKERS
        for early in (True, False)
    ],
)
def test_kernel_unpacks_what_was_appended(
    packer: str,
    early: bool,
    root: pathlib.Path,
    archive: bytes,
    microcode: bytes,
    kernel: TestKernel,
    tmp_path: pathlib.Path,
) -> None:
    initramfs = tmp_path / "initrd.img"
    initramfs.write_bytes((microcode if early else b"") + _packed(archive, packer))
    assert _patched(initramfs, kernel)
    report = _booted(initramfs, kernel)
    assert report == {
        "vda": "yes",
        "pvscsi": "yes",
        "lib": "usr/lib",
        "early": "yes" if early else "no",
        "twin": hashlib.md5((root / "etc/twin").read_bytes()).hexdigest(),
    }
    assert not _patched(initramfs, kernel), "the drivers just added were not recognised"
