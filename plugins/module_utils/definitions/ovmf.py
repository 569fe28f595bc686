# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a distribution keeps OVMF, the UEFI firmware of virtual machines."""

from __future__ import annotations

import dataclasses
import pathlib

from ..protocol.errors import JobError, environment

#: Pairs of code and variables without and with Secure Boot enforced by Microsoft's keys: Debian and Ubuntu, Fedora and
#: RHEL, openSUSE, Arch.
_USUAL = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
_PLAIN = (
    _USUAL,
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
)
_SECURE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
    ("/usr/share/qemu/ovmf-x86_64-smm-ms-code.bin", "/usr/share/qemu/ovmf-x86_64-smm-ms-vars.bin"),
)


@dataclasses.dataclass(frozen=True)
class Ovmf:
    """One build of the firmware."""

    code: pathlib.Path
    """Read-only."""
    variables: pathlib.Path
    """The template of a machine's own variable store; it knows no boot entry."""


def find_ovmf(*, secure_boot: bool) -> Ovmf:
    """Return the installed firmware.

    Raises:
        JobError: class ``environment``, it is not installed.
    """
    for code, variables in _SECURE if secure_boot else _PLAIN:
        found = Ovmf(pathlib.Path(code), pathlib.Path(variables))
        if found.code.is_file() and found.variables.is_file():
            return found
    raise environment(
        "NoUefiFirmware",
        "The guest boots by UEFI, and this worker has no OVMF firmware"
        + (" with Secure Boot." if secure_boot else "."),
        "Install ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, RHEL).",
    )


def installed_or_usual_ovmf() -> Ovmf:
    """Return the firmware without Secure Boot; where none is installed, the place where Debian's package puts it."""
    try:
        return find_ovmf(secure_boot=False)
    except JobError:
        return Ovmf(*map(pathlib.Path, _USUAL))
