# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run the system's tools: confined, bounded in time, memory and output, killed on request, with errors for people.

What the tools read is an attacker's: a flaw in one of them should be worth little. Where this process is root, a tool
keeps the capabilities that its work takes and cannot get others back, has no network, and writes no core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import pathlib
import re
import selectors
import shutil
import subprocess
import time
import typing as t

from ..protocol.errors import JobError, environment, transient

#: How much of a tool's standard output, and of its standard error, is kept. Bytes.
_OUTPUT_LIMIT = 4 * 1024**2
#: What a tool may allocate; a qcow2 image of 64 TiB has 2 GiB of reference counts. Bytes.
_MEMORY_LIMIT = 3 * 1024**3
#: What each tool running as root may do: open the worker's files, whoever owns them.
_CAPABILITIES = ("dac_override", "dac_read_search")
#: Places in ``CapEff`` of /proc/<pid>/status (linux/capability.h).
_CAP_SETPCAP, _CAP_SYS_ADMIN = 8, 21
_FOREIGN_ROOT = re.compile(r"^/proc/\d+/root/")
#: How often a running tool's caller is asked whether to go on. Seconds.
_POLL = 0.2


def never() -> bool:
    """For callers that cannot be cancelled."""
    return False


def unseen(done: int, total: int) -> None:
    """For callers whose progress nobody watches."""


def confined(args: t.Sequence[str | pathlib.Path], *, capabilities: t.Sequence[str] = ()) -> list[str]:
    """Return the command line of ``args`` as a confined child that is killed when the *thread* that started it ends.

    Args:
        args: program and arguments.
        capabilities: what it may do besides opening files, as setpriv(1) names it: ``sys_admin``.

    Raises:
        JobError: class ``environment``, the program is not installed.
    """
    limits = ["prlimit", f"--data={_MEMORY_LIMIT}", "--core=0"]
    network = ["unshare", "--net", "--"] if _has_capability(_CAP_SYS_ADMIN) else []
    privileges = ["setpriv", "--no-new-privs"]
    if _has_capability(_CAP_SETPCAP):
        kept = ",".join(f"+{name}" for name in (*_CAPABILITIES, *capabilities))
        privileges += ["--inh-caps=-all", f"--bounding-set=-all,{kept}"]
    # Losing capabilities clears the parent death signal, so it is set with that; setpriv does it last.
    privileges += ["--pdeathsig", "KILL", "--"]
    return [*limits, *network, *privileges, find_program(str(args[0])), *(str(arg) for arg in args[1:])]


@functools.cache
def _has_capability(number: int) -> bool:
    for line in pathlib.Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def find_program(name: str) -> str:
    """Return the path of an installed program.

    Raises:
        JobError: class ``environment``, it is not installed.
    """
    program = shutil.which(name)
    if program is None:
        raise environment(
            "MissingTool",
            f"The program {name} is not installed on this worker.",
            "Install what bindep.txt lists (the role conversion_host does it).",
        )
    return program


def clean_environment() -> dict[str, str]:
    """The environment of a tool: ours, with messages and numbers in the C locale."""
    return {**os.environ, "LC_ALL": "C"}


@dataclasses.dataclass(frozen=True)
class Finished:
    """How a tool ended."""

    status: int
    """Its exit status; below 0: the signal that killed it."""
    output: bytes
    errors: bytes


def run_command(
    args: t.Sequence[str | pathlib.Path],
    *,
    what: str,
    timeout: float = 60.0,
    cancelled: t.Callable[[], bool] = never,
    on_output: t.Callable[[bytes], None] | None = None,
    capabilities: t.Sequence[str] = (),
    stdin: bytes | None = None,
    accept: t.Container[int] = (0,),
    failure: t.Callable[[str, str], JobError] = transient,
) -> bytes:
    """Run a tool to its end and return its standard output.

    Args:
        args: program and arguments; never a shell. A path below another process's root is opened here and handed over.
        what: names the step in errors, as in "{what} failed".
        timeout: seconds after which the tool is killed.
        cancelled: asked five times a second; True kills the tool.
        on_output: gets each piece of standard output as it comes; what it takes is not returned.
        capabilities: see :func:`confined`.
        stdin: what it reads from its standard input: where a secret goes; None: nothing.
        accept: exit statuses that are no error.
        failure: makes the error of another exit status from reason and message.

    Raises:
        JobError: not installed, not an accepted exit status, too slow, too talkative, or cancelled.
    """
    done = run_to_end(
        args,
        what=what,
        timeout=timeout,
        cancelled=cancelled,
        on_output=on_output,
        capabilities=capabilities,
        stdin=stdin,
        failure=failure,
    )
    if done.status not in accept:
        if os.strerror(errno.ENOSPC).encode() in done.errors:
            raise environment("NoSpace", f"{what} failed: the disk is full.", "Make room, then run the job again.")
        raise failure("CommandFailed", f"{what} failed: {last_lines(done.errors)} (status {done.status}).")
    return done.output


