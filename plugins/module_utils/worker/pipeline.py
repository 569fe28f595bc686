# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The stages of each operation, and how a job goes through them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import pathlib
import time
import typing as t

from ..protocol import models
from ..protocol.errors import ErrorClass, JobError, environment, transient, unsupported
from . import target_devices
from .context import Reporter, Roots, Stopped
from .job_context import JobContext, Skipped, now
from .stages import boot, commit, copy, fix, inspect, plan, publish, rehearse, verify
from .target_folder import reserved


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a job: idempotent, its end durable, its result in the context's result document."""

    name: str
    run: t.Callable[[JobContext], str]
    """Returns what a person may want to know of it, in a few words."""


INSPECT = Stage("inspect", inspect.run)
PLAN = Stage("plan", plan.run)
FIX = Stage("fix", fix.run)
REHEARSE = Stage("rehearse", rehearse.run)
COPY = Stage("copy", copy.run)
COMMIT = Stage("commit", commit.run)
VERIFY = Stage("verify", verify.run)
BOOT = Stage("verify", boot.run)
PUBLISH = Stage("publish", publish.run)

STAGES: dict[models.Operation, tuple[Stage, ...]] = {
    models.Operation.CONVERT: (INSPECT, PLAN, FIX, REHEARSE, COPY, COMMIT, VERIFY, PUBLISH),
    models.Operation.FIX: (INSPECT, PLAN, FIX, REHEARSE, COPY, COMMIT, VERIFY, PUBLISH),
    models.Operation.REHEARSE: (INSPECT, PLAN, FIX, REHEARSE, PUBLISH),
    models.Operation.PLAN: (INSPECT, PLAN, PUBLISH),
    models.Operation.INSPECT: (INSPECT, PUBLISH),
    models.Operation.BOOT_TEST: (INSPECT, BOOT, PUBLISH),
}


#: Leaves nothing behind but its return value: what check mode shows.
PREVIEW: tuple[Stage, ...] = (INSPECT, PLAN)


def run_job(job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> models.JobResult:
    """Carry ``job`` through the stages of its operation; see :func:`run_stages`."""
    return run_stages(STAGES[job.spec.operation], job, roots, reporter, workdir)


def run_stages(
    stages: t.Sequence[Stage],
    job: models.MigrationJob,
    roots: Roots,
    reporter: Reporter,
    workdir: pathlib.Path,
) -> models.JobResult:
    """Carry ``job`` through ``stages``, after those that an earlier attempt finished.

    Args:
        job: a job that this worker holds; ``status.epoch`` is the claim's.
        roots: the folders that may be used.
        reporter: gets progress, warnings and stage ends; says when to stop.
        workdir: the job's private folder below the scratch root; it exists, and outlives a failed attempt.

    Raises:
        JobError: a stage failed; ``details`` holds the result document as far as it got.
        Stopped: ``reporter.cancelled()`` became true.
    """
    stage = "inspect"
    context: JobContext | None = None
    try:
        with _explained(), contextlib.ExitStack() as stack:
            context = JobContext(job, roots, reporter, workdir)
            if PUBLISH in stages and PUBLISH.name not in context.completed and context.publishes_target():
                stack.enter_context(reserved(context.layout.folder))
                stack.enter_context(target_devices.held(context))
            for step in stages:
                stage = step.name
                if stage in context.completed:
                    continue
                context.check_cancelled()
                _run_stage(step, context)
            context.close_guest()
            return context.result
    except JobError as error:
        if context is not None:
            context.abandon_guest(error)
            error.details = context.result.to_document()
        if reporter.cancelled():
            raise Stopped from error
        error.stage = error.stage or stage
        raise
    except BaseException as error:
        if context is not None:
            context.abandon_guest(error)
        raise


def _run_stage(step: Stage, context: JobContext) -> None:
    context.reporter.stage_started(step.name)
    started_at, began = now(), time.monotonic()
    detail = step.run(context)
    record = models.StageRecord(
        name=step.name,
        started_at=started_at,
        seconds=round(time.monotonic() - began, 3),
        skipped=isinstance(detail, Skipped),
        detail=detail,
    )
    context.result.stages.append(record)
    context.completed.append(step.name)
    context.save()
    context.reporter.stage_ended(record)


@contextlib.contextmanager
def _explained() -> t.Iterator[None]:
    """Turn the system's errors into errors for people."""
    try:
        yield
    except MemoryError as error:
        raise unsupported(
            "TooMuchMemory",
            "This source or guest takes more memory to read than any should.",
            "Look at its metadata and at the guest's configuration; something in it is far too large.",
        ) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise environment(
                "NoSpace",
                f"The disk is full{where}.",
                "Make room below the output and scratch roots, then run the job again.",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise environment(
                "NotPermitted",
                f"The worker may not do this: {error.strerror}{where}.",
                "Run the worker as root, with output and scratch roots that it may write.",
            ) from error
        if error.errno == errno.EIO:
            raise transient("InputOutputError", f"A read or write failed{where}.", "Check the storage.") from error
        raise JobError(ErrorClass.INTERNAL, "SystemError", f"{error.strerror}{where}.") from error
