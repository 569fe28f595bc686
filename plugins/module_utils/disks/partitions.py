# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Partition tables, read from the disk itself by ``sfdisk``: the kernel's own scan is never asked."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import typing as t

from ..protocol.errors import JobError, invalid, unsupported
from .attach import AttachedDisk
from .command import run_command
from .loop import LoopDevice
from .model import Partition
from .sectors import SECTOR, sector_size

#: MBR types of extended partitions: containers without a content of their own.
_EXTENDED = frozenset({"5", "05", "f", "0f", "85"})
#: Each is looked at by itself; GPT has room for 128 as it is usually made.
_MAX_PARTITIONS = 512
_TRAILING_NUMBER = re.compile(r"(\d+)$")


def read_partitions(disk: AttachedDisk | pathlib.Path, name: str) -> list[Partition]:
    """Return the partitions of ``disk`` in the table's order; a disk without a table is one partition, number 0.

    Args:
        disk: attached, or a flat file or block device.
        name: becomes :attr:`Partition.disk`.

    Raises:
        JobError: class ``invalid``, the table contradicts itself or the disk's size; class ``unsupported``, a kind of
            table that is neither GPT nor MBR.
    """
    device = disk if isinstance(disk, pathlib.Path) else disk.device
    size = _size(device)
    with _in_sectors(device, size) as readable:
        # Status 1: no table that sfdisk knows.
        output = run_command(["sfdisk", "--json", readable], what=f"Reading the partitions of {name}", accept=(0, 1))
    if not output.strip():
        return [Partition(disk=name, number=0, start=0, size=size)]
    return parse_table(output, name, size)


def parse_table(text: bytes, name: str, disk_size: int) -> list[Partition]:
    """Return the partitions of what ``sfdisk --json`` printed; see :func:`read_partitions`.

    Args:
        text: JSON.
        name: becomes :attr:`Partition.disk`.
        disk_size: bytes.
    """
    try:
        return _parse(json.loads(text)["partitiontable"], name, disk_size)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise invalid("PartitionTable", f"The partition table of {name} cannot be read.") from error


@contextlib.contextmanager
def _in_sectors(device: pathlib.Path, size: int) -> t.Iterator[pathlib.Path]:
    """Show ``device`` with sectors as its table has them: sfdisk takes those of a flat file for 512 bytes."""
    sector = sector_size(device)
    if sector == SECTOR:
        yield device
        return
    loop = LoopDevice(device, 0, size // sector * sector, writable=False, block_size=sector)
    try:
        yield loop.device
    finally:
        loop.detach()


def _parse(table: t.Mapping[str, t.Any], name: str, disk_size: int) -> list[Partition]:
    if table["label"] not in ("gpt", "dos"):
        raise unsupported(
            "UnknownPartitionTable",
            f"{name} has a partition table of type {table['label']!r}, not GPT or MBR.",
            "With spec.guest.enabled false the disk is moved as it is, and only booted.",
        )
    sector = int(table.get("sectorsize", 512))
    partitions: list[Partition] = []
    for entry in table.get("partitions", ()):
        if len(partitions) >= _MAX_PARTITIONS:
            raise unsupported(
                "TooManyPartitions",
                f"{name} has more than {_MAX_PARTITIONS} partitions.",
                "Delete partitions in the source VM, and export it again.",
            )
        type_id = str(entry["type"]).lower()
        if table["label"] == "dos" and type_id in _EXTENDED:
            continue
        number = _TRAILING_NUMBER.search(entry["node"])
        partition = Partition(
            disk=name,
            number=int(number.group(1)) if number else 0,
            start=int(entry["start"]) * sector,
            size=int(entry["size"]) * sector,
            type_id=type_id if table["label"] == "gpt" else type_id.zfill(2),
            partuuid=_partuuid(table, entry, int(number.group(1)) if number else 0),
            label=str(entry.get("name", "")),
            bootable=bool(entry.get("bootable", False)) or "LegacyBIOSBootable" in str(entry.get("attrs", "")),
        )
        if partition.start < 0 or partition.size <= 0 or partition.start + partition.size > disk_size:
            raise _beyond_end(partition)
        partitions.append(partition)
    return partitions


def _partuuid(table: t.Mapping[str, t.Any], entry: t.Mapping[str, t.Any], number: int) -> str:
    """As the kernel names it: the GPT entry's UUID, or the MBR's disk signature and the number (block/partitions)."""
    if table["label"] == "gpt":
        return str(entry.get("uuid", "")).lower()
    signature = str(table.get("id", "")).lower().removeprefix("0x")
    return f"{signature.zfill(8)}-{number:02x}" if signature else ""


def _beyond_end(partition: Partition) -> JobError:
    return invalid(
        "PartitionTable",
        f"Partition {partition.number} of {partition.disk} does not lie within the disk.",
        "The image may be truncated: compare its size with the source's, and export it again.",
    )


def _size(device: pathlib.Path) -> int:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
