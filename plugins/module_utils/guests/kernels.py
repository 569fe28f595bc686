# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels that a guest can boot, found by their files and not by its package database.

Facts: the header of an x86 kernel (Documentation/arch/x86/boot.rst, kernel_version) tells its version; elsewhere, and
for kernels that have none, the file's name does.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing as t

from . import paths, pe
from .facts import BootEntry, Kernel
from .reading import Reading

_IMAGE = re.compile(r"^(?:vmlinu[xz]|kernel|[bI]mage|zImage|bzImage)(?:-(?P<version>.+))?$")
_NO_KERNEL = re.compile(r"\.(old|bak|orig|hmac|sig|dpkg-\w+|rpmsave|rpmnew|pre-v2v)$")
_MICROCODE = re.compile(r"(?:^|/)[^/]*ucode[^/]*$")
_MODULES = ("/usr/lib/modules", "/lib/modules")
_HEADER = 0x202
_VERSION_POINTER = 0x20E
_SETUP_LIMIT = 32 * 1024


@dataclasses.dataclass(frozen=True)
class _Candidate:
    image: str
    initramfs: str | None = None
    """None: it is looked for beside the kernel."""
    default: bool = False


def find_kernels(tree: Reading, entries: t.Sequence[BootEntry] = ()) -> tuple[Kernel, ...]:
    """Return the kernels whose image is there, newest first; one again for each further initramfs that it boots with.

    Args:
        tree: the guest.
        entries: the boot loader's menu.
    """
    folders = {name: f"{top}/{name}" for top in _MODULES for name in tree.names(top) if tree.is_dir(f"{top}/{name}")}
    found: dict[tuple[str, str], Kernel] = {}
    for candidate in _candidates(tree, entries, folders):
        if not tree.is_file(candidate.image):
            continue
        path = tree.resolve(candidate.image)
        folder, name = paths.split(path)
        if _is_unified(tree, path):
            version = _unified_version(tree, path) or name
            kernel = Kernel(version, path, "", folders.get(version, ""), candidate.default, unified=True)
        else:
            match = _IMAGE.match(name)
            suffix = (match["version"] if match else None) or _banner(tree, path) or paths.split(folder)[1]
            version = _version(tree, path, suffix, folders)
            # Red Hat's kernels lie beside their modules too; where /boot has a copy, that one is booted.
            beside = folder in folders.values() or folder.startswith(_MODULES)
            if beside and candidate.initramfs is None and any(k.version == version for k in found.values()):
                continue
            initramfs = candidate.initramfs
            if initramfs is None:
                if any(k.path == path for k in found.values()):
                    continue
                initramfs = "" if beside else _initramfs(tree, folder, suffix)
            kernel = Kernel(version, path, initramfs, folders.get(version, ""), candidate.default)
        known = found.get((kernel.path, kernel.initramfs))
        if known is None or kernel.default:
            found[kernel.path, kernel.initramfs] = kernel
    kernels = sorted(found.values(), key=lambda kernel: version_key(kernel.version), reverse=True)
    if kernels and not any(entry.default for entry in entries):
        kernels[0] = dataclasses.replace(kernels[0], default=True)
    return tuple(kernel for kernel in kernels if _bootable(kernel, kernels))


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Return what to sort versions by: numbers as numbers, 5.9 before 5.10."""
    parts = re.findall(r"\d+|[^\d.+~_-]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _candidates(tree: Reading, entries: t.Sequence[BootEntry], folders: dict[str, str]) -> t.Iterator[_Candidate]:
    for entry in entries:
        own = [path for path in entry.initramfs if not _MICROCODE.search(path)]
        # A boot loader's menu has other things too: a memory test, a chain loader.
        if (
            own
            or "root=" in entry.options
            or _IMAGE.match(paths.split(entry.kernel)[1])
            or _is_unified(tree, entry.kernel)
        ):
            yield _Candidate(entry.kernel, own[-1] if own else None, entry.default)
    for name in tree.names("/boot"):
        if _IMAGE.match(name) and not _NO_KERNEL.search(name):
            yield _Candidate(f"/boot/{name}")
    for folder in folders.values():
        yield _Candidate(f"{folder}/vmlinuz")


def _bootable(kernel: Kernel, kernels: list[Kernel]) -> bool:
    """Whether a kernel beside its modules counts: only where none elsewhere does."""
    return not kernel.path.startswith(_MODULES) or all(k.path.startswith(_MODULES) for k in kernels)


def _version(tree: Reading, path: str, suffix: str, folders: dict[str, str]) -> str:
    """Return the version of a kernel image; by its file name, in which Arch and Alpine name a flavour only."""
    if suffix in folders or re.match(r"\d+\.\d+", suffix):
        return suffix
    for version, folder in sorted(folders.items(), key=lambda item: version_key(item[0]), reverse=True):
        if tree.text(f"{folder}/pkgbase").strip() == suffix or version.endswith(f"-{suffix}"):
            return version
    return _banner(tree, path) or suffix


def _banner(tree: Reading, path: str) -> str:
    """Return the version that an x86 kernel's header tells; empty where it has none."""
    fd = tree.open_fd(path)
    try:
        setup = os.pread(fd, _SETUP_LIMIT, 0)
    finally:
        os.close(fd)
    if setup[_HEADER : _HEADER + 4] != b"HdrS":
        return ""
    at = int.from_bytes(setup[_VERSION_POINTER : _VERSION_POINTER + 2], "little") + 0x200
    words = setup[at : at + 200].split(b"\0")[0].decode("ascii", "replace").split()
    return words[0] if words and re.match(r"\d+\.\d+", words[0]) else ""


def _is_unified(tree: Reading, path: str) -> bool:
    return path.lower().endswith(".efi") and tree.is_file(path) and bool(_sections(tree, path))


def _unified_version(tree: Reading, path: str) -> str:
    return _sections(tree, path).get(".uname", b"").rstrip(b"\0").decode("ascii", "replace").strip()


def _sections(tree: Reading, path: str) -> dict[str, bytes]:
    fd = tree.open_fd(path)
    try:
        program = pe.read_program(fd)
        if program is None or ".linux" not in program.sections:
            return {}
        return {".linux": b"", ".uname": pe.section(fd, program, ".uname", 1024)}
    finally:
        os.close(fd)


def _initramfs(tree: Reading, folder: str, suffix: str) -> str:
    for name in (
        f"initrd.img-{suffix}",
        f"initramfs-{suffix}.img",
        f"initramfs-{suffix}",
        f"initrd-{suffix}",
        f"initrd-{suffix}.img",
        f"booster-{suffix}.img",
    ):
        if tree.is_file(paths.join(folder, name)):
            return tree.resolve(paths.join(folder, name))
    return ""
