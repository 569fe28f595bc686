# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench.kube_clients``: three ways to write a controller in Python, on one real API server.

Each sees 300 jobs come and patches the status of each twice, the second time when it has seen the first. It is a
process of its own. kopf is needed for this measurement alone (``pip install kopf``); nothing else in the project uses
it.
The figures are in docs/adr/0013-the-operator-is-a-loop-of-its-own.md.
"""

from __future__ import annotations

import argparse
import asyncio
import collections.abc as c
import concurrent.futures
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Api, Login
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.cache import Cache, Change
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    JOBS,
    Object,
    phase_of,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from bench.processes import cpu_seconds, most_megabytes
from tests.guests.host import REPOSITORY
from tests.kube.api_server import serving

JOBS_COUNT = 300
ROUNDS = 3
CONNECTIONS = 32
_NEXT = {Phase.CREATED: Phase.QUEUED, Phase.QUEUED: Phase.ASSIGNED}
_PATIENCE_SECONDS = 300.0


def _status(phase: Phase) -> Object:
    return {"status": {"phase": phase.value}}


# -- the three -------------------------------------------------------------------------------------------------------


def with_kopf() -> None:
    """The framework: a handler for each event, which says what to patch."""
    import kopf

    @kopf.on.startup()
    def configure(settings: kopf.OperatorSettings, **dummy: t.Any) -> None:
        settings.posting.enabled = False
        settings.batching.worker_limit = CONNECTIONS
        print("ready", flush=True)

    @kopf.on.login()
    def login(settings: kopf.OperatorSettings, **dummy: t.Any) -> t.Any:
        return kopf.login_with_kubeconfig(settings=settings)

    @kopf.on.event(JOBS.group, JOBS.version, JOBS.plural)
    async def handle(body: t.Any, patch: t.Any, **dummy: t.Any) -> None:
        following = _NEXT.get(phase_of(dict(body)))
        if following is not None:
            patch.status["phase"] = following.value

    kopf.run(standalone=True, clusterwide=True)


def with_threads() -> None:
    """The official client's blocking side: a watch in a loop, and a pool of threads that patch."""
    from kubernetes import client, config, watch

    config.load_kube_config(os.environ["KUBECONFIG"])
    configuration = client.Configuration.get_default_copy()
    configuration.connection_pool_maxsize = CONNECTIONS
    api = client.CustomObjectsApi(client.ApiClient(configuration))
    pool = concurrent.futures.ThreadPoolExecutor(CONNECTIONS)
    listing = functools.partial(api.list_cluster_custom_object, JOBS.group, JOBS.version, JOBS.plural)
    print("ready", flush=True)
    for event in watch.Watch().stream(listing):
        found = event["object"]
        following = _NEXT.get(phase_of(found))
        if event["type"] in ("ADDED", "MODIFIED") and following is not None:
            names = (found["metadata"]["namespace"], JOBS.plural, found["metadata"]["name"])
            patch = api.patch_namespaced_custom_object_status
            pool.submit(patch, JOBS.group, JOBS.version, *names, _status(following))


def with_asyncio() -> None:
    """The official client's connections and login under our own small interface."""

    async def run() -> None:
        async with Api.connect(Login(kubeconfig=os.environ["KUBECONFIG"])) as api:
            limit = asyncio.Semaphore(CONNECTIONS)
            tasks: set[asyncio.Task[None]] = set()

            async def write(found: Object, phase: Phase) -> None:
                metadata = found["metadata"]
                async with limit:
                    await api.patch(JOBS, metadata["name"], _status(phase), metadata["namespace"], subresource="status")

            def changed(change: Change[Object]) -> None:
                following = None if change.after is None else _NEXT.get(phase_of(change.after))
                if change.after is not None and following is not None:
                    task = asyncio.create_task(write(change.after, following))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

            print("ready", flush=True)
            await Cache(api, JOBS, lambda found: found, changed).run()

    asyncio.run(run())


CLIENTS: dict[str, c.Callable[[], None]] = {
    "kopf": with_kopf,
    "official client, threads": with_threads,
    "official client, asyncio": with_asyncio,
}


# -- the measurement -------------------------------------------------------------------------------------------------


class Figures(t.NamedTuple):
    """What one client took."""

    seconds: float
    """From the first creation until all jobs were seen patched twice."""
    cpu_seconds: float
    """Of the client's process, its start left out."""
    megabytes: float
    """The most memory that it had, in MiB."""


async def _all_assigned(kubeconfig: pathlib.Path, names: list[str], start: c.Callable[[], None]) -> float:
    """Create the jobs and return the seconds until all of them are ASSIGNED; then remove them."""
    async with Api.connect(Login(kubeconfig=str(kubeconfig))) as api:
        limit = asyncio.Semaphore(CONNECTIONS)
        left, over = set(names), asyncio.Event()

        def changed(change: Change[Object]) -> None:
            if change.after is not None and phase_of(change.after) is Phase.ASSIGNED:
                left.discard(change.after["metadata"]["name"])
                if not left:
                    over.set()

        async def create(name: str) -> None:
            document = {
                "apiVersion": JOBS.api_version,
                "kind": JOBS.kind,
                "metadata": {"name": name},
                "spec": {"source": {"path": "web01.ova"}},
            }
            async with limit:
                await api.create(JOBS, document, "default")

        async def remove(name: str) -> None:
            async with limit:
                await api.delete(JOBS, name, "default")

        cache: Cache[Object] = Cache(api, JOBS, lambda found: found, changed)
        watching = asyncio.create_task(cache.run())
        await cache.synced.wait()
        start()
        begun = time.monotonic()
        await asyncio.gather(*map(create, names))
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await over.wait()
        seconds = time.monotonic() - begun
        await asyncio.gather(*map(remove, names))
        watching.cancel()
        return seconds


def measure(name: str, kubeconfig: pathlib.Path) -> Figures:
    """Let one client do its work."""
    command = [sys.executable, "-m", "bench.kube_clients", "--run", name]
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        out, before = process.stdout, [0.0]

        def start() -> None:
            assert out.readline() == "ready\n", f"{name} did not start"
            before[0] = cpu_seconds(process.pid)

        names = [f"job-{number}" for number in range(JOBS_COUNT)]
        try:
            seconds = asyncio.run(_all_assigned(kubeconfig, names, start))
            return Figures(seconds, cpu_seconds(process.pid) - before[0], most_megabytes(process.pid))
        finally:
            process.kill()


def main() -> None:
    """Print a line for each client: the medians of its rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.kube_clients", description=__doc__)
    parser.add_argument("--run", choices=CLIENTS, help="be one of the clients")
    chosen = parser.parse_args().run
    if chosen is not None:
        CLIENTS[chosen]()
        return
    found: dict[str, list[Figures]] = {name: [] for name in CLIENTS}
    with tempfile.TemporaryDirectory() as folder, serving(pathlib.Path(folder)) as server:
        for dummy in range(ROUNDS):
            for name in CLIENTS:
                found[name].append(measure(name, server.kubeconfig()))
    print(f"{JOBS_COUNT} jobs, 2 patches each; medians of {ROUNDS} rounds; load {os.getloadavg()[0]:.1f}")
    for name, rounds in found.items():
        seconds, cpu, memory = (statistics.median(column) for column in zip(*rounds, strict=True))
        rate = 2 * JOBS_COUNT / seconds
        print(f"{name:<26} {seconds:6.1f} s  {rate:5.0f} patches/s  CPU {cpu:5.1f} s  {memory:4.0f} MiB")


if __name__ == "__main__":
    main()
