# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests ask of the machine that they run on: files, processes, and what was left behind."""

from __future__ import annotations

import hashlib
import pathlib
import time
import typing as t


def wait_for(condition: t.Callable[[], t.Any], seconds: float = 120.0) -> t.Any:
    """Wait until ``condition()`` is true, and return what it returned. The limit is for hangs, on a busy machine."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def text(path: pathlib.Path) -> str:
    """What a file holds; of one that is gone meanwhile, nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def sha256(path: pathlib.Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    return text(pathlib.Path(f"/proc/{pid}/stat")).rpartition(")")[2].strip()[:1] not in ("", "Z", "X")


def children(pid: int) -> set[int]:
    """The processes that a process has started, and that have not been waited for."""
    found = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return {int(child) for task in found for child in text(task).split()}


def descendants(pid: int) -> set[int]:
    """Its children, theirs, and so on."""
    found = children(pid)
    return found.union(*(descendants(child) for child in found))


def peak_kib() -> int:
    """The most memory that this process had resident since it was started, or since ``forget_peak()``."""
    (line,) = [line for line in text(pathlib.Path("/proc/self/status")).splitlines() if "VmHWM" in line]
    return int(line.split()[1])


def forget_peak() -> None:
    """Let the peak start at what is in use now (proc(5), clear_refs)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def leftovers(folder: pathlib.Path) -> list[str]:
    """What a worker that worked below ``folder`` left on the host: mounts, loop devices, processes."""
    where = str(folder)
    found = [f"mount: {line}" for line in text(pathlib.Path("/proc/self/mountinfo")).splitlines() if where in line]
    for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        file = text(entry).strip()
        if where in file:
            found.append(f"loop device: {file}")
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        # Its environment names the roots, however its command line looks.
        told = text(process / "cmdline") + text(process / "environ")
        if where in told:
            found.append(f"process: {told[:200]!r}")
    return found
