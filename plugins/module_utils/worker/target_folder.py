# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One job at a time writes into a target's folder: two that were given the same one must not mix their files."""

from __future__ import annotations

import collections.abc as c
import contextlib
import os
import pathlib

from ..backends.host import lock_file
from ..protocol.errors import JobError, invalid

#: For a sweep that looks whether the folder is empty. Seconds.
_PATIENCE_SECONDS = 5.0


@contextlib.contextmanager
def reserved(folder: pathlib.Path, patience: float = _PATIENCE_SECONDS) -> c.Iterator[None]:
    """Make ``folder`` if need be and keep other jobs of this host out of it; at the end an empty one is removed.

    The lock is one on the folder itself, so that no lock file lies among the user's files, and the kernel takes it from
    a process that dies. Other hosts do not see it, nor do some network filesystems keep it; publishing looks again.

    Raises:
        JobError: class ``invalid``, another job is writing there.
        OSError: the folder cannot be made.
    """
    descriptor = _locked(folder, patience)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(descriptor)


def remove_if_empty(folder: pathlib.Path) -> None:
    """Remove ``folder`` if nothing is in it, and nobody is about to put something there."""
    with contextlib.suppress(JobError, OSError), reserved(folder, patience=0.0):
        pass


def _locked(folder: pathlib.Path, patience: float) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if not _lock(descriptor, patience):
                raise invalid(
                    "TargetInUse",
                    f"Another job is writing its target to {folder}.",
                    "Give each VM a target.path of its own.",
                )
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        # Its last user removed it between our two looks at it.
        os.close(descriptor)


def _lock(descriptor: int, patience: float) -> bool:
    try:
        return lock_file(descriptor, patience)
    except OSError:
        # A filesystem without locks on folders.
        return True
