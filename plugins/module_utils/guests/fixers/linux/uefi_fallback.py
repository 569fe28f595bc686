# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A loader at the place where firmware looks without being told: entries in NVRAM do not move with the disk.

Facts: UEFI specification 3.5.1.1 (the names), shim's README (it starts the grub<arch>.efi beside itself, unless a
fallback program lies there), GRUB's manual (an image holds the prefix under which it looks for its configuration),
systemd-boot's and rEFInd's manuals. SUSE's shim is shim.efi and starts grub.efi.
"""

from __future__ import annotations

import os

from ... import efi, pe
from ...edits import Edits
from ...facts import GuestFacts
from ...paths import join, split
from ..base import FixRequest, Phase

_ARCHITECTURES = {"x86_64": "x64", "i686": "ia32", "aarch64": "aa64", "armv7l": "arm", "riscv64": "riscv64"}
_LOADERS = (
    "shim{0}.efi",
    "shim.efi",
    "grub{0}.efi",
    "grub.efi",
    "systemd-boot{0}.efi",
    "refind_{0}.efi",
)
#: What shim starts, by names that it has built in.
_PARTNERS = ("grub{0}.efi", "grub.efi", "mm{0}.efi", "MokManager.efi")
_GRUB_LIMIT = 16 * 1024**2
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
        if not edits.exists(fallback):
            _copy_loader(guest, edits, folder, fallback, suffix)
        if request.secure_boot and edits.exists(fallback) and not _is_signed(edits, fallback):
            edits.warn(
                f"The VM enforces Secure Boot, and {fallback} carries no signature: its firmware will refuse it. "
                "Switch Secure Boot off for this VM, or sign the loader in the guest."
            )


def _copy_loader(guest: GuestFacts, edits: Edits, folder: str, fallback: str, suffix: str) -> None:
    vendor = _vendor(guest, edits, guest.bootloader.esp)
    known = {split(path)[1].lower(): path for path in efi.loaders(edits, vendor)} if vendor else {}
    first = next((known[n] for n in (name.format(suffix) for name in _LOADERS) if n in known), "")
    if not first:
        _copy_unified(guest, edits, fallback)
        return
    edits.write(fallback, edits.read_bytes(first), why=_WHY)
    loaders = [first]
    if split(first)[1].lower().startswith("shim"):
        for name in (partner.format(suffix) for partner in _PARTNERS):
            beside = efi.find(edits, folder, name)
            if name.lower() in known and not edits.exists(beside):
                loaders.append(known[name.lower()])
                edits.write(join(folder, split(beside)[1]), edits.read_bytes(loaders[-1]), why="shim starts it")
    _copy_configuration(edits, vendor, folder, loaders)


def _copy_configuration(edits: Edits, vendor: str, folder: str, loaders: list[str]) -> None:
    """Copy GRUB's own configuration from beside it, unless GRUB looks for it in the vendor's folder by name."""
    config = efi.find(edits, vendor, "grub.cfg")
    beside = efi.find(edits, folder, "grub.cfg")
    grub = [path for path in loaders if "grub" in split(path)[1].lower()]
    named = f"/efi/{split(vendor)[1]}".lower().encode()
    if not grub or not edits.is_file(config) or edits.exists(beside):
        return
    if any(named in edits.read_bytes(path, _GRUB_LIMIT).lower() for path in grub):
        return
    edits.write(beside, edits.read_bytes(config), why="GRUB looks for its configuration beside itself")


def _copy_unified(guest: GuestFacts, edits: Edits, fallback: str) -> None:
    kernel = next((k for k in guest.kernels if k.unified and k.default), None)
    if kernel is None:
        edits.warn(
            f"No loader was found on the EFI system partition that could be copied to {fallback}: without its "
            "firmware's own boot entry the guest will not start."
        )
        return
    edits.write(fallback, edits.read_bytes(kernel.path, 2**30), why=_WHY)
    edits.warn(
        f"The guest has no boot loader: its unified kernel {kernel.path} was copied to {fallback}. Once the guest "
        "runs, let it make a boot entry of its own (efibootmgr, bootctl install): the copy does not follow updates."
    )


def _vendor(guest: GuestFacts, edits: Edits, esp: str) -> str:
    """Return the folder of the guest's own loader: named after the distribution, else the first."""
    found = [path for path in efi.vendors(edits, esp) if split(path)[1].lower() != "linux"]
    names = (guest.os_id, *guest.os_like, "redhat", "systemd")
    own = [path for name in names for path in found if split(path)[1].lower() == name]
    return next(iter(own + found), "")


def _is_signed(edits: Edits, path: str) -> bool:
    fd = edits.open_fd(path)
    try:
        program = pe.read_program(fd)
    finally:
        os.close(fd)
    return program is not None and program.signed
