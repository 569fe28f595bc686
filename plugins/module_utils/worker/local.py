# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker for this host, started when it is needed and ending itself when it is not."""

from __future__ import annotations

import collections.abc as c
import contextlib
import os
import pathlib
import subprocess
import sys
import time

from ..backends.host import lock_file
from ..backends.local import LocalBackend
from ..protocol import errors
from .config import Config
from .installation import LAUNCHER, find_installation

IDLE_SECONDS = 30.0
_START_SECONDS = 60.0
_LOG = "worker.log"
_LOG_LIMIT = 10 * 1024**2
_TAIL_LINES = 5


@contextlib.contextmanager
def starting_lock(state_dir: pathlib.Path) -> c.Iterator[None]:
    """Hold the lock under which workers are started and idle ones end.

    Raises:
        JobError: (environment) the state folder cannot be written.
    """
    try:
        file = open(state_dir / "start.lock", "ab")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise errors.environment(
            "StateUnusable", f"The state folder {state_dir} cannot be written: {error.strerror}.", "Look at its disk."
        ) from error
    with file:
        if not lock_file(file.fileno(), _START_SECONDS):
            raise errors.transient(
                "WorkerStarting",
                f"Another process has been starting a worker for {_START_SECONDS:.0f} s.",
                f"See which one holds {file.name} (fuser), and end it if it hangs.",
            )
        yield


def ensure_worker(config: Config, installation: str | None = None) -> None:
    """Make sure that a worker serves the queue of ``config``; called after a job was submitted.

    Where none is alive, the worker of the installed collection is started as a process of its own, which ends itself
    after ``config.idle_seconds`` (30 if None) without work. ``installation`` is the collection's folder, if known.

    Raises:
        JobError: (environment) this is not root, the collection is not installed here, the worker does not start, or
            the one that is alive serves other folders.
    """
    backend = LocalBackend(config.state_dir)
    try:
        with starting_lock(config.state_dir):
            alive = backend.roots_of_workers()
            if config.roots_text in alive.values():
                return
            if alive:
                name, roots = next(iter(alive.items()))
                raise errors.environment(
                    "WorkerServesOtherFolders",
                    f"The worker {name} of this queue serves other folders: {roots} instead of {config.roots_text}.",
                    "Give each set of folders a state folder of its own, or wait until that worker has ended.",
                )
            if os.geteuid() != 0:
                raise errors.environment(
                    "NotRoot",
                    "A worker attaches disks and mounts filesystems, and must be root for that.",
                    "Run the play with become, or on a conversion host.",
                )
            _start(config, backend, find_installation(installation))
    finally:
        backend.close()


def command(config: Config, installation: pathlib.Path) -> list[str]:
    """Return the command that runs a worker with this configuration."""
    roots = config.roots
    args = [
        *(sys.executable, str(installation / LAUNCHER), "run"),
        *("--input-root", str(roots.input), "--output-root", str(roots.output), "--scratch", str(roots.scratch)),
        *("--state-dir", str(config.state_dir), "--slots", str(config.slots)),
        *("--lease-seconds", str(config.lease_seconds)),
        *("--idle-seconds", str(IDLE_SECONDS if config.idle_seconds is None else config.idle_seconds)),
        *(f"--label={key}={value}" for key, value in sorted(config.labels.items())),
    ]
    if roots.secrets is not None:
        args += ["--secrets-root", str(roots.secrets)]
    if roots.kernel_root != pathlib.Path("/"):
        args += ["--microvm-kernel", str(roots.kernel_root)]
    return args


def _start(config: Config, backend: LocalBackend, installation: pathlib.Path) -> None:
    log_path = config.state_dir / _LOG
    if log_path.exists() and log_path.stat().st_size > _LOG_LIMIT:
        log_path.replace(log_path.with_suffix(".log.1"))
    with open(log_path, "ab") as log:
        # Its own session and folder, and no pipe to us: it outlives whoever starts it. What a module's bundle put into
        # the environment is not meant for it.
        process = subprocess.Popen(
            command(config, installation),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")},
        )
    deadline = time.monotonic() + _START_SECONDS
    while config.roots_text not in backend.roots_of_workers().values():
        if process.poll() is not None:
            raise errors.environment(
                "WorkerDidNotStart",
                f"The worker ended with status {process.returncode}: {_tail(log_path)}.",
                f"See {log_path}.",
            )
        if time.monotonic() > deadline:
            raise errors.environment(
                "WorkerDidNotStart", f"The worker did not get ready within {_START_SECONDS:.0f} s.", f"See {log_path}."
            )
        time.sleep(0.05)
    # It is nobody's child in the end; Popen would warn that it still runs.
    process.returncode = 0


def _tail(path: pathlib.Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(lines[-_TAIL_LINES:])
