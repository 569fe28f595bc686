# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs that a cluster gives to the local queue, each for one attempt."""

from __future__ import annotations

import json
import pathlib
import sqlite3
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends import database
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Fenced, Hold, NotFound, Order
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boottime
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local_grants import Given
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import environment, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase

from tests.unit.plugins.module_utils.backends.samples import assigned, job, result, stage, worker

HICCUP = transient("Hiccup", "the disk hiccupped")


@pytest.fixture
def queue(tmp_path: pathlib.Path) -> t.Iterator[LocalBackend]:
    backend = LocalBackend(tmp_path / "state")
    backend.register(worker("host-1", slots=5), "", 30.0)
    yield backend
    backend.close()


def claim(queue: LocalBackend) -> Hold:
    taken = queue.claim("host-1")
    assert taken is not None
    return Hold(taken.metadata.uid or "", taken.status.epoch)


def only(queue: LocalBackend) -> Given:
    (found,), uids = queue.given({})
    assert uids == {found.uid}
    return found


def sequences(queue: LocalBackend, name: str = "team-a/web01") -> list[int]:
    return [event.sequence for event in queue.events(name)]


def test_a_given_job_is_claimed_with_its_own_uid_and_epoch_and_namespace(queue: LocalBackend) -> None:
    wanted = assigned(epoch=3)
    wanted.status.stages = [stage("inspect")]
    queue.give(wanted, "node-1")
    taken = queue.claim("host-1")
    assert taken is not None
    assert taken.metadata == wanted.metadata
    assert taken.status.epoch == 3
    assert [attempt.epoch for attempt in taken.status.attempts] == [1, 2, 3]
    assert taken.status.stages == [stage("inspect")]
    assert queue.claim("host-1") is None


def test_jobs_of_one_name_in_two_namespaces_and_on_the_host_are_three(
    queue: LocalBackend, tmp_path: pathlib.Path
) -> None:
    other = assigned(uid="22222222-2222-2222-2222-222222222222")
    other.metadata.namespace = "default"
    queue.give(assigned(), "node-1")
    queue.give(other, "node-1")
    queue.submit(job("web01"))
    assert [one.metadata.key for one in queue.list()] == ["team-a/web01", "default/web01", "web01"]
    files = sorted(file.name for file in (tmp_path / "state" / "events").iterdir())
    assert files == ["default.web01.jsonl", "team-a.web01.jsonl", "web01.jsonl"]
    queue.reconcile_events()
    assert sorted(file.name for file in (tmp_path / "state" / "events").iterdir()) == files
    event = json.loads((tmp_path / "state" / "events" / files[0]).read_text().splitlines()[0])
    assert (event["source"], event["subject"]) == ("/hyper2kvm/nodes/node-1/default", "web01")


@pytest.mark.parametrize(
    ("end", "phase"),
    [
        (lambda queue, hold: queue.fail(hold, HICCUP), Phase.QUEUED),
        (lambda queue, hold: queue.fail(hold, environment("NoTool", "no tool")), Phase.FAILED),
        (lambda queue, hold: queue.release(hold, "the worker ends"), Phase.QUEUED),
        (lambda queue, hold: queue.complete(hold, result(assigned())), Phase.COMPLETED),
        (lambda queue, hold: queue.revoke(hold.uid, "taken back"), Phase.QUEUED),
        (lambda queue, hold: queue.bury_workers(), Phase.QUEUED),
    ],
    ids=["failed-transiently", "failed", "released", "completed", "revoked", "lost"],
)
def test_after_its_attempt_a_given_job_is_not_run_again(
    queue: LocalBackend, end: t.Callable[[LocalBackend, Hold], object], phase: Phase
) -> None:
    queue.give(assigned(ttl_seconds_after_finished=0), "node-1")
    hold = claim(queue)
    end(queue, hold)
    found = only(queue)
    assert (found.spent, found.job.status.phase) == (True, phase)
    queue.register(worker("host-1", slots=5), "", 30.0)
    assert queue.claim("host-1") is None
    assert not queue.may_wait_for("host-1")
    assert [reason.reason for reason in queue.explain("team-a/web01")] == ["HandedBack"] * (phase is Phase.QUEUED)
    # Whether its record may go is the cluster's affair as well.
    queue.maintain()
    only(queue)
    with pytest.raises(Fenced):
        queue.stage_started(hold, "inspect")


def test_the_same_given_again_changes_nothing(queue: LocalBackend) -> None:
    queue.give(assigned(), "node-1")
    hold = claim(queue)
    before = only(queue)
    queue.give(assigned(), "node-1")
    assert only(queue) == before
    queue.stage_started(hold, "inspect")


