# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every store of jobs can do, for people and for workers; and how it says no."""

from __future__ import annotations

import builtins
import collections.abc as c
import dataclasses
import enum
import typing as t

from ..protocol import models, validation
from ..protocol.errors import ErrorClass, JobError
from ..protocol.lifecycle import TERMINAL, Phase


class NotFound(JobError):
    """There is no job of that name."""

    def __init__(self, name: str) -> None:
        """Say that ``name`` is unknown."""
        super().__init__(ErrorClass.INVALID, "NoSuchJob", f"There is no job {name}.", "See the list of jobs.")


class Conflict(JobError):
    """The job is in a state in which this cannot be done."""

    def __init__(self, reason: str, message: str, suggestion: str = "") -> None:
        """Say what the conflict is and how it is resolved."""
        super().__init__(ErrorClass.INVALID, reason, message, suggestion)


class Fenced(Exception):
    """The writer no longer holds the job: somebody else has it, or it is over. Nothing was written."""


class Outcome(str, enum.Enum):
    """What a submission did."""

    CREATED = "created"
    UNCHANGED = "unchanged"
    UPDATED = "updated"
    """Only mutable fields changed (``suspend``, ``priority``, ``cancel``)."""
    RETRIED = "retried"
    """A finished job of that name gave way to a new one under a new uid."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """The job as it is now, what the submission did, and the job as it was before (None: there was none)."""

    job: models.MigrationJob
    outcome: Outcome
    before: models.MigrationJob | None = None

    @property
    def changed(self) -> bool:
        """Whether anything was written."""
        return self.outcome is not Outcome.UNCHANGED


@dataclasses.dataclass(frozen=True)
class Hold:
    """A worker's hold on a job: every write of the worker carries it."""

    uid: str
    epoch: int


class Order(str, enum.Enum):
    """Why a worker must stop a job that it runs."""

    CANCEL = "cancel"
    SUSPEND = "suspend"
    DEADLINE = "deadline"
    FENCED = "fenced"
    """The job is not this worker's any more."""


@dataclasses.dataclass(frozen=True)
class WorkerState:
    """A worker that is alive, as the store sees it."""

    registration: models.WorkerRegistration
    running: dict[str, str]
    """Names of the jobs that it holds, with their phase."""
    seconds_since_heartbeat: float
    free_scratch_bytes: int
    free_output_bytes: int


def gives_way(old: models.MigrationJob, job: models.MigrationJob, *, force: bool) -> bool:
    """Return whether ``old`` gives way to ``job``, which has its name; else at most its mutable fields change.

    Raises:
        Conflict: they are different jobs, and ``old`` is not to give way; the message names the fields.
    """
    if old.status.phase in (Phase.FAILED, Phase.CANCELLED):
        return not job.spec.cancel
    differing = validation.differing_fields(old.spec, job.spec)
    if force:
        return bool(differing) or old.status.phase in TERMINAL
    if differing:
        raise Conflict(
            "JobDiffers",
            f"Job {old.metadata.name} is {old.status.phase.value} with a different document; "
            f"these fields differ: {', '.join(differing)}.",
            "Give the new job another name, or force it.",
        )
    return False


class PeopleSide(t.Protocol):
    """What people and their programs do with a store of jobs.

    Every method may raise :class:`JobError` (environment) where the store cannot be reached.
    """

    def submit(self, job: models.MigrationJob, *, force: bool = False, dry_run: bool = False) -> Submission:
        """Hand in a job, once however often it is called.

        The same document again changes nothing. A job that FAILED or was CANCELLED gives way to a new one under a new
        uid, which keeps the record of the stages that ended if the frozen part of the spec is the same. ``force`` lets
        also a COMPLETED, waiting or running job give way (a running one is cancelled first). ``dry_run`` tells what
        would happen.

        Raises:
            Conflict: a job of that name exists with a different document; the message names the fields.
        """

    def get(self, name: str) -> models.MigrationJob:
        """Return a job with its result; a waiting one says why it waits.

        Raises:
            NotFound: there is none.
        """

    def list(self, labels: c.Mapping[str, str] | None = None) -> builtins.list[models.MigrationJob]:
        """Return the jobs that carry all these labels, the oldest first, without their result documents."""

    def watch(self, names: c.Collection[str], timeout: float | None = None) -> c.Iterator[models.MigrationJob]:
        """Yield each of these jobs as it is and then after each change, until all are terminal or time is over.

        A job that is removed while it is watched counts as terminal.

        Raises:
            NotFound: one of them does not exist at the start.
        """

    def events(self, name: str, since: int = 0) -> builtins.list[models.Event]:
        """Return the events of the job's present uid with a sequence above ``since``."""

    def explain(self, name: str) -> builtins.list[models.WaitReason]:
        """Return why a waiting job is not running: all reasons, the commonest first; [] if nothing hinders it."""

    def cancel(self, name: str) -> models.MigrationJob:
        """Ask that the job stops; a job that is over stays as it is."""

    def suspend(self, name: str, suspended: bool = True) -> models.MigrationJob:
        """Hold a job back, or let it go on. A running one is checkpointed and goes back to the queue."""

    def set_priority(self, name: str, priority: int) -> models.MigrationJob:
        """Change a job's place among those that wait."""

    def delete(self, name: str) -> None:
        """Remove the record of a job that is over. Its target stays.

        Raises:
            Conflict: the job is not over; cancel it first.
        """

    def workers(self) -> builtins.list[WorkerState]:
        """Return the workers that are alive."""


class Backend(PeopleSide, t.Protocol):
    """A store of jobs from which workers claim them."""

    def claim(self, worker: str) -> models.MigrationJob | None:
        """Take the first waiting job that this registered worker can run, raising its epoch; None if there is none."""

    def heartbeat(self, beat: models.Heartbeat) -> None:
        """Say that the worker lives, and renew the leases of the jobs that it names."""

    def orders(self, worker: str, held: c.Collection[Hold]) -> dict[Hold, Order]:
        """Return which of the jobs that the worker runs must be stopped, and why."""

    def stage_started(self, hold: Hold, name: str) -> None:
        """Say that a stage begins. Raises: Fenced."""

    def progress(self, hold: Hold, progress: models.Progress) -> None:
        """Say how far the stage is. Raises: Fenced."""

    def stage_ended(self, hold: Hold, record: models.StageRecord) -> None:
        """Record a stage's end durably. Raises: Fenced."""

    def warning(self, hold: Hold, message: str) -> None:
        """Put a warning into the job's events. Raises: Fenced."""

    def complete(self, hold: Hold, result: models.JobResult) -> None:
        """End the job well. Raises: Fenced."""

    def fail(self, hold: Hold, error: JobError) -> Phase:
        """End the attempt badly; the job goes back to the queue if a retry may help, else it FAILED. Raises: Fenced."""

    def cancelled(self, hold: Hold) -> None:
        """Say that the worker stopped the job because it was asked to. Raises: Fenced."""

    def release(self, hold: Hold, why: str) -> None:
        """Give the job back to the queue, resumable and without counting the attempt. Raises: Fenced."""
