# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole jobs, boot tests apart."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import typing as t

from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.accelerator import probe_accelerator

from bench.figures import ROUNDS, Figure, convert, disk_of, timed
from tests.e2e.kernels import debian_kernel
from tests.e2e.migration import REPOSITORY, ConversionHost, job
from tests.guests import build


def start(scratch: pathlib.Path) -> list[Figure]:
    """From starting a worker, whose state is new, to the moment when it takes jobs."""
    seconds = []
    for number in range(ROUNDS):
        place = scratch / f"{number}"
        place.mkdir()
        began = time.monotonic()
        with running_worker(ConversionHost(place)):
            seconds.append(time.monotonic() - began)
        print(f"  round {number + 1}: {seconds[-1]:.1f} s")
    return [Figure("start of a worker", statistics.median(seconds), " s")]


def conversion(scratch: pathlib.Path) -> list[Figure]:
    """A job, from handing in to its end, against ``qemu-img convert`` of the same disk with the same options."""
    ratio, early = _beside_qemu_img(scratch, "debian12")
    return [
        Figure("whole job ÷ qemu-img convert", ratio, limit=1.15),
        Figure("inspect + plan + fix", early, " s", limit=3),
    ]


def layouts(scratch: pathlib.Path) -> list[Figure]:
    """The same of guests whose system is on other filesystems, and in LVM.

    A volume group takes a boot of a micro-VM, and another one for the map of what is used. On an emulated processor
    that is nearly all of it: there are no limits for that.
    """
    figures = []
    for what, guest in (("btrfs", "debian12-btrfs"), ("xfs", "debian12-uefi"), ("LVM", "matrix-04")):
        place = scratch / guest
        place.mkdir()
        by_host = what != "LVM"
        how = "" if by_host else f", in a micro-VM by {probe_accelerator().name}"
        ratio, early = _beside_qemu_img(place, guest, "--microvm-kernel", str(debian_kernel().tree))
        figures += [
            Figure(f"{what}{how}: whole job ÷ qemu-img convert", ratio, limit=1.15 if by_host else None),
            Figure(f"{what}{how}: inspect + plan + fix", early, " s", limit=3 if by_host else None),
        ]
    return figures


def _beside_qemu_img(scratch: pathlib.Path, guest: str, *options: str) -> tuple[float, float]:
    """The ratio of a whole job to ``qemu-img convert``, and the seconds of the stages before the copy: medians.

    ``options`` are the worker's.
    """
    folder = build(guest)
    # Servers of the matrix are bare disks.
    bare = not (folder / f"{guest}.ova").exists()
    export = folder / ("disk0.vmdk" if bare else f"{guest}.ova")
    vmdk = export if bare else disk_of(export, scratch)
    peer: list[float] = []
    wall: list[float] = []
    early: list[float] = []
    host = ConversionHost(scratch)
    with running_worker(host, *options):
        for number in range(ROUNDS):
            peer.append(timed(lambda: convert(vmdk, "vmdk", scratch / "peer.qcow2")))
            host.add(export, f"web{number}{export.suffix}")
            os.sync()
            done = run(host, f"web{number}", f"web{number}{export.suffix}")
            wall.append(seconds_of(done))
            seconds = {stage["name"]: stage["seconds"] for stage in done["status"]["stages"]}
            early.append(seconds["inspect"] + seconds["plan"] + seconds["fix"])
            print(f"  {guest}, round {number + 1}: qemu-img {peer[-1]:.1f} s, job {wall[-1]:.1f} s, stages {seconds}")
    return statistics.median(wall) / statistics.median(peer), statistics.median(early)


@contextlib.contextmanager
def running_worker(host: ConversionHost, *options: str) -> t.Iterator[subprocess.Popen[bytes]]:
    """A worker that waits for jobs, as on a conversion host."""
    command = [sys.executable, str(REPOSITORY / "scripts/hyper2kvm-worker"), "run", *options]
    roots = {"HYPER2KVM_INPUT_ROOT": str(host.input), "HYPER2KVM_OUTPUT_ROOT": str(host.output)}
    with (host.output.parent / "worker.log").open("ab") as log:
        process = subprocess.Popen(command, env={**os.environ, **roots}, stderr=log)
    try:
        queue = LocalBackend(host.output / ".hyper2kvm")
        while not queue.workers():
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended: {log.name}")
            time.sleep(0.01)
        queue.close()
        yield process
    finally:
        process.terminate()
        process.wait()


def run(host: ConversionHost, name: str, source: str, **spec: t.Any) -> dict[str, t.Any]:
    """Hand a conversion in, wait for its end, and return the job."""
    document = job(name, source, **{"verify": {"boot": False, "rehearse": "never"}, **spec})
    path = host.output.parent / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    host.command("submit", "--wait", path, ok=False)
    done = host.jobs()[name]
    if done["status"]["phase"] != "COMPLETED":
        raise RuntimeError(done["status"].get("lastError"))
    return done


def seconds_of(done: dict[str, t.Any]) -> float:
    """From the moment when a job was handed in to its end."""
    begin = datetime.datetime.fromisoformat(done["metadata"]["creationTimestamp"])
    return (datetime.datetime.fromisoformat(done["status"]["finishedAt"]) - begin).total_seconds()
