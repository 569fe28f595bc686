# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fixers, in the order in which they plan: by phase, then by name.

They are named one by one, because Ansible sends to a host what it finds imported; a fixer that were looked for in its
folder would be missing there. A test holds that no file is forgotten.
"""

from __future__ import annotations

from ..facts import GuestFacts
from .base import Fixer
from .linux.cloud_init import CloudInitFixer
from .linux.crypttab import CrypttabFixer
from .linux.files import FilesFixer
from .linux.firstboot import FirstbootFixer
from .linux.fstab import FstabFixer
from .linux.grub import GrubFixer
from .linux.guest_agent import GuestAgentFixer
from .linux.hostname import HostnameFixer
from .linux.hypervisor_tools import HypervisorToolsFixer
from .linux.initramfs import InitramfsFixer
from .linux.interface_names import InterfaceNamesFixer
from .linux.lvm_devices import LvmDevicesFixer
from .linux.machine_id import MachineIdFixer
from .linux.modprobe import ModprobeFixer
from .linux.network_match import NetworkMatchFixer
from .linux.resume import ResumeFixer
from .linux.selinux import SelinuxFixer
from .linux.serial_console import SerialConsoleFixer
from .linux.ssh_host_keys import SshHostKeysFixer
from .linux.ssh_keys import SshKeysFixer
from .linux.timezone import TimezoneFixer
from .linux.uefi_fallback import UefiFallbackFixer
from .linux.unified_kernel import UnifiedKernelFixer
from .linux.users import UsersFixer
from .linux.xorg import XorgFixer

_LINUX: tuple[Fixer, ...] = (
    CloudInitFixer(),
    CrypttabFixer(),
    FilesFixer(),
    FirstbootFixer(),
    FstabFixer(),
    GrubFixer(),
    GuestAgentFixer(),
    HostnameFixer(),
    HypervisorToolsFixer(),
    InitramfsFixer(),
    InterfaceNamesFixer(),
    LvmDevicesFixer(),
    MachineIdFixer(),
    ModprobeFixer(),
    NetworkMatchFixer(),
    ResumeFixer(),
    SelinuxFixer(),
    SerialConsoleFixer(),
    SshHostKeysFixer(),
    SshKeysFixer(),
    TimezoneFixer(),
    UefiFallbackFixer(),
    UnifiedKernelFixer(),
    UsersFixer(),
    XorgFixer(),
)


def fixers(guest: GuestFacts) -> list[Fixer]:
    """Return those that know guests of this kind, in order."""
    return sorted(_LINUX, key=lambda fixer: (fixer.phase, fixer.name))
