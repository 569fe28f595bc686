# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""LVM's logical volumes: what a guest's physical volumes say of them, as tables for the device-mapper.

LVM's own tool reads the metadata, from the devices that it is given and no others, and without taking a lock or asking
the kernel. It activates nothing: volume groups of a guest are never known to the host by their names.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import typing as t

from ..protocol.errors import JobError, unsupported
from .command import run_command

_SECTOR = 512
#: LVM keeps to the devices that it was given, writes nothing down, and asks nobody else.
_CONFIG = (
    "devices{obtain_device_list_from_udev=0 external_device_info_source=none use_devicesfile=0 hints=none "
    'multipath_component_detection=0 md_component_detection=0 filter=["a|.*|"] global_filter=["a|.*|"]} '
    "global{event_activation=0 use_lvmpolld=0 use_lvmlockd=0} backup{backup=0 archive=0} activation{udev_sync=0}"
)
_PIECE = re.compile(r"^(.+)\((\d+)\)$")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a logical volume. Bytes."""

    begin: int
    length: int
    stripes: tuple[tuple[pathlib.Path, int], ...]
    """The devices that it lies on, and where it begins on each; one: it lies there in a row."""
    chunk: int = 0
    """How much of it lies on one device before the next one's turn."""


@dataclasses.dataclass(frozen=True)
class LogicalVolume:
    """A logical volume."""

    group: str
    name: str
    uuid: str
    """The group's and the volume's, as the device-mapper has them."""
    runs: tuple[Run, ...]
    obstacle: str = ""
    """Why it cannot be opened; empty: it can."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(run.length for run in self.runs)

    @property
    def names(self) -> tuple[str, ...]:
        """What the guest's own files may call it."""
        mapped = f"{self.group.replace('-', '--')}-{self.name.replace('-', '--')}"
        identity = f"LVM-{self.uuid.replace('-', '')}"
        links = (f"dm-name-{mapped}", f"dm-uuid-{identity}")
        return (
            f"/dev/{self.group}/{self.name}",
            f"/dev/mapper/{mapped}",
            *(f"/dev/disk/by-id/{link}" for link in links),
        )

    def table(self) -> list[str]:
        """Return the device-mapper's table."""
        lines = []
        for run in self.runs:
            places = " ".join(f"{device} {start // _SECTOR}" for device, start in run.stripes)
            kind = "linear" if len(run.stripes) == 1 else f"striped {len(run.stripes)} {run.chunk // _SECTOR}"
            lines.append(f"{run.begin // _SECTOR} {run.length // _SECTOR} {kind} {places}")
        return lines


def read_volumes(devices: t.Sequence[pathlib.Path]) -> list[LogicalVolume]:
    """Return the logical volumes of the groups that lie on ``devices``, physical volumes all of them.

    Raises:
        JobError: a physical volume is missing (unsupported, ``MissingPhysicalVolume``), the metadata cannot be read.
    """
    groups = _report(devices, "vgs", "vg_name,vg_uuid,vg_extent_size,vg_missing_pv_count")
    physical = _report(devices, "pvs", "pv_name,pv_uuid,pe_start,vg_name")
    for group in groups:
        if group["vg_missing_pv_count"] != "0":
            lost = [pv["pv_uuid"] for pv in physical if pv["vg_name"] == group["vg_name"] and not _is_device(pv)]
            raise missing(group["vg_name"], lost)
    extents = {group["vg_name"]: int(group["vg_extent_size"]) for group in groups}
    identities = {group["vg_name"]: group["vg_uuid"] for group in groups}
    begins = {pv["pv_name"]: int(pv["pe_start"]) for pv in physical if _is_device(pv)}
    fields = "vg_name,lv_name,lv_uuid,lv_attr,segtype,seg_start,seg_size,stripe_size,devices"
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    for segment in _report(devices, "lvs", fields, "--segments"):
        found.setdefault((segment["vg_name"], segment["lv_name"]), []).append(segment)
    return [
        _volume(group, name, identities[group], sorted(segments, key=_begin), extents[group], begins)
        for (group, name), segments in found.items()
    ]


def missing(group: str, lost: t.Sequence[str]) -> JobError:
    """The error of a volume group that is not whole."""
    return unsupported(
        "MissingPhysicalVolume",
        f"The volume group {group} lacks {len(lost)} of its physical volumes: {', '.join(lost) or 'unknown'}.",
        "List all disks of the VM in the job; pvs -o name,uuid in the guest tells which disk has these UUIDs.",
    )


def _volume(
    group: str,
    name: str,
    identity: str,
    segments: t.Sequence[dict[str, str]],
    extent: int,
    begins: t.Mapping[str, int],
) -> LogicalVolume:
    runs, obstacle = [], ""
    for segment in segments:
        pieces = [_PIECE.match(piece) for piece in segment["devices"].split(",")]
        known = [(piece[1], int(piece[2])) for piece in pieces if piece is not None and piece[1] in begins]
        # What a snapshot was taken of must not be written to without it.
        if segment["lv_attr"][:1] in "oO":
            obstacle = "a snapshot was taken of it"
        elif segment["segtype"] not in ("linear", "striped") or len(known) != len(pieces) or not known:
            obstacle = f"it is of the type {segment['segtype']}"
        places = tuple((pathlib.Path(device), begins[device] + number * extent) for device, number in known)
        runs.append(Run(_begin(segment), int(segment["seg_size"]), places, int(segment["stripe_size"])))
    return LogicalVolume(group, name, identity + segments[0]["lv_uuid"], tuple(runs), obstacle)


def _begin(segment: t.Mapping[str, str]) -> int:
    return int(segment["seg_start"])


def _is_device(pv: t.Mapping[str, str]) -> bool:
    return pv["pv_name"].startswith("/")


def _report(devices: t.Sequence[pathlib.Path], command: str, fields: str, *options: str) -> list[dict[str, str]]:
    output = run_command(
        [
            *("lvm", command, "--readonly", "--config", _CONFIG, "--devices", ",".join(map(str, devices))),
            *("--reportformat", "json", "--units", "b", "--nosuffix", "-o", fields, *options),
        ],
        what="Reading LVM's metadata",
        capabilities=("sys_admin",),
        failure=_unreadable,
    )
    try:
        (report,) = json.loads(output)["report"]
        (rows,) = report.values()
        return [{key: str(value) for key, value in row.items()} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable("", "LVM's metadata cannot be read: its report is none.") from error


def _unreadable(_reason: str, message: str) -> JobError:
    return unsupported(
        "VolumesUnreadable", message, "Check the volume group in the guest (vgck), shut it down and export it again."
    )
