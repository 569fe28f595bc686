# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running the host's programs, and a private place to mount in."""

from __future__ import annotations

import collections.abc as c
import os
import pathlib
import subprocess
import sys

#: Where the repository begins: ``python -m tests.guests…`` works from here.
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class BuildError(RuntimeError):
    """A guest could not be built; the message holds the failing program's last words."""


def run(args: c.Sequence[str | os.PathLike[str]], *, timeout: float = 900, stdin: bytes = b"") -> str:
    """Run a program to its end and return what it wrote to its standard output.

    :raises BuildError: it failed, or took longer than ``timeout`` seconds.
    """
    words = [os.fspath(word) for word in args]
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, timeout=timeout, env=environment, check=False)
    except FileNotFoundError as error:
        raise BuildError(f"{words[0]} is not installed (see bindep.txt)") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{words[0]} did not end within {timeout:.0f} s") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-15:]
        raise BuildError(f"{' '.join(words)[:300]} ended with {done.returncode}:\n" + "\n".join(last))
    return done.stdout.decode(errors="replace")


def run_privately(module: str, *args: str, timeout: float = 1800) -> None:
    """Run a module of this package as a process of its own, with mount and process namespaces of its own.

    Its mounts are seen by nobody else. When it ends, by itself or because this process was killed, the kernel ends all
    that it started and takes its mounts away, and with them the loop devices behind them.

    :raises BuildError: it failed.
    """
    private = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = ["setpriv", "--pdeathsig", "KILL", *private, sys.executable, "-m", module, *args]
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{module} did not end within {timeout:.0f} s") from error
    if done.returncode != 0:
        raise BuildError(done.stderr.decode(errors="replace").strip()[-4000:])
