# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The jobs' private folders below the scratch root: ``<job name>.<uid>``, and what a dead job may have left of them.

Of a job of a namespace that is ``<namespace>.<job name>.<uid>``; ``name`` is here what the queue knows a job by.

A folder belongs to a queue (its file ``.owner`` names the state folder) and, while a job's process lives, to that
process (a lock on the same file). What is in use, or another queue's, or no such folder at all, is left alone.

The folder of a job that failed may outlive it: the job that is submitted again in its place, with the same spec, takes
it over (:func:`adopt`) and goes on after the last stage that ended there.
"""

from __future__ import annotations

import collections
import collections.abc as c
import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import re
import shutil
import subprocess

from ..backends.host import lock_file
from ..protocol import errors
from ..telemetry.metrics.table import DEVICE, FOLDER, MOUNT
from . import kernel
from .context import Roots
from .unfinished import remove_unfinished

log = logging.getLogger(__name__)

_OWNER = ".owner"
_UID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_LABEL = r"[a-z0-9][-a-z0-9]*"
_NAME = re.compile(rf"((?P<namespace>{_LABEL})\.)?(?P<name>{_LABEL})\.(?P<uid>{_UID})")
_DELETED = " (deleted)"
_PATIENCE_SECONDS = 5.0

#: How many things of each kind were left behind.
Leftovers = collections.Counter[str]


def path(scratch: pathlib.Path, name: str, uid: str) -> pathlib.Path:
    """Return the folder of a job."""
    return scratch / f"{name.replace('/', '.')}.{uid}"


@contextlib.contextmanager
def held(workdir: pathlib.Path, state_dir: pathlib.Path, spec_digest: str = "") -> c.Iterator[None]:
    """Make the folder if need be, and hold it as this process's own; ``spec_digest`` says what is done in it.

    Raises:
        JobError: (environment) it cannot be made; (transient) an earlier attempt's process still lives in it.
    """
    try:
        workdir.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(workdir / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(workdir, error) from error
    try:
        # A sweep may hold it for a moment.
        if not lock_file(descriptor, _PATIENCE_SECONDS):
            raise errors.transient(
                "WorkdirInUse", f"Another process still works in {workdir}.", "See which one (fuser), and end it."
            )
        _write(descriptor, _Owner(state_dir.resolve(), spec_digest).dump(), workdir)
        yield
    finally:
        os.close(descriptor)


def adopt(workdir: pathlib.Path, roots: Roots, state_dir: pathlib.Path, spec_digest: str) -> None:
    """Make the folder that an earlier job of this name left the folder of this one, if its spec was the same.

    What earlier jobs of this name left for another spec is cleared.

    Raises:
        JobError: (environment) the scratch root cannot be written.
    """
    owner = _Owner(state_dir.resolve(), spec_digest)
    name = _name(workdir)
    try:
        earlier = [folder for folder, of in _folders(roots.scratch) if of == name and folder != workdir]
        # The latest first: there are several only where a process would not die.
        for folder in sorted(earlier, key=lambda folder: folder.stat().st_mtime_ns, reverse=True):
            with _unused(folder) as found:
                if found is None or found.state_dir != owner.state_dir:
                    continue
                _detach(folder)
                if found == owner and not workdir.exists():
                    folder.rename(workdir)
                else:
                    _discard(folder, roots.output)
    except OSError as error:
        raise _unusable(workdir, error) from error


@dataclasses.dataclass(frozen=True)
class _Owner:
    """What the file ``.owner`` says."""

    state_dir: pathlib.Path
    spec_digest: str

    def dump(self) -> bytes:
        return os.fsencode(self.state_dir) + b"\0" + self.spec_digest.encode()

    @classmethod
    def load(cls, descriptor: int) -> _Owner:
        state_dir, dummy, digest = os.pread(descriptor, 8192, 0).partition(b"\0")
        return cls(pathlib.Path(os.fsdecode(state_dir)), digest.decode("ascii", "replace"))


def _write(descriptor: int, data: bytes, workdir: pathlib.Path) -> None:
    try:
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    except OSError as error:
        raise _unusable(workdir, error) from error


def _unusable(workdir: pathlib.Path, error: OSError) -> errors.JobError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.environment(
            "NoSpace", f"The disk is full ({workdir}).", "Make room below the scratch root, then run it again."
        )
    return errors.environment(
        "ScratchUnusable", f"The folder {workdir} cannot be made: {error.strerror}.", "Look at the scratch root."
    )


def _folders(scratch: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    """Return the jobs' folders with the name of the job."""
    named = [(folder, _name(folder)) for folder in sorted(scratch.iterdir())]
    return [(folder, name) for folder, name in named if name is not None and _is_folder(folder)]


