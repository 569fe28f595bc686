# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A conversion host as a test sees it: folders, the worker's command, and what it leaves behind."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import typing as t

REPOSITORY = pathlib.Path(__file__).parents[2]
#: How long a boot test may take. An emulated processor on a machine with other work boots a guest in minutes.
PATIENCE_SECONDS = 1500


def link_or_copy(source: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
    """Make ``place`` a second name of the file ``source``, or a copy where that cannot be."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)
    return place


class ConversionHost:
    """An input and an output root of their own, and the command ``hyper2kvm-worker`` on them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.input = folder / "input"
        self.output = folder / "output"
        self.input.mkdir(exist_ok=True)
        self.output.mkdir(exist_ok=True)

    def command(self, *arguments: str | pathlib.Path, ok: bool = True) -> str:
        """Run ``hyper2kvm-worker``; its standard output."""
        done = subprocess.run(
            [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", *arguments],
            env={
                **os.environ,
                "HYPER2KVM_INPUT_ROOT": str(self.input),
                "HYPER2KVM_OUTPUT_ROOT": str(self.output),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert not ok or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def add(self, source: pathlib.Path, name: str) -> pathlib.Path:
        """Put ``source`` into the input root, if it can be without copying its bytes."""
        return link_or_copy(source, self.input / name)

    def run(self, *documents: dict[str, t.Any], slots: int = 2) -> list[dict[str, t.Any]]:
        """Submit jobs, run a worker until none is left, and return them as they ended."""
        wanted = {document["metadata"]["name"]: document for document in documents}
        for name, document in wanted.items():
            (self.output.parent / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
        self.command("submit", *(self.output.parent / f"{name}.json" for name in wanted))
        self.command("run", "--once", "--slots", str(slots), ok=False)
        jobs = self.jobs()
        return [jobs[name] for name in wanted]

    def job(self, name: str) -> dict[str, t.Any]:
        """A job's whole document, its result included."""
        return t.cast("dict[str, t.Any]", json.loads(self.command("status", name, "--json")))

    def jobs(self) -> dict[str, dict[str, t.Any]]:
        """All jobs' documents as the queue lists them, without their results, by name."""
        documents = [json.loads(line) for line in self.command("status", "--json").splitlines()]
        return {document["metadata"]["name"]: document for document in documents}

    def end_workers(self) -> None:
        """End the workers that playbooks started, which else wait a while for more jobs."""
        pids = [json.loads(line)["pid"] for line in self.command("workers", "--json").splitlines()]
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        while any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in pids):
            time.sleep(0.05)

    def result(self, path: str) -> dict[str, t.Any]:
        """A result document below the output root."""
        return t.cast("dict[str, t.Any]", json.loads((self.output / path).read_text(encoding="utf-8")))

    def files(self) -> set[str]:
        """All files below the output root but the queue's."""
        found = (p.relative_to(self.output) for p in self.output.rglob("*") if p.is_file())
        return {str(path) for path in found if path.parts[0] != ".hyper2kvm"}


def job(name: str, source: str, operation: str = "convert", **spec: t.Any) -> dict[str, t.Any]:
    """A job document. Its boot tests have all the time that a busy machine may need for them."""
    verify = {"timeoutSeconds": PATIENCE_SECONDS, **spec.pop("verify", {})}
    return {
        "apiVersion": "hyper2kvm.io/v1",
        "kind": "MigrationJob",
        "metadata": {"name": name},
        "spec": {"operation": operation, "source": {"path": source}, "verify": verify, **spec},
    }


def changes_left(host: ConversionHost, result: dict[str, t.Any], **source: t.Any) -> list[dict[str, t.Any]]:
    """What a second conversion of a job's target would change, by a plan of it: nothing, if the first was whole.

    :param result: of the job; its disks are qcow2 images.
    :param source: what beside the disks the job's source said (``keys``).
    """
    disks = [host.add(host.output / disk["target"], f"again-{disk['name']}.qcow2") for disk in result["disks"]]
    # Bare disks do not tell the cards' addresses.
    macs = [nic["mac"] for nic in result["hardware"]["nics"]]
    document = job("again", "", "plan", guest={"network": {"macs": macs}})
    document["spec"]["source"] = {**source, "type": "qcow2", "disks": [{"path": disk.name} for disk in disks]}
    (planned,) = host.run(document)
    completed(planned)
    return t.cast("list[dict[str, t.Any]]", host.result("again/plan.json")["changes"])


def completed(job: dict[str, t.Any]) -> dict[str, t.Any]:
    """The status of a job that must have ended well."""
    status = t.cast("dict[str, t.Any]", job["status"])
    assert status["phase"] == "COMPLETED", status.get("lastError")
    return status


def failed(job: dict[str, t.Any]) -> dict[str, t.Any]:
    """The error of a job that must have failed."""
    status = job["status"]
    assert status["phase"] == "FAILED", status
    return t.cast("dict[str, t.Any]", status["lastError"])


def same_content(one: pathlib.Path, fmt: str, other: pathlib.Path, other_fmt: str = "raw") -> None:
    """Compare two images by what a guest would read of them.

    :raises AssertionError: they differ.
    """
    command = ["qemu-img", "compare", "-f", fmt, "-F", other_fmt, str(one), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
