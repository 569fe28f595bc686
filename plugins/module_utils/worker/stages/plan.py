# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""plan: work out every change of the guest, as data, and change nothing."""

from __future__ import annotations

from ..job_context import JobContext, Skipped


def run(context: JobContext) -> str:
    """Fill in the result's ``changes``."""
    if not context.spec.guest.enabled:
        return Skipped("the job leaves the guest as it is")
    plan = context.fix_plan()
    context.result.changes = list(plan.changes)
    for warning in plan.warnings:
        context.warn(warning)
    files = len({change.path for change in context.result.changes})
    return f"{files} files to change" if files else "nothing to change"
