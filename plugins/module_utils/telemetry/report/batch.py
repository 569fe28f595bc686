# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a batch of jobs came to, as data: each job's outcome and times, and the sums."""

from __future__ import annotations

import collections
import collections.abc as c
import dataclasses
import datetime
import enum
import functools
import typing as t

from ...protocol import models
from ...protocol.errors import ErrorClass
from ...protocol.fields import moment
from ...protocol.lifecycle import Phase


class Tone(str, enum.Enum):
    """How good an outcome is."""

    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"
    OPEN = "open"


class Kind(t.NamedTuple):
    """How an outcome is shown."""

    label: str
    meaning: str
    sign: str
    """A sign that tells the outcome without colour."""
    tone: Tone
    junit: str
    """The element that JUnit has for it; empty: the test passed."""


class Outcome(enum.Enum):
    """What came of a job."""

    BOOTED = Kind("booted", "came up on KVM's hardware, nothing to look at", "✓", Tone.GOOD, "")
    WARNED = Kind("booted with warnings", "came up; its boot test saw something to look at", "!", Tone.DOUBTFUL, "")
    CONVERTIBLE = Kind("convertible", "a plan was made without anything to look at", "✓", Tone.GOOD, "")
    CONVERTIBLE_WARNED = Kind("convertible with warnings", "a plan was made; look at it", "!", Tone.DOUBTFUL, "")
    DONE = Kind("done", "an operation that boots nothing", "✓", Tone.GOOD, "")
    NOT_VERIFIED = Kind("not verified", "moved, and not booted because the job said so", "?", Tone.DOUBTFUL, "")
    WILL_NOT_BOOT = Kind("will not boot", "the boot test failed; nothing was published", "✗", Tone.BAD, "failure")
    FAILED = Kind("failed", "something went wrong on the way", "✗", Tone.BAD, "error")
    REFUSED = Kind("refused", "the document or the source is not what can be worked on", "⊘", Tone.BAD, "error")
    CANCELLED = Kind("cancelled", "somebody stopped it", "◼", Tone.OPEN, "skipped")
    UNFINISHED = Kind("not finished", "it waits or runs", "…", Tone.OPEN, "skipped")


