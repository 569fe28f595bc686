# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What went wrong, told so that a person and a retry policy both know what to do."""

from __future__ import annotations

import dataclasses
import enum
import typing as t


class ErrorClass(str, enum.Enum):
    """Why a job failed; it decides whether a retry can help, where the job does not say otherwise."""

    INVALID = "invalid"
    """The document or the source contradicts the protocol; only an edit helps."""
    UNSUPPORTED = "unsupported"
    """Well-formed, but nothing here can do it; a retry gives the same answer."""
    ENVIRONMENT = "environment"
    """The worker's host lacks something (space, tool, privilege); it helps after somebody acted, or elsewhere."""
    TRANSIENT = "transient"
    """A fault that may pass by itself (I/O, timeout, lost peer)."""
    INTERNAL = "internal"
    """A mistake in this program."""


#: Which classes are tried again by themselves, within ``backoffLimit``, where the job's ``failurePolicy`` has no rule.
RETRYABLE: dict[ErrorClass, bool] = {
    ErrorClass.INVALID: False,
    ErrorClass.UNSUPPORTED: False,
    ErrorClass.ENVIRONMENT: False,
    ErrorClass.TRANSIENT: True,
    ErrorClass.INTERNAL: False,
}


@dataclasses.dataclass
class JobError(Exception):
    """A failure with everything that its reader needs.

    ``reason`` is a CamelCase word that programs may test (``NoRootDevice``); ``message`` says what failed and where, in
    a sentence; ``suggestion`` says what to do next. Neither holds a secret. ``details`` is the result document as far
    as the job got. ``needs`` names capabilities that this worker lacks for the job, and another one may have.
    """

    error_class: ErrorClass
    reason: str
    message: str
    suggestion: str = ""
    stage: str = ""
    details: dict[str, t.Any] | None = None
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.stage}: " if self.stage else ""
        todo = f" {self.suggestion}" if self.suggestion else ""
        return f"{where}{self.message}{todo}"

    @property
    def retryable(self) -> bool:
        """Whether the same attempt, made again unchanged, may succeed."""
        return RETRYABLE[self.error_class]


def invalid(reason: str, message: str, suggestion: str = "") -> JobError:
    """A :class:`JobError` of class ``invalid``."""
    return JobError(ErrorClass.INVALID, reason, message, suggestion)


def unsupported(reason: str, message: str, suggestion: str = "") -> JobError:
    """A :class:`JobError` of class ``unsupported``."""
    return JobError(ErrorClass.UNSUPPORTED, reason, message, suggestion)


def environment(reason: str, message: str, suggestion: str = "") -> JobError:
    """A :class:`JobError` of class ``environment``."""
    return JobError(ErrorClass.ENVIRONMENT, reason, message, suggestion)


def transient(reason: str, message: str, suggestion: str = "") -> JobError:
    """A :class:`JobError` of class ``transient``."""
    return JobError(ErrorClass.TRANSIENT, reason, message, suggestion)
