# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first process of a cluster's machine: furnishes its namespaces, then keeps its services running.

``python -m tests.cluster.init FOLDER`` reads ``plan.json`` there. Whoever started it gets a line on the standard output
when the machine is furnished, and answers with a line when its network is ready; services start then. It never ends by
itself: who wants the machine to end kills it, and the kernel kills whatever runs in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time
import typing as t

_LOOK_SECONDS = 0.05
#: A service that ended is started again after this time, for whatever it misses to appear.
_REST_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Service:
    """A program that shall always run."""

    name: str
    command: tuple[str, ...]
    waits_for: str | None = None
    """A file that must be there before it is started."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a machine is."""

    hostname: str
    furnishing: tuple[tuple[str, ...], ...]
    """Commands, run one after another before anything else."""
    environment: dict[str, str]
    """Of all commands and services."""
    services: tuple[Service, ...]

    def write(self, folder: pathlib.Path) -> None:
        """Leave it where the machine's first process finds it."""
        (folder / "plan.json").write_text(json.dumps(dataclasses.asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, folder: pathlib.Path) -> Plan:
        """The plan that :meth:`write` left."""
        known = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        services = tuple(Service(one["name"], tuple(one["command"]), one["waits_for"]) for one in known["services"])
        furnishing = tuple(tuple(command) for command in known["furnishing"])
        return cls(known["hostname"], furnishing, known["environment"], services)


class Steering:
    """The files by which a machine's services are steered from outside, below the machine's folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        for part in ("pids", "held", "log"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def hold(self, service: str) -> pathlib.Path:
        """While this file exists, the service is not started (one that runs goes on)."""
        return self._folder / "held" / service

    def pid(self, service: str) -> pathlib.Path:
        """Where the number of the service's process is, as the machine counts."""
        return self._folder / "pids" / service

    def log(self, service: str) -> pathlib.Path:
        """What the service prints."""
        return self._folder / "log" / f"{service}.log"


def main(folder: pathlib.Path) -> t.NoReturn:
    """Be the first process of a machine."""
    plan = Plan.read(folder)
    steering = Steering(folder)
    for command in plan.furnishing:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=plan.environment)
    os.chdir("/")
    print("furnished", flush=True)
    if not sys.stdin.readline():
        sys.exit("whoever started this machine has gone without giving it a network")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    running = {_start(service, plan, steering, 0): service for service in plan.services}
    while True:
        # Orphans of all kinds come to the first process, and are only to be waited for.
        pid, status = os.wait()
        service = running.pop(pid, None)
        if service is not None:
            print(f"{service.name} ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr, flush=True)
            running[_start(service, plan, steering, _REST_SECONDS)] = service


def _start(service: Service, plan: Plan, steering: Steering, rest: float) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            time.sleep(rest)
            while steering.hold(service.name).exists() or (service.waits_for and not os.path.exists(service.waits_for)):
                time.sleep(_LOOK_SECONDS)
            log = os.open(steering.log(service.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.execvpe(service.command[0], service.command, plan.environment)
        except BaseException as error:
            print(f"{service.name}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    steering.pid(service.name).write_text(str(pid), encoding="ascii")
    return pid


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
