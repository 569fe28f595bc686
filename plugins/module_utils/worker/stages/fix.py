# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fix: apply the plan to the overlays, and make sure that every write arrived."""

from __future__ import annotations

from ..job_context import JobContext, Skipped


def run(context: JobContext) -> str:
    """Write the planned changes; when this returns the overlays are closed, checked and durable."""
    changes = context.fix_plan().changes if context.spec.guest.enabled else None
    if not changes:
        context.close_guest()
        # Mounting alone changes a filesystem (its mount count, a replayed journal); that is not the job's to keep.
        context.create_overlays()
        return Skipped("the job leaves the guest as it is" if changes is None else "nothing to change")
    context.apply_plan()
    context.close_guest()
    return f"{len({change.path for change in changes})} files changed"
