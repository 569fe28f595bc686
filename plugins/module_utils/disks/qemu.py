# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's view of an image: which file, which format, and nothing that QEMU would have to guess."""

from __future__ import annotations

import json
import pathlib
import re
import typing as t

from ..protocol.errors import JobError, transient
from .command import never, run_command
from .model import DiskImage

_SECTOR = 512
_WITH_BACKING = frozenset({"vmdk", "qcow2"})
#: A VHD's geometry may be smaller than its size, and which of them QEMU believes depends on who wrote it.
_FURTHER_OPTIONS = {"vhd": {"force_size_calc": "current_size"}}
#: Formats whose further options are unknown to QMP's ``blockdev-add``.
WITHOUT_SCHEMA = frozenset(_FURTHER_OPTIONS)
#: What ``qemu-img -p`` prints: "    (12.34/100%)\r".
_PROGRESS = re.compile(rb"\(([0-9.]+)/100%\)")


def blockdev(image: DiskImage) -> dict[str, t.Any]:
    """Return QEMU's blockdev options of ``image``, read-only and without locks, so that a source in use can be read.

    The format is the one that the source's check found or was told, never probed; of the files that the image may name
    only its checked parents are opened, each by options of its own.
    """
    node = _file(image.path)
    if image.offset or image.length is not None:
        node = {"driver": "raw", "offset": image.offset, "file": node}
        if image.length is not None:
            # The raw driver takes whole sectors only; a tar pads its members to 512 bytes.
            node["size"] = -(-image.length // _SECTOR) * _SECTOR
    node = {"driver": driver(image.format), "file": node, "read-only": True}
    if image.format in _WITH_BACKING:
        node["backing"] = blockdev(image.backing) if image.backing else None
    return {**node, **_FURTHER_OPTIONS.get(image.format, {})}


def driver(fmt: str) -> str:
    """Return QEMU's name of a format."""
    return "vpc" if fmt == "vhd" else fmt


def file_blockdev(path: pathlib.Path, fmt: str) -> dict[str, t.Any]:
    """Return QEMU's blockdev options of a file or device of our own, of format ``fmt``, with QEMU's usual locks."""
    protocol = "host_device" if path.is_block_device() else "file"
    return {"driver": fmt, "file": {"driver": protocol, "filename": str(path)}}


def json_name(options: t.Mapping[str, t.Any]) -> str:
    """Return ``options`` as one of QEMU's ``json:`` file names."""
    return "json:" + json.dumps(options, separators=(",", ":"))


def run_img(
    args: t.Sequence[str | pathlib.Path],
    *,
    progress: t.Callable[[float], None] | None = None,
    cancelled: t.Callable[[], bool] = never,
    timeout: float = 60.0,
    accept: t.Container[int] = (0,),
    failure: t.Callable[[str, str], JobError] = transient,
) -> str:
    """Run ``qemu-img`` and return what it printed.

    Args:
        args: subcommand and arguments. With ``progress``, ``-p`` is put after the subcommand.
        progress: gets the percentage (0 to 100) now and then.
        cancelled: True kills qemu-img.
        timeout: seconds.
        accept: exit statuses that are no error.
        failure: makes the error of another exit status.

    Raises:
        JobError: see :func:`.command.run_command`.
    """
    command = ["qemu-img", *args]
    on_output = None
    if progress is not None:
        command.insert(2, "-p")
        report = progress

        def on_output(piece: bytes) -> None:
            seen = _PROGRESS.findall(piece)
            if seen:
                report(float(seen[-1]))

    output = run_command(
        command,
        what=f"qemu-img {args[0]}",
        timeout=timeout,
        cancelled=cancelled,
        on_output=on_output,
        accept=accept,
        failure=failure,
    )
    return output.decode("utf-8", "replace")


def check_qcow2(path: pathlib.Path) -> None:
    """Check the metadata of our own qcow2 file ``path``.

    Raises:
        JobError: class ``transient``, it is damaged (leaked clusters are no damage).
    """
    # Status 3: leaked clusters, which cost space and nothing else.
    run_img(["check", "-q", "-f", "qcow2", path], timeout=600.0, accept=(0, 3), failure=_damaged)


def _damaged(_reason: str, message: str) -> JobError:
    return transient("ImageDamaged", message, "Check the storage below the scratch and output roots, then try again.")


def _file(path: pathlib.Path) -> dict[str, t.Any]:
    return {"driver": "file", "filename": str(path), "locking": "off"}
