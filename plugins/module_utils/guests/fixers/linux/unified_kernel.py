# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Unified kernel images: looked into, and never changed, because a change breaks their signature and measurements."""

from __future__ import annotations

import re

from ....protocol.errors import unsupported
from ...devices import is_unstable
from ...edits import Edits
from ...facts import GuestFacts, Kernel
from ...initramfs import virtio
from ..base import FixRequest, Phase

_DEVICE = re.compile(r"(?<![\w.\-/])(?:root|resume|cryptdevice)=[\"']?(/dev/[^\s\"':;,]+)")
_SERIAL = re.compile(r"(?<!\S)console=tty[A-Z]")


class UnifiedKernelFixer:
    """Says what in a unified kernel image does not fit the new machine."""

    name = "unified-kernel"
    title = "Unified kernel images fit the new machine"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`.

        Raises:
            JobError: the default kernel is such an image, and cannot find its root on the new machine.
        """
        options = {entry.kernel: entry.options for entry in guest.bootloader.entries}
        for kernel in guest.kernels:
            if not kernel.unified:
                continue
            wrong = _wrong(kernel, options.get(kernel.path, ""))
            if wrong and kernel.default:
                raise unsupported(
                    "UnifiedKernelUnfit",
                    f"The guest boots the unified kernel image {kernel.path}, which is not changed, and {wrong}.",
                    "Where the VM runs now, rebuild the image with virtio drivers (ukify, dracut --uefi, mkinitcpio) "
                    "and a root by UUID, then export the VM again.",
                )
            if wrong:
                edits.warn(f"The unified kernel image {kernel.path} will not boot on KVM: {wrong}.")
            elif not _SERIAL.search(options.get(kernel.path, "")):
                edits.warn(
                    f"The unified kernel image {kernel.path} has no serial console on its command line, which is not "
                    "changed: virsh console shows nothing, and a boot test has the screen alone to go by."
                )


def _wrong(kernel: Kernel, options: str) -> str:
    devices = [device for device in _DEVICE.findall(options) if is_unstable(device)]
    if devices:
        return f"its command line names {', '.join(devices)}, which the new machine does not have"
    missing = [name for name in virtio.INDISPENSABLE if kernel.drivers.get(name) in ("module", "missing")]
    return f"its initramfs lacks {', '.join(missing)}" if missing else ""
