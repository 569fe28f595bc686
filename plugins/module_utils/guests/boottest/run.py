# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The boot test: does this guest boot on KVM's hardware, and if not, why not?

The guest runs as a clone that cannot reach anything: see :mod:`.confinement` and :mod:`.commandline`. It is watched
through its serial console and the report of :mod:`.report`, and the test ends as soon as either decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import secrets
import tempfile
import time
import typing as t

from ...disks.model import Firmware, Nic
from ...protocol import models
from ...protocol.errors import environment
from ..opening import HERE, Access
from . import commandline
from .accelerator import TCG, Accelerator, probe_accelerator
from .commandline import Bus
from .console import Console
from .emulator import Emulator, QemuEnded
from .layers import Layers, prepare
from .layerserver import LayerServer
from .memory import granted_memory
from .passphrase import Typist
from .report import Reader
from .watch import Outcome, Watch

_TICK = 0.5
_PROGRESS_SECONDS = 2.0
#: By accelerator. Booting does not get faster with more processors, and other jobs run beside. Emulated ones spend much
#: of their time in waiting for each other.
_CPU_LIMITS = {"kvm": 4, "tcg": 1}
#: The one failure that is this host's and not the guest's, as :mod:`.diagnosis` calls it.
_STARVED = "HostTooBusy"
_STARVED_TRIALS = 3


@dataclasses.dataclass(frozen=True)
class BootTestRequest:
    """What is booted, and how."""

    disks: t.Sequence[tuple[pathlib.Path, str]]
    """Image and format (``qcow2`` or ``raw``), in the guest's order. They are read only."""
    firmware: Firmware
    nics: t.Sequence[Nic]
    memory_bytes: int
    cpus: int
    timeout_seconds: float
    marker: str | None
    """A text that the console must show; None: the guest's report, or a login prompt."""
    workdir: pathlib.Path
    """An existing folder for throw-away layers, which are gone afterwards."""
    evidence: pathlib.Path
    """An existing folder that gets ``console.log`` and ``screenshot.png``."""
    bus: Bus = "virtio"
    report: bool = True
    """Whether the guest is prepared, in the throw-away layer, to report and to use its serial console."""
    secure_boot: bool = False
    logical_block_sizes: t.Sequence[int] = ()
    """Of the disks, bytes; empty: 512 each."""
    boot_disk: int = 0
    """The place in ``disks`` of the one that boots."""
    access: Access = HERE
    """How the guest's files are reached to prepare it; its keys are typed where the guest asks for a passphrase."""


class _AcceleratorFailed(Exception):
    """QEMU gave up, and it may be KVM's fault."""


class _Cancelled(Exception):
    """The caller wants no result any more."""


def boot_test(
    request: BootTestRequest, progress: t.Callable[[str], None], cancelled: t.Callable[[], bool]
) -> models.BootTestResult:
    """Boot the guest on throw-away layers and return what was seen.

    Args:
        request: what is booted.
        progress: told every few seconds what the console shows.
        cancelled: asked twice a second; True ends the test with the verdict ``not-verified``.

    Raises:
        JobError: the test itself cannot be made (no QEMU, no memory, no space, an image that cannot be opened).
    """
    accelerator = probe_accelerator()
    try:
        if accelerator.name == TCG.name:
            return _boot_emulated(request, progress, cancelled)
        try:
            return _boot(request, accelerator, progress, cancelled)
        except _AcceleratorFailed as error:
            progress("KVM failed under this guest; booting it again without KVM")
            result = _boot_emulated(request, progress, cancelled)
            result.warnings.append(f"KVM failed under this guest, so the test was made without KVM ({error}).")
            return result
    except _Cancelled:
        return models.BootTestResult(verdict="not-verified", reason="Cancelled", message="The boot test was cancelled.")


def _boot_emulated(
    request: BootTestRequest, progress: t.Callable[[str], None], cancelled: t.Callable[[], bool]
) -> models.BootTestResult:
    """Boot without KVM; anew where the host was too busy for the guest's kernel to see its clock tick."""
    result = _boot(request, TCG, progress, cancelled)
    for dummy in range(_STARVED_TRIALS - 1):
        if result.reason != _STARVED:
            break
        progress("this host was too busy for the guest's clock; booting it again")
        result = _boot(request, TCG, progress, cancelled)
    return result


