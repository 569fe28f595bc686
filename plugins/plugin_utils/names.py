# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names of VMs as jobs and folders have them."""

from __future__ import annotations

import re

#: The eleven characters up to an RFC 1123 label's 63 are for the operation that a job's name ends in.
_LONGEST = 52


def slug(host: str) -> str:
    """Return ``host`` as an RFC 1123 label of at most 52 characters; empty where nothing of it can stay."""
    return re.sub(r"[^a-z0-9]+", "-", host.lower()).strip("-")[:_LONGEST].rstrip("-")
