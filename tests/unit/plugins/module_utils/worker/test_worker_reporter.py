# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Percent, rate and time left; and what a reporter does while the queue is out of reach."""

from __future__ import annotations

import pathlib
import threading
import time

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.base import Hold
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import reporter
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Stopped
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.reporter import Meter, QueueReporter
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.stages.boot import boot_progress

from tests.tools.machine import wait_for
from tests.unit.plugins.module_utils.backends.samples import job, stage, worker


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def _at(done: int, total: int = 0) -> models.Progress:
    return models.Progress(stage="copy", bytes_done=done, bytes_total=total)


def test_rate_and_time_left_follow_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter("copy", 10_000)
    for dummy in range(10):
        clock.now += 1
        fast = meter.measure(_at(int(clock.now - 1000) * 500))
    assert (fast.percent, fast.rate_per_second, fast.eta_seconds) == (50.0, 500.0, 10.0)
    for second in range(1, 31):
        clock.now += 1
        slow = meter.measure(_at(5000 + second * 10))
    assert slow.rate_per_second == pytest.approx(10.0)
    assert slow.eta_seconds == pytest.approx(470.0)


def test_a_boot_test_is_measured_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves no bytes: what it tells is shown, and its percentage never falls."""
    clock = Clock(monkeypatch)
    meter = Meter("rehearse", 0)
    meter.measure(_at(90, 100))
    seen = []
    for elapsed in (0, 30, 74, 76, 300, 599):
        clock.now = 1000.0 + elapsed
        percent, left, text = boot_progress(elapsed, 75, 600)
        told = models.Progress(stage="rehearse", percent=percent, eta_seconds=left, message=text)
        seen.append(meter.measure(told))
    assert [one.eta_seconds for one in seen] == [75, 45, 1, None, None, None]
    percents = [one.percent for one in seen]
    assert percents == sorted(percents) and percents[0] == 0 and 99 < percents[-1] < 100
    assert "about 75 s expected" in seen[2].message and "600 s at the latest" in seen[3].message
    assert all(one.bytes_total == one.rate_per_second == 0 for one in seen)


def test_a_stage_that_begins_anew_is_measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter("copy", 100)
    clock.now += 1
    meter.measure(_at(90))
    clock.now += 1
    assert meter.measure(_at(10)).rate_per_second == 0.0
    clock.now += 1
    assert meter.measure(_at(30)).rate_per_second == 20.0


def test_without_a_total_there_is_no_percent_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    meter = Meter("boot", 0)
    clock.now += 2
    told = meter.measure(models.Progress(stage="", bytes_done=10, percent=30.0, message="kernel runs"))
    assert (told.stage, told.percent, told.eta_seconds, told.message) == ("boot", 30.0, None, "kernel runs")
    assert told.rate_per_second == 5.0


def test_more_than_the_total_is_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.now += 1
    assert Meter("copy", 100).measure(_at(150)).percent == 100.0


@pytest.fixture
def queue(tmp_path: pathlib.Path) -> LocalBackend:
    backend = LocalBackend(tmp_path / "state")
    backend.submit(job())
    backend.register(worker(), "", 3600.0)
    return backend


def _reporter(queue: LocalBackend, tmp_path: pathlib.Path) -> QueueReporter:
    taken = queue.claim("host-1")
    assert taken is not None
    hold = Hold(taken.metadata.uid or "", taken.status.epoch)
    return QueueReporter(queue, LocalBackend(tmp_path / "state"), hold, "web01-inspect", 3600.0)


def test_progress_is_written_at_most_once_a_second(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    told = _reporter(queue, tmp_path)
    told.start()
    told.stage_started("copy", 100_000)
    writes: list[models.Progress] = []
    watch = told._watch
    write = watch.progress

    def count(hold: Hold, progress: models.Progress) -> None:
        writes.append(progress)
        write(hold, progress)

    watch.progress = count  # type: ignore[method-assign]
    calls = 0
    began = time.monotonic()
    while len(writes) < 3:
        calls += 1
        told.progress(_at(calls))
        time.sleep(0.001)
    assert time.monotonic() - began >= 2
    assert calls > len(writes)
    seen = queue.get("web01-inspect").status
    assert seen.progress is not None
    assert seen.progress.bytes_done > 0


def test_news_of_a_job_that_is_no_longer_ours_stop_it(queue: LocalBackend, tmp_path: pathlib.Path) -> None:
    told = _reporter(queue, tmp_path)
    assert not told.cancelled()
    taken = queue.get("web01-inspect")
    queue.release(Hold(taken.metadata.uid or "", taken.status.epoch), "taken away")
    told.stage_started("inspect")
    assert told.cancelled()
    with pytest.raises(Stopped):
        told.stage_ended(stage("inspect"))


def test_a_stage_end_is_insisted_upon(
    queue: LocalBackend, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = _reporter(queue, tmp_path)
    told.stage_started("inspect")
    state = tmp_path / "state" / "queue.db"
    queue.close()
    state.rename(tmp_path / "away")
    state.mkdir()
    monkeypatch.setattr(reporter, "_PULSE_SECONDS", 0.05)
    done = threading.Event()

    def end() -> None:
        told.stage_ended(stage("inspect"))
        done.set()

    thread = threading.Thread(target=end)
    thread.start()
    assert not done.wait(0.3)
    state.rmdir()
    (tmp_path / "away").rename(state)
    wait_for(done.is_set)
    thread.join()
    assert [record.name for record in queue.get("web01-inspect").status.stages] == ["inspect"]
