# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A relabelling by the guest itself, where the job asks for it. Facts: fixfiles(8), selinux_autorelabel."""

from __future__ import annotations

from ....protocol import models
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_MARK = "/.autorelabel"
_EXCLUDED = "/etc/selinux/fixfiles_exclude_dirs"
_WHY = "the job has the guest label all its files at the next boot"


class SelinuxFixer:
    """Leaves the mark that systemd or the init scripts look for, and the folders that are left out."""

    name = "selinux"
    title = "Labels of SELinux at the next boot"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        if request.spec.selinux_relabel is not models.SelinuxRelabel.BOOT:
            return
        if guest.selinux in ("", "disabled"):
            edits.warn("The job asks for a relabelling, and the guest has no SELinux, or has it disabled.")
            return
        edits.write(_MARK, "-F\n", why=_WHY)
        text = edits.text(_EXCLUDED)
        missing = [folder for folder in request.spec.selinux_exclude if folder not in text.splitlines()]
        if missing:
            begin = text if not text or text.endswith("\n") else text + "\n"
            edits.write(_EXCLUDED, begin + "".join(f"{folder}\n" for folder in missing), why="left out of it")
