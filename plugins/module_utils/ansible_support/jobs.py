# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the modules about jobs do: a job's states, and how jobs and workers are told."""

from __future__ import annotations

import dataclasses
import typing as t

from ..backends.base import NotFound, PeopleSide, WorkerState
from ..protocol import models
from ..protocol.errors import invalid
from ..protocol.lifecycle import HELD, TERMINAL
from ..protocol.validation import parse_job
from ..scheduling.matching import Demand, Offer, first_unmet
from . import documents, options
from .module import ToldError
from .places import place_of
from .presence import Presence, find

Result = dict[str, t.Any]

#: How long a job may take to stop, in seconds, when it has to be gone. Its processes end within 5, or with the lease
#: of a node that is out of reach, which is 60.
_STOP_PATIENCE = 120.0


class JobModule:
    """One run of the module ``migration_job``: a method for each state, which returns the module's result."""

    def __init__(self, params: options.Options, *, check_mode: bool) -> None:
        """Take the module's options. In check mode no method changes anything."""
        self._params = params
        self._check = check_mode
        self._place = place_of(params)

    def present(self) -> Result:
        """See to it that the job has been done or is on its way; wait for its end where the options say so."""
        if not options.describes_job(self._params):
            return self._adopted()
        job = options.job(self._params)
        with self._queue() as backend:
            presence = self._place.present(backend, job, dry_run=self._check)
            if self._check or backend is None:
                return self._preview(presence, job)
            if presence.job.status.phase not in TERMINAL:
                self._place.ensure_worker()
            ended = self._waited(backend, presence.job)
        return {
            "changed": presence.changed,
            "job": ended.to_document(),
            "diff": (
                [_document_diff(presence.before, ended), *documents.guest_diffs(ended.to_document())]
                if presence.changed
                else []
            ),
        }

    def absent(self) -> Result:
        """Cancel the job, wait for its end, remove its record, and its target where the options say so."""
        name = options.job_name(self._params)
        with self._queue() as backend:
            job = find(backend, name)
            target = self._place.target(name, job) if self._params["remove_target"] else None
            if job is not None and backend is not None and not self._check:
                self._stop(backend, job)
            # The target first: where it may not be removed, the record stays to tell of it.
            devices = [] if target is None else target.devices()
            removed = [] if target is None else target.remove(dry_run=self._check)
            if job is not None and backend is not None and not self._check:
                backend.delete(name)
                self._place.forget(name)
        result: Result = {"changed": job is not None or bool(removed), "diff": []}
        if job is not None:
            result["diff"].append({"before_header": name, "after_header": name, "before": _said(job), "after": ""})
        if target is not None:
            result["removed"] = removed
            result["diff"] += [{"prepared": f"remove {path}\n"} for path in removed]
        if devices:
            told = f"Left as they are: {', '.join(devices)}. Wipe them (wipefs --all, blkdiscard) to use them again."
            result["warnings"] = [told]
        return result

    def suspended(self) -> Result:
        """Hold the job back."""
        return self._mutated(lambda backend, name: backend.suspend(name), {"suspend": True})

    def cancelled(self) -> Result:
        """Stop the job for good."""
        return self._mutated(lambda backend, name: backend.cancel(name), {"cancel": True})

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _queue(self) -> t.ContextManager[PeopleSide | None]:
        wanted = self._params["state"] == "present" and options.describes_job(self._params)
        return self._place.open(make=wanted and not self._check)

    def _existing(self, backend: PeopleSide | None, name: str) -> tuple[PeopleSide, models.MigrationJob]:
        if backend is None:
            raise NotFound(name)
        return backend, backend.get(name)

    def _adopted(self) -> Result:
        with self._queue() as found:
            backend, job = self._existing(found, options.job_name(self._params))
            if not self._check:
                if job.status.phase not in TERMINAL:
                    self._place.ensure_worker()
                job = self._waited(backend, job)
            return {"changed": False, "job": job.to_document()}

    def _mutated(self, change: t.Callable[[PeopleSide, str], models.MigrationJob], wanted: dict[str, bool]) -> Result:
        with self._queue() as found:
            backend, before = self._existing(found, options.job_name(self._params))
            fields = {field: getattr(before.spec, field) for field in wanted}
            over = before.status.phase in TERMINAL
            if fields == wanted or over:
                return {"changed": False, "job": before.to_document()}
            after = before if self._check else change(backend, before.metadata.name)
            if self._params["wait"] and "cancel" in wanted and not self._check:
                after = wait_for(backend, after, self._params["wait_timeout"])
        name = before.metadata.name
        diff = {"before_header": name, "after_header": name, "before": fields, "after": wanted}
        return {"changed": True, "job": after.to_document(), "diff": [diff]}

    def _waited(self, backend: PeopleSide, job: models.MigrationJob) -> models.MigrationJob:
        if self._params["wait"]:
            job = wait_for(backend, job, self._params["wait_timeout"])
            error = documents.failure(job.to_document())
            if error is not None:
                raise ToldError(error)
        return job

    def _stop(self, backend: PeopleSide, job: models.MigrationJob) -> None:
        if job.status.phase in TERMINAL:
            return
        stopping = backend.cancel(job.metadata.name)
        if stopping.status.phase in HELD:
            wait_for(backend, stopping, _STOP_PATIENCE)

    def _preview(self, presence: Presence, job: models.MigrationJob) -> Result:
        if not presence.changed:
            return {"changed": False, "job": presence.job.to_document(), "diff": []}
        shown = presence.job
        plan = self._place.preview(job)
        if plan is not None:
            status = shown.status.model_copy(update={"result": plan.to_document()})
            shown = shown.model_copy(update={"status": status})
        diff = [_document_diff(presence.before, presence.job), *documents.guest_diffs(shown.to_document())]
        return {"changed": True, "job": shown.to_document(), "diff": diff}


