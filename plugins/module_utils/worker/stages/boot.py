# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot test as a step of a job: of overlays (rehearse), a target (verify), a source as it is (boot-test)."""

from __future__ import annotations

import pathlib
import time
import typing as t

from ...disks.source import check_manifest
from ...guests.boottest.accelerator import probe_accelerator
from ...guests.boottest.run import BootTestRequest, boot_test
from ...protocol import models
from ...protocol.errors import ErrorClass, JobError
from ..job_context import JobContext

#: How long a boot test takes, in seconds, by accelerator.
EXPECTED_SECONDS = {"kvm": 20.0, "tcg": 75.0}
#: The part of a boot test's progress that the expected time fills; what is left lasts until the limit. Percent.
_EXPECTED_PERCENT = 90.0


def run(context: JobContext) -> str:
    """Boot the source as it is, on throw-away layers; fill in the result's ``boot_test`` and verdict.

    All digests that are known are compared before: those of the job, and an OVA's manifest.
    """
    context.close_guest()
    # Looking into the guest mounted the overlays, which replays journals: what is booted shows the source again.
    context.create_overlays()
    check_source(context, "verify")
    result = boot_and_judge(context, "verify", [(path, "qcow2") for path in context.overlays])
    context.result.boot_test = result
    return f"booted in {result.seconds:.0f} s"


def check_source(context: JobContext, stage: str) -> None:
    """Read every file of the source for which a digest is known, and compare.

    Raises:
        JobError: class ``invalid``, a file is not what the job or a manifest says.
    """
    check_manifest(
        context.source,
        lambda done, total: context.report(stage, done, total, "comparing digests"),
        context.reporter.cancelled,
    )


def boot_and_judge(
    context: JobContext, stage: str, disks: t.Sequence[tuple[pathlib.Path, str]]
) -> models.BootTestResult:
    """Boot ``disks`` and set the result's verdict.

    Raises:
        JobError: the guest did not boot. The result document holds the boot test all the same.
    """
    machine = context.machine()
    verify = context.spec.verify
    evidence = context.layout.evidence(stage)
    evidence.mkdir(parents=True, exist_ok=True)
    result = boot_test(
        BootTestRequest(
            disks=list(disks),
            firmware=machine.firmware,
            nics=list(machine.nics),
            memory_bytes=machine.memory_bytes,
            cpus=machine.cpus,
            timeout_seconds=verify.timeout_seconds,
            marker=verify.marker,
            workdir=context.workdir,
            evidence=evidence,
            secure_boot=machine.secure_boot,
            boot_disk=machine.boot_disk,
            logical_block_sizes=[disk.logical_block_size for disk in machine.disks],
            access=context.access,
        ),
        _clock(context, stage),
        context.reporter.cancelled,
    )
    context.check_cancelled()
    _record_evidence(context, evidence)
    for warning in result.warnings:
        context.warn(warning)
    if result.verdict == "booted":
        context.result.verdict = "boots-with-warnings" if result.warnings else "boots"
        return result
    context.result.verdict = "will-not-boot"
    if stage == "rehearse":
        context.result.rehearsal = result
    else:
        context.result.boot_test = result
    tail = "\n".join(result.console_tail[-5:])
    raise JobError(
        ErrorClass.UNSUPPORTED,
        result.reason or "DoesNotBoot",
        f"{result.message}\nThe console's last lines:\n{tail}" if tail else result.message,
        result.suggestion,
    )


def boot_progress(elapsed: float, expected: float, limit: float) -> tuple[float, float | None, str]:
    """Return percent, seconds left, and what these are measured by, of a boot test after ``elapsed`` seconds.

    Nobody knows how long a guest takes. Up to the expected time that is what counts. Later what is left is not told:
    the limit would be a poor guess. The percentage goes on towards the limit, and never falls.

    >>> boot_progress(10, 20, 600)
    (45.0, 10, 'about 20 s expected')
    >>> boot_progress(310, 20, 600)
    (95.0, None, 'longer than the expected 20 s; it ends after 600 s at the latest')
    """
    if elapsed < expected:
        return _EXPECTED_PERCENT * elapsed / expected, expected - elapsed, f"about {expected:.0f} s expected"
    beyond = min(1.0, (elapsed - expected) / (limit - expected)) if limit > expected else 1.0
    percent = _EXPECTED_PERCENT + (100.0 - _EXPECTED_PERCENT) * beyond
    text = f"longer than the expected {expected:.0f} s; it ends after {limit:.0f} s at the latest"
    return percent, None, text


def _clock(context: JobContext, stage: str) -> t.Callable[[str], None]:
    """Return what tells a boot test's progress by the time that it has taken."""
    began = time.monotonic()
    limit = float(context.spec.verify.timeout_seconds)
    expected = min(EXPECTED_SECONDS[probe_accelerator().name], limit)

    def tell(message: str) -> None:
        percent, left, text = boot_progress(time.monotonic() - began, expected, limit)
        context.report_time(stage, percent, left, f"{message} ({text})")

    return tell


def _record_evidence(context: JobContext, folder: pathlib.Path) -> None:
    kinds: dict[str, t.Literal["console", "screenshot"]] = {".log": "console", ".png": "screenshot"}
    for path in sorted(folder.iterdir()):
        relative = str(path.relative_to(context.roots.output))
        context.result.artifacts = [a for a in context.result.artifacts if a.path != relative]
        context.result.artifacts.append(
            models.Artifact(path=relative, kind=kinds[path.suffix], size_bytes=path.stat().st_size)
        )
