# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Prometheus and Alertmanager as Debian packages them, on loopback ports and in folders of a test's own."""

from __future__ import annotations

import collections.abc as c
import contextlib
import http.server
import json
import pathlib
import socket
import subprocess
import threading
import typing as t
import urllib.error
import urllib.parse
import urllib.request

import yaml

from tests.tools.machine import wait_for


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def read(url: str, data: bytes | None = None) -> str:
    """What is answered; empty where nobody does, or badly."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


@contextlib.contextmanager
def running(command: list[str | pathlib.Path], log: pathlib.Path, ready: str) -> c.Iterator[subprocess.Popen[bytes]]:
    """A program that runs and answers at the URL ``ready``; it is gone afterwards."""
    with log.open("ab") as out:
        # The kernel ends it, should this process be killed.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: process.poll() is not None or read(ready))
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


class Prometheus:
    """One Prometheus; its settings are in ``folder``."""

    def __init__(self, folder: pathlib.Path, settings: dict[str, t.Any]) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.settings = folder / "prometheus.yml"
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(yaml.safe_dump(settings), encoding="utf-8")

    @contextlib.contextmanager
    def running(self) -> c.Iterator[Prometheus]:
        """Run it as long as the context lasts."""
        command: list[str | pathlib.Path] = [
            "prometheus",
            f"--config.file={self.settings}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--web.enable-lifecycle",
        ]
        with running(command, self.folder / "prometheus.log", f"{self.url}/-/ready"):
            yield self

    def query(self, expr: str) -> list[dict[str, t.Any]]:
        """The series that an expression has now.

        :raises AssertionError: Prometheus does not take it.
        """
        answer = json.loads(read(f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}") or "{}")
        assert answer.get("status") == "success", f"{expr}: {answer}"
        return t.cast("list[dict[str, t.Any]]", answer["data"]["result"])

    def value(self, expr: str) -> float:
        """The value of the one series that an expression has; 0 where there is none."""
        found = self.query(expr)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else 0.0

    def get(self, path: str) -> t.Any:
        """The data of another answer of the API."""
        return json.loads(read(f"{self.url}/api/v1/{path}"))["data"]


class Receiver:
    """Stands where Slack does: takes what is posted, and keeps it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, t.Any]]] = []
        """Paths with the JSON that was posted there."""
        posts = self.posts

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                posts.append((self.path, json.loads(self.rfile.read(size))))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: t.Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
