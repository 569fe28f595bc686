# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs that are told to stop in the middle of real work: cancelled, suspended, out of time."""

from __future__ import annotations

import random
import subprocess
import time

import pytest

from tests.e2e.migration import job
from tests.faults.content import compare
from tests.faults.faulty_host import ROUNDS, STAGES, FaultyHost
from tests.guests import build
from tests.tools.machine import wait_for


def test_a_cancel_at_any_moment_stops_all_within_5_seconds(host: FaultyHost, chance: random.Random) -> None:
    host.add_guest("tiny")
    for number in range(ROUNDS):
        name = host.submit(job(f"tiny-{number}", "tiny.ova", target={"path": "tiny"}, verify={"boot": False}))
        worker = host.start()
        stage = chance.choice(STAGES[:-1])
        wait_for(lambda name=name, stage=stage: stage in host.started(name))
        time.sleep(chance.uniform(0.0, 0.2))
        host.command("cancel", name, "--state-dir", host.state)
        wait_for(lambda worker=worker: host.processes() <= {worker.pid}, 5)
        worker.wait(120)
        if host.job(name)["status"]["phase"] == "COMPLETED":
            # It was faster than the command.
            subprocess.run(["rm", "-r", host.output / "tiny"], check=True)
        else:
            assert host.job(name)["status"]["phase"] == "CANCELLED"
            assert worker.returncode == 0
        assert host.files() == set()
        host.check_nothing_left()


@pytest.mark.parametrize("when", ["at once", "later"])
def test_what_a_cancel_meets_half_published_goes(host: FaultyHost, when: str) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", guest={"enabled": False}, verify={"boot": False}))
    worker = host.halt("publish:placed")
    assert host.files() >= {"tiny/tiny.qcow2", "tiny/tiny.libvirt.xml"}
    if when == "later":
        host.kill(worker)
    host.command("cancel", name, "--state-dir", host.state)
    if when == "later":
        host.finish()
    else:
        assert worker.wait(60) == 0, host.log()
    assert host.job(name)["status"]["phase"] == "CANCELLED"
    assert host.files() == set()
    host.check_nothing_left()


def test_an_older_target_is_not_taken_for_one_that_was_half_published(host: FaultyHost) -> None:
    """The new disk is at its place, and goes; what else is in the folder stays."""
    host.add_guest("tiny")
    target = {"path": "tiny", "force": True}
    name = host.submit(job("old", "tiny.ova", target=target, guest={"enabled": False}, verify={"boot": False}))
    host.finish()
    host.completed(name)
    name = host.submit(job("new", "tiny.ova", target=target, guest={"enabled": False}, verify={"boot": False}))
    worker = host.halt("verify:begin")
    before = host.files()
    host.command("cancel", name, "--state-dir", host.state)
    assert worker.wait(60) == 0, host.log()
    assert host.files() == {file for file in before if not file.endswith(".partial")} >= {"tiny/result.json"}
    host.check_nothing_left()


@pytest.mark.parametrize(("stage", "times"), [("fix", 1), ("copy", 2)])
def test_a_suspended_job_goes_on_where_it_was(host: FaultyHost, stage: str, times: int) -> None:
    """A stage of some milliseconds is brought to its end; a long one stops in its middle."""
    host.add_guest("tiny")
    spec = {"target": {"contents": "all"}, "guest": {"enabled": False}, "verify": {"boot": False}}
    name = host.submit(job("tiny", "tiny.ova", **spec))
    worker = host.halt(f"{stage}:begin")
    host.command("suspend", name, "--state-dir", host.state)
    wait_for(lambda: "job tiny: suspend" in host.log())
    host.go_on()
    assert worker.wait(120) == 0
    status = host.job(name)["status"]
    assert status["phase"] == "QUEUED"
    assert "lastError" not in status
    host.command("resume", name, "--state-dir", host.state)
    host.finish()
    host.completed(name)
    begun = host.started(name)
    assert [begun.count(one) for one in STAGES] == [times if one == stage else 1 for one in STAGES]
    compare(host.output / "tiny/tiny.qcow2", build("tiny") / "disk.raw")
    host.check_nothing_left()


def test_a_deadline_ends_a_job_in_the_middle_of_its_work(host: FaultyHost) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", verify={"boot": False}, activeDeadlineSeconds=10))
    worker = host.halt("copy:begin")
    assert worker.wait(120) == 1
    host.halted.unlink()
    assert host.failed(name)["reason"] == "DeadlineExceeded"
    # Submitted with more time it is another job, and what was done for this one goes.
    host.submit(job("tiny", "tiny.ova", verify={"boot": False}))
    host.finish()
    host.completed(name)
    host.check_nothing_left()


def test_a_worker_that_is_told_to_leave_hands_its_job_over(host: FaultyHost) -> None:
    host.add_guest("tiny")
    name = host.submit(job("tiny", "tiny.ova", verify={"boot": False}))
    worker = host.halt("copy:begin")
    worker.terminate()
    host.go_on()
    assert worker.wait(120) == 0
    status = host.job(name)["status"]
    assert status["phase"] == "QUEUED"
    host.finish()
    assert host.completed(name)["status"]["attempts"][0].get("error") is None
    host.check_nothing_left()
