# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work on disks and guests that a module does by itself, without a job or a queue."""

# False alarm: contextlib throws into the generator, so that the inner context ends.
# pylint: disable=contextmanager-generator-missing-cleanup, used-before-assignment
from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
import typing as t

from ..disks.attach import Attachment, Layer, attach
from ..disks.commit import commit_overlay
from ..disks.filesystems import probe
from ..disks.model import DiskImage, Filesystem, Source
from ..disks.source import open_source
from ..disks.usage import writer_of
from ..guests.roots import mount_guest
from ..protocol import models, validation
from ..protocol.errors import JobError, environment, invalid
from ..worker.context import Roots
from ..worker.engine import SilentReporter, private_mounts
from ..worker.pipeline import BOOT, FIX, INSPECT, PREVIEW, Stage, run_stages
from . import options
from .documents import guest_diff
from .module import error_data

Result = dict[str, t.Any]


def located(params: options.Options) -> tuple[models.SourceSpec, Roots]:
    """Return the source that the options name, and roots in which it is the input.

    Sources lie below the input root; an absolute path may name one below the output root, such as a target.
    """
    roots = options.roots(params)
    document = {"metadata": {"name": "source"}, "spec": {"source": params["source"]}}
    spec = validation.parse_job(validation.snake_to_document(document)).spec.source
    paths = [path for path in [spec.path, *(disk.path for disk in spec.disks)] if path]
    if all(path.startswith(f"{roots.output}/") for path in paths):
        roots = dataclasses.replace(roots, input=roots.output)
    return spec, roots


def disk_info(params: options.Options) -> Result:
    """Return the result of the module ``disk_info``."""
    spec, roots = located(params)
    source = open_source(spec, roots.input)
    result: Result = {
        "changed": False,
        "disks": [_image(image) for image in source.images],
        "hardware": _plain(dataclasses.asdict(source.hardware)),
        "warnings": list(source.warnings),
    }
    if params["filesystems"]:
        with _workdir() as workdir, attach(_layers(source), writable=False, workdir=workdir) as attachment:
            result["filesystems"] = [_filesystem(found) for found in probe(attachment)]
    return result


def guest_info(params: options.Options) -> Result:
    """Return the result of the module ``guest_info``."""
    done = _run(params, (INSPECT,), models.Operation.INSPECT)
    return {"changed": False, "guest": done.guest, "hardware": done.hardware, "warnings": done.warnings}


def guest_fix(params: options.Options, *, check_mode: bool) -> Result:
    """Return the result of the module ``guest_fix``; the image is changed only when every write arrived."""
    spec, roots = located(params)
    source = open_source(spec, roots.input)
    for image in source.images:
        if roots.input != roots.output or image.format not in ("qcow2", "raw") or image.backing is not None:
            raise invalid(
                "NotATarget",
                f"{image.path} is not a whole qcow2 or raw image below the output root {roots.output}.",
                "A source is never changed: convert it, or copy it below the output root.",
            )
        writer = writer_of(image.path)
        if writer is not None:
            raise invalid("TargetInUse", f"{image.path} is in use: {writer}.", "Shut the VM down first.")

    def commit(workdir: pathlib.Path, done: models.JobResult) -> None:
        if not check_mode and done.changes:
            for image in source.images:
                commit_overlay(workdir / f"{image.name}.overlay.qcow2", image.path, image.format)

    stages = PREVIEW if check_mode else (*PREVIEW, FIX)
    done = _run(params, stages, models.Operation.PLAN, then=commit)
    changes = [change.to_document() for change in done.changes]
    return {
        "changed": bool(changes),
        "changes": changes,
        "diff": [guest_diff(change) for change in changes],
        "warnings": done.warnings,
    }


def guest_boot_test(params: options.Options) -> Result:
    """Return the result of the module ``guest_boot_test``, which is a failed one where the guest does not boot."""
    try:
        done = _run(params, (INSPECT, BOOT), models.Operation.BOOT_TEST).to_document()
    except JobError as error:
        done = error.details or {}
        if "bootTest" not in done:
            raise
        failed = {"failed": True, "msg": str(error), "error": error_data(error)}
        return {**failed, "changed": False, "boot_test": done["bootTest"], "warnings": done["warnings"]}
    return {"changed": False, "boot_test": done["bootTest"], "warnings": done["warnings"]}


