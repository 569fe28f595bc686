# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian's stock kernel and a static busybox, downloaded once: what a minimal guest boots from in two seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import lzma
import pathlib
import re
import shutil
import subprocess
import tempfile

_CACHE = pathlib.Path(__file__).resolve().parents[2] / ".cache" / "kernels"
#: Enough of the module tree for the drivers of virtio and of VMware's SCSI controller, and for a micro-VM, which opens
#: filesystems and volumes of all kinds.
_WANTED = (
    "./boot/*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/drivers/virtio/*",
    "./lib/modules/*/kernel/drivers/block/*",
    "./lib/modules/*/kernel/drivers/char/*.ko",
    "./lib/modules/*/kernel/drivers/md/*",
    "./lib/modules/*/kernel/drivers/scsi/*",
    "./lib/modules/*/kernel/drivers/net/*.ko",
    "./lib/modules/*/kernel/net/core/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/fs/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/arch/x86/crypto/*",
)


@dataclasses.dataclass(frozen=True)
class TestKernel:
    """One kernel, installed below ``tree`` as a guest has it."""

    __test__ = False

    version: str
    tree: pathlib.Path
    vmlinux: pathlib.Path
    """The kernel uncompressed: QEMU starts it without the seconds that an emulated processor takes to inflate it."""
    busybox: pathlib.Path


def debian_kernel() -> TestKernel:
    """Return the kernel that Debian's linux-image-amd64 stands for, and download it where it is not cached."""
    depends = _run("apt-cache", "depends", "linux-image-amd64").decode()
    found = re.search(r"Depends: (linux-image-(\S+))", depends)
    assert found is not None, depends
    package, version = found.groups()
    home = _CACHE / f"{package}-{hashlib.sha256(repr(_WANTED).encode()).hexdigest()[:8]}"
    if not home.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as fresh:
            _install(package, version, pathlib.Path(fresh))
            pathlib.Path(fresh, "done").rename(home)
    return TestKernel(version, home / "tree", home / "vmlinux", home / "busybox")


def _install(package: str, version: str, folder: pathlib.Path) -> None:
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, "busybox-static", cwd=folder)
    done, tree = folder / "done", folder / "done" / "tree"
    tree.mkdir(parents=True)
    (image,) = folder.glob("linux-image-*.deb")
    (busybox,) = folder.glob("busybox-static*.deb")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", image], stdout=subprocess.PIPE) as unpacked:
        subprocess.run(["tar", "-x", "-C", tree, "--wildcards", *_WANTED], stdin=unpacked.stdout, check=True)
    _run("depmod", "-b", str(tree), version)
    packed = (tree / "boot" / f"vmlinuz-{version}").read_bytes()
    (done / "vmlinux").write_bytes(lzma.LZMADecompressor().decompress(packed[packed.index(b"\xfd7zXZ\0") :]))
    _run("dpkg-deb", "-x", str(busybox), str(folder / "busybox"))
    shutil.copy(folder / "busybox" / "bin" / "busybox", done / "busybox")


def _run(*command: str, cwd: pathlib.Path | None = None) -> bytes:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, timeout=600).stdout


if __name__ == "__main__":
    print(debian_kernel().tree)
