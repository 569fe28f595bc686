# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One kernel's initramfs as fixers and inspection ask for it: what is inside, what is missing, what can be unpacked."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
import typing as t
import weakref

from ...protocol.errors import JobError
from .. import pe
from ..facts import DriverPlace
from ..paths import printable
from . import segments, virtio
from .codec import Compression
from .modules import Files, Kernel

_CONFIG_LIMIT = 4 * 1024**2
_UNIFIED_LIMIT = 512 * 1024**2
_DECOMPRESSORS = {
    "CONFIG_RD_GZIP": Compression.GZIP,
    "CONFIG_RD_XZ": Compression.XZ,
    "CONFIG_RD_BZIP2": Compression.BZIP2,
}
_DRIVER_OPTIONS = {
    "CONFIG_VIRTIO_PCI": "virtio_pci",
    "CONFIG_VIRTIO_BLK": "virtio_blk",
    "CONFIG_SCSI_VIRTIO": "virtio_scsi",
    "CONFIG_VIRTIO_NET": "virtio_net",
    "CONFIG_BLK_DEV_SD": "sd_mod",
}
_TEXT_LIMIT = 64 * 1024
_INDEX_LIMIT = 16 * 1024**2
#: What is read of an initramfs: configuration, hooks that wait for devices, module indexes.
_TEXTS = re.compile(r"init|linuxrc|(?:etc|conf|cryptroot)/.*|scripts/functions|.*/hooks/.*\.sh")
_INDEXES = re.compile(
    r"(?:usr/)?lib/modules/[^/]+/modules\.(?:dep|alias|softdep|builtin)(?:\.bin)?|usr/lib/modules/booster\.alias"
)


class GuestFiles(Files, t.Protocol):
    """What is needed of a guest's tree."""

    def open_fd(self, path: str) -> int:
        """Open a regular file for reading."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was found."""

    initramfs: segments.Initramfs
    kernel: Kernel
    presence: virtio.Presence
    loader: virtio.Loader
    described: bool
    """Whether the guest has anything that tells what is built into the kernel, or comes as its modules."""
    decompressors: frozenset[Compression]
    """What the kernel unpacks, by its configuration, of what this package writes; empty where nothing tells."""


_SURVEYS: weakref.WeakKeyDictionary[GuestFiles, dict[tuple[t.Any, ...], Survey]] = weakref.WeakKeyDictionary()


def survey(files: GuestFiles, version: str, initramfs: str, modules: str) -> Survey:
    """Read one initramfs. Takes 0.1 to 0.5 s (zstd, lz4, gzip), up to 2 s for a big one in xz.

    The answer is kept as long as the guest is open and the file what it was: who inspects a guest plans its fixes next.

    Args:
        files: the guest as it is, planned changes left aside.
        version: the kernel's, as ``uname -r`` says it.
        initramfs: path of the file.
        modules: folder of the kernel's modules; empty where there is none.

    Raises:
        JobError: (invalid) the initramfs is damaged; (environment) the host lacks a program to unpack it.
    """
    fd = files.open_fd(initramfs)
    try:
        status = os.fstat(fd)
        key = (version, modules, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        surveys = _SURVEYS.setdefault(files, {})
        if key in surveys:
            return surveys[key]
        parsed = segments.parse(fd, _keep)
    except JobError as error:
        error.message = f"The initramfs {printable(initramfs)}: {error.message}"
        raise
    finally:
        os.close(fd)
    options = _options(files, version, modules)
    kernel = _kernel(files, modules, options)
    found = surveys[key] = Survey(
        parsed,
        kernel,
        virtio.presence(parsed.root, version, kernel),
        virtio.loader(parsed.root),
        bool(kernel.paths or kernel.builtin or options),
        frozenset(packing for option, packing in _DECOMPRESSORS.items() if options.get(option) == "y"),
    )
    return found


def driver_places(files: GuestFiles, version: str, initramfs: str, modules: str) -> dict[str, DriverPlace]:
    """Return where the drivers of virtio disks and network cards are; for a kernel that boots without an initramfs too.

    Takes and raises what :func:`survey` does; ``initramfs`` may be empty.
    """
    if initramfs:
        found = survey(files, version, initramfs, modules)
        kernel, inside = found.kernel, set(found.presence.modules)
        builtin = found.presence.builtin
    else:
        kernel, inside = _kernel(files, modules, _options(files, version, modules)), set()
        builtin = kernel.builtin
    places: dict[str, DriverPlace] = {}
    for name in (*virtio.DISK_DRIVERS, *virtio.NETWORK_DRIVERS):
        if name in builtin:
            places[name] = "builtin"
        elif name in inside:
            places[name] = "initramfs"
        else:
            places[name] = "module" if name in kernel.paths else "missing"
    return places


class _Embedded(GuestFiles):
    """A guest's files, with the initramfs of a unified kernel image in the image's place."""

    def __init__(self, files: GuestFiles, image: str, data: bytes) -> None:
        self._files, self._image, self._data = files, image, data

    def is_file(self, path: str) -> bool:
        return self._files.is_file(path)

    def read_bytes(self, path: str, limit: int = _CONFIG_LIMIT) -> bytes:
        return self._files.read_bytes(path, limit)

    def open_fd(self, path: str) -> int:
        if path != self._image:
            return self._files.open_fd(path)
        fd = os.memfd_create("initramfs", os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.write(self._data)
        return fd


def unified_driver_places(files: GuestFiles, version: str, image: str, modules: str) -> dict[str, DriverPlace]:
    """As :func:`driver_places`, of a unified kernel image, whose initramfs is a section of it."""
    fd = files.open_fd(image)
    try:
        program = pe.read_program(fd)
        data = pe.section(fd, program, ".initrd", _UNIFIED_LIMIT) if program is not None else b""
    finally:
        os.close(fd)
    return driver_places(_Embedded(files, image, data), version, image if data else "", modules)


def _kernel(files: GuestFiles, modules: str, options: t.Mapping[str, str]) -> Kernel:
    return Kernel(files, modules, {name for option, name in _DRIVER_OPTIONS.items() if options.get(option) == "y"})


def _keep(name: str, size: int) -> bool:
    if size > _TEXT_LIMIT:
        return size <= _INDEX_LIMIT and _INDEXES.fullmatch(name) is not None
    return _TEXTS.fullmatch(name) is not None or _INDEXES.fullmatch(name) is not None


def _options(files: GuestFiles, version: str, modules: str) -> dict[str, str]:
    """The kernel's build configuration, where the guest has it."""
    for path in (f"/boot/config-{version}", posixpath.join(modules or "/boot", "config")):
        if files.is_file(path):
            text = files.read_bytes(path, _CONFIG_LIMIT).decode("ascii", "replace")
            return dict(re.findall(r"^(CONFIG_\w+)=(\S+)$", text, re.MULTILINE))
    return {}
