# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Converting one disk from one image format to another, as a module does it by itself."""

from __future__ import annotations

import os
import pathlib
import tempfile
import typing as t

from ..disks.command import never, unseen
from ..disks.copy import CopyResult, copy_disk, scan_image
from ..disks.digest import digest_disk
from ..disks.model import DiskImage
from ..disks.source import check_container, has_writer, open_source
from ..protocol import models
from ..protocol.errors import environment, invalid
from ..worker.layout import folder_below
from . import options
from .direct import located

Result = dict[str, t.Any]


def disk_convert(params: options.Options, *, check_mode: bool) -> Result:
    """Return the result of the module ``disk_convert``. The target appears when it is whole, or not at all."""
    spec, roots = located(params)
    target = folder_below(roots.output, params["dest"])
    source = open_source(spec, roots.input)
    image = _image(params["disk"], source.images)
    writer = has_writer(source)
    if writer is not None:
        raise invalid("SourceInUse", f"{image.path} is being written: {writer}.", "Shut the VM down first.")
    with tempfile.TemporaryDirectory(prefix="hyper2kvm-") as folder:
        workdir = pathlib.Path(folder)
        told = {"image": str(target), "virtual_size": image.virtual_size}
        check_container(source, unseen, never, params["bandwidth_bytes_per_second"])
        if target.exists() and not params["force"]:
            return {"changed": False, **told, "digest": _same(image, target, params["format"], workdir)}
        if check_mode:
            return {"changed": True, **told}
        copied = _copy(image, target, params, workdir)
    return {
        "changed": True,
        **told,
        "bytes_read": copied.bytes_read,
        "bytes_written": copied.bytes_written,
        "digest": copied.source_digest,
    }


def _image(name: str, images: t.Iterable[DiskImage]) -> DiskImage:
    by_name = {image.name: image for image in images}
    if name not in by_name:
        raise invalid("NoSuchDisk", f"The source has no {name}, but {', '.join(by_name)}.", "Name one of them.")
    return by_name[name]


def _same(image: DiskImage, target: pathlib.Path, fmt: str, workdir: pathlib.Path) -> str:
    """Return the digest that both have.

    Raises:
        JobError: class ``invalid``, the target holds something else.
    """
    found = digest_disk(target, fmt, workdir=workdir)
    wanted = scan_image(image, workdir=workdir)
    if found != wanted.digest:
        raise invalid("TargetDiffers", f"{target} exists and holds something else.", "Name another, or set force.")
    return found


def _copy(image: DiskImage, target: pathlib.Path, params: options.Options, workdir: pathlib.Path) -> CopyResult:
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copied = copy_disk(
            image,
            partial,
            fmt=models.TargetFormat(params["format"]),
            allocation=models.Allocation(params["allocation"]),
            compression=models.Compression(params["compression"]),
            bandwidth=params["bandwidth_bytes_per_second"],
            workdir=workdir,
        )
        partial.replace(target)
    except OSError as error:
        raise environment(
            "NotWritten", f"{target} cannot be written: {error.strerror}.", "Make room, or choose another folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return copied
