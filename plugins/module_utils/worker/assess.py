# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A folder of virtual machines looked through: a job ``plan`` for each, which changes and copies nothing."""

from __future__ import annotations

import collections.abc as c
import pathlib
import re

from ..protocol import models
from ..protocol.errors import invalid
from .layout import slug

#: Files that describe a whole VM; what lies beside them is its.
_MACHINES = (".ovf", ".vmx", ".vbox")
_PACKED = (".ova", ".ova.gz", ".ova.xz")
_DISKS = (".vmdk", ".qcow2", ".vhd", ".vhdx", ".vdi", ".raw", ".img")
#: Parts of a VMDK, which its descriptor names, and snapshots' disks.
_PARTS = re.compile(r"-(?:flat|delta|sesparse|ctk|rdmp?|[sf]\d{3}|\d{6})\.vmdk$")
#: Differencing disks of Hyper-V.
_SNAPSHOT = (".avhd", ".avhdx")
_NAME_LIMIT = 57


def find_sources(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return what in a folder, and below it, is a VM of its own, sorted; hidden folders and links are left out.

    Where something describes a VM, the disks beside and below it are that VM's; else each disk is taken for a VM.
    """
    found: list[pathlib.Path] = []
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    described = [path for path in files if path.name.lower().endswith(_MACHINES)]
    packed = [path for path in files if path.name.lower().endswith(_PACKED)]
    if described:
        return [*packed, *described]
    found += packed
    found += [path for path in files if path.name.lower().endswith(_DISKS) and not _PARTS.search(path.name.lower())]
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()):
        if not below.name.startswith("."):
            found += find_sources(below)
    return found


def plan_jobs(sources: c.Sequence[pathlib.Path], root: pathlib.Path) -> list[models.MigrationJob]:
    """Return a job ``plan`` for each source, named after its place below ``root``.

    Raises:
        JobError: there is no source (invalid).
    """
    if not sources:
        raise invalid(
            "NothingFound",
            f"No virtual machine was found in {root}.",
            f"Looked for files ending in {', '.join((*_PACKED, *_MACHINES, *_DISKS))}.",
        )
    jobs: list[models.MigrationJob] = []
    names: set[str] = set()
    for source in sources:
        path = source.relative_to(root)
        stem = slug(str(path.with_suffix("")))[:_NAME_LIMIT].strip("-")
        name, number = stem, 1
        while name in names:
            number += 1
            name = f"{stem[: _NAME_LIMIT - 4]}-{number}"
        names.add(name)
        jobs.append(
            models.MigrationJob(
                metadata=models.Metadata(name=f"{name}-plan"),
                spec=models.JobSpec(
                    operation=models.Operation.PLAN,
                    source=models.SourceSpec(path=str(path)),
                    target=models.TargetSpec(path=name),
                ),
            )
        )
    return jobs
