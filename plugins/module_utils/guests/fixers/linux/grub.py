# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The root filesystem by UUID on every kernel's command line, in GRUB's, BLS, extlinux' and the guest's own files."""

from __future__ import annotations

import re

from ... import cmdline
from ...devices import Devices, is_unstable, stable_name
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_WHY = "device names change with the disk controller; UUIDs stay"
_DEVICE_MAPS = ("/boot/grub/device.map", "/boot/grub2/device.map")
# Settings with which grub-mkconfig would write device names again.
_NO_UUIDS = re.compile(r"^(\s*(?:export\s+)?(?:GRUB_DISABLE_LINUX_UUID|GRUB_DISABLE_UUID)=)(.*)$")
_SEARCH = re.compile(r"^\s*search(?:\.fs_uuid\s+(\S+)|\s.*--fs-uuid\b.*)")


class GrubFixer:
    """Edits as text what a boot loader reads, and the settings from which the guest would write it anew.

    Entries, their order, names and default stay; so do ``search --fs-uuid`` and hints, which do not depend on names.
    """

    name = "grub"
    title = "The root filesystem by UUID in the boot loader"
    phase = Phase.BOOT

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        devices = Devices(guest.filesystems)

        def root(device: str) -> str:
            if not is_unstable(device) or guest.root is None:
                return device
            named = devices.find(device)
            if named is not None and named != guest.root:
                edits.warn(f"The boot loader names {device} as the root; the operating system was found elsewhere.")
            return _root_name(guest) or device

        def other(device: str) -> str:
            found = devices.find(device) if is_unstable(device) else None
            if found is None and is_unstable(device):
                edits.warn(f"A kernel's command line names {device}, which is none of the partitions that were found.")
            return (stable_name(found) if found is not None else None) or device

        def change(line: str) -> str:
            line = cmdline.replace_devices(line, "(?:(?:real_)?root|rootpartition)", root)
            return cmdline.replace_devices(line, "(?:cryptdevice|journal_dev|fsck.root|crypt_root)", other)

        for path in cmdline.files(guest, edits):
            cmdline.edit(edits, path, change, _WHY)
            if path.startswith("/etc/default/"):
                cmdline.edit(edits, path, _allow_uuids, "the guest's update-grub would write device names again")
        self._device_maps(guest, edits)
        self._check_searches(guest, edits)

    def _device_maps(self, guest: GuestFacts, edits: Edits) -> None:
        for path in edits.files(*_DEVICE_MAPS):
            names = re.findall(r"(?m)^[ \t]*\([hf]d\d+\)[ \t]+(\S+)", edits.read_text(path))
            if guest.bootloader.kind == "grub2" and any(is_unstable(name) for name in names):
                # GRUB 2 finds disks by itself; a map of disks that are gone makes grub-install fail.
                edits.remove(path, "names disks of the old controller; GRUB 2 needs no device map")
            elif guest.bootloader.kind == "grub-legacy":
                text = re.sub(r"(?m)(\([h]d\d+\)\s+)/dev/[shv]d([a-z])\b", r"\1/dev/vd\2", edits.read_text(path))
                edits.write(path, text, why=_WHY)

    def _check_searches(self, guest: GuestFacts, edits: Edits) -> None:
        known = {f.uuid.lower() for f in guest.filesystems}
        for path in guest.bootloader.configs:
            for line in edits.text(path).splitlines():
                match = _SEARCH.match(line)
                uuid = (match[1] or line.split()[-1]).strip("'\"") if match else ""
                if re.fullmatch(r"[0-9a-fA-F-]{9,36}", uuid) and uuid.lower() not in known:
                    edits.warn(f"{path} searches for a filesystem with UUID {uuid}, which is on none of the disks.")


def _root_name(guest: GuestFacts) -> str | None:
    """A name of the root: a kernel without initramfs knows PARTUUID only (kernel: name_to_dev_t)."""
    if guest.root is None:
        raise AssertionError("guest.root is not None")
    bare = guest.kernels and not any(kernel.initramfs or kernel.unified for kernel in guest.kernels)
    if bare and guest.root.partition.partuuid:
        return f"PARTUUID={guest.root.partition.partuuid}"
    return stable_name(guest.root)


def _allow_uuids(line: str) -> str:
    match = _NO_UUIDS.match(line)
    return f"{match[1]}false" if match and match[2].strip("\"' ").lower() == "true" else line
