# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is on a disk: its blocks, and the files of its filesystem without the times that each conversion sets anew."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

_PIECE = 4 * 1024**2
_LIST = """
mount -o ro,noload,loop,offset=$2 "$1" /mnt && cd /mnt &&
find . -printf '%p %y %m %U:%G %l\\n' | sort &&
find . -type f -print0 | sort -z | xargs -0 sha256sum
"""


def files_of(disk: pathlib.Path) -> list[str]:
    """Every file of the first partition (ext4) of a raw disk: name, type, mode, owner, link and digest."""
    table = json.loads(subprocess.run(["sfdisk", "-J", disk], check=True, capture_output=True).stdout)
    offset = table["partitiontable"]["partitions"][0]["start"] * 512
    listed = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", _LIST, "sh", disk, str(offset)], check=True, capture_output=True, text=True
    )
    lines = listed.stdout.splitlines()
    assert len(lines) > 100
    return lines


def compare(target: pathlib.Path, source: pathlib.Path, by: list[tuple[int, int]] | None = None) -> None:
    """Check that a qcow2 target is whole and shows what the raw disk ``source`` holds, at least in ``by``."""
    subprocess.run(["qemu-img", "check", "-q", target], check=True)
    if by is None:
        command = ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", target, source]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return
    flat = target.with_suffix(".flat")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", target, flat], check=True)
    with flat.open("rb") as one, source.open("rb") as other:
        for begin, size in by:
            for start in range(begin, begin + size, _PIECE):
                count = min(_PIECE, begin + size - start)
                assert os.pread(one.fileno(), count, start) == os.pread(other.fileno(), count, start), start
    flat.unlink()


def map_of(target: pathlib.Path) -> list[tuple[int, int]]:
    """Begin and size of what was copied, from the map beside the target (ddrescue's mapfile: finished blocks)."""
    text = target.with_name(f"{target.name}.map").read_text(encoding="ascii")
    # Comments first, then a line of status, then a line for each block.
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")][1:]
    ranges = [(int(begin, 0), int(size, 0)) for begin, size, status in lines if status == "+"]
    assert ranges
    return ranges