def wait_for(backend: PeopleSide, job: models.MigrationJob, timeout: float) -> models.MigrationJob:
    """Return the job when it is over.

    Raises:
        JobError: class ``transient``, it is not over after ``timeout`` seconds; class ``invalid``, it was removed.
    """
    name = job.metadata.name
    for seen in backend.watch([name], timeout):
        job = seen
    if job.status.phase not in TERMINAL:
        raise ToldError(documents.still_going(job.to_document(), timeout))
    return job


def job_info(params: options.Options) -> Result:
    """Return the result of the module ``migration_job_info``."""
    name = params["name"]
    if name is None and (params["events"] or params["explain"] or params["wait_timeout"]):
        raise invalid("MissingName", "events, explain and wait_timeout are about one job.", "Give its name.")
    with place_of(params).open(make=False) as backend:
        if backend is None:
            asked = [key for option, key in (("events", "events"), ("explain", "waiting")) if params[option]]
            return {"changed": False, "jobs": [], **{key: [] for key in asked}}
        if name is None:
            return {"changed": False, "jobs": [job.to_document() for job in backend.list(_labels(params))]}
        job = find(backend, name)
        if job is not None and params["wait_timeout"] and job.status.phase not in TERMINAL:
            job = _changed_or_timed_out(backend, job, params["wait_timeout"], params["wait_while"])
        jobs = [] if job is None else [job]
        others = set(params["names"]) - {name}
        if others:
            jobs += [other for other in backend.list() if other.metadata.name in others]
        result: Result = {"changed": False, "jobs": [job.to_document() for job in jobs]}
        if params["events"]:
            events = backend.events(name) if job is not None else []
            result["events"] = [event.to_document() for event in events]
        if params["explain"]:
            reasons = backend.explain(name) if job is not None else []
            result["waiting"] = [reason.to_document() for reason in reasons]
        return result


def _changed_or_timed_out(
    backend: PeopleSide, job: models.MigrationJob, timeout: float, seen: str | None
) -> models.MigrationJob:
    for now in backend.watch([job.metadata.name], timeout):
        job = now
        if seen is not None and documents.where(job.to_document()) != seen:
            break
    return job


def _labels(params: options.Options) -> dict[str, str]:
    labels = {}
    for selector in params["label_selectors"]:
        key, equals, value = selector.partition("=")
        if not (key and equals):
            raise invalid("InvalidSelector", f"label_selectors: {selector!r} is not key=value.", "Write key=value.")
        labels[key.strip()] = value.strip()
    return labels


def worker_info(params: options.Options) -> Result:
    """Return the result of the module ``worker_info``."""
    wanted = params["for_job"]
    demand = None if wanted is None else Demand.of(parse_job(wanted))
    with place_of(params).open(make=False) as backend:
        states = [] if backend is None else backend.workers()
    return {"changed": False, "workers": [_worker(state, demand) for state in states]}


def _worker(state: WorkerState, demand: Demand | None) -> Result:
    told = {**dataclasses.asdict(state), "registration": state.registration.to_document()}
    if demand is not None:
        # Slots get free, and so whether one is now says nothing.
        unmet = first_unmet(demand, Offer(state.registration, running=0))
        told["unmet"] = None if unmet is None else dataclasses.asdict(unmet)
    return told


def _said(job: models.MigrationJob) -> Result:
    """Return what a person said of a job: its document without defaults, identity and status."""
    document = job.model_dump(mode="json", by_alias=True, exclude_defaults=True, include={"metadata", "spec"})
    for given in ("uid", "creationTimestamp"):
        document["metadata"].pop(given, None)
    return document


def _document_diff(before: models.MigrationJob | None, after: models.MigrationJob) -> Result:
    name = after.metadata.name
    return {
        "before_header": name,
        "after_header": name,
        "before": "" if before is None else _said(before),
        "after": _said(after),
    }
