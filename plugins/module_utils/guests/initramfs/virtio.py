# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtio drivers of an initramfs: which are missing, how it would load them, and what brings them in."""

from __future__ import annotations

import dataclasses
import enum
import posixpath
import re
import stat
import typing as t

from . import flat, index
from .additions import Additions
from .modules import Indexes, Kernel, module_name, suffix
from .rootfs import RootFs

#: What a root filesystem on a virtio disk needs, as far as the kernel has it. The bus and the block driver are
#: indispensable; the SCSI controller comes along, so that the machine may be given either kind of disk.
DISK_DRIVERS = ("virtio_pci", "virtio_blk", "virtio_scsi")
INDISPENSABLE = ("virtio_pci", "virtio_blk")
#: Only into an initramfs that drives network cards already: elsewhere the cards wait for the real root, where the
#: rules that name them are.
NETWORK_DRIVERS = ("virtio_net",)
#: For SCSI disks; a machine that booted from NVMe or IDE may have an initramfs without it.
SCSI_DISK = "sd_mod"


class Loader(enum.Enum):
    """What loads drivers within an initramfs."""

    ALIAS = "alias"
    """udev, mdev, nlplug-findfs: by the device's alias, so that the indexes suffice."""
    LIST = "list"
    """initramfs-tools without udev: the names in conf/modules."""
    NASH = "nash"
    """Red Hat's mkinitrd: a script that inserts files one after the other."""
    BOOSTER = "booster"
    """booster: by the device's alias, with lists of its own."""
    FIXED = "fixed"
    """A script or program that is not known, with names of its own; not patched."""


_ALIAS_LOADERS = re.compile(r"(?:.*/)?(?:udevd|systemd-udevd|mdev|mdevd|nlplug-findfs|busybox-mdev)")
_LIST = "conf/modules"
_FLAT_FOLDERS = {Loader.NASH: "lib", Loader.BOOSTER: "usr/lib/modules"}


def loader(root: RootFs) -> Loader:
    """Find what loads drivers in this initramfs."""
    if root.get(flat.BOOSTER_CONFIG) is not None:
        return Loader.BOOSTER
    for path, node in root.nodes.items():
        if node.type != stat.S_IFDIR and _ALIAS_LOADERS.fullmatch(path):
            return Loader.ALIAS
    for script in ("init", "linuxrc"):
        if b"modalias" in (root.read(script) or b"").lower():
            return Loader.ALIAS
    if flat.is_nash(root):
        return Loader.NASH
    return Loader.LIST if root.get("scripts/functions") is not None and root.get("conf") is not None else Loader.FIXED


@dataclasses.dataclass(frozen=True)
class Presence:
    """Where the drivers are that a virtio machine needs. Names have underscores."""

    folder: str
    """Where the initramfs has its modules, canonical (``usr/lib/modules/6.1.0-18-amd64``)."""
    modules: t.Mapping[str, str]
    """The modules inside: name to path relative to ``folder``."""
    builtin: frozenset[str]
    """Modules that are parts of the kernel, as far as the guest or the initramfs tells."""
    missing: tuple[str, ...]
    """Drivers that the kernel has as modules and the initramfs lacks; none where it has what is indispensable."""
    unknown: tuple[str, ...]
    """Indispensable drivers that the kernel has neither as modules nor built in."""


def presence(root: RootFs, version: str, kernel: Kernel) -> Presence:
    """Compare an initramfs with what its kernel offers."""
    folder = _FLAT_FOLDERS.get(loader(root)) or _modules_folder(root, version)
    inside = {name: path[len(folder) + 1 :] for path in root.below(folder) if (name := module_name(path))}
    builtin = kernel.builtin | {
        name
        for line in (root.read(f"{folder}/modules.builtin") or b"").decode("utf-8", "replace").splitlines()
        if (name := module_name(line.strip()))
    }
    wanted = [*DISK_DRIVERS, SCSI_DISK]
    if any("/drivers/net/" in f"/{path}" for path in inside.values()):
        wanted += NETWORK_DRIVERS
    absent = [name for name in wanted if name not in inside and name not in builtin]
    essential = [name for name in absent if name in INDISPENSABLE]
    return Presence(
        folder,
        inside,
        builtin,
        tuple(name for name in absent if name in kernel.paths) if essential else (),
        tuple(name for name in essential if name not in kernel.paths),
    )


