# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""publish: definitions, result document, and last of all the rename that makes the target visible."""

from __future__ import annotations

import hashlib
import json
import pathlib
import typing as t

from ...definitions.kubevirt import virtual_machine
from ...definitions.libvirt import domain_xml
from ...definitions.machine import Machine, libvirt_command, qemu_command
from ...guests.boottest.accelerator import TCG, probe_accelerator
from ...guests.boottest.confinement import find_program
from ...protocol import models
from ...protocol.errors import JobError
from ..job_context import JobContext, now, sync_folder, write_durably
from ..layout import target_exists
from ..unfinished import is_result_of


def run(context: JobContext) -> str:
    """Write the artifacts. The result document goes last: where it exists, the job's work is whole."""
    context.close_guest()
    layout, result = context.layout, context.result
    if context.publishes_target() and not context.spec.target.force:
        _refuse_foreign_target(context)
    layout.folder.mkdir(parents=True, exist_ok=True)
    layout.result.unlink(missing_ok=True)
    if context.publishes_target():
        _announce(context)
        for index in range(len(context.source.images)):
            _publish_disk(context, index)
        _write_definitions(context)
        sync_folder(layout.folder)
    elif context.spec.operation in (models.Operation.PLAN, models.Operation.INSPECT):
        result.verdict = "done"
    result.completed_at = now()
    context.save()
    write_durably(layout.result, json.dumps(result.to_document(), indent=2).encode() + b"\n")
    _add_artifact(context, layout.result, "result")
    context.forget_unfinished()
    if context.publishes_target():
        _remove_former_partials(context)
    return str(layout.folder.relative_to(context.roots.output))


def _refuse_foreign_target(context: JobContext) -> None:
    """Look again before anything is replaced: hours may have passed since ``inspect``, and an attempt or two."""
    layout = context.layout
    files = [] if layout.devices else range(len(context.source.images))
    targets = [layout.disk(i) for i in files if context.partial(i).exists()]
    # A predecessor of this attempt may have written it, and died before it could say so.
    if layout.result.exists() and not is_result_of(layout.result, context.result.uid):
        targets.append(layout.result)
    for path in targets:
        if path.exists():
            raise target_exists(path)


def _announce(context: JobContext) -> None:
    """Write down what is about to be put in place: without its result document, whoever ends the job takes it away."""
    layout, disks = context.layout, range(len(context.source.images))
    for index in disks:
        partial = context.partial(index)
        if not layout.devices and partial.exists():
            context.placed[str(layout.disk(index))] = partial.stat().st_ino
    context.texts = [str(path) for path in (layout.libvirt, layout.kubevirt, *map(layout.map, disks))]
    context.save()


def _publish_disk(context: JobContext, index: int) -> None:
    partial, target = context.partial(index), context.layout.disk(index)
    # A predecessor that died between this rename and the result document left the target in place already.
    if not context.devices and partial.exists():
        partial.replace(target)
    context.result.disks[index].target = context.layout.shown(target, context.roots.output)
    _add_artifact(
        context,
        target,
        "disk",
        size=context.source.images[index].virtual_size if context.devices else None,
        format=context.layout.format.value,
        digest=context.result.disks[index].digests.target,
    )
    copied_map = context.layout.map(index)
    if context.result.disks[index].map is not None:
        write_durably(copied_map, context.map_file(index).read_bytes())
        _add_artifact(context, copied_map, "map")
    else:
        copied_map.unlink(missing_ok=True)


def _remove_former_partials(context: JobContext) -> None:
    """Remove what another host copied that had the job before; its own attempts took theirs up."""
    for index in range(len(context.source.images)):
        for path in context.layout.former_partials(index, context.job.status.epoch):
            path.unlink(missing_ok=True)


def _write_definitions(context: JobContext) -> None:
    machine = context.machine()
    writers: dict[models.Definition, tuple[pathlib.Path, t.Callable[[], str], t.Literal["libvirt", "kubevirt"]]] = {
        models.Definition.LIBVIRT: (context.layout.libvirt, lambda: domain_xml(machine), "libvirt"),
        models.Definition.KUBEVIRT: (context.layout.kubevirt, lambda: virtual_machine(machine), "kubevirt"),
    }
    for wanted in context.spec.target.definitions:
        path, text, kind = writers[wanted]
        write_durably(path, text().encode())
        _add_artifact(context, path, kind)
    context.result.start_command = _start_command(machine)
    if models.Definition.LIBVIRT in context.spec.target.definitions:
        context.result.libvirt_command = libvirt_command(machine, context.layout.libvirt)


def _start_command(machine: Machine) -> str:
    try:
        accelerator, program = probe_accelerator(), find_program()
    except JobError:
        # This worker cannot start it; the command is for a host that can.
        accelerator, program = TCG, "qemu-system-x86_64"
    return qemu_command(machine, program=program, accelerator=accelerator.name, cpu=accelerator.cpu)


def _add_artifact(
    context: JobContext,
    path: pathlib.Path,
    kind: t.Literal["disk", "map", "libvirt", "kubevirt", "result"],
    *,
    size: int | None = None,
    format: str | None = None,
    digest: str | None = None,
) -> None:
    if digest is None and kind != "result":
        digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    artifact = models.Artifact(
        path=context.layout.shown(path, context.roots.output),
        kind=kind,
        format=format,
        size_bytes=path.stat().st_size if size is None else size,
        digest=digest,
    )
    context.result.artifacts = [a for a in context.result.artifacts if a.path != artifact.path] + [artifact]
