# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process that makes one guest, in namespaces of its own.

``python -m tests.guests.produce NAME MATERIAL FOLDER``
."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

from tests.guests import debian, grub, tiny
from tests.guests.disk import Slice, layout, make_filesystem, write_table
from tests.guests.host import BuildError, run
from tests.guests.ova import write_ova
from tests.guests.specs import SPECS, GuestSpec
from tests.guests.vmdk import write_stream_optimized

_EMPTY_VARIABLES = pathlib.Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


def produce(spec: GuestSpec, material: pathlib.Path, folder: pathlib.Path) -> None:
    """Make the guest's files in ``folder``, an empty one.

    :param material: the packages' tarball; for ``nokernel`` the folder of the guest that loses its kernels.
    """
    disk = folder / "disk.raw"
    if spec.kind == "nokernel":
        known = json.loads((material / "guest.json").read_text(encoding="utf-8"))
        slices = tuple(Slice(**part) for part in known["partitions"])
        run(["cp", "--sparse=always", material / "disk.raw", disk])
        tiny.remove_kernels(disk, slices)
    else:
        slices = layout(spec)
        write_table(disk, spec, slices)
        if spec.kind != "blank":
            for part in slices:
                make_filesystem(disk, part)
            fill = debian.fill if spec.kind == "debian" else tiny.fill
            fill(spec, material, disk, slices)
    if spec.firmware == "uefi":
        esp = next(part for part in slices if part.filesystem == "vfat")
        (folder / "nvram.fd").write_bytes(grub.nvram_variables(_EMPTY_VARIABLES.read_bytes(), esp))
    vmdk = folder / "disk.vmdk"
    populated = write_stream_optimized(disk, vmdk)
    write_ova(spec, vmdk, populated, folder / f"{spec.name}.ova")
    facts = {
        "spec": dataclasses.asdict(spec),
        "partitions": [dataclasses.asdict(part) for part in slices],
        "populatedBytes": populated,
    }
    (folder / "guest.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        produce(SPECS[sys.argv[1]], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    except BuildError as problem:
        sys.exit(str(problem))
