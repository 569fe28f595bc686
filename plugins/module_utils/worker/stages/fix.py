# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fix: apply the plan to the overlays, and make sure that every write arrived."""

from __future__ import annotations

from ..job_context import JobContext


def run(context: JobContext) -> str:
    """Write the planned changes; when this returns the overlays are closed, checked and durable."""
    plan = context.fix_plan()
    plan.edits.apply(context.guest().mounted.tree)
    context.close_guest()
    return f"{len({change.path for change in plan.edits.changes})} files changed"
