# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""When a boot test ends, and how: what the machine tells goes in, the outcome comes out. No clock, no process."""

from __future__ import annotations

import dataclasses
import typing as t

from . import diagnosis
from .diagnosis import Failure
from .report import Report

#: How long the report of emergency mode is waited for, and, after a login prompt, the one of the default target:
#: services may still be starting. Seconds.
_EMERGENCY_REPORT_SECONDS = 30.0
_REPORT_AFTER_PROOF_SECONDS = 180.0
#: A guest may restart: after a relabelling, or once its firmware or loader wrote its settings.
_RESTARTS = 3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the test ended."""

    seconds: float
    """From the machine's start to the proof, or to the failure's sign."""
    failure: Failure | None = None
    """None: the guest booted."""
    marker: str = ""
    """What proves the boot."""
    report: Report | None = None
    warnings: tuple[str, ...] = ()


class Watch:
    """Gathers signs until they decide. Times are seconds since the machine started."""

    def __init__(self, *, marker: str | None, expects_report: bool, cards: int, timeout: float) -> None:
        """``cards``: how many network cards the machine has; ``timeout``: seconds."""
        self._marker = marker
        self._cards = cards
        self._expects_report = expects_report
        self._timeout = timeout
        self._proof = ""
        self._proof_at = 0.0
        self._failure: Failure | None = None
        self._failure_at = 0.0
        self._report: Report | None = None
        self._report_at = 0.0
        self._restarts = 0
        self._final = False

    def console(self, text: str, now: float) -> None:
        """``text`` is all that the console shows by now, or its end."""
        if not self._proof:
            proof = diagnosis.asks_for_login(text)
            if self._marker is not None:
                proof = f"the console shows {self._marker!r}" if self._marker in text else ""
            elif proof:
                proof = f"login prompt {proof!r}"
            if proof:
                self._proof, self._proof_at = proof, now
        if self._final:
            return
        failure = diagnosis.find_failure(text)
        if failure is None or self._failure is None or failure.reason != self._failure.reason:
            self._failure_at = now
        self._failure = failure

    def report(self, report: Report, now: float) -> None:
        """The guest reported."""
        self._report, self._report_at = report, now

    def event(self, event: t.Mapping[str, t.Any], now: float) -> None:
        """QEMU's monitor told of an event."""
        name, data = event.get("event"), event.get("data", {})
        if name == "BLOCK_IO_ERROR" and data.get("nospace"):
            self._fail(diagnosis.LAYER_FULL, now)
        elif name == "SHUTDOWN" and data.get("guest"):
            self._fail(diagnosis.POWERED_OFF, now)
        elif name == "RESET" and data.get("guest"):
            self._restarts += 1
            if self._restarts > _RESTARTS:
                self._fail(diagnosis.REBOOT_LOOP, now)

    def outcome(self, console: str, now: float) -> Outcome | None:
        """Return how the test ended; None: not yet."""
        if self._report is not None:
            failure = diagnosis.judge_report(self._report, console)
            if failure is not None:
                return Outcome(self._report_at, failure, report=self._report)
            if self._marker is None or self._proof:
                return self._booted()
        if self._proof and not (self._expects_report and self._report is None):
            return self._booted()
        if self._failure is not None and not self._proof:
            patience = self._failure.patience
            if self._failure.reason == "EmergencyMode" and self._expects_report:
                patience = max(patience, _EMERGENCY_REPORT_SECONDS)
            if now >= min(self._failure_at + patience, self._timeout):
                return Outcome(self._failure_at, self._failure)
        if self._proof and now >= min(self._proof_at + _REPORT_AFTER_PROOF_SECONDS, self._timeout):
            return self._booted()
        if now >= self._timeout:
            return Outcome(now, diagnosis.timed_out(console, now, self._marker), report=self._report)
        return None

    def _fail(self, failure: Failure, now: float) -> None:
        if not self._final:
            self._failure, self._failure_at, self._final = failure, now, True

    def _booted(self) -> Outcome:
        report = self._report
        warnings = []
        if report is not None:
            target = report.facts.get("target") or "default target"
            marker = self._proof if self._marker is not None else f"the guest reported {target}"
            seconds = self._proof_at if self._marker is not None else self._report_at
            for unit in report.failed_units:
                warnings.append(
                    f"The unit {unit} failed during the boot test, in which the guest had no network route."
                )
            seen = sum(1 for interface in report.facts["interfaces"].values() if interface["driver"])
            if seen < self._cards:
                warnings.append(
                    f"The guest shows {seen} of its {self._cards} network cards. Without a driver for virtio-net "
                    "(or with one that is kept from loading) it is not reached over the network."
                )
        else:
            marker, seconds = self._proof, self._proof_at
            if self._expects_report:
                warnings.append(
                    "The guest showed that it booted, but did not reach its default target while the boot test waited; "
                    "a service may need the network, which the test does not give."
                )
        return Outcome(seconds, None, marker, report, tuple(warnings))
