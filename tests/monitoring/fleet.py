# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is to watch: a worker that moves real guests on this host, and an operator with simulated workers."""

from __future__ import annotations

import asyncio
import collections.abc as c
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import JOBS
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import environment, transient

from tests.e2e.migration import REPOSITORY, ConversionHost, job
from tests.guests import build
from tests.kube.api_server import ApiServer
from tests.kube.fake_worker import FakeWorker
from tests.kube.operators import HOME
from tests.tools.machine import wait_for

#: Jobs that fail at once: enough for the alert about failures.
FAILING = 4
#: So slow that the copy of the tiny guest's 39 MiB lasts longer than the tests. Bytes a second.
SLOW = 65536
LACKING = "fs-zfs"


class Host(ConversionHost):
    """A conversion host whose worker tells metrics."""

    @contextlib.contextmanager
    def working(self) -> c.Iterator[str]:
        """Run its worker; gives the address at which it tells metrics."""
        log = self.output.parent / "worker.log"
        roots = ["--input-root", self.input, "--output-root", self.output]
        command = [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", "run", *roots, "--slots", "3"]
        with log.open("wb") as out:
            worker = subprocess.Popen([*command, "--metrics-port", "0"], stderr=out)
        try:
            found = wait_for(lambda: re.findall(r"metrics: http://(\S+)/metrics", log.read_text()))
            yield found[0]
        finally:
            worker.terminate()
            worker.wait()

    def submit(self, *documents: dict[str, t.Any]) -> None:
        """Hand in jobs."""
        for document in documents:
            path = self.output.parent / f"{document['metadata']['name']}.json"
            path.write_text(json.dumps(document), encoding="utf-8")
            self.command("submit", path)

    def begin(self) -> None:
        """Hand in one job that ends well, one that lasts, some that fail, and one that nobody can run."""
        self.add(build("tiny") / "tiny.ova", "tiny.ova")
        self.submit(
            job("done", "tiny.ova", verify={"rehearse": "always"}),
            job("lasts", "tiny.ova", limits={"bandwidthBytesPerSecond": SLOW}, verify={"boot": False}),
            job("waits", "tiny.ova", requirements={"capabilities": [LACKING]}, verify={"boot": False}),
            *(job(f"fails-{number}", f"missing-{number}.ova") for number in range(FAILING)),
        )


class Cluster(threading.Thread):
    """Jobs and simulated workers of a cluster, for as long as the context lasts."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    def run(self) -> None:
        """Live."""
        self._loop.run_until_complete(self._live())
        self._loop.close()

    async def _live(self) -> None:
        async with Api.connect(self._server.login()) as api:
            worker = FakeWorker(api, HOME, "node-1", 2, _work)
            async with worker.alive():
                for name in ("done-1", "done-2", "fails", "retried", "lasts"):
                    await api.create(JOBS, _document(name), "default")
                lacking = {"requirements": {"capabilities": [LACKING]}}
                await api.create(JOBS, _document("waits", **lacking), "default")
                await self._over.wait()


async def _work(job: models.MigrationJob) -> None:
    """Stand in for the work, as the job's name says."""
    name = job.metadata.name
    if name == "fails":
        raise environment("NoSpace", "The disk is full.", "Make room.")
    if name == "retried" and job.status.epoch == 1:
        raise transient("LostPeer", "It went away.", "Try again.")
    if name == "lasts":
        await asyncio.Event().wait()


def _document(name: str, **spec: t.Any) -> dict[str, t.Any]:
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {"name": name},
        "spec": {"source": {"path": f"{name}.ova"}, **spec},
    }


def folder_of(path: pathlib.Path) -> pathlib.Path:
    """Make a folder."""
    path.mkdir(parents=True, exist_ok=True)
    return path
