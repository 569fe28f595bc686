# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a job has to be done at all: what its target says, then what the queue says."""

from __future__ import annotations

import dataclasses
import json

from ..backends.base import NotFound, PeopleSide, Submission
from ..protocol import models, validation
from ..protocol.errors import JobError, invalid
from ..protocol.lifecycle import TERMINAL, Phase
from ..worker.context import Roots
from ..worker.layout import layout_of


@dataclasses.dataclass(frozen=True)
class Presence:
    """A job that was asked for, and what that did."""

    job: models.MigrationJob
    changed: bool
    before: models.MigrationJob | None
    """The job of that name as it was; None: there was none."""


def ensure_present(backend: PeopleSide | None, job: models.MigrationJob, roots: Roots, *, dry_run: bool) -> Presence:
    """See to it that ``job`` has been done or is on its way, once however often it is asked for.

    The target's result document decides, for the job's record may be gone: work that was done on the same source (by
    its identity) with the same spec (by its digest) is not done again. What is there of other work stays, unless the
    job says ``target.force``.

    Args:
        backend: None where there is no queue yet (and none may be made, as in check mode).
        job: what is wanted.
        roots: folders of the host that this runs on.
        dry_run: tell what would happen, change nothing.

    Raises:
        JobError: class ``invalid``; other work is in the way, and the message names the fields in which it differs.
    """
    existing = find(backend, job.metadata.name)
    force = job.spec.target.force
    if existing is None or existing.status.phase in TERMINAL:
        published = published_result(job, roots)
        if published is not None:
            if _same_work(published, job, roots):
                return Presence(_done(job, published, existing), False, existing)
            if not force and job.spec.operation in models.WRITES_TARGET:
                raise _other_work(job, published, existing)
            force = force or not _differing(job, existing)
        elif existing is not None and existing.status.phase is Phase.COMPLETED:
            # What it made is gone, so the record speaks for nothing; a different document is a conflict all the same.
            force = force or not _differing(job, existing)
    if backend is None:
        return Presence(job, True, None)
    submission: Submission = backend.submit(job, force=force, dry_run=dry_run)
    return Presence(submission.job, submission.changed, submission.before)


def find(backend: PeopleSide | None, name: str) -> models.MigrationJob | None:
    """Return the job of that name, or None."""
    try:
        return None if backend is None else backend.get(name)
    except NotFound:
        return None


def published_result(job: models.MigrationJob, roots: Roots) -> models.JobResult | None:
    """Return the result document that lies where the job's would, or None."""
    if not roots.output.is_dir():
        return None
    try:
        text = layout_of(job, roots.output).result.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return models.JobResult.model_validate(json.loads(text))
    except ValueError as error:
        where = layout_of(job, roots.output).result
        raise invalid(
            "InvalidResult", f"{where} is no result document: {error}", "Move it away, or choose another target.path."
        ) from error


def _same_work(published: models.JobResult, job: models.MigrationJob, roots: Roots) -> bool:
    if published.operation is not job.spec.operation or published.spec_digest != validation.spec_digest(job.spec):
        return False
    # Imported here: a module's code is compiled each time it runs, and most runs submit something new.
    from ..disks.source import identity_of

    return published.source_identity == identity_of(job.spec.source, roots.input)


def _done(
    job: models.MigrationJob, published: models.JobResult, existing: models.MigrationJob | None
) -> models.MigrationJob:
    """Return the finished job: its record, or one like it where the record is gone."""
    if existing is not None and existing.metadata.uid == published.uid:
        return existing
    status = models.JobStatus(
        phase=Phase.COMPLETED,
        result=published.to_document(),
        artifacts=published.artifacts,
        stages=published.stages,
        finished_at=published.completed_at,
    )
    metadata = job.metadata.model_copy(update={"uid": published.uid})
    return job.model_copy(update={"metadata": metadata, "status": status})


def _differing(job: models.MigrationJob, existing: models.MigrationJob | None) -> list[str]:
    return [] if existing is None else validation.differing_fields(existing.spec, job.spec)


def _other_work(
    job: models.MigrationJob, published: models.JobResult, existing: models.MigrationJob | None
) -> JobError:
    fields = _differing(job, existing) if existing is not None and existing.metadata.uid == published.uid else []
    if fields:
        why = f"with a different document; these fields differ: {', '.join(fields)}"
    elif published.spec_digest == validation.spec_digest(job.spec):
        why = "from a source that has changed since"
    else:
        why = "with a different document"
    where = job.spec.target.path or job.metadata.name
    return invalid(
        "TargetDiffers",
        f"The target {where} was made by job {published.job} {why}.",
        "Choose another target.path, roll the target back, or set target.force to replace it.",
    )
