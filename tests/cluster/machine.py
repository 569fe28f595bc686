# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cluster's machine: processes, mounts and a network of its own, on a kernel that it shares with its host."""

from __future__ import annotations

import collections.abc as c
import contextlib
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
import typing as t

from tests.cluster.init import Plan, Steering
from tests.guests.host import REPOSITORY

_SPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")
_END_SECONDS = 60


class ClusterError(RuntimeError):
    """The cluster could not do what it was asked for; the message says why, and where the logs are."""


def until(condition: t.Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Wait for a condition.

    :param what: it, in words that follow "waited N s for".
    :raises ClusterError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)


class Machine:
    """A machine whose files lie in ``folder``, whether it runs or not."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.name = name
        self.folder = folder
        self._record = folder / "process"

    def start(self, plan: Plan, connect: t.Callable[[Machine], None], inherited: c.Sequence[int] = ()) -> None:
        """Start it, unless it runs.

        :param connect: gives it a network: called when it has its namespaces, before its services start.
        :param inherited: file descriptors that its services are to have.
        :raises ClusterError: its furnishing failed.
        """
        if self.is_running():
            return
        steering = Steering(self.folder)
        plan.write(self.folder)
        command = ["unshare", *_SPACES, "--fork", "--kill-child", "--mount-proc"]
        command += [sys.executable, "-m", "tests.cluster.init", str(self.folder)]
        with steering.log("machine").open("ab") as log:
            outer = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=inherited,
                # It outlives the terminal and the program that started it.
                start_new_session=True,
            )
        self._record.write_text(f"{outer.pid} {_birth(outer.pid)}", encoding="ascii")
        assert outer.stdin is not None and outer.stdout is not None
        with outer.stdin, outer.stdout:
            if not outer.stdout.readline():
                raise ClusterError(f"{self.name} ended at once; see {steering.log('machine')}")
            connect(self)
            outer.stdin.write(b"connected\n")

    def is_running(self) -> bool:
        """Whether it has been started and has not ended since."""
        return self._outer() is not None

    def first_process(self) -> int:
        """The number, as the host counts, of the first process in its namespaces.

        :raises ClusterError: it does not run.
        """
        outer = self._outer()
        if outer is not None:
            with contextlib.suppress(FileNotFoundError):
                children = pathlib.Path(f"/proc/{outer}/task/{outer}/children").read_text(encoding="ascii").split()
                if children:
                    return int(children[0])
        raise ClusterError(f"{self.name} does not run; bring the cluster up again")

    def run(self, *command: str | os.PathLike[str], stdin: t.IO[bytes] | bytes = b"", timeout: float = 300) -> str:
        """Run a program of the host's in it, and return what that printed.

        :param timeout: seconds.
        :raises ClusterError: it failed, or took too long.
        """
        return execute(self.entering(*command), stdin=stdin, timeout=timeout, where=f" on {self.name}")

    def entering(self, *command: str | os.PathLike[str]) -> list[str]:
        """The command that runs ``command`` in it."""
        return ["nsenter", "--target", str(self.first_process()), "--all", "--", *(os.fspath(word) for word in command)]

    def kill(self) -> None:
        """End it without a warning, as a loss of power does. Its disk keeps what it had."""
        outer = self._outer()
        if outer is None:
            return
        inner = self.first_process()
        watched = os.pidfd_open(inner)
        try:
            os.kill(outer, signal.SIGKILL)
            # The kernel ends the first process last.
            if not select.select([watched], [], [], _END_SECONDS)[0]:
                raise ClusterError(f"{self.name} does not end (process {inner})")
        finally:
            os.close(watched)
        self._record.unlink()

    def stop(self, service: str) -> None:
        """Kill one of its services, and keep it from coming back."""
        steering = Steering(self.folder)
        steering.hold(service).touch()
        # The shell's own: there need be no other.
        self.run("sh", "-c", f"kill -KILL {steering.pid(service).read_text(encoding='ascii')}")

    def resume(self, service: str) -> None:
        """Let a service start again."""
        Steering(self.folder).hold(service).unlink(missing_ok=True)

    def _outer(self) -> int | None:
        """The process whose end is the machine's. A number says little: it may have become another process's."""
        with contextlib.suppress(FileNotFoundError):
            pid, birth = self._record.read_text(encoding="ascii").split()
            if _birth(int(pid)) == birth:
                return int(pid)
        return None


def execute(
    command: c.Sequence[str],
    *,
    stdin: t.IO[bytes] | bytes = b"",
    timeout: float = 300,
    where: str = "",
    environment: c.Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    :param environment: in addition to this process's.
    :raises ClusterError: it failed, or took longer than ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            command,
            stdin=None if isinstance(stdin, bytes) else stdin,
            input=stdin if isinstance(stdin, bytes) else None,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed (see bindep.txt)") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)[:200]} did not end within {timeout:.0f} s{where}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise ClusterError(f"{' '.join(command)[:200]} ended with {done.returncode}{where}:\n{said}")
    return done.stdout.decode(errors="replace")


def _birth(pid: int) -> str | None:
    """When a process was started, in ticks since boot, with the boot's own name; None: it has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie waits for its parent, and does nothing else any more.
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return None if fields[0] == "Z" else f"{fields[19]}@{boot}"
