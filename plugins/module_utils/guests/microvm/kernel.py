# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Linux kernel that a micro-VM boots: found among what a distribution installed, never built here."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import typing as t

from ...protocol.errors import JobError, environment
from ..initramfs.codec import decompress, detect

#: What the machine cannot do without; each is a module or built in.
_INDISPENSABLE = ("virtio_pci", "virtio_blk", "virtio_console", "loop")
#: Where a kernel lies whose modules are those of a version, below the folder that stands for ``/``.
_IMAGES = ("boot/vmlinuz-{}", "lib/modules/{}/vmlinuz", "usr/lib/modules/{}/vmlinuz")
_MODULES = ("lib/modules", "usr/lib/modules")
# The header of a bzImage, and where it says that its compressed kernel lies (Linux: Documentation/arch/x86/boot.rst,
# protocol 2.08 and later).
_MAGIC, _VERSION, _SECTORS, _PAYLOAD = 0x202, 0x206, 0x1F1, 0x248
_VMLINUX_LIMIT = 512 * 1024**2
# The note with the entry point of a kernel that QEMU can start uncompressed (Xen: public/elfnote.h, 18).
_PVH_NOTE = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")


@dataclasses.dataclass(frozen=True)
class KernelFiles:
    """An installed kernel."""

    version: str
    """As ``uname -r`` says of it."""
    image: pathlib.Path
    modules: pathlib.Path
    """The folder with ``modules.dep``."""

    def has(self, module: str) -> bool:
        """Whether the kernel has a driver, as a module or built in."""
        return any(
            re.search(rf"(^|/){module}\.ko(\.\w+)?:?$", line.split(" ")[0]) is not None
            for index in ("modules.dep", "modules.builtin")
            for line in _lines(self.modules / index)
        )


def find_kernel(root: pathlib.Path) -> KernelFiles:
    """Return the kernel to boot: the one that runs here if it is there, else the newest.

    Args:
        root: what stands for ``/``: kernels are in its ``boot`` or ``lib/modules``.

    Raises:
        JobError: class ``environment``, there is none that could serve.
    """
    found = [kernel for kernel in _installed(root) if all(kernel.has(module) for module in _INDISPENSABLE)]
    if not found:
        raise no_kernel(root)
    return max(found, key=lambda kernel: (kernel.version == os.uname().release, _order(kernel.version)))


def no_kernel(root: pathlib.Path) -> JobError:
    """The error of a worker that has no kernel for a micro-VM."""
    return environment(
        "NoMicroVmKernel",
        f"There is no kernel with virtio drivers and its modules below {root} that a micro-VM could boot.",
        "Install a distribution's kernel on the worker (Debian: linux-image-amd64; EL: kernel-core and "
        "kernel-modules), or name a folder with boot/ and lib/modules/ by --microvm-kernel.",
    )


def uncompressed(kernel: KernelFiles) -> bytes | None:
    """Return the kernel as QEMU starts it without the seconds that an emulated processor takes to inflate it.

    None: its file is of another make, or the kernel cannot be started that way; the file itself serves then.

    Raises:
        OSError: the file cannot be read.
    """
    image = kernel.image.read_bytes()
    if image[_MAGIC : _MAGIC + 4] != b"HdrS" or int.from_bytes(image[_VERSION : _VERSION + 2], "little") < 0x208:
        return None
    begin = (image[_SECTORS] + 1) * 512 + int.from_bytes(image[_PAYLOAD : _PAYLOAD + 4], "little")
    payload = image[begin : begin + int.from_bytes(image[_PAYLOAD + 4 : _PAYLOAD + 8], "little")]
    compression = detect(payload[:16])
    if compression is None:
        return None
    try:
        plain = decompress(payload, compression, _VMLINUX_LIMIT)
    except JobError:
        return None
    return plain if plain.startswith(b"\x7fELF") and _PVH_NOTE.search(plain) else None


def _installed(root: pathlib.Path) -> t.Iterator[KernelFiles]:
    for folder in _MODULES:
        for modules in sorted((root / folder).glob("*/modules.dep")):
            version = modules.parent.name
            for pattern in _IMAGES:
                image = root / pattern.format(version)
                if image.is_file():
                    yield KernelFiles(version, image, modules.parent)
                    break


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _order(version: str) -> list[tuple[int, str]]:
    """5.9 comes before 5.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-zA-Z]+", version)]