def _name(workdir: pathlib.Path) -> str | None:
    """Return the name of the job whose folder this is; None if it is no job's."""
    match = _NAME.fullmatch(workdir.name)
    if match is None or match["namespace"] is None:
        return None if match is None else match["name"]
    return f"{match['namespace']}/{match['name']}"


def _is_folder(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.is_symlink()


@contextlib.contextmanager
def _unused(workdir: pathlib.Path) -> c.Iterator[_Owner | None]:
    """Lock a folder that nobody is in, and give its owner; None where somebody is, or where it is no job's."""
    try:
        descriptor = os.open(workdir / _OWNER, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _Owner.load(descriptor) if lock_file(descriptor, 0.0) else None
    finally:
        os.close(descriptor)


def sweep(roots: Roots, state_dir: pathlib.Path, has_use: c.Callable[[str], bool]) -> Leftovers:
    """Clear what dead jobs of this queue left below the scratch root, and return what that was.

    Mounts and loop devices of all folders that nobody holds go. So do the folders themselves, unless the queue
    ``has_use`` for what was done for the job of that name.
    """
    found: Leftovers = collections.Counter()
    for folder, name in _folders(roots.scratch):
        found += clear(folder, roots, state_dir, remove=not has_use(name))
        found[FOLDER] += not folder.exists()
    return +found


def forget(name: str, roots: Roots, state_dir: pathlib.Path) -> None:
    """Remove what was done for a job whose record is gone, unless a process is still in it.

    A worker does so as well when it sweeps; this is for queues that none serves at the moment.
    """
    if roots.scratch.is_dir():
        for folder, of in _folders(roots.scratch):
            if of == name:
                clear(folder, roots, state_dir, remove=True)


def clear(workdir: pathlib.Path, roots: Roots, state_dir: pathlib.Path, *, remove: bool) -> Leftovers:
    """Detach what a dead job left attached below its folder, and return that; nothing happens if the folder is in use.

    ``remove`` has the folder go, and with it what its job has written of a target that did not get whole.
    """
    with _unused(workdir) as owner:
        if owner is None or owner.state_dir != state_dir.resolve():
            return collections.Counter()
        found = _detach(workdir)
        if remove:
            _discard(workdir, roots.output)
        return found


def _discard(workdir: pathlib.Path, output: pathlib.Path) -> None:
    remove_unfinished(workdir / "state.json", output)
    _remove(workdir)


def _remove(workdir: pathlib.Path) -> None:
    # The file that says whose the folder is goes last, so that a removal that is cut short can be taken up again.
    for entry in sorted(workdir.iterdir(), key=lambda entry: entry.name == _OWNER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    workdir.rmdir()


def _detach(workdir: pathlib.Path) -> Leftovers:
    inside = f"{workdir.resolve()}/"
    found: Leftovers = collections.Counter()
    for target in _mounts(inside):
        found[MOUNT] += 1
        log.warning("unmounting %s, which a dead job left", target)
        kernel.detach_mount(target)
    for device in _loops(inside):
        found[DEVICE] += 1
        log.warning("detaching %s, which a dead job left", device)
        subprocess.run(
            ["losetup", "--detach", device],
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            timeout=30,
            check=False,
        )
    return found


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