def _boot(
    request: BootTestRequest,
    accelerator: Accelerator,
    progress: t.Callable[[str], None],
    cancelled: t.Callable[[], bool],
) -> models.BootTestResult:
    token = secrets.token_hex(16)
    hardware = _hardware(request, accelerator)
    screenshot = request.evidence / "screenshot.png"
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="boot-", dir=request.workdir)))
        progress("preparing a throw-away layer")
        layers = prepare(
            request.disks,
            folder,
            token=token if request.report else None,
            emulated=accelerator.name == TCG.name,
            secure_boot=request.secure_boot if request.firmware == "uefi" else None,
            access=request.access,
            cancelled=cancelled,
        )
        server = stack.enter_context(LayerServer(layers.all, folder))
        names = [layer.name for layer in layers.disks]
        typist = Typist([key.secret for key in request.access.keys])
        console = stack.enter_context(Console(request.evidence / "console.log", typist.hide))
        watch = Watch(
            marker=request.marker,
            expects_report=layers.reports,
            cards=min(len(hardware.nics), commandline.NIC_LIMIT),
            timeout=request.timeout_seconds,
        )
        try:
            emulator = stack.enter_context(
                Emulator(
                    lambda descriptors: commandline.command(hardware, accelerator, names, descriptors),
                    server.connections,
                    screenshot,
                )
            )
            outcome = _follow(watch, emulator, console, typist, Reader(token), progress, cancelled)
        except QemuEnded as error:
            cause = server.failed()
            if cause is None and accelerator.name == "kvm":
                raise _AcceleratorFailed(str(error)) from None
            raise cause or environment(
                "QemuFailed",
                f"QEMU gave up: {error}.",
                "See that QEMU runs on the worker's host (hyper2kvm-worker capabilities), with memory enough.",
            ) from None
        if not emulator.take_screenshot():
            screenshot.unlink(missing_ok=True)
        return _result(request, hardware, accelerator, layers, outcome, console.tail())


def _follow(
    watch: Watch,
    emulator: Emulator,
    console: Console,
    typist: Typist,
    reader: Reader,
    progress: t.Callable[[str], None],
    cancelled: t.Callable[[], bool],
) -> Outcome:
    emulator.start_clock()
    began = time.monotonic()
    next_look = next_progress = 0.0
    while True:
        if cancelled():
            raise _Cancelled
        news = emulator.wait(_TICK)
        now = time.monotonic() - began
        if news.report:
            report = reader.feed(news.report)
            if report is not None:
                watch.report(report, now)
        if news.console:
            console.feed(news.console)
        # A console comes in small pieces; looking at all of it costs more than taking in a piece.
        if now >= next_look:
            next_look = now + _TICK
            emulator.type(typist.answer(console.text))
            watch.console(typist.unanswered(console.text), now)
        for event in news.events:
            watch.event(event, now)
            if event.get("event") == "STOP" and emulator.status() == "internal-error":
                raise QemuEnded("the virtual processor stopped with an internal error")
        outcome = watch.outcome(console.text, now)
        if outcome is not None:
            return outcome
        if news.ended:
            raise QemuEnded(emulator.last_words())
        if now >= next_progress:
            next_progress = now + _PROGRESS_SECONDS
            progress(f"{now:.0f} s: " + (console.tail(1) or ["waiting for the guest's console"])[0].strip())


def _result(
    request: BootTestRequest,
    hardware: commandline.Hardware,
    accelerator: Accelerator,
    layers: Layers,
    outcome: Outcome,
    tail: list[str],
) -> models.BootTestResult:
    facts: dict[str, t.Any] = {"memoryBytes": hardware.memory_bytes, "cpus": hardware.cpus, "bus": hardware.bus}
    if hardware.memory_bytes < request.memory_bytes:
        facts["memoryBytesOfTheGuest"] = request.memory_bytes
    if outcome.report is not None:
        facts |= outcome.report.facts
    warnings = list(outcome.warnings)
    if layers.obstacle:
        warnings.append(f"The guest could not be asked to report, so its console was judged alone: {layers.obstacle}")
    result = models.BootTestResult(
        verdict="booted",
        seconds=round(outcome.seconds, 1),
        accelerator=accelerator.name,
        marker=outcome.marker,
        facts=facts,
        console_tail=tail,
        warnings=warnings,
    )
    if outcome.failure is not None:
        result.verdict = "failed"
        result.reason = outcome.failure.reason
        result.message = outcome.failure.message
        result.suggestion = outcome.failure.suggestion
    return result


def _hardware(request: BootTestRequest, accelerator: Accelerator) -> commandline.Hardware:
    return commandline.Hardware(
        firmware=request.firmware,
        secure_boot=request.secure_boot,
        nics=tuple(request.nics),
        memory_bytes=granted_memory(request.memory_bytes),
        cpus=max(1, min(request.cpus, len(os.sched_getaffinity(0)), _CPU_LIMITS[accelerator.name])),
        bus=request.bus,
        logical_block_sizes=tuple(request.logical_block_sizes) or (512,) * len(request.disks),
        boot_disk=request.boot_disk,
    )
