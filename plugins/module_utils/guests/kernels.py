# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels that a guest can boot, found by their files and not by its package database."""

from __future__ import annotations

import dataclasses
import re

from . import paths
from .facts import Kernel
from .reading import Reading

_IMAGE = re.compile(r"^(?:vmlinu[xz]|kernel|[bI]mage|zImage|bzImage)(?:-(?P<version>.+))?$")
_NO_KERNEL = re.compile(r"\.(old|bak|orig|hmac|sig|dpkg-\w+|rpmsave|rpmnew|pre-v2v)$")
_MODULES = ("/usr/lib/modules", "/lib/modules")


def find_kernels(tree: Reading, default: str = "") -> tuple[Kernel, ...]:
    """Return the kernels whose image is there, newest first.

    Args:
        tree: the guest.
        default: file name of the one that is booted by default.
    """
    folders = {name: f"{top}/{name}" for top in _MODULES for name in tree.names(top) if tree.is_dir(f"{top}/{name}")}
    found: dict[str, Kernel] = {}
    images = [f"/boot/{name}" for name in tree.names("/boot") if _IMAGE.match(name) and not _NO_KERNEL.search(name)]
    # Red Hat's kernels lie beside their modules too; where /boot has a copy, that one is booted.
    images += [f"{folder}/vmlinuz" for folder in folders.values()]
    default_path = ""
    for image in images:
        path = tree.resolve(image)
        if not tree.is_file(path):
            continue
        if paths.split(image)[1] == default:
            default_path = path
        folder, name = paths.split(path)
        match = _IMAGE.match(name)
        suffix = (match["version"] if match else None) or paths.split(folder)[1]
        version = _version(tree, suffix, folders)
        beside = not path.startswith("/boot/")
        if path in found or (beside and any(k.version == version for k in found.values())):
            continue
        initramfs = "" if beside else _initramfs(tree, folder, suffix)
        found[path] = Kernel(version, path, initramfs, folders.get(version, ""))
    kernels = sorted(found.values(), key=lambda kernel: version_key(kernel.version), reverse=True)
    booted = [k for k in kernels if k.path == default_path] or ([] if default else kernels[:1])
    return tuple(dataclasses.replace(k, default=k in booted) for k in kernels if _bootable(k, kernels))


def version_key(version: str) -> list[tuple[int, int, str]]:
    """Return what to sort versions by: numbers as numbers, 5.9 before 5.10."""
    parts = re.findall(r"\d+|[^\d.+~_-]+", version)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _bootable(kernel: Kernel, kernels: list[Kernel]) -> bool:
    """Whether a kernel beside its modules counts: only where none in /boot does."""
    return kernel.path.startswith("/boot/") or not any(k.path.startswith("/boot/") for k in kernels)


def _version(tree: Reading, suffix: str, folders: dict[str, str]) -> str:
    """Return the version of a kernel image by its file name; Arch and Alpine name a flavour there."""
    if suffix in folders or re.match(r"\d+\.\d+", suffix):
        return suffix
    for version, folder in sorted(folders.items(), key=lambda item: version_key(item[0]), reverse=True):
        if tree.text(f"{folder}/pkgbase").strip() == suffix or version.endswith(f"-{suffix}"):
            return version
    return suffix


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
