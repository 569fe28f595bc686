# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""fix: apply the plan to the overlays, make sure that every write arrived, and have the filesystems checked."""

from __future__ import annotations

import typing as t

from ...guests.session import Examined, GuestSession
from ...protocol import models
from ...protocol.errors import ErrorClass, JobError, environment, unsupported
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
    """Tell what is wrong with the filesystems; where the job requires that nothing is, fail at the first."""
    context.report("fix", 0, 0, "checking the filesystems")
    for problem in _problems(context):
        if context.spec.verify.fsck is models.FsckPolicy.REQUIRE:
            raise problem
        context.warn(problem.message)


def _problems(context: JobContext) -> t.Iterator[JobError]:
    def work(guest: GuestSession) -> Examined:
        guest.probe()
        return guest.examine()

    try:
        guest, examined = context.with_guest(work, writable=False, stage="fix")
    except JobError as error:
        if error.error_class is ErrorClass.TRANSIENT:
            raise
        problem = _unchecked("The filesystems were", error.message)
        # Another worker may have it, and then gets the job.
        problem.needs = error.needs
        yield problem
        return
    guest.close()
    for warning in examined.warnings:
        context.warn(warning)
    for found in examined.filesystems:
        what = f"The {found.type} filesystem on {found.place}"
        if found.verdict == "damaged":
            yield unsupported(
                "FilesystemDamaged",
                f"{what} is damaged: {found.message.rstrip('.')}.",
                "Check it where the VM runs now (fsck), shut the VM down and export it again; or take it as it is, "
                "with verify.fsck: warn.",
            )
        elif found.verdict == "unchecked":
            yield _unchecked(f"{what} was", found.message)
        elif found.verdict == "false-alarm":
            context.warn(f"{what} is sound, though its checker complains: {found.message}.")


def _unchecked(what: str, why: str) -> JobError:
    return environment(
        "FilesystemUnchecked",
        f"{what} not checked: {why.rstrip('.')}.",
        "Use a worker that can check it, or set verify.fsck to warn.",
    )
