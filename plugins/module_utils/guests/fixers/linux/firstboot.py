# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Scripts for the first boot, as the job asks for them."""

from __future__ import annotations

from ... import firstboot
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase


class FirstbootFixer:
    """Leaves the job's scripts in the guest, and what runs them once."""

    name = "firstboot"
    title = "Scripts for the first boot"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`.

        Raises:
            JobError: there is no such secret, or nothing in the guest that could start a script.
        """
        for number, wanted in enumerate(request.spec.firstboot, 100):
            text = wanted.script if wanted.script_from is None else request.secret(wanted.script_from)
            firstboot.add_script(
                guest, edits, number, wanted.name, text or "", confidential=wanted.script_from is not None
            )
