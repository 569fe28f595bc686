# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a job says of its retries, in the one form in which :func:`.status.fail` takes it. Pure."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import typing as t

from .errors import JobError
from .reports import MatchedRule
from .spec import BEYOND_POLICY, FailurePolicy, FailureRule, JobSpec


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """How often a job's failed attempts are made again, and after which errors. Without anything: never."""

    backoff_limit: int = 0
    """Failures that count and are yet followed by another attempt."""
    rules: tuple[FailureRule, ...] = ()
    """What errors are treated otherwise than by their class; the first that matches decides."""

    @classmethod
    def of(cls, spec: JobSpec) -> RetryPolicy:
        """Return what ``spec`` says of retries."""
        return cls(spec.backoff_limit, tuple(spec.failure_policy.rules))

    @classmethod
    def read(cls, spec: c.Mapping[str, t.Any]) -> RetryPolicy:
        """Return what the document of a spec says, as a store keeps it; one from before the policy has none.

        Only this part is read, so that whatever else the document holds cannot keep its job from ending.
        """
        policy = FailurePolicy.model_validate(spec.get("failurePolicy", {}))
        return cls(spec["backoffLimit"], tuple(policy.rules))

    def match(self, error: JobError) -> MatchedRule | None:
        """Return the rule that decides what follows ``error``; None: its class does, or it is beyond any policy."""
        if error.reason in BEYOND_POLICY:
            return None
        for index, rule in enumerate(self.rules):
            if error.error_class in (rule.classes or [error.error_class]) and error.reason in (
                rule.reasons or [error.reason]
            ):
                return MatchedRule(index=index, action=rule.action)
        return None