def _modules_folder(root: RootFs, version: str) -> str:
    for name in (f"lib/modules/{version}", f"usr/lib/modules/{version}"):
        if (found := root.resolve(name)) is not None:
            return found
    parent = root.resolve("lib") or ("usr/lib" if root.resolve("usr/lib") is not None else "lib")
    return f"{parent}/modules/{version}"


def add_flat(additions: Additions, root: RootFs, kernel: Kernel, found: Presence) -> list[str]:
    """As :func:`add_drivers`, for :attr:`Loader.NASH` and :attr:`Loader.BOOSTER`."""
    absent = [name for name in kernel.closure(found.missing) if name not in found.modules]
    names = flat.load_order(kernel, absent)
    add = flat.add_to_booster if loader(root) is Loader.BOOSTER else flat.add_to_nash
    add(additions, root, kernel, found.folder, names)
    return names


def add_drivers(additions: Additions, root: RootFs, kernel: Kernel, found: Presence) -> list[str]:
    """Put the missing drivers, all that they depend on, and the merged indexes; return the modules' names.

    A module stays compressed where the initramfs holds modules compressed like it (so its loader inflates them); else
    it goes in decompressed. The indexes are the initramfs's own with lines for the new modules: complete ones from
    the guest would be twenty times as big, and may name modules by suffixes that the initramfs does not use.

    Raises:
        JobError: a module cannot be read or decompressed, or there is something in the way.
    """
    suffixes = {suffix(path) for path in found.modules.values()}
    closure = kernel.closure(found.missing)
    places = dict(found.modules)
    for name, path in closure.items():
        if name not in found.modules:
            keeps = suffix(path) in suffixes
            places[name] = path if keeps else path[: -len(suffix(path))] + ".ko"
            additions.put(posixpath.join(found.folder, places[name]), kernel.read(path, plain=not keeps))
    added = [name for name in closure if name not in found.modules]
    try:
        indexes = Indexes.read(lambda name: root.read(f"{found.folder}/{name}"))
    except index.CorruptIndexError:
        indexes = Indexes()
    if not indexes.dependencies:
        # An initramfs without (readable) indexes: describe what it holds anew.
        indexes = Indexes()
        added_or_held = [name for name in places if name in kernel.paths]
    else:
        added_or_held = added
    indexes.add(
        {places[name]: _needed(kernel, name, places) for name in added_or_held},
        kernel.lines_about("modules.alias", added_or_held),
        kernel.lines_about("modules.softdep", added_or_held),
    )
    for file_name, data in indexes.files().items():
        additions.put(posixpath.join(found.folder, file_name), data)
    return added


def _needed(kernel: Kernel, name: str, places: t.Mapping[str, str]) -> str:
    needed = (t.cast(str, module_name(path)) for path in kernel.dependencies[kernel.paths[name]])
    return " ".join(places[other] for other in needed if other in places)


def add_to_list(additions: Additions, root: RootFs, found: Presence) -> None:
    """Have initramfs-tools load the drivers by name (``conf/modules``), for an initramfs without udev."""
    listed = (root.read(_LIST) or b"").decode("utf-8", "surrogateescape")
    names = {line.split("#")[0].strip().replace("-", "_") for line in listed.splitlines()}
    wanted = [name for name in DISK_DRIVERS if name in found.modules or name in found.missing]
    lines = [name for name in wanted if name not in names]
    if lines:
        text = listed + ("" if not listed or listed.endswith("\n") else "\n") + "".join(f"{name}\n" for name in lines)
        additions.put(_LIST, text.encode("utf-8", "surrogateescape"))
