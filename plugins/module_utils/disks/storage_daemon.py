# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""QEMU's storage daemon: images of any format as flat files, through FUSE.

The daemon is a child that speaks QMP over its standard input and output, so there is no socket to place or to wait
for: when a command was answered, it is done. It dies with the thread that started it.

It runs in a mount namespace of its own, and its FUSE mounts exist there alone; others reach them through
``/proc/<pid>/root``. Were it in the namespace where guests are mounted from its exports, and the last process there to
end (a whole job was killed), the kernel would unmount those guests while it ends the daemon: their writes would wait
for the daemon's answers, and the daemon's end, which fails such requests, for the unmounting, for ever (seen on Linux
6.18: ``exit_task_namespaces`` comes before ``/dev/fuse`` is let go).
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import subprocess
import time
import typing as t

from ..protocol.errors import JobError, environment, transient
from .command import clean_environment, confined, find_program, last_lines

#: For the answer to one QMP command, and for the daemon's end. Seconds.
_TIMEOUT = 60.0
#: Bytes.
_MAX_ANSWER = 1024**2
#: Part of the names of folders with exports; it tells the loop devices over them from all others.
FOLDER_PREFIX = "hyper2kvm-attach-"
# A new mount namespace begins as a copy, with the guests that are mounted from other daemons' exports just now. They
# are taken out of it (not out of where they came from), or their devices would be in use until this daemon ends.
_OWN_NAMESPACE = r"""
while read -r _ _ _ _ place rest; do
    fields=${rest##* - }
    source=${fields#* }
    source=${source%% *}
    case $source in /dev/loop[0-9]*) ;; *) continue ;; esac
    read -r backing < "/sys/block/${source#/dev/}/loop/backing_file" || continue
    case $backing in */"$0"*) umount -l "$(printf %b "$place")" ;; esac
done < /proc/self/mountinfo
exec "$@"
"""


class StorageDaemon:
    """A running ``qemu-storage-daemon`` with its exports."""

    def __init__(self) -> None:
        """Start the daemon.

        Raises:
            JobError: class ``environment``, it is not installed or does not start.
        """
        program = find_program("qemu-storage-daemon")
        # A full pipe drops what comes next: the daemon can fill no disk with messages, and does not wait for a reader.
        self._messages, messages = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._buffer = b""
        self._events: list[dict[str, t.Any]] = []
        self._exports: list[str] = []
        try:
            self._process = self._start(program, messages)
        except BaseException:
            os.close(self._messages)
            raise
        finally:
            os.close(messages)
        try:
            self._receive()  # the greeting
            self.command("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    @staticmethod
    def _start(program: str, messages: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            confined(
                [
                    *("unshare", "--mount", "--propagation", "private"),
                    *("sh", "-c", _OWN_NAMESPACE, FOLDER_PREFIX),
                    *(program, "--chardev", "stdio,id=qmp,signal=off", "--monitor", "chardev=qmp"),
                ],
                capabilities=("sys_admin",),  # mounts
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            env=clean_environment(),
            bufsize=0,
        )

    def export(
        self, name: str, options: t.Mapping[str, t.Any], mountpoint: pathlib.Path, *, writable: bool
    ) -> pathlib.Path:
        """Show an image as a flat file, and return that file.

        Args:
            name: unique among this daemon's exports.
            options: QEMU's blockdev options of the image.
            mountpoint: an empty regular file, absolute; it stays empty for everybody but the daemon.
            writable: the image and the file take writes.

        Raises:
            JobError: the image cannot be opened, or FUSE cannot be used here.
        """
        self.command("blockdev-add", **options, **{"node-name": name})
        try:
            self.command(
                "block-export-add",
                type="fuse",
                id=name,
                mountpoint=str(mountpoint),
                writable=writable,
                **{"node-name": name, "allow-other": "off"},
            )
        except JobError as error:
            raise environment(
                "NoFuseExport",
                f"A disk image cannot be shown as a file: {error.message}",
                "The worker must be root, with /dev/fuse (in a container: privileged, or the device given).",
            ) from error
        self._exports.append(name)
        return pathlib.Path(f"/proc/{_pid_in_proc(self._process.pid)}/root{mountpoint}")

    def close(self) -> None:
        """Delete the exports, let the daemon end, and see that it ended well: all writes are in the images then.

        Raises:
            JobError: class ``transient``, a step failed, so that writes may be lost.
        """
        for name in self._exports:
            self.command("block-export-del", id=name)
            self._wait_event("BLOCK_EXPORT_DELETED", name)
            self.command("blockdev-del", **{"node-name": name})
        self.command("quit")
        try:
            status = self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._lost("did not end") from None
        if status != 0:
            raise self._lost(f"ended with status {status}")
        self._release()

    def kill(self) -> None:
        """End the daemon at once, whatever it was doing; its mounts go with it."""
        self._process.kill()
        self._process.wait()
        self._release()

    def command(self, name: str, **arguments: t.Any) -> t.Any:
        """Run a QMP command and return what it returns.

        Raises:
            JobError: class ``transient``, the command failed or the daemon is gone.
        """
        if self._process.stdin is None:
            raise AssertionError("self._process.stdin is not None")
        message = {"execute": name, "arguments": arguments}
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except OSError:
            raise self._lost(f"is gone before {name}") from None
        while True:
            answer = self._receive()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise transient("StorageDaemonRefused", f"qemu-storage-daemon {name}: {answer['error']['desc']}.")
            elif "return" in answer:
                return answer["return"]

    def _wait_event(self, event: str, identifier: str) -> None:
        while True:
            for seen in self._events:
                if seen["event"] == event and seen["data"].get("id") == identifier:
                    return
            self._events.append(self._receive())

    def _receive(self) -> dict[str, t.Any]:
        if self._process.stdout is None:
            raise AssertionError("self._process.stdout is not None")
        deadline = time.monotonic() + _TIMEOUT
        while b"\n" not in self._buffer:
            ready, _write, _error = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._lost("does not answer")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise self._lost("is gone")
            self._buffer += piece
            if len(self._buffer) > _MAX_ANSWER:
                raise self._lost("talks too much")
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, t.Any] = json.loads(line)
        return answer

    def _lost(self, what: str) -> JobError:
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._messages, 65536)
        return transient("StorageDaemonLost", f"qemu-storage-daemon {what} ({last_lines(said)}).", "Try again.")

    def _release(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1


def _pid_in_proc(pid: int) -> int:
    """The number that the mounted /proc has for our child ``pid``: in a PID namespace /proc may be the outer one's."""
    descriptor = os.pidfd_open(pid)
    try:
        for line in pathlib.Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").splitlines():
            key, _colon, value = line.partition(":")
            if key == "Pid" and int(value) > 0:
                return int(value)
    finally:
        os.close(descriptor)
    raise environment(
        "NoProc", "/proc does not show this worker's processes.", "Mount /proc for the worker's namespace."
    )
