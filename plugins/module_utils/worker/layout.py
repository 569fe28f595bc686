# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a job's files lie below the output root: one place that knows every name."""

from __future__ import annotations

import dataclasses
import pathlib

from ..disks.model import Source
from ..protocol import models
from ..protocol.errors import JobError, invalid


@dataclasses.dataclass(frozen=True)
class TargetLayout:
    """The artifacts of one VM in one folder."""

    folder: pathlib.Path
    """Absolute, below the output root."""
    name: str
    """Of the VM and its files."""
    format: models.TargetFormat
    operation: models.Operation
    writer: str
    """The beginning of the job's uid."""
    devices: tuple[pathlib.Path, ...] = ()
    """The block devices that are the disks, as the job names them; empty: the disks are files in ``folder``."""

    def disk(self, index: int) -> pathlib.Path:
        """The published disk number ``index`` (from 0, in the source's order): a file, or the device."""
        return self.devices[index] if self.devices else self._file(index)

    def _file(self, index: int) -> pathlib.Path:
        suffix = "" if index == 0 else f"-disk{index}"
        extension = "qcow2" if self.format is models.TargetFormat.QCOW2 else "img"
        return self.folder / f"{self.name}{suffix}.{extension}"

    def partial(self, index: int, epoch: int) -> pathlib.Path:
        """The disk while it is written by the attempt ``epoch`` at this very job; no other one's has its name."""
        file = self._file(index)
        return file.with_name(f"{file.name}.{self.writer}.{epoch}.partial")

    def former_partials(self, index: int, epoch: int) -> list[pathlib.Path]:
        """What earlier attempts at this very job left of the disk, on this host or on others that share the folder."""
        beginning = f"{self.disk(index).name}.{self.writer}."
        names = {f"{beginning}{former}.partial" for former in range(1, epoch)}
        return sorted(path for path in self.folder.iterdir() if path.name in names)

    def map(self, index: int) -> pathlib.Path:
        """The map of what was read of disk ``index``, where that was not the whole disk."""
        file = self._file(index)
        return file.with_name(f"{file.name}.map")

    def shown(self, path: pathlib.Path, output_root: pathlib.Path) -> str:
        """An artifact as documents name it: relative to the output root; a device by its absolute path."""
        return str(path if path in self.devices else path.relative_to(output_root))

    @property
    def result(self) -> pathlib.Path:
        """The result document; its existence means that the job's work is whole."""
        return self.folder / (
            "result.json" if self.operation in models.WRITES_TARGET else f"{self.operation.value}.json"
        )

    @property
    def rehearsal(self) -> pathlib.Path:
        """The result document of a rehearsal of the same VM."""
        return self.folder / f"{models.Operation.REHEARSE.value}.json"

    @property
    def libvirt(self) -> pathlib.Path:
        """The libvirt domain definition."""
        return self.folder / f"{self.name}.libvirt.xml"

    @property
    def kubevirt(self) -> pathlib.Path:
        """The KubeVirt VirtualMachine manifest."""
        return self.folder / f"{self.name}.kubevirt.yaml"

    def evidence(self, stage: str) -> pathlib.Path:
        """The folder of a boot test's console log and screenshot."""
        return self.folder / f"{self.operation.value}-{stage}"


def target_exists(path: pathlib.Path) -> JobError:
    """The error of a job whose target would take the place of ``path``."""
    return invalid(
        "TargetExists",
        f"{path} exists already.",
        "Choose another target.path, roll the target back, or set target.force to replace it.",
    )


def layout_of(job: models.MigrationJob, output_root: pathlib.Path) -> TargetLayout:
    """Return the layout of ``job``. The folder need not exist; it is checked to lie below ``output_root``.

    Raises:
        JobError: class ``invalid``, the target's path leaves the output root.
    """
    target = job.spec.target
    folder = folder_below(output_root, target.path or job.metadata.name)
    writer = (job.metadata.uid or "").partition("-")[0]
    return TargetLayout(
        folder,
        target.name or slug(folder.name),
        target.format,
        job.spec.operation,
        writer,
        tuple(map(pathlib.Path, target.devices)),
    )


def folder_below(root: pathlib.Path, name: str) -> pathlib.Path:
    """Return the folder ``name`` below ``root``, which may not exist yet; links on the way may not leave the root.

    Raises:
        JobError: class ``invalid``, it leaves the root, is the root, or begins with a dot.
    """
    wanted = pathlib.PurePosixPath(name)
    inside = root.resolve() / wanted
    # The resolved path catches links; the named one keeps the state folder and the root itself from being a target.
    try:
        relative = inside.resolve()
    except (OSError, RuntimeError):  # a loop of links; RuntimeError before Python 3.13
        relative = root.resolve().parent
    parts = relative.relative_to(root.resolve()).parts if relative.is_relative_to(root.resolve()) else ()
    if ".." in wanted.parts or not parts or parts[0].startswith("."):
        raise invalid(
            "PathOutsideRoot",
            f"spec.target.path is {name!r}, which is no folder below the output root {root}.",
            "Give a relative path without '..', whose first part does not begin with a dot.",
        )
    return inside


def slug(text: str) -> str:
    """Return ``text`` as an RFC 1123 label: lower case, other characters become hyphens, at most 63 characters."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return plain.strip("-")[:63].strip("-") or "vm"


def allocated_bytes(source: Source) -> int:
    """Roughly how much a copy of ``source`` has to read: what its files take on disk, never more than their size."""
    total = 0
    for path in {path for image in source.images for path in (image.path, *image.extents)}:
        stat = path.stat()
        total += min(stat.st_size, stat.st_blocks * 512)
    return total
