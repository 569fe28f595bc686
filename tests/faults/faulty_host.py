# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A conversion host on which things go wrong: workers that are started, halted and killed, and what must hold after."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import typing as t

from tests.e2e.migration import REPOSITORY, ConversionHost
from tests.guests import build
from tests.tools.machine import leftovers, sha256, text, wait_for

STAGES = ("inspect", "plan", "fix", "rehearse", "copy", "commit", "verify", "publish")
HALTING_WORKER = "tests.faults.halting_worker"
#: How often each test that strikes at random does so: a few in `make test`, many in `make test-faults`.
ROUNDS = int(os.environ.get("HYPER2KVM_FAULT_ROUNDS", "1"))


class FaultyHost(ConversionHost):
    """One conversion host; its workers' temporary files lie in a folder of its own, so that they can be counted."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.state = self.output / ".hyper2kvm"
        self.halted = folder / "halted"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.sources: dict[pathlib.Path, str] = {}

    def add_guest(self, name: str, file: str = "") -> pathlib.Path:
        """Put a guest's OVA (or another of its files) into the input root, and remember its digest."""
        file = file or f"{name}.ova"
        place = self.add(build(name) / file, file)
        self.sources[place] = sha256(place)
        return place

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY / ".collections"),
            "HYPER2KVM_INPUT_ROOT": str(self.input),
            "HYPER2KVM_OUTPUT_ROOT": str(self.output),
            "HYPER2KVM_STATE_DIR": str(self.state),
            "TMPDIR": str(self.temporary),
            **more,
        }

    def submit(self, document: dict[str, t.Any]) -> str:
        """Submit a job, and return its name."""
        name = str(document["metadata"]["name"])
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        self.command("submit", path, "--state-dir", self.state)
        return name

    def start(self, *arguments: str, halt_at: str = "", prefix: t.Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a worker that ends when no job is left; one with ``halt_at`` halts there (see halting_worker)."""
        program = ["-m", HALTING_WORKER] if halt_at else [str(REPOSITORY / "scripts/hyper2kvm-worker")]
        halting = {"HALT_AT": halt_at, "HALT_FILE": str(self.halted)} if halt_at else {}
        with open(self.folder / "worker.log", "ab") as log:
            worker = subprocess.Popen(
                [*prefix, sys.executable, *program, "run", "--once", *arguments],
                env=self.environment(**halting),
                cwd=REPOSITORY,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def finish(self, *arguments: str, status: int = 0) -> None:
        """Have a worker do what there is to do, and check its exit status."""
        assert self.start(*arguments).wait(600) == status, self.log()

    def halt(self, point: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it has halted at ``point``."""
        worker = self.start(*arguments, halt_at=point)
        wait_for(lambda: self.halted.exists() or worker.poll() is not None)
        assert worker.poll() is None, f"it ended before {point}: {self.log()}"
        return worker

    def go_on(self) -> None:
        """Let the halted job go on."""
        self.halted.unlink()

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL the worker alone, and wait until all that it had started is gone as well."""
        worker.kill()
        worker.wait()
        wait_for(lambda: not [one for one in leftovers(self.folder) if one.startswith("process")])
        self.halted.unlink(missing_ok=True)

    def processes(self) -> set[int]:
        """The workers' processes, and all that came of them."""
        found = set()
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self.folder).encode() in (process / "environ").read_bytes():
                    found.add(int(process.name))
        return found

    def events(self, name: str) -> list[dict[str, t.Any]]:
        """The job's events as the file has them; a line that is being written does not count."""
        try:
            lines = (self.state / "events" / f"{name}.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines.splitlines(keepends=True) if line.endswith("\n")]

    def started(self, name: str) -> list[str]:
        """The stages that were begun, in order, over all attempts of the job's present uid."""
        events = self.events(name)
        uid = events[-1]["jobuid"]
        return [str(e["data"]["stage"]) for e in events if e["type"].endswith(".stagestarted") and e["jobuid"] == uid]

    def job(self, name: str) -> dict[str, t.Any]:
        """A job's document as the queue has it."""
        told = self.command("status", name, "--json", "--state-dir", self.state)
        return t.cast("dict[str, t.Any]", json.loads(told))

    def completed(self, name: str) -> dict[str, t.Any]:
        """Check that a job ended well, and return its document."""
        document = self.job(name)
        assert document["status"]["phase"] == "COMPLETED", document["status"].get("lastError")
        return document

    def failed(self, name: str) -> dict[str, t.Any]:
        """Check that a job FAILED with all that a person needs, and return its error."""
        status = self.job(name)["status"]
        assert status["phase"] == "FAILED", status
        error = t.cast("dict[str, t.Any]", status["lastError"])
        assert error["message"] and error["suggestion"] and "Traceback" not in error["message"]
        assert error["reason"] not in ("InternalError", "SystemError"), error
        return error

    def log(self) -> str:
        return (self.folder / "worker.log").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the workers that a failed test left."""
        for worker in self.workers:
            if worker.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                worker.wait()

    # -- what must hold, whatever happened -----------------------------------------------------------------------------

    def work_folders(self) -> list[str]:
        """The jobs' private folders that are still there."""
        scratch = self.state / "scratch"
        return sorted(path.name for path in scratch.iterdir()) if scratch.is_dir() else []

    def check_unharmed(self) -> None:
        """The sources are as they were, and every event stream is whole."""
        for path, digest in self.sources.items():
            assert sha256(path) == digest, f"{path} was changed"
        for file in (self.state / "events").glob("*.jsonl"):
            last: dict[str, int] = {}
            for event in self.events(file.stem):
                assert event["sequence"] == last.get(event["jobuid"], 0) + 1, f"{file}: a gap before {event}"
                last[event["jobuid"]] = event["sequence"]

    def check_nothing_left(self) -> None:
        """No device, mount, process or temporary file, partial target or work folder is left on the host."""
        assert left_on_host(self.folder) == []
        assert [str(path) for path in self.temporary.rglob("*")] == []
        assert self.work_folders() == []
        assert [name for name in self.files() if name.endswith((".partial", ".new"))] == []


def left_on_host(folder: pathlib.Path) -> list[str]:
    """Mounts, loop, NBD and device-mapper devices, and processes that have to do with ``folder``."""
    found = leftovers(folder)
    loops = {
        entry.parents[1].name
        for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file")
        if str(folder) in text(entry)
    }
    for entry in pathlib.Path("/sys/block").glob("dm-*"):
        if loops & {slave.name for slave in (entry / "slaves").iterdir()}:
            found.append(f"device-mapper node: {entry.name}")
    for entry in pathlib.Path("/sys/block").glob("nbd*/pid"):
        if str(folder) in text(pathlib.Path("/proc") / text(entry).strip() / "cmdline"):
            found.append(f"NBD device: {entry.parent.name}")
    return found
