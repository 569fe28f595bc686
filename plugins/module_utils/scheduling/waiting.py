# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a job waits where no worker is to blame: the reasons that lie in the job itself, or in its place. Pure."""

from __future__ import annotations

import collections.abc as c

from ..protocol import models

_SHOWN = 3
#: What passes as time goes by; all else takes somebody who acts.
_PASSES = frozenset({"BackingOff", "HandedBack", "JobsAhead", "NoFreeSlot", "Suspended", "WorkerDraining"})


def suspended() -> models.WaitReason:
    """Return the reason of a job that is held back."""
    return models.WaitReason(reason="Suspended", message="it is suspended; resume it", count=0)


def backing_off(seconds: float, last_error: models.ErrorDocument | None) -> models.WaitReason:
    """Return the reason of a job whose next attempt is made in ``seconds``."""
    why = f": {last_error.told}" if last_error is not None else ""
    message = f"the next attempt is made in {seconds:.0f} s, after the last one failed{why}"
    return models.WaitReason(reason="BackingOff", message=message, count=0)


def jobs_ahead(count: int, first: c.Sequence[str]) -> models.WaitReason:
    """Return the reason of a job that ``count`` jobs go before; ``first`` names those in front, or more."""
    names = ", ".join(first[: min(count, _SHOWN)]) + (", …" if count > _SHOWN else "")
    return models.WaitReason(reason="JobsAhead", message=f"{count} waiting jobs go first: {names}", count=0)


def is_blocked(reasons: c.Collection[models.WaitReason]) -> bool:
    """Whether a job that waits for these reasons will wait for ever, unless somebody acts.

    What one worker lacks does not matter while another only has to get a slot free.
    """
    return bool(reasons) and all(one.reason not in _PASSES for one in reasons)