_BY_VERDICT = {
    "boots": Outcome.BOOTED,
    "boots-with-warnings": Outcome.WARNED,
    "will-not-boot": Outcome.WILL_NOT_BOOT,
    "not-verified": Outcome.NOT_VERIFIED,
    "done": Outcome.DONE,
}
_REFUSALS = frozenset({ErrorClass.INVALID, ErrorClass.UNSUPPORTED})
# The models set no upper bounds. What is beyond these is a mistake of whoever told it, and would overflow.
_YEARS = range(1970, 2200)
_MAX_SECONDS = 10 * 365 * 86400.0
_MAX_BYTES = 1 << 60


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of a job's time."""

    stage: str
    began: datetime.datetime
    seconds: float
    detail: str = ""
    skipped: bool = False
    failed: bool = False
    """Whether the job ended badly in it."""

    @property
    def ended(self) -> datetime.datetime:
        """When it was over."""
        return self.began + datetime.timedelta(seconds=self.seconds)


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One job, as its documents tell it."""

    name: str
    uid: str
    operation: str
    source: str
    """The source's path as the job's document or its result has it; empty: not told."""
    status: models.JobStatus
    result: models.JobResult

    @functools.cached_property
    def outcome(self) -> Outcome:
        """What came of it."""
        phase, error = self.status.phase, self.status.last_error
        if phase is Phase.COMPLETED and self.operation == models.Operation.PLAN.value:
            return Outcome.CONVERTIBLE_WARNED if self.warnings else Outcome.CONVERTIBLE
        if phase is Phase.COMPLETED:
            return _BY_VERDICT[self.result.verdict]
        if phase is Phase.CANCELLED:
            return Outcome.CANCELLED
        if phase is not Phase.FAILED:
            return Outcome.UNFINISHED
        if self.result.verdict == "will-not-boot":
            return Outcome.WILL_NOT_BOOT
        return Outcome.REFUSED if error is not None and error.error_class in _REFUSALS else Outcome.FAILED

    @property
    def error(self) -> models.ErrorDocument | None:
        """Why it failed; None: it did not."""
        return self.status.last_error if self.outcome.value.tone is Tone.BAD else None

    @property
    def boot(self) -> models.BootTestResult | None:
        """The boot that counts: the target's, else the rehearsal's."""
        return self.result.boot_test or self.result.rehearsal

    @functools.cached_property
    def warnings(self) -> list[str]:
        """What a person should look at, each once."""
        boots = [boot for boot in (self.result.rehearsal, self.result.boot_test) if boot is not None]
        told = [self.result.warnings, self.result.not_carried, *(boot.warnings for boot in boots)]
        return list(dict.fromkeys(text for texts in told for text in texts))

    @functools.cached_property
    def spans(self) -> list[Span]:
        """Its stages in the order of time, that in which it failed included."""
        stages = self.status.stages or self.result.stages
        spans = [
            Span(one.name, began, min(one.seconds, _MAX_SECONDS), one.detail, one.skipped)
            for one, began in ((one, _moment(one.started_at)) for one in stages)
            if began is not None
        ]
        spans.sort(key=lambda span: span.began)
        return [*spans, *self._unfinished(spans)]

    def _unfinished(self, spans: c.Sequence[Span]) -> list[Span]:
        """Return the stage that ended with the job's failure, which no record tells."""
        error, last = self.error, self.status.attempts[-1:]
        began = _moments(attempt.started_at for attempt in last)
        ended = _moments(attempt.ended_at for attempt in last)
        if error is None or not began or not ended:
            return []
        start = max([*began, *(span.ended for span in spans)])
        seconds = max(0.0, (ended[0] - start).total_seconds())
        return [Span(error.stage or "start", start, seconds, error.reason, failed=True)]

    @functools.cached_property
    def began(self) -> datetime.datetime | None:
        """When work on it began; None: it has not."""
        told = _moments([self.status.started_at, *(attempt.started_at for attempt in self.status.attempts)])
        return min([*told, *(span.began for span in self.spans)], default=None)

    @functools.cached_property
    def ended(self) -> datetime.datetime | None:
        """When work on it ended, as far as that is known."""
        told = _moments([self.status.finished_at, self.result.completed_at])
        return max([*told, *(span.ended for span in self.spans)], default=None)

    @property
    def seconds(self) -> float:
        """Seconds of work; a result does not tell those of the stage in which the job failed, the stages do."""
        return max(min(self.result.seconds, _MAX_SECONDS), sum(span.seconds for span in self.spans))

    @property
    def bytes_read(self) -> int:
        """Bytes that were read of its source."""
        return _bytes(disk.bytes_read for disk in self.result.disks)

    @property
    def bytes_written(self) -> int:
        """Bytes that were written to its target."""
        return _bytes(disk.bytes_written for disk in self.result.disks)

    @property
    def virtual_size(self) -> int:
        """Sizes of its disks as the guest sees them, in bytes."""
        return _bytes(disk.virtual_size_bytes for disk in self.result.disks)

    @property
    def worker(self) -> str:
        """The worker that had it last; empty: not told."""
        return self.status.attempts[-1].worker if self.status.attempts else ""


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A document that is none."""

    where: str
    why: str


@dataclasses.dataclass(frozen=True)
class Rates:
    """Bytes per second of all copies together, in ``len(read)`` equal parts of the time from ``began`` on."""

    began: datetime.datetime
    seconds: float
    """Of all parts together."""
    read: list[float]
    written: list[float]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Jobs that are reported together."""

    title: str
    records: list[Record]
    """By the time at which they began, then by name."""
    unreadable: list[Unreadable]

    @classmethod
    def of(cls, title: str, records: c.Iterable[Record], unreadable: c.Iterable[Unreadable] = ()) -> Batch:
        """Return the batch of these jobs, in the order of their beginning."""
        return cls(title, sorted(records, key=_order), sorted(unreadable, key=lambda one: one.where))

    @functools.cached_property
    def counts(self) -> dict[Outcome, int]:
        """How many jobs had each outcome; those that none had are left out."""
        counted = collections.Counter(record.outcome for record in self.records)
        return {outcome: counted[outcome] for outcome in Outcome if counted[outcome]}

    @property
    def began(self) -> datetime.datetime | None:
        """When the first job began."""
        return min((record.began for record in self.records if record.began is not None), default=None)

    @property
    def ended(self) -> datetime.datetime | None:
        """When the last job ended."""
        return max((record.ended for record in self.records if record.ended is not None), default=None)

    @property
    def wall_seconds(self) -> float:
        """Seconds from the first beginning to the last end."""
        if self.began is None or self.ended is None:
            return 0.0
        return max(0.0, (self.ended - self.began).total_seconds())

    @property
    def bytes_read(self) -> int:
        """Bytes that were read of all sources."""
        return sum(record.bytes_read for record in self.records)

    @property
    def bytes_written(self) -> int:
        """Bytes that were written to all targets."""
        return sum(record.bytes_written for record in self.records)

    def rates(self, parts: int) -> Rates | None:
        """Return how fast was copied over time; None: nothing was, or no time passed.

        Documents tell of a copy only its bytes, its beginning and its end, so each is taken to have been even.
        """
        copies = [(span, record) for record in self.records for span in record.spans if span.stage == "copy"]
        copies = [(span, record) for span, record in copies if span.seconds and not span.failed]
        if self.began is None or not copies or not self.wall_seconds:
            return None
        width = self.wall_seconds / parts
        read, written = [0.0] * parts, [0.0] * parts
        for span, record in copies:
            first = max(0.0, (span.began - self.began).total_seconds())
            last = first + span.seconds
            for part in range(int(first / width), min(parts, int(last / width) + 1)):
                overlap = min(last, (part + 1) * width) - max(first, part * width)
                read[part] += record.bytes_read / span.seconds * overlap / width
                written[part] += record.bytes_written / span.seconds * overlap / width
        return Rates(self.began, self.wall_seconds, read, written)


def _order(record: Record) -> tuple[bool, float, str, str]:
    began = record.began
    return began is None, began.timestamp() if began else 0.0, record.name, record.uid


def _moment(instant: str) -> datetime.datetime | None:
    """Return the instant; None: no calendar or clock has it."""
    try:
        told = moment(instant)
    except ValueError:
        return None
    return told if told.year in _YEARS else None


def _moments(instants: c.Iterable[str | None]) -> list[datetime.datetime]:
    return [told for told in (_moment(instant) for instant in instants if instant) if told is not None]


def _bytes(counts: c.Iterable[int]) -> int:
    return min(sum(counts), _MAX_BYTES)
