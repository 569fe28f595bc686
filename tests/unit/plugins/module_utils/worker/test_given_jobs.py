# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent on a node of a cluster: jobs of namespaces, and the keeper without whose word it stops."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boottime
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local_grants import Given
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.fixers.base import read_secret
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, validation
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import keeper, workdirs
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.config import roots_of
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots

from tests.tools.machine import alive, wait_for
from tests.unit.plugins.module_utils.backends.samples import assigned
from tests.unit.plugins.module_utils.worker.conftest import Site
from tests.unit.plugins.module_utils.worker.fake_worker import COLLECTIONS

UID = "11111111-1111-1111-1111-111111111111"
LEASE_SECONDS = 9.0


def give(site: Site, epoch: int = 1, **annotations: str) -> None:
    site.queue.give(assigned(annotations=annotations, epoch=epoch), "node-1")


def given(site: Site) -> Given:
    return site.queue.given({})[0][0]


def trace(site: Site) -> list[str]:
    path = site.output / "team-a" / "web01.trace"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def sources(site: Site) -> pathlib.Path:
    """The input root of the namespace team-a."""
    folder = site.root / "team-a"
    folder.mkdir()
    return folder


@pytest.mark.usefixtures("sources")
def test_a_namespace_is_a_folder_of_the_roots(site: Site) -> None:
    site.start()
    give(site)
    wait_for(lambda: given(site).spent)
    assert given(site).job.status.phase is Phase.COMPLETED
    assert trace(site)[0] == "1 inspect begin"
    wait_for(lambda: list(site.scratch.iterdir()) == [])


def test_a_namespace_without_sources_is_told(site: Site) -> None:
    site.start()
    give(site)
    wait_for(lambda: given(site).spent)
    error = given(site).job.status.last_error
    assert error is not None
    assert error.reason == "RootMissing"
    assert str(site.root / "team-a") in error.message


@pytest.mark.usefixtures("sources")
def test_a_namespace_has_its_own_secrets_alone(site: Site) -> None:
    secrets = site.root / "secrets"
    for team in ("team-a", "team-b"):
        (secrets / team / team).mkdir(parents=True)
        (secrets / team / team / "key").write_text(f"of {team}", encoding="ascii")
    roots = Roots(input=site.root, output=site.output, scratch=site.scratch, secrets=secrets)
    seen = roots_of(roots, "team-a").secrets
    assert read_secret(models.SecretRef(name="team-a", key="key"), seen) == b"of team-a"
    for name in ("team-b", "team-b/team-b", "../team-b/team-b"):
        with pytest.raises((JobError, ValueError)):
            read_secret(models.SecretRef(name=name, key="key"), seen)
    # A namespace without any secret has no others either.
    (site.root / "team-c").mkdir()
    with pytest.raises(JobError, match="cannot be read by this worker for this job"):
        read_secret(models.SecretRef(name="team-a", key="key"), roots_of(roots, "team-c").secrets)


def test_a_namespace_is_no_link_to_elsewhere(site: Site) -> None:
    (site.root / "team-a").symlink_to("/")
    site.start()
    give(site)
    wait_for(lambda: given(site).spent)
    error = given(site).job.status.last_error
    assert error is not None
    assert error.reason == "RootUnusable"
    assert trace(site) == []


@pytest.mark.usefixtures("sources")
def test_an_attempt_that_is_given_again_goes_on_where_the_former_was(site: Site) -> None:
    worker = site.start()
    give(site, stages="inspect,copy", seconds="0.7")
    wait_for(lambda: trace(site)[-1:] == ["1 copy begin"])
    worker.terminate()
    worker.wait()
    assert given(site).spent
    site.start()
    give(site, epoch=3, stages="inspect,copy", seconds="0.1")
    wait_for(lambda: given(site).job.status.phase is Phase.COMPLETED)
    assert trace(site)[-2:] == ["3 copy begin", "3 copy end"]
    sequences = [event.sequence for event in site.queue.events("team-a/web01")]
    assert sequences == list(range(1, len(sequences) + 1))


