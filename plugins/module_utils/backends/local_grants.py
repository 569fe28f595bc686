# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The queue of one host: the side of a cluster that has this host as a node.

A cluster gives a job for one attempt, of an epoch that it chose. Here it is claimed, run, stopped and told of like any
other; but whether there is another attempt, where, and when, is decided in the cluster, which gives it again.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import typing as t

from ..protocol import errors, models, status, validation
from ..protocol.lifecycle import Actor
from .host import Instant
from .records import Grant, Record
from .store import HELD_SQL, Change, Store


@dataclasses.dataclass(frozen=True)
class Given:
    """A job that a cluster gave to this queue, as it is here."""

    job: models.MigrationJob
    """With the status of this queue: earlier attempts, and the one that was given. Without its result."""
    epoch: int
    """Of the attempt that was given."""
    spent: bool
    """That attempt is over, or will not be made."""
    version: int
    """Rises with each change."""

    @property
    def uid(self) -> str:
        """The job's uid."""
        return self.job.metadata.uid or ""


class LocalGrantSide(Store):
    """What a cluster's agent does with the queue of its node."""

    def give(self, job: models.MigrationJob, node: str, deadline_seconds: float | None = None) -> None:
        """Take in a job for the attempt ``job.status.epoch``, under its own uid and with the stages that ended.

        The same again changes nothing. A higher epoch takes the place of what was given before, whose process is
        fenced; events go on where they were.

        Args:
            node: this node's name in the cluster.
            deadline_seconds: what is left until the job is to be stopped wherever it is; None: it has no deadline.
        """
        grant = Grant(node, job.status.epoch)
        deadline = None if deadline_seconds is None else Instant.after(deadline_seconds)
        with self._change() as change:
            before = change.find(job.metadata.key)
            if before is not None:
                if before.grant is not None and before.uid == job.metadata.uid and before.grant.epoch >= grant.epoch:
                    return
                change.replace(before)
            change.save(Record.given(job, validation.spec_digest(job.spec), grant, deadline, before))

    def given(self, known: c.Mapping[str, int]) -> tuple[list[Given], set[str]]:
        """Return the given jobs whose version differs from the one ``known`` of their uid, and the uids of all."""
        with self._view() as change:
            rows = change.tx.execute(
                "SELECT uid, version FROM jobs WHERE granted IS NOT NULL ORDER BY number"
            ).fetchall()
            changed = [_record(change, row["uid"]) for row in rows if known.get(row["uid"]) != row["version"]]
        return [_given(record) for record in changed if record is not None], {row["uid"] for row in rows}

    def result(self, uid: str) -> dict[str, t.Any] | None:
        """Return the result document of a given job, as far as it got."""
        with self._view() as change:
            record = _record(change, uid)
            return (
                None
                if record is None or record.result is None
                else t.cast("dict[str, t.Any]", json.loads(record.result))
            )

    def revoke(self, uid: str, why: str) -> None:
        """Take the given attempt away: its process is fenced and killed. What was done stays for a later attempt."""
        with self._change() as change:
            record = _record(change, uid)
            if record is None or record.grant is None or record.spent:
                return
            if record.held:
                record.release(Actor.CONTROL, why)
            else:
                record.grant = dataclasses.replace(record.grant, epoch=record.epoch)
            change.save(record)

    def drop(self, uid: str) -> None:
        """Forget a given job and its events, and kill its process. Its work directory goes with the next sweep."""
        with self._change() as change:
            record = _record(change, uid)
            if record is not None and record.grant is not None:
                change.remove(record)

    def bury_workers(self) -> None:
        """Take every held job for lost. Whoever calls this knows that no worker of this queue, and no job's process,
        lives any more.
        """
        with self._change() as change:
            for row in change.tx.execute(f"SELECT * FROM jobs WHERE {HELD_SQL}").fetchall():
                record = Record.load(row)
                error = errors.JobError(
                    errors.ErrorClass.TRANSIENT,
                    status.WORKER_LOST,
                    f"The worker {record.worker} ended while it ran the job.",
                    "See the worker's log and the kernel's (out of memory?).",
                    record.status.stage or "",
                )
                record.fail(error, Actor.CONTROL)
                change.save(record)
            change.tx.execute("DELETE FROM workers")


def _given(record: Record) -> Given:
    if record.grant is None:
        raise AssertionError("record.grant is not None")
    # Results may be long, and are asked for once.
    return Given(dataclasses.replace(record, result=None).job(), record.grant.epoch, record.spent, record.version)


def _record(change: Change, uid: str) -> Record | None:
    row = change.tx.execute("SELECT * FROM jobs WHERE uid = ?", (uid,)).fetchone()
    return None if row is None else Record.load(row)