def test_a_higher_epoch_fences_the_former_attempt_and_goes_on_with_its_events(queue: LocalBackend) -> None:
    queue.give(assigned(), "node-1")
    old = claim(queue)
    queue.give(assigned(epoch=4), "node-1")
    assert queue.orders("host-1", [old]) == {old: Order.FENCED}
    new = claim(queue)
    assert new == Hold(old.uid, 4)
    assert queue.orders("host-1", [old, new]) == {old: Order.FENCED}
    found = sequences(queue)
    assert found == list(range(1, len(found) + 1))
    assert queue.has_use_for("team-a/web01")


def test_another_job_of_the_name_takes_its_place(queue: LocalBackend) -> None:
    queue.give(assigned(), "node-1")
    old = claim(queue)
    queue.give(assigned(uid="22222222-2222-2222-2222-222222222222"), "node-1")
    assert queue.orders("host-1", [old]) == {old: Order.FENCED}
    assert claim(queue).epoch == 1
    found = sequences(queue)
    assert found == list(range(1, len(found) + 1))


def test_an_attempt_that_nobody_began_can_be_revoked(queue: LocalBackend) -> None:
    queue.give(assigned(epoch=2), "node-1")
    queue.revoke(assigned().metadata.uid or "", "taken back")
    assert only(queue).spent
    assert queue.claim("host-1") is None
    queue.give(assigned(epoch=3), "node-1")
    assert claim(queue).epoch == 3


def test_the_wait_of_a_given_job_has_no_deadline_here_but_its_run_has(queue: LocalBackend) -> None:
    queue.give(assigned(active_deadline_seconds=1), "node-1", -1.0)
    queue.maintain()
    hold = claim(queue)
    assert queue.orders("host-1", [hold]) == {hold: Order.DEADLINE}


def test_a_cancel_reaches_a_given_job_before_and_while_it_runs(queue: LocalBackend) -> None:
    queue.give(assigned("waits"), "node-1")
    queue.cancel("team-a/waits")
    assert (only(queue).spent, only(queue).job.status.phase) == (True, Phase.CANCELLED)
    queue.give(assigned("runs", uid="22222222-2222-2222-2222-222222222222"), "node-1")
    hold = claim(queue)
    queue.cancel("team-a/runs")
    assert queue.orders("host-1", [hold]) == {hold: Order.CANCEL}


def test_only_what_changed_is_read_again(queue: LocalBackend) -> None:
    queue.submit(job("not-given"))
    queue.give(assigned(), "node-1")
    first = only(queue)
    assert queue.given({first.uid: first.version}) == ([], {first.uid})
    queue.cancel("team-a/web01")
    (second,), dummy = queue.given({first.uid: first.version})
    assert second.version > first.version


def test_a_dropped_job_is_gone_and_its_process_fenced(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    queue.give(assigned(), "node-1")
    hold = claim(queue)
    queue.drop(hold.uid)
    assert queue.given({}) == ([], set())
    assert queue.orders("host-1", [hold]) == {hold: Order.FENCED}
    assert not queue.has_use_for("team-a/web01")
    assert list((tmp_path / "state" / "events").iterdir()) == []
    with pytest.raises(NotFound):
        queue.get("team-a/web01")


def test_lost_attempts_say_so(queue: LocalBackend) -> None:
    queue.give(assigned(), "node-1")
    claim(queue)
    queue.bury_workers()
    error = only(queue).job.status.last_error
    assert error is not None
    assert error.reason == status.WORKER_LOST
    assert queue.roots_of_workers() == {}


def test_a_lease_begins_when_the_worker_was_last_in_touch(queue: LocalBackend) -> None:
    queue.register(worker("host-2"), "", 60.0, boottime() - 45.0)
    queue.give(assigned(), "node-1")
    taken = queue.claim("host-2")
    assert taken is not None
    hold = Hold(taken.metadata.uid or "", 1)
    assert 0.0 < queue.lease_left(hold) < 15.0
    beat = models.Heartbeat(
        worker="host-2",
        time="2026-01-01T00:00:00Z",
        running={hold.uid: 1},
        free_scratch_bytes=0,
        free_output_bytes=0,
    )
    queue.heartbeat(beat, boottime() - 10.0)
    assert 15.0 < queue.lease_left(hold) < 50.0


def test_a_queue_of_the_first_version_is_taken_over(tmp_path: pathlib.Path) -> None:
    backend = LocalBackend(tmp_path / "state")
    backend.submit(job("old"))
    backend.close()
    with sqlite3.connect(tmp_path / "state" / "queue.db") as connection:
        for column in ("node", "granted"):
            connection.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
        connection.execute("DROP TABLE tallies")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    backend.give(assigned(), "node-1")
    assert [one.metadata.key for one in backend.list()] == ["old", "team-a/web01"]
    backend.close()
    with sqlite3.connect(tmp_path / "state" / "queue.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == database.VERSION
    connection.close()
