# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The life of a job: one table of states, of legal transitions and of who may cause each.

Everything that needs to know it (both backends, the documentation's diagram, the tests) asks this table.
"""

from __future__ import annotations

import dataclasses
import enum


class Phase(str, enum.Enum):
    """Where a job is in its life (``status.phase``)."""

    CREATED = "CREATED"
    VALIDATED = "VALIDATED"
    QUEUED = "QUEUED"
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    PROGRESSING = "PROGRESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Actor(str, enum.Enum):
    """Who causes a transition."""

    USER = "user"
    CONTROL = "control"
    """The control plane: local dispatcher or Kubernetes operator."""
    WORKER = "worker"
    """The worker that holds the job's claim, writing with the claim's epoch."""


@dataclasses.dataclass(frozen=True)
class Transition:
    """One legal step, who may take it, and when it is taken."""

    source: Phase
    target: Phase
    actors: frozenset[Actor]
    when: str


def _step(source: Phase, target: Phase, actors: str, when: str) -> Transition:
    return Transition(source, target, frozenset(Actor(a) for a in actors.split()), when)


TRANSITIONS: tuple[Transition, ...] = (
    _step(Phase.CREATED, Phase.VALIDATED, "control", "the document obeys the protocol"),
    _step(Phase.CREATED, Phase.FAILED, "control", "the document breaks the protocol"),
    _step(Phase.CREATED, Phase.CANCELLED, "user control", "cancelled before it was looked at"),
    _step(Phase.VALIDATED, Phase.QUEUED, "control", "it waits for a worker"),
    _step(Phase.VALIDATED, Phase.CANCELLED, "user control", "cancelled before it was queued"),
    _step(Phase.QUEUED, Phase.ASSIGNED, "control worker", "a worker's claim raised the epoch"),
    _step(Phase.QUEUED, Phase.FAILED, "control", "its deadline passed while it waited"),
    _step(Phase.QUEUED, Phase.CANCELLED, "user control", "cancelled while it waited"),
    _step(Phase.ASSIGNED, Phase.RUNNING, "worker", "the worker began the first stage"),
    _step(Phase.ASSIGNED, Phase.QUEUED, "control worker", "the worker refused it, was lost, or the job was suspended"),
    _step(Phase.ASSIGNED, Phase.FAILED, "control worker", "its deadline passed or no attempt is left"),
    _step(Phase.ASSIGNED, Phase.CANCELLED, "control worker", "cancelled before the first stage"),
    _step(Phase.RUNNING, Phase.PROGRESSING, "control worker", "progress was reported since the claim"),
    _step(
        Phase.RUNNING, Phase.QUEUED, "control worker", "the attempt failed and may be retried, was lost or suspended"
    ),
    _step(Phase.RUNNING, Phase.COMPLETED, "worker", "every stage ended well"),
    _step(Phase.RUNNING, Phase.FAILED, "control worker", "the attempt failed for good, or no attempt is left"),
    _step(Phase.RUNNING, Phase.CANCELLED, "control worker", "the worker stopped on request"),
    _step(Phase.PROGRESSING, Phase.RUNNING, "control worker", "no progress was reported for 60 s"),
    _step(Phase.PROGRESSING, Phase.QUEUED, "control worker", "as from RUNNING"),
    _step(Phase.PROGRESSING, Phase.COMPLETED, "worker", "every stage ended well"),
    _step(Phase.PROGRESSING, Phase.FAILED, "control worker", "as from RUNNING"),
    _step(Phase.PROGRESSING, Phase.CANCELLED, "control worker", "the worker stopped on request"),
)

_BY_PAIR = {(step.source, step.target): step for step in TRANSITIONS}

#: Phases that never change again.
TERMINAL: frozenset[Phase] = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})
#: Phases in which a worker holds the job.
HELD: frozenset[Phase] = frozenset({Phase.ASSIGNED, Phase.RUNNING, Phase.PROGRESSING})

#: A job whose last progress event is older than this, in seconds, is RUNNING rather than PROGRESSING.
PROGRESS_STALE_SECONDS = 60.0


class IllegalTransition(ValueError):
    """A step that the table does not have, or that this actor may not take."""


def check_transition(source: Phase, target: Phase, actor: Actor) -> Transition:
    """Return the table's step from ``source`` to ``target``.

    Raises:
        IllegalTransition: the table has no such step, or ``actor`` may not take it.
    """
    step = _BY_PAIR.get((source, target))
    if step is None:
        raise IllegalTransition(f"a job cannot go from {source.value} to {target.value}")
    if actor not in step.actors:
        may = " or ".join(sorted(a.value for a in step.actors))
        raise IllegalTransition(f"only {may} takes a job from {source.value} to {target.value}, not {actor.value}")
    return step
