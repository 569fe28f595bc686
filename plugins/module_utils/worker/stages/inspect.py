# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""inspect: open the source, look into the guest, and refuse at once what cannot end well."""

from __future__ import annotations

import dataclasses

from ...definitions.networks import unmapped
from ...disks.source import check_given, has_writer
from ...guests.paths import printable
from ...protocol import models
from ...protocol.errors import invalid
from ..job_context import JobContext
from ..layout import target_exists


def run(context: JobContext) -> str:
    """Fill in the result's ``guest``, ``hardware`` and warnings.

    Where nothing further reads the whole source (``inspect`` and ``plan``), the digests that the job gives are compared
    here. An OVA's own manifest is compared when its disks are read whole: in a copy, and before a boot.

    Raises:
        JobError: the source, the target or the guest is not fit for the operation. A guest that cannot be looked into
            is a warning only, where the job leaves its files as they are and boots it.
    """
    if context.publishes_target():
        _refuse_existing_target(context)
        _refuse_unfit_format(context)
    _look_for_writer(context)
    if context.spec.operation in (models.Operation.INSPECT, models.Operation.PLAN):
        check_given(
            context.source,
            lambda done, total: context.report("inspect", done, total, "comparing digests"),
            context.reporter.cancelled,
        )
    facts = context.portrait()
    context.result.guest = facts.to_document()
    machine, hardware = context.machine(), context.source.hardware
    context.result.hardware = {
        "name": hardware.name,
        "cpus": machine.cpus,
        "memoryBytes": machine.memory_bytes,
        "firmware": machine.firmware,
        "secureBoot": machine.secure_boot,
        "bootDisk": context.find_boot_disk(facts),
        "diskBuses": list(hardware.disk_buses),
        "nics": [dataclasses.asdict(nic) for nic in machine.nics],
    }
    for warning in facts.warnings:
        context.warn(warning)
    for sentence in unmapped(machine, context.spec.target.definitions):
        if sentence not in context.result.not_carried:
            context.result.not_carried.append(sentence)
    if hardware.firmware not in (None, context.firmware):
        context.warn(
            f"The metadata says {hardware.firmware} firmware, the disk boots by {context.firmware}; the disk decides."
        )
    if context.boot_disk:
        context.warn(
            f"The VM boots from {context.source.images[context.boot_disk].name}, which is not the first of its disks: "
            "it comes first in the boot order, and all disks stay where they are."
        )
    return printable(facts.pretty_name) or "not looked into"


def _refuse_existing_target(context: JobContext) -> None:
    if context.spec.target.force:
        return
    layout = context.layout
    # What is on a device was looked at when it was opened.
    files = [] if layout.devices else [layout.disk(i) for i in range(len(context.source.images))]
    for path in [layout.result, *files]:
        if path.exists():
            raise target_exists(path)


def _refuse_unfit_format(context: JobContext) -> None:
    if context.spec.operation is not models.Operation.FIX:
        return
    for image in context.source.images:
        if image.format != context.layout.format.value:
            raise invalid(
                "FormatDiffers",
                f"The operation fix keeps an image's format, but {image.path.name} is {image.format} and "
                f"target.format says {context.layout.format.value}.",
                "Set target.format to the source's format, or use the operation convert.",
            )


def _look_for_writer(context: JobContext) -> None:
    writer = has_writer(context.source)
    if writer is None:
        return
    if context.publishes_target():
        raise invalid(
            "SourceInUse",
            f"The source is being written: {writer}.",
            "Shut the VM down and export it again; a copy of a disk that changes is no copy.",
        )
    context.warn(f"The source is being written ({writer}); this shows it as after a crash.")