def run_to_end(
    args: t.Sequence[str | pathlib.Path],
    *,
    what: str,
    timeout: float,
    cancelled: t.Callable[[], bool] = never,
    on_output: t.Callable[[bytes], None] | None = None,
    capabilities: t.Sequence[str] = (),
    stdin: bytes | None = None,
    failure: t.Callable[[str, str], JobError] = transient,
) -> Finished:
    """Run a tool whose exit status says more than success or failure. Arguments as of :func:`run_command`.

    Raises:
        JobError: not installed, too slow, too talkative, or cancelled.
    """
    with _handed_over(args) as (command, descriptors), _readable(stdin) as source:
        try:
            child = subprocess.Popen(
                confined(command, capabilities=capabilities),
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=clean_environment(),
                pass_fds=descriptors,
            )
        except OSError as error:
            raise environment(
                "CannotRun",
                f"{what} failed: {args[0]} cannot be started ({error.strerror}).",
                "Install what hyper2kvm-worker capabilities says is missing.",
            ) from error
    if not (child.stdout is not None and child.stderr is not None):
        raise AssertionError("child.stdout is not None and child.stderr is not None")
    kept: dict[t.IO[bytes], bytearray] = {child.stdout: bytearray(), child.stderr: bytearray()}
    deadline = time.monotonic() + timeout
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            selector.register(child.stderr, selectors.EVENT_READ)
            while selector.get_map():
                _check(what, args[0], deadline, cancelled)
                for key, _events in selector.select(_POLL):
                    stream = t.cast("t.IO[bytes]", key.fileobj)
                    piece = os.read(key.fd, 65536)
                    if not piece:
                        selector.unregister(stream)
                    elif stream is child.stdout and on_output is not None:
                        on_output(piece)
                    elif len(kept[stream]) + len(piece) > _OUTPUT_LIMIT:
                        raise failure("TooMuchOutput", f"{what} failed: {args[0]} printed more than 4 MiB.")
                    else:
                        kept[stream] += piece
        while True:
            _check(what, args[0], deadline, cancelled)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_POLL)
                break
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stdout.close()
        child.stderr.close()
    return Finished(child.returncode, bytes(kept[child.stdout]), bytes(kept[child.stderr]))


@contextlib.contextmanager
def _handed_over(
    args: t.Sequence[str | pathlib.Path],
) -> t.Iterator[tuple[list[str | pathlib.Path], list[int]]]:
    """Open what lies below another process's root, where a process with fewer capabilities may not look."""
    descriptors: list[int] = []
    command: list[str | pathlib.Path] = []
    try:
        for arg in args:
            if isinstance(arg, pathlib.Path) and _FOREIGN_ROOT.match(str(arg)):
                descriptors.append(os.open(arg, os.O_RDONLY | os.O_CLOEXEC))
                arg = f"/proc/self/fd/{descriptors[-1]}"
            command.append(arg)
        yield command, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@contextlib.contextmanager
def _readable(data: bytes | None) -> t.Iterator[int]:
    """Give ``data`` as a file without a name, which is in memory alone."""
    if data is None:
        yield subprocess.DEVNULL
        return
    file = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with open(file, "w+b", buffering=0) as stream:
        stream.write(data)
        stream.seek(0)
        yield file


def cancelled_error(what: str) -> JobError:
    """The error of a step that stopped because it was asked to."""
    return transient("Cancelled", f"{what} was cancelled.")


def last_lines(output: bytes | bytearray, count: int = 3) -> str:
    """The last ``count`` lines that a tool printed, as one line of harmless text of at most 600 characters."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    text = "; ".join(lines[-count:]) or "no message"
    return "".join(c if c.isprintable() else "?" for c in text)[-600:]


def _check(what: str, program: str | pathlib.Path, deadline: float, cancelled: t.Callable[[], bool]) -> None:
    if cancelled():
        raise cancelled_error(what)
    if time.monotonic() > deadline:
        raise transient("Timeout", f"{what} failed: {program} did not end in time.", "See whether the storage hangs.")
