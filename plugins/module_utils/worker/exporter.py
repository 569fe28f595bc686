# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The process that tells a worker's metrics: over HTTP, in a file for node_exporter, or both.

A process of its own, because the agent has one thread, which must wait for nobody (see :mod:`.agent`), and because it
has to answer when the agent hangs. It reads the queue's database, and ends with the process that started it.
"""

from __future__ import annotations

import collections
import collections.abc as c
import contextlib
import dataclasses
import gc
import logging
import os
import pathlib
import signal
import socket
import threading
import typing as t

from ..backends.local import LocalBackend
from ..protocol import errors
from ..protocol.errors import JobError
from ..telemetry.metrics.exposition import Exposition, check_library
from . import kernel
from .context import Roots
from .health import is_alive
from .metrics import WorkerMetrics

log = logging.getLogger(__name__)

#: Between two writes of the file; Prometheus asks node_exporter about as often.
_WRITE_SECONDS = 15.0
#: A client that does not go on for so long is left.
_CLIENT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Telling:
    """How metrics are told."""

    host: str = "127.0.0.1"
    port: int | None = None
    """0: one that is free; None: not over HTTP."""
    textfile: pathlib.Path | None = None
    """None: in no file."""

    @property
    def wanted(self) -> bool:
        """Whether anybody wants them."""
        return self.port is not None or self.textfile is not None


@contextlib.contextmanager
def telling(how: Telling, state_dir: pathlib.Path, roots: Roots, *, in_cluster: bool) -> c.Iterator[None]:
    """Tell metrics as long as the context lasts, where ``how`` wants it.

    It forks: nothing that must not cross a fork may be open yet.

    Raises:
        JobError: (environment) the port or the file's folder cannot be used, or prometheus_client is missing.
    """
    if not how.wanted:
        yield
        return
    check_library()
    backend = LocalBackend(state_dir)
    metrics = WorkerMetrics(backend, roots, in_cluster=in_cluster)
    listening = None if how.port is None else _listen(how.host, how.port)
    if how.textfile is not None:
        _write(how.textfile, b"")
    # Both processes need what reading loads, and share its memory if it is there before the fork; what the collector
    # of either one does not touch stays shared.
    collections.deque(metrics.samples(), maxlen=0)
    backend.close()
    gc.freeze()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        _tell(parent, metrics, state_dir, listening, how.textfile)
    if listening is not None:
        host, port = listening.getsockname()[:2]
        log.info("metrics: http://%s/metrics", f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        listening.close()
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if how.textfile is not None:
            # A worker that has ended in order is not lost, and has nothing more to say.
            how.textfile.unlink(missing_ok=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise errors.environment(
            "PortUnusable",
            f"Metrics cannot be told at {host}, port {port}: {error.strerror}.",
            "Give another port (--metrics-port), or end what listens there.",
        ) from error


def _write(path: pathlib.Path, text: bytes) -> None:
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


def _tell(
    parent: int,
    metrics: WorkerMetrics,
    state_dir: pathlib.Path,
    listening: socket.socket | None,
    textfile: pathlib.Path | None,
) -> t.NoReturn:
    code = 1
    try:
        kernel.die_with_parent()
        kernel.name_process("h2k-metrics")
        # Ctrl-C at the terminal is the worker's affair, whose end is this one's.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        exposition = Exposition(metrics.samples)
        if listening is not None:
            threading.Thread(target=_serve, args=(exposition, state_dir, listening), daemon=True).start()
        forever = threading.Event()
        # If the parent died before the line above, the kernel said nothing.
        while os.getppid() == parent:
            if textfile is not None:
                try:
                    _write(textfile, exposition.text())
                except JobError as error:
                    log.warning("metrics: %s", error)
            forever.wait(_WRITE_SECONDS)
        code = 0
    except BaseException:
        log.exception("the process that tells metrics failed")
    finally:
        # Nothing that the worker set up is torn down in its copy.
        logging.shutdown()
        os._exit(code)


def _serve(exposition: Exposition, state_dir: pathlib.Path, listening: socket.socket) -> None:
    import socketserver
    import wsgiref.simple_server

    metrics = exposition.application()

    def answer(environ: dict[str, t.Any], start: c.Callable[..., t.Any]) -> c.Iterable[bytes]:
        try:
            if environ["PATH_INFO"] == "/healthz":
                alive = is_alive(state_dir)
                start("200 OK" if alive else "503 Service Unavailable", [("Content-Type", "text/plain")])
                return [b"ok\n" if alive else b"no worker of this queue is alive, or it does not mind its jobs\n"]
            if environ["PATH_INFO"] == "/metrics":
                return t.cast("c.Iterable[bytes]", metrics(environ, start))
        except JobError as error:
            log.warning("metrics: %s", error)
            start("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"see /metrics and /healthz\n"]

    class Handler(wsgiref.simple_server.WSGIRequestHandler):
        timeout = _CLIENT_SECONDS

        def log_message(self, format: str, *args: t.Any) -> None:
            """Say nothing of requests."""

    class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
        daemon_threads = True

        def server_bind(self) -> None:
            """Take the socket that listens already."""
            self.socket.close()
            self.socket = listening
            self.server_name, self.server_port = listening.getsockname()[:2]
            self.setup_environ()

        def server_activate(self) -> None:
            """It listens."""

        def handle_error(self, request: t.Any, client_address: t.Any) -> None:
            """A client that went away is no fault of ours."""
            log.debug("metrics: a request failed", exc_info=True)

    server = Server(listening.getsockname()[:2], Handler)
    server.set_app(answer)
    server.serve_forever()
