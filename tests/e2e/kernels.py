# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian's stock kernels and a static busybox, downloaded once: what a minimal guest boots from in two seconds."""

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
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_MIRROR = "http://deb.debian.org/debian"
#: Debian's releases by the kernel that they came with.
RELEASES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
#: Enough of the module tree for the drivers of virtio and of VMware's SCSI controller, and for a micro-VM, which opens
#: filesystems and volumes of all kinds.
_WANTED = tuple(
    f"./{top}lib/modules/*/{name}"
    for top in ("", "usr/")
    for name in (
        "modules.*",
        "kernel/drivers/virtio/*",
        "kernel/drivers/block/*",
        "kernel/drivers/char/*.ko*",
        "kernel/drivers/md/*",
        "kernel/drivers/scsi/*",
        "kernel/drivers/net/*.ko*",
        "kernel/net/core/*",
        "kernel/net/9p/*",
        "kernel/crypto/*",
        "kernel/fs/*",
        "kernel/lib/*",
        "kernel/arch/x86/crypto/*",
    )
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


def debian_kernel(series: str = "6.1") -> TestKernel:
    """Return the kernel that linux-image-amd64 stands for in the release of this series.

    It is downloaded where it is not cached; a cached one serves until its folder is removed.
    """
    release = RELEASES[series]
    home = _CACHE / f"{release}-{hashlib.sha256(repr(_WANTED).encode()).hexdigest()[:8]}"
    if not home.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_CACHE) as fresh:
            _install(release, pathlib.Path(fresh))
            pathlib.Path(fresh, "done").rename(home)
    (modules,) = (home / "tree/lib/modules").iterdir()
    return TestKernel(modules.name, home / "tree", home / "vmlinux", home / "busybox")


def _install(release: str, folder: pathlib.Path) -> None:
    done, tree = folder / "done", folder / "done" / "tree"
    tree.mkdir(parents=True)
    options = _package_lists(release, folder)
    depends = _run("apt-cache", *options, "depends", "linux-image-amd64").decode()
    found = re.search(r"Depends: (linux-image-(\S+))", depends)
    assert found is not None, depends
    package, version = found.groups()
    _run("apt-get", "-qq", *options, "download", package, "busybox-static", cwd=folder)
    (image,) = folder.glob("linux-image-*.deb")
    (busybox,) = folder.glob("busybox-static*.deb")
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", image], stdout=subprocess.PIPE) as unpacked:
        # Not every release has each of these.
        subprocess.run(
            ["tar", "-x", "-C", tree, "--wildcards", "./boot/*", *_WANTED],
            stdin=unpacked.stdout,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    if (tree / "usr/lib").exists():
        (tree / "lib").symlink_to("usr/lib")
    _run("depmod", "-b", str(tree), version)
    packed = (tree / "boot" / f"vmlinuz-{version}").read_bytes()
    (done / "vmlinux").write_bytes(_unpacked(packed))
    _run("dpkg-deb", "-x", str(busybox), str(folder / "busybox"))
    (program,) = [path for path in folder.glob("busybox/**/bin/busybox") if path.is_file()]
    shutil.copy(program, done / "busybox")


def _package_lists(release: str, folder: pathlib.Path) -> list[str]:
    """Draw a release's package lists, apart from the host's own; return what makes apt use them."""
    (folder / "lists/partial").mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_MIRROR} {release} main\n")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", "-qq", *options, "update")
    return options


def _unpacked(image: bytes) -> bytes:
    """The kernel within a bzImage, which is packed in xz or zstd."""
    if (at := image.find(b"\xfd7zXZ\0")) >= 0:
        return lzma.LZMADecompressor().decompress(image[at:])
    at = image.index(b"\x28\xb5\x2f\xfd")
    # What follows the frame is no zstd any more, at which the program complains in the end.
    packed = image[at:]
    return subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True, check=False).stdout


def _run(*command: str, cwd: pathlib.Path | None = None) -> bytes:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, timeout=600).stdout


if __name__ == "__main__":
    for known in RELEASES:
        print(debian_kernel(known).tree)
