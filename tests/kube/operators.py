# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Operators as a cluster runs them: processes that log in as their service account, and are started anew."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time
import typing as t
import urllib.error
import urllib.request

from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer

HOME = "hyper2kvm-workers"
_COMMAND = REPOSITORY / "scripts" / "hyper2kvm-operator"
_LISTENS = re.compile(r"standing by as (\S+), port (\d+)")
_PATIENCE_SECONDS = 120.0


class Operator:
    """One replica. When its process ends, another is started, as the kubelet would do."""

    def __init__(self, server: ApiServer, log: pathlib.Path) -> None:
        """Start it; it writes to ``log``."""
        self._server = server
        self._log = log
        self._stopping = False
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    @property
    def leads(self) -> bool:
        """Whether it is the one that acts."""
        return "hyper2kvm_operator_leading 1.0" in self.read("/metrics")

    @property
    def address(self) -> str:
        """Host and port at which it answers; empty while it does not."""
        found = _LISTENS.findall(self.log)
        return f"127.0.0.1:{found[-1][1]}" if found else ""

    @property
    def log(self) -> str:
        """What it has written so far, in all its lives."""
        return self._log.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        """The present process."""
        return self._process.pid

    def read(self, path: str) -> str:
        """What it answers; empty where it does not."""
        if not self.address:
            return ""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return ""

    def metric(self, name: str) -> float:
        """The value of a metric; 0 where it has none."""
        found = re.findall(rf"^{re.escape(name)} (\S+)$", self.read("/metrics"), re.MULTILINE)
        return float(found[0]) if found else 0.0

    def kill(self) -> None:
        """Kill the process (SIGKILL); it is started anew."""
        self._process.kill()

    def stop(self) -> int:
        """End it for good, in order, and return its exit status."""
        self._stopping = True
        self._process.terminate()
        self._keeper.join(_PATIENCE_SECONDS)
        return self._process.wait(_PATIENCE_SECONDS)

    def close(self) -> None:
        """Make sure that nothing of it is left."""
        self._stopping = True
        self._process.kill()
        self._keeper.join(_PATIENCE_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        token = self._server.account_kubeconfig(HOME, "hyper2kvm-operator")
        # The kernel ends it with the thread that started it, should this process be killed.
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, str(_COMMAND)]
        command += ["--kubeconfig", str(token), "--host", "127.0.0.1", "--port", "0"]
        environment = {**os.environ, "HYPER2KVM_NAMESPACE": HOME}
        with self._log.open("ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._stopping:
                return
            self._process = self._start()


@contextlib.contextmanager
def operating(server: ApiServer, folder: pathlib.Path, replicas: int = 1) -> t.Iterator[list[Operator]]:
    """Operators of which one leads; nothing of them is left afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    operators = [Operator(server, folder / f"operator-{number}.log") for number in range(replicas)]
    try:
        wait_until(lambda: any(operator.leads for operator in operators), "an operator leads")
        yield operators
    finally:
        for operator in operators:
            operator.close()
        # The next leader need not wait until it has run out.
        server.kubectl("-n", HOME, "delete", "lease", "operator.hyper2kvm.io", "--ignore-not-found")


def wait_until(condition: t.Callable[[], bool], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait until ``condition`` holds.

    :raises AssertionError: it did not; ``what`` says what was waited for.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited for {seconds:.0f} s: {what}"
        time.sleep(0.1)