@contextlib.contextmanager
def attached(
    spec: models.SourceSpec, roots: Roots, *, writable: bool, workdir: pathlib.Path
) -> t.Iterator[tuple[Attachment, list[Filesystem]]]:
    """Attach the disks of a source; writable only where they are qcow2 images below the output root.

    Raises:
        JobError: the source may not be written, or cannot be attached here.
    """
    source = open_source(spec, roots.input)
    layers: dict[str, Layer] = _layers(source)
    if writable:
        for image in source.images:
            if roots.input != roots.output or image.format != "qcow2" or image.backing is not None:
                raise invalid(
                    "NotATarget",
                    f"{image.path} is not a whole qcow2 image below the output root {roots.output}.",
                    "A source is never written; attach it read-only.",
                )
        layers = {image.name: image.path for image in source.images}
    with attach(layers, writable=writable, workdir=workdir) as attachment:
        yield attachment, probe(attachment)


@contextlib.contextmanager
def attached_disks(
    spec: models.SourceSpec, roots: Roots, *, writable: bool, workdir: pathlib.Path
) -> t.Iterator[Result]:
    """Attach a source's disks and say where the devices are."""
    with attached(spec, roots, writable=writable, workdir=workdir) as (attachment, filesystems):
        yield {
            "disks": [{"name": disk.name, "device": str(disk.device)} for disk in attachment.disks.values()],
            "partitions": [
                {
                    **_filesystem(found),
                    "device": str(attachment.disks[found.partition.disk].partition_device(found.partition)),
                }
                for found in filesystems
            ],
        }


@contextlib.contextmanager
def mounted_guest(
    spec: models.SourceSpec, roots: Roots, *, writable: bool, workdir: pathlib.Path
) -> t.Iterator[Result]:
    """Mount a source's guest and say where."""
    with (
        attached(spec, roots, writable=writable, workdir=workdir) as (attachment, filesystems),
        mount_guest(attachment, filesystems, writable=writable, workdir=workdir) as guest,
    ):
        yield {
            "root": str(guest.tree.root),
            "mounts": [{"mountpoint": mount.mountpoint, **_filesystem(mount.filesystem)} for mount in guest.mounts],
            "warnings": list(guest.warnings),
        }


def require_root() -> None:
    """Raise: JobError, class ``environment``, where this process is not root."""
    if os.geteuid() != 0:
        raise environment(
            "NotRoot", "Attaching disks and mounting guests takes root.", "Run the task with become, or elsewhere."
        )


def _run(
    params: options.Options,
    stages: tuple[Stage, ...],
    operation: models.Operation,
    *,
    then: t.Callable[[pathlib.Path, models.JobResult], None] = lambda workdir, done: None,
) -> models.JobResult:
    """Carry a job through ``stages`` in this process, in a working folder and with mounts that end with it."""
    spec, roots = located(params)
    wanted = {part: params[part] for part in ("guest", "verify") if params.get(part)}
    document = {
        "metadata": {"name": "module"},
        "spec": {"operation": operation, "source": spec.to_document(), **wanted},
    }
    job = validation.parse_job(validation.snake_to_document(document))
    private_mounts()
    with _workdir() as workdir:
        # A boot test leaves its evidence below the output root.
        roots = dataclasses.replace(roots, output=workdir / "output")
        roots.output.mkdir()
        done = run_stages(stages, job, roots, SilentReporter(), workdir)
        then(workdir, done)
        return done


@contextlib.contextmanager
def _workdir() -> t.Iterator[pathlib.Path]:
    require_root()
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-") as folder:
        yield pathlib.Path(folder)


def _layers(source: Source) -> dict[str, Layer]:
    return {image.name: image for image in source.images}


def _image(image: DiskImage) -> Result:
    # A parent is among the extents; an image that has to be unpacked was refused before.
    alone = dataclasses.asdict(dataclasses.replace(image, backing=None))
    data = _plain({key: value for key, value in alone.items() if key not in ("backing", "enclosing", "packing")})
    data["path"] = str(image.path)
    data["extents"] = [str(path) for path in image.extents]
    return t.cast(Result, data)


def _filesystem(found: Filesystem) -> Result:
    part = found.partition
    return {
        "disk": part.disk,
        "number": part.number,
        "start": part.start,
        "size": part.size,
        "type": found.type,
        "uuid": found.uuid,
        "label": found.label,
    }


def _plain(value: t.Any) -> t.Any:
    """Return tuples as lists, and names and texts of a guest without what a terminal would obey."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", value) if isinstance(value, str) else value
