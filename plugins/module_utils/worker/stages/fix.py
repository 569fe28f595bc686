# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fix: apply the plan to the overlays, make sure that every write arrived, and have the filesystems checked."""

from __future__ import annotations

from ...guests.session import Examined, GuestSession
from ...protocol import models
from ...protocol.errors import environment, unsupported
from ..job_context import JobContext, Skipped


def run(context: JobContext) -> str:
    """Write the planned changes; when this returns the overlays are closed, checked and durable.

    Raises:
        JobError: a filesystem is damaged, or cannot be checked, and the job requires that it is sound.
    """
    done = _fix(context)
    if context.spec.verify.fsck is not models.FsckPolicy.SKIP:
        _check_filesystems(context)
    return done


def _fix(context: JobContext) -> str:
    changes = context.fix_plan().changes if context.spec.guest.enabled else None
    if not changes:
        context.close_guest()
        # Mounting alone changes a filesystem (its mount count, a replayed journal); that is not the job's to keep.
        context.create_overlays()
        return Skipped("the job leaves the guest as it is" if changes is None else "nothing to change")
    context.apply_plan()
    context.close_guest()
    return f"{len({change.path for change in changes})} files changed"


def _check_filesystems(context: JobContext) -> None:
    def work(guest: GuestSession) -> Examined:
        guest.probe()
        return guest.examine()

    context.report("fix", 0, 0, "checking the filesystems")
    guest, examined = context.with_guest(work, writable=False, stage="fix")
    guest.close()
    for warning in examined.warnings:
        context.warn(warning)
    required = context.spec.verify.fsck is models.FsckPolicy.REQUIRE
    for found in examined.filesystems:
        what = f"The {found.type} filesystem on {found.place}"
        if found.verdict == "damaged":
            message = f"{what} is damaged: {found.message.rstrip('.')}."
            if required:
                raise unsupported(
                    "FilesystemDamaged",
                    message,
                    "Check it where the VM runs now (fsck), shut the VM down and export it again; or take it as it is, "
                    "with verify.fsck: warn.",
                )
            context.warn(message)
        elif found.verdict == "unchecked":
            message = f"{what} was not checked: {found.message.rstrip('.')}."
            if required:
                raise environment(
                    "FilesystemUnchecked", message, "Use a worker that can check it, or set verify.fsck to warn."
                )
            context.warn(message)
        elif found.verdict == "false-alarm":
            context.warn(f"{what} is sound, though its checker complains: {found.message}.")
