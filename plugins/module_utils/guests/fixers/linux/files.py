# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files, as the job asks for them."""

from __future__ import annotations

from ... import accounts
from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase


class FilesFixer:
    """Puts files in place; links on the way lead within the guest only."""

    name = "files"
    title = "Files of the job's"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`.

        Raises:
            JobError: there is no such owner or secret, or what is there is no regular file.
        """
        for wanted in request.spec.files:
            content = wanted.content if wanted.content_from is None else request.secret(wanted.content_from)
            edits.write(
                wanted.path,
                content or "",
                why="the job puts this file here",
                mode=int(wanted.mode, 8),
                owner=accounts.owner(edits, wanted.owner, wanted.group),
                confidential=wanted.content_from is not None,
            )
