# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Workers that are killed: the next one goes on after the last durable stage, and the result is the same."""

from __future__ import annotations

import random
import subprocess
import typing as t

import pytest

from tests.e2e.migration import job
from tests.faults.content import compare, files_of, map_of
from tests.faults.faulty_host import ROUNDS, STAGES, FaultyHost
from tests.guests import build
from tests.tools.machine import wait_for

RAW: dict[str, t.Any] = {"target": {"format": "raw"}, "verify": {"boot": False}}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of the guest after a conversion that nobody disturbed."""
    host = FaultyHost(tmp_path_factory.mktemp("undisturbed"))
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", **RAW))
    host.finish()
    host.completed(name)
    return files_of(host.output / "tiny/tiny.img")


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_a_boundary_costs_that_stage_at_most(host: FaultyHost, undisturbed: list[str], stage: str) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", **RAW))
    for where in ("begin", "done"):
        host.kill(host.halt(f"{stage}:{where}"))
    host.finish()
    status = host.completed(name)["status"]
    assert [record["name"] for record in status["stages"]] == list(STAGES)
    begun = host.started(name)
    # Killed at its begin it is begun again. Once it is durable it never is, though the queue had not heard of it.
    assert [begun.count(one) for one in STAGES] == [2 if one == stage else 1 for one in STAGES]
    assert [a["error"]["reason"] for a in status["attempts"] if "error" in a] == ["WorkerLost"] * 2
    assert files_of(host.output / "tiny/tiny.img") == undisturbed
    host.check_nothing_left()


def test_a_kill_after_each_stage_does_none_again(host: FaultyHost, undisturbed: list[str]) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", **RAW))
    for stage in STAGES:
        host.kill(host.halt(f"{stage}:recorded"))
    host.finish()
    host.completed(name)
    assert host.started(name) == list(STAGES)
    assert files_of(host.output / "tiny/tiny.img") == undisturbed
    host.check_nothing_left()


def test_a_kill_between_the_last_stage_and_the_jobs_end_does_nothing_again(host: FaultyHost) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", **RAW))
    host.kill(host.halt("end:begin"))
    host.finish()
    host.completed(name)
    assert host.started(name) == list(STAGES)
    host.check_nothing_left()


@pytest.mark.parametrize("contents", ["all", "used"])
def test_kills_at_random_moments_change_nothing_in_the_result(
    host: FaultyHost, chance: random.Random, contents: str
) -> None:
    host.add_guest("tiny")
    for number in range(ROUNDS):
        # Without fixes the target is the source, block by block.
        spec = {"target": {"contents": contents}, "guest": {"enabled": False}, "verify": {"boot": False}}
        name = host.submit(job(f"tiny-{number}", "tiny.ova", **spec))
        for dummy in range(3):
            before = len(host.started(name)) if host.events(name) else 0
            worker = host.start()
            wait_for(lambda w=worker, n=name, b=before: w.poll() is not None or len(host.started(n)) > b)
            try:
                worker.wait(chance.uniform(0.0, 0.8))
            except subprocess.TimeoutExpired:
                host.kill(worker)
        host.finish()
        host.completed(name)
        target = host.output / name / f"{name}.qcow2"
        compare(target, build("tiny") / "disk.raw", by=None if contents == "all" else map_of(target))
        host.check_nothing_left()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_copy_goes_on_where_it_was(host: FaultyHost, chance: random.Random, number: int) -> None:
    ova = host.add_guest("debian12")
    spec = {"target": {"contents": "all"}, "guest": {"enabled": False}, "verify": {"boot": False}}
    name = host.submit(job("web01", "debian12.ova", **spec))
    # Late enough that something of it is durable.
    percent = 70 if number == 0 else chance.randint(60, 95)
    host.kill(host.halt(f"copy:{percent}"))
    host.finish()
    host.completed(name)
    begun = host.started(name)
    assert [begun.count(one) for one in STAGES] == [2 if one == "copy" else 1 for one in STAGES]
    # What the second attempt read, for the first one could not tell.
    (disk,) = host.result("web01/result.json")["disks"]
    assert disk["bytesRead"] < 0.75 * ova.stat().st_size
    compare(host.output / "web01/web01.qcow2", build("debian12") / "disk.raw")
    host.check_nothing_left()


def test_a_job_goes_on_after_its_host_was_restarted(host: FaultyHost) -> None:
    """Processes, devices and mounts are gone, the kernel's clock and the boot's identity are others."""
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", **RAW))
    host.kill(host.halt("copy:begin"))
    identity = host.folder / "boot_id"
    identity.write_text("11111111-2222-3333-4444-555555555555\n", encoding="ascii")
    script = f'mount --bind {identity} /proc/sys/kernel/random/boot_id && exec "$@"'
    booted = ("unshare", "--mount", "--time", "--boottime", "1000000", "--", "sh", "-c", script, "sh")
    worker = host.start(prefix=booted)
    assert worker.wait(300) == 0, host.log()
    status = host.completed(name)["status"]
    assert host.started(name).count("fix") == 1
    assert [a["error"]["reason"] for a in status["attempts"] if "error" in a] == ["WorkerLost"]
    host.check_nothing_left()
