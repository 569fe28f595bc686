# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Virtio drivers, and no stale device names, for the initramfs of every kernel that can boot."""

from __future__ import annotations

import os

from ....protocol.errors import JobError, unsupported
from ...devices import Devices, stable_name
from ...edits import Edits
from ...facts import GuestFacts, Kernel
from ...initramfs import policy, segments, stale, virtio
from ...initramfs.additions import Additions
from ...initramfs.survey import Survey, driver_places, survey
from ...paths import printable
from ..base import FixRequest, Phase

_ELSEWHERE = "Boot the guest on its old platform, rebuild its initramfs with virtio drivers, and export it again."


class InitramfsFixer:
    """Appends an archive to each initramfs that lacks drivers; nothing is rebuilt, and no guest program is run.

    Comes last: copies of the guest's configuration inside follow what all others have planned.
    """

    name = "initramfs"
    title = "Virtio drivers in the initramfs"
    phase = Phase.INITRAMFS

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`. What is wrong with a kernel that is not the default one is a warning only.

        Raises:
            JobError: the default kernel's initramfs is damaged, loads drivers from a list that cannot be edited, or its
                kernel has no virtio drivers at all.
        """
        drivers: dict[str, None] = {}
        somebody_chooses = any(kernel.default for kernel in guest.kernels)
        seen: set[str] = set()
        for kernel in guest.kernels:
            if kernel.unified:
                continue
            path = edits.resolve(kernel.initramfs) if kernel.initramfs else ""
            if path in seen:
                continue
            if path:
                seen.add(path)
            try:
                if not path:
                    _check_bare(kernel, edits)
                    continue
                drivers.update(dict.fromkeys(_patch(kernel, path, guest, edits)))
            except JobError as error:
                if kernel.default or not somebody_chooses:
                    raise
                edits.warn(f"Kernel {kernel.version} will not boot on KVM. {error}")
        if drivers:
            policy.keep_drivers(edits, guest.initramfs_tool, list(drivers))


def _patch(kernel: Kernel, path: str, guest: GuestFacts, edits: Edits) -> tuple[str, ...]:
    """Plan one initramfs; return the drivers that it lacked."""
    found = survey(edits.tree, kernel.version, path, kernel.modules)
    root = found.initramfs.root
    _check(found, kernel, edits)
    additions = Additions(root)
    reasons = []
    if found.presence.missing:
        flat = found.loader in (virtio.Loader.NASH, virtio.Loader.BOOSTER)
        add = virtio.add_flat if flat else virtio.add_drivers
        added = add(additions, root, found.kernel, found.presence)
        if found.loader is virtio.Loader.LIST:
            virtio.add_to_list(additions, root, found.presence)
        reasons.append(f"drivers for virtio ({', '.join(added)})")
    copies = stale.refresh_copies(additions, root, list(edits.needed()), lambda name: _before_and_after(edits, name))
    renamed = stale.rename_devices(additions, root, lambda device: _stable(guest, device))
    if stale_files := [*copies, *renamed.files]:
        reasons.append(f"current copies of {', '.join(printable(f'/{name}') for name in stale_files)}")
    for device in sorted(set(renamed.unknown)):
        edits.warn(
            f"The initramfs of kernel {kernel.version} names {printable(device)}, which is none of the guest's "
            "filesystems; it may wait for it in vain."
        )
    archive = additions.archive()
    if archive is not None:
        _write(path, found, archive, "; ".join(reasons), edits)
    return found.presence.missing


def _check_bare(kernel: Kernel, edits: Edits) -> None:
    """Warn of a kernel that no initramfs was found for, unless it has the drivers built in."""
    places = driver_places(edits.tree, kernel.version, "", kernel.modules)
    if any(places[name] != "builtin" for name in virtio.INDISPENSABLE):
        edits.warn(
            f"No initramfs was found for kernel {kernel.version}, and it does not have all virtio drivers built in; "
            "if it boots without one, it will not find its disk on KVM."
        )


def _check(found: Survey, kernel: Kernel, edits: Edits) -> None:
    where = f"Kernel {printable(kernel.version)}"
    if not found.described:
        edits.warn(f"{where}: nothing tells whether it has virtio drivers; a boot test will.")
    elif found.presence.unknown:
        raise unsupported(
            "KernelWithoutVirtio",
            f"{where} has no {' and no '.join(found.presence.unknown)}, neither as a module nor built in.",
            "Install a kernel with virtio drivers in the guest, or give its disk another bus on the target.",
        )
    if found.presence.missing and found.loader is virtio.Loader.FIXED:
        raise unsupported(
            "InitramfsLoaderUnknown",
            f"{where}: nothing in its initramfs loads drivers by the device that is found, so that drivers added to it "
            f"would lie there unused.",
            _ELSEWHERE,
        )


def _write(path: str, found: Survey, archive: bytes, why: str, edits: Edits) -> None:
    packing = segments.choose(found.initramfs, found.decompressors)
    if segments.appendable(found.initramfs):
        edits.append(path, segments.appendix(found.initramfs, archive, packing), why)
        return
    fd = edits.open_fd(path)
    try:
        data = b"".join(segments.rewritten(fd, found.initramfs, archive, packing))
    finally:
        os.close(fd)
    edits.write(path, data, why=f"{why}; packed anew, because nothing can follow what the file ends with")


def _before_and_after(edits: Edits, path: str) -> tuple[bytes | None, bytes | None]:
    before = edits.tree.read_bytes(path) if edits.tree.is_file(path) else None
    return before, edits.read_bytes(path) if edits.is_file(path) else None


def _stable(guest: GuestFacts, device: str) -> str | None:
    """What a device name meant on the old machine, by a name that stays; fstab's word counts first."""
    meant = next((mount.filesystem for mount in guest.mounts if mount.spec == device), None)
    filesystem = meant or Devices(guest.filesystems).find(device)
    return stable_name(filesystem) if filesystem is not None else None