@pytest.mark.usefixtures("sources")
def test_the_next_attempt_may_be_given_while_the_former_still_runs(site: Site) -> None:
    site.start()
    give(site, stages="inspect,copy", seconds="600", deaf="yes")
    wait_for(lambda: trace(site)[-1:] == ["1 inspect begin"])
    give(site, epoch=2, stages="inspect,copy")
    wait_for(lambda: given(site).job.status.phase is Phase.COMPLETED)
    lines = trace(site)
    assert lines == [
        "1 inspect begin",
        *(f"2 {stage} {what}" for stage in ("inspect", "copy") for what in ("begin", "end")),
    ]


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("drop", [True, False], ids=["dropped", "revoked"])
def test_what_is_taken_away_stops_and_is_cleared_only_if_it_is_gone_for_good(site: Site, drop: bool) -> None:
    site.start()
    give(site, seconds="600", deaf="yes", child="yes", leave="yes")
    wait_for((site.scratch / f"team-a.web01.{UID}" / "mnt").exists)
    pid = running_pid(site)
    if drop:
        site.queue.drop(UID)
    else:
        site.queue.revoke(UID, "taken back")
    wait_for(lambda: not alive(pid))
    if drop:
        wait_for(lambda: list(site.scratch.iterdir()) == [])
        return
    # Its loop device is gone when the agent has seen to it; then its folder is there nevertheless.
    wait_for(lambda: str(site.root) not in loops())
    assert [one.name for one in site.scratch.iterdir()] == [f"team-a.web01.{UID}"]


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("agent_too", [False, True], ids=["agent works", "agent is stopped as well"])
def test_jobs_stop_when_their_keeper_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch, agent_too: bool) -> None:
    file = site.root / "keeper"
    monkeypatch.setenv("FAKE_KEEPER", str(file))
    keeping = keep(file)
    try:
        wait_for(file.exists)
        agent = site.start("--lease-seconds", str(LEASE_SECONDS))
        give(site, seconds="600", deaf="yes", child="yes")
        pid = running_pid(site)
        # It goes on for longer than a lease as long as the keeper does.
        began = boottime()
        wait_for(lambda: boottime() > began + 1.2 * LEASE_SECONDS)
        assert alive(pid)
        os.kill(keeping.pid, signal.SIGSTOP)
        last = wait_for(lambda: steady(file))
        if agent_too:
            # So late that it has renewed its own lease since.
            wait_for(lambda: boottime() > last + LEASE_SECONDS / 2)
            os.kill(agent.pid, signal.SIGSTOP)
        wait_for(lambda: not alive(pid))
        gone = boottime()
        # Two thirds of the lease; a busy machine may take its time, but not all that others wait.
        assert last + LEASE_SECONDS * 2 / 3 - 1.0 <= gone < last + LEASE_SECONDS
        os.kill(agent.pid, signal.SIGCONT)
        wait_for(lambda: given(site).spent)
        # And nothing is begun.
        give(site, epoch=2)
        look = boottime()
        wait_for(lambda: boottime() > look + 2.5)
        assert not given(site).spent
        os.kill(keeping.pid, signal.SIGCONT)
        wait_for(lambda: given(site).spent)
        assert given(site).job.status.phase is Phase.COMPLETED
    finally:
        keeping.kill()
        keeping.wait()


def test_a_keeper_of_another_boot_or_none_was_never_in_touch(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "keeper"
    assert keeper.read(file) == 0.0
    keeper.write(file, boottime() - 3.0)
    assert 2.9 < boottime() - keeper.read(file) < 60.0
    boot, rest = file.read_text().split(" ", 1)
    file.write_text(f"{boot[::-1]} {rest}")
    assert keeper.read(file) == 0.0
    file.write_text("")
    assert keeper.read(file) == 0.0


def test_the_folder_of_a_failed_job_is_taken_over_within_its_namespace_only(tmp_path: pathlib.Path) -> None:
    roots = Roots(input=tmp_path, output=tmp_path / "output", scratch=tmp_path / "scratch")
    roots.scratch.mkdir()
    (roots.output / "team-a").mkdir(parents=True)
    state = tmp_path / "state"
    digest = validation.spec_digest(models.JobSpec(source=models.SourceSpec(path="a.ova"), operation="inspect"))
    old = workdirs.path(roots.scratch, "team-a/web01", UID)
    other = workdirs.path(roots.scratch, "team-b/web01", UID)
    partial = roots.output / "team-a" / "web01.qcow2.1.partial"
    partial.write_text("x")
    for folder in (old, other):
        with workdirs.held(folder, state, digest):
            (folder / "state.json").write_text(f'{{"partials": {{"disk0": ["{partial}"]}}}}')
    new = workdirs.path(roots.scratch, "team-a/web01", UID.replace("1", "2"))
    workdirs.adopt(new, roots, state, digest)
    assert sorted(roots.scratch.iterdir()) == sorted([new, other])
    workdirs.forget("team-a/web01", roots, state)
    assert list(roots.scratch.iterdir()) == [other]
    assert not partial.exists()


def keep(file: pathlib.Path) -> subprocess.Popen[bytes]:
    """Start a keeper that says ten times a second that all is well."""
    program = f"""
import pathlib, sys, time
sys.path.insert(0, {str(COLLECTIONS)!r})
from {keeper.__name__} import boottime, write
while True:
    write(pathlib.Path({str(file)!r}), boottime())
    time.sleep(0.1)
"""
    return subprocess.Popen([sys.executable, "-c", program])


def steady(file: pathlib.Path) -> float | None:
    """Return what a stopped keeper said last, once that is so."""
    before = keeper.read(file)
    return before if boottime() - before > 0.5 else None


def running_pid(site: Site) -> int:
    """Wait until a stage of web01 runs, and return its process."""
    wait_for(lambda: trace(site)[-1:] and trace(site)[-1].endswith("begin"))

    def find() -> int | None:
        for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                before, dummy, after = status.read_text().rpartition(")")
            except OSError:
                continue
            if before.endswith("(h2k:web01") and int(after.split()[1]) in {one.pid for one in site.workers}:
                return int(status.parent.name)
        return None

    return t.cast(int, wait_for(find))


def loops() -> str:
    """Return the files of all loop devices."""
    files = []
    for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            files.append(entry.read_text())
        except OSError:
            continue
    return "".join(files)
