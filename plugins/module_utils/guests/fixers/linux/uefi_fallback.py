# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A loader at the place where firmware looks without being told: entries in NVRAM do not move with the disk.

Facts: UEFI specification 3.5.1.1 (the names), shim's README (it starts the grub<arch>.efi beside itself, unless a
fallback program lies there), GRUB's and systemd-boot's manuals.
"""

from __future__ import annotations

from ... import efi
from ...edits import Edits
from ...facts import GuestFacts
from ...paths import join, split
from ..base import FixRequest, Phase

_ARCHITECTURES = {"x86_64": "x64", "i686": "ia32", "aarch64": "aa64", "armv7l": "arm", "riscv64": "riscv64"}
_WHY = "the firmware's boot entries do not move with the disk; it looks for a loader here"


class UefiFallbackFixer:
    """Copies the guest's own loader, with shim and what shim starts, so that Secure Boot's chain stays whole."""

    name = "uefi-fallback"
    title = "A loader at UEFI's default place"
    phase = Phase.BOOT

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        esp = guest.bootloader.esp
        if request.firmware != "uefi":
            return
        if not esp:
            edits.warn("The guest boots by UEFI, but its EFI system partition was not found.")
            return
        suffix = _ARCHITECTURES.get(guest.arch, "x64")
        folder = efi.find(edits, esp, "EFI", "BOOT")
        fallback = efi.find(edits, folder, f"BOOT{suffix.upper()}.EFI")
        if edits.exists(fallback):
            return
        vendor = _vendor(guest, edits, esp)
        known = {split(path)[1].lower(): path for path in efi.loaders(edits, vendor)} if vendor else {}
        first = next(
            (known[n] for n in (f"shim{suffix}.efi", f"grub{suffix}.efi", f"systemd-boot{suffix}.efi") if n in known),
            "",
        )
        if not first:
            edits.warn(
                f"No loader was found on the EFI system partition that could be copied to {fallback}: without its "
                "firmware's own boot entry the guest will not start."
            )
            return
        edits.write(fallback, edits.read_bytes(first), why=_WHY)
        if split(first)[1].lower().startswith("shim"):
            for name in (f"grub{suffix}.efi", f"mm{suffix}.efi"):
                beside = efi.find(edits, folder, name)
                if name in known and not edits.exists(beside):
                    edits.write(join(folder, split(beside)[1]), edits.read_bytes(known[name]), why="shim starts it")


def _vendor(guest: GuestFacts, edits: Edits, esp: str) -> str:
    """Return the folder of the guest's own loader: named after the distribution, else the first."""
    found = efi.vendors(edits, esp)
    names = (guest.os_id, *guest.os_like, "redhat", "systemd")
    own = [path for name in names for path in found if split(path)[1].lower() == name]
    return next(iter(own + found), "")
