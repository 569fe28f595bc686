# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A worker's metrics, told over HTTP, in a file for node_exporter, or both.

The agent has one thread, which must wait for nobody (see :mod:`.agent`): for each client, and for each writing of the
file, it forks a process that reads the queue's database, tells, and ends. Between two of them metrics take no more
memory than the libraries that the agent has loaded for them.
"""

from __future__ import annotations

import collections.abc as c
import dataclasses
import functools
import gc
import logging
import os
import pathlib
import signal
import socket
import time
import typing as t

from ..backends.local import LocalBackend
from ..protocol import errors
from ..protocol.errors import JobError
from ..telemetry.metrics.exposition import Exposition
from . import forked, kernel
from .context import Roots
from .health import is_alive
from .metrics import WorkerMetrics

log = logging.getLogger(__name__)

#: Between two writes of the file; Prometheus asks node_exporter about as often.
_WRITE_SECONDS = 15.0
#: A client that does not go on for so long is left.
_CLIENT_SECONDS = 10.0
#: A process that takes longer is ended by the kernel.
_PROCESS_SECONDS = 30
#: Clients that are answered at once; others wait, so that no number of them can fill the host with processes.
_CLIENTS = 8


@dataclasses.dataclass(frozen=True)
class Telling:
    """How metrics are told."""

    host: str = "127.0.0.1"
    port: int | None = None
    """0: one that is free; None: not over HTTP."""
    textfile: pathlib.Path | None = None
    """None: in no file."""


class Exporter:
    """What the agent has open for metrics, and the processes that tell them."""

    def __init__(self, how: Telling, state_dir: pathlib.Path, roots: Roots, *, in_cluster: bool) -> None:
        """Open what ``how`` wants; from now on clients may come, and wait for the agent's :meth:`turn`.

        Raises:
            JobError: (environment) the port or the file's folder cannot be used, or prometheus_client is missing.
        """
        self._textfile = how.textfile
        self._telling: set[int] = set()
        self._writing: int | None = None
        self._next_write = 0.0
        self._listening: socket.socket | None = None
        if how.port is None and how.textfile is None:
            return
        backend = LocalBackend(state_dir)
        self._exposition = Exposition(WorkerMetrics(backend, roots, in_cluster=in_cluster).samples)
        if how.port is not None:
            self._listening = _listen(how.host, how.port)
            self._answer = _answerer(self._exposition, state_dir)
            host, port = self._listening.getsockname()[:2]
            log.info("metrics: http://%s/metrics", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        if how.textfile is not None:
            # Whether it can be written is said at once; what it says comes with the first turn.
            _replace(how.textfile, b"")
            how.textfile.unlink()
        # What telling loads is shared with every process that tells if it is here before, as far as the garbage
        # collectors leave it alone.
        self._exposition.text()
        backend.close()
        gc.freeze()

    def descriptors(self) -> list[int]:
        """What to wait for to become readable; then it is time for a :meth:`turn`."""
        if self._listening is None or len(self._telling) >= _CLIENTS:
            return []
        return [self._listening.fileno()]

    def turn(self, before_fork: c.Callable[[], None]) -> None:
        """Answer who has come, and write the file if it is time; waits for nobody.

        ``before_fork`` closes what must not cross a fork.
        """
        self._reap()
        if self._textfile is not None and self._writing is None and time.monotonic() >= self._next_write:
            self._next_write = time.monotonic() + _WRITE_SECONDS
            before_fork()
            self._writing = self._fork(functools.partial(self._write, self._textfile))
        while self._listening is not None and len(self._telling) < _CLIENTS:
            try:
                client, address = self._listening.accept()
            except OSError:
                # Nobody has come, or whoever did has gone.
                break
            before_fork()
            pid = self._fork(functools.partial(self._answer, client, address))
            client.close()
            if pid is not None:
                self._telling.add(pid)

    def leave(self) -> None:
        """Let go of the port: in a process that does not tell, such as a job's."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def close(self) -> None:
        """End: nobody is answered any more, and there is no file."""
        self.leave()
        for pid in (*self._telling, *([] if self._writing is None else [self._writing])):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if self._textfile is not None:
            # A worker that has ended in order is not lost, and has nothing more to say.
            self._textfile.unlink(missing_ok=True)

    def _write(self, file: pathlib.Path) -> None:
        _replace(file, self._exposition.text())

    def _reap(self) -> None:
        self._telling = {pid for pid in self._telling if os.waitpid(pid, os.WNOHANG)[0] == 0}
        if self._writing is not None and os.waitpid(self._writing, os.WNOHANG)[0] != 0:
            self._writing = None

    def _fork(self, tell: c.Callable[[], None]) -> int | None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            log.warning("metrics: no process can be made: %s", error.strerror)
            return None
        if pid == 0:
            forked.work_and_end(functools.partial(self._tell, parent, tell), log)
        return pid

    def _tell(self, parent: int, tell: c.Callable[[], None]) -> int:
        # Each page that a collection touches would be copied, and the process ends before there is much to collect.
        gc.disable()
        kernel.die_with_parent()
        if os.getppid() != parent:
            return 1
        kernel.name_process("h2k-metrics")
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C at the terminal is the worker's affair, whose end is this one's.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.alarm(_PROCESS_SECONDS)
        self.leave()
        tell()
        return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise errors.environment(
            "PortUnusable",
            f"Metrics cannot be told at {host}, port {port}: {error.strerror}.",
            "Give another port (--metrics-port), or end what listens there.",
        ) from error
    listening.setblocking(False)
    return listening


def _replace(path: pathlib.Path, text: bytes) -> None:
    """Replace the file as a whole, because node_exporter may read it at any moment.

    Raises:
        JobError: (environment) it cannot be written.
    """
    # node_exporter reads nothing that does not end in .prom.
    partial = path.with_name(f".{path.name}.new")
    try:
        partial.write_bytes(text)
        partial.chmod(0o644)
        partial.replace(path)
    except OSError as error:
        raise errors.environment(
            "MetricsFileUnusable",
            f"Metrics cannot be written to {path}: {error.strerror}.",
            "Make its folder, or name another file (--metrics-textfile).",
        ) from error


def _answerer(exposition: Exposition, state_dir: pathlib.Path) -> c.Callable[[socket.socket, t.Any], None]:
    """Return what answers the one request of a client, who has an address, and ends the connection."""
    # Not above: whoever is not asked for metrics need not wait for it.
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            """Answer, of what is asked for."""
            path = self.path.partition("?")[0]
            try:
                if path == "/metrics":
                    self._reply(200, *exposition.answer(self.headers.get("Accept", "")))
                elif path == "/healthz" and is_alive(state_dir):
                    self._say(200, "ok")
                elif path == "/healthz":
                    self._say(503, "no worker of this queue is alive, or it does not mind its jobs")
                else:
                    self._say(404, "see /metrics and /healthz")
            except JobError as error:
                log.warning("metrics: %s", error)
                self._say(503, str(error))

        def _say(self, status: int, text: str) -> None:
            self._reply(status, "text/plain; charset=utf-8", f"{text}\n".encode())

        def _reply(self, status: int, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: t.Any) -> None:
            """Say nothing of requests."""

    def answer(client: socket.socket, address: t.Any) -> None:
        try:
            # It asks nothing of a server, of which there is none: the agent listens and accepts.
            Handler(client, address, t.cast("t.Any", None))
        except OSError:
            # A client that went away is no fault of ours.
            log.debug("metrics: a request failed", exc_info=True)

    return answer
