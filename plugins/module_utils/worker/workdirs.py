# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs' private folders below the scratch root: ``<job name>.<uid>``, and what a dead job may have left of them.

A folder belongs to a queue (its file ``.owner`` names the state folder) and, while a job's process lives, to that
process (a lock on the same file). What is in use, or another queue's, or no such folder at all, is left alone.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import fcntl
import json
import logging
import os
import pathlib
import re
import shutil
import subprocess

from ..backends.host import lock_file
from ..protocol import errors
from . import kernel
from .context import Roots

log = logging.getLogger(__name__)

_OWNER = ".owner"
_UID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME = re.compile(rf"(?P<name>[a-z0-9][-a-z0-9]*)\.(?P<uid>{_UID})")
_DELETED = " (deleted)"
_PATIENCE_SECONDS = 5.0


def path(scratch: pathlib.Path, name: str, uid: str) -> pathlib.Path:
    """Return the folder of a job."""
    return scratch / f"{name}.{uid}"


@contextlib.contextmanager
def held(workdir: pathlib.Path, state_dir: pathlib.Path) -> c.Iterator[None]:
    """Make the folder if need be, and hold it as this process's own.

    Raises:
        JobError: (environment) it cannot be made; (transient) an earlier attempt's process still lives in it.
    """
    try:
        workdir.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(workdir / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.environment(
            "ScratchUnusable", f"The folder {workdir} cannot be made: {error.strerror}.", "Look at the scratch root."
        ) from error
    try:
        # A sweep may hold it for a moment.
        if not lock_file(descriptor, _PATIENCE_SECONDS):
            raise errors.transient(
                "WorkdirInUse", f"Another process still works in {workdir}.", "See which one (fuser), and end it."
            )
        os.pwrite(descriptor, os.fsencode(state_dir.resolve()), 0)
        yield
    finally:
        os.close(descriptor)


def sweep(roots: Roots, state_dir: pathlib.Path, over: c.Callable[[str], bool]) -> None:
    """Clear what dead jobs of this queue left below the scratch root.

    Mounts and loop devices of all folders that nobody holds go; the folders of jobs that are ``over(uid)`` go as well.
    """
    for folder in sorted(roots.scratch.iterdir()):
        match = _NAME.fullmatch(folder.name)
        if match is not None and folder.is_dir() and not folder.is_symlink():
            clear(folder, roots, state_dir, remove=over(match["uid"]))


def clear(workdir: pathlib.Path, roots: Roots, state_dir: pathlib.Path, *, remove: bool) -> None:
    """Detach what a dead job left attached below its folder; nothing happens if the folder is in use.

    ``remove`` has the folder go, and with it the partial targets that its job has recorded in it.
    """
    try:
        descriptor = os.open(workdir / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.pread(descriptor, 4096, 0) != os.fsencode(state_dir.resolve()):
            return
        _detach(workdir)
        if remove:
            for partial in _partials(workdir, roots.output):
                partial.unlink(missing_ok=True)
            _remove(workdir)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _partials(workdir: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """Return the partial targets that the job's durable state names, as far as they lie below the output root."""
    try:
        names = json.loads((workdir / "state.json").read_text(encoding="utf-8"))["partials"]
        paths = [pathlib.Path(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path for path in paths if path.suffix == ".partial" and path.parent.resolve().is_relative_to(output)]


def _remove(workdir: pathlib.Path) -> None:
    # The file that says whose the folder is goes last, so that a removal that is cut short can be taken up again.
    for entry in sorted(workdir.iterdir(), key=lambda entry: entry.name == _OWNER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    workdir.rmdir()


def _detach(workdir: pathlib.Path) -> None:
    inside = f"{workdir.resolve()}/"
    for target in _mounts(inside):
        log.warning("unmounting %s, which a dead job left", target)
        kernel.detach_mount(target)
    for device in _loops(inside):
        log.warning("detaching %s, which a dead job left", device)
        subprocess.run(
            ["losetup", "--detach", device],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            timeout=30,
            check=False,
        )


def _mounts(inside: str) -> list[str]:
    """Return the mount points below a folder in this process's namespace, the innermost first."""
    targets = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        # proc(5): the fifth field, with blanks, tabs, newlines and backslashes as octal escapes.
        target = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if target.startswith(inside):
            targets.append(target)
    return targets[::-1]


def _loops(inside: str) -> list[str]:
    """Return the loop devices whose file lies, or lay, below a folder."""
    found = []
    for entry in pathlib.Path("/sys/block").glob("loop*"):
        with contextlib.suppress(OSError):
            file = (entry / "loop" / "backing_file").read_text(encoding="utf-8", errors="surrogateescape")
            if file.rstrip("\n").removesuffix(_DELETED).startswith(inside):
                found.append(f"/dev/{entry.name}")
    return found
