# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot test as a step of a job: of overlays (rehearse), a target (verify), a source as it is (boot-test)."""

from __future__ import annotations

import pathlib
import typing as t

from ...guests.boottest.run import BootTestRequest, boot_test
from ...protocol import models
from ...protocol.errors import ErrorClass, JobError
from ..job_context import JobContext


def run(context: JobContext) -> str:
    """Boot the source as it is, on throw-away layers; fill in the result's ``boot_test`` and verdict."""
    context.close_guest()
    result = boot_and_judge(context, "verify", [(path, "qcow2") for path in context.overlays])
    context.result.boot_test = result
    return f"booted in {result.seconds:.0f} s"


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
        ),
        lambda message: context.report(stage, 0, 0, message),
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


def _record_evidence(context: JobContext, folder: pathlib.Path) -> None:
    kinds: dict[str, t.Literal["console", "screenshot"]] = {".log": "console", ".png": "screenshot"}
    for path in sorted(folder.iterdir()):
        relative = str(path.relative_to(context.roots.output))
        context.result.artifacts = [a for a in context.result.artifacts if a.path != relative]
        context.result.artifacts.append(
            models.Artifact(path=relative, kind=kinds[path.suffix], size_bytes=path.stat().st_size)
        )
