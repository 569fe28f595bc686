# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of metrics, what changes of jobs count for, and how that is added up and told."""

from __future__ import annotations

import collections
import datetime
import importlib.util
import pathlib
import re
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError, environment, transient
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.fields import timestamp
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.retries import RetryPolicy
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics import happened, table
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.book import Book, Row, Sample, Tally
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.exposition import Exposition
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import METRICS, Kind
from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).parents[5]
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
CREATED = timestamp(BEGIN)


def at(seconds: float) -> datetime.datetime:
    """An instant after the job's creation."""
    return BEGIN + datetime.timedelta(seconds=seconds)


def counts(tallies: t.Iterable[Tally]) -> dict[tuple[str, ...], float]:
    """What was counted, by the metric's name without its prefix, and the labels."""
    found: dict[tuple[str, ...], float] = collections.defaultdict(float)
    for tally in tallies:
        found[(tally.metric.name.removeprefix("hyper2kvm_"), *tally.labels)] += tally.amount
    return dict(found)


def queued() -> models.JobStatus:
    told = models.JobStatus()
    for phase in (Phase.VALIDATED, Phase.QUEUED):
        told = status.advance(told, phase, Actor.CONTROL, at(0))
    return told


def claimed(seconds: float = 5.0) -> models.JobStatus:
    return status.record_attempt(queued(), "w", 30.0, Actor.WORKER, at(seconds))


def failed(error: JobError, limit: int, before: models.JobStatus | None = None) -> models.JobStatus:
    return status.fail(before or claimed(), error, Actor.WORKER, at(9), policy=RetryPolicy(limit))


# -- the table ---------------------------------------------------------------------------------------------------------


def test_names_obey_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"hyper2kvm_[a-z]+(_[a-z]+)*", metric.name), metric.name
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM), metric.name
        if metric.kind is Kind.HISTOGRAM:
            assert metric.unit == "seconds" and list(metric.buckets) == sorted(metric.buckets)
        assert metric.help.endswith("."), metric.name
        for label in metric.labels:
            assert bool(label.values) != bool(label.bound), f"{metric.name}: {label.name} has no bound"
            # What Prometheus itself gives each series.
            assert label.name not in ("job", "instance", "le", "namespace", "pod", "container", "endpoint", "service")


def test_no_counter_has_a_label_that_grows_with_the_number_of_jobs() -> None:
    for metric in METRICS:
        if metric.kind is not Kind.GAUGE:
            assert not {label.name for label in metric.labels} & {"job_name", "queue", "node", "worker", "uid"}


def test_every_reason_to_wait_is_in_the_table() -> None:
    found = set()
    for path in (ROOT / "plugins/module_utils").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'(?:Unmet|WaitReason)\(\s*(?:reason=)?"(\w+)"', text))
    assert len(found) > 10 and found | {"Other"} == set(table.WAIT_REASONS)


def test_the_reference_page_is_what_the_table_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/write_metrics.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# -- what happened -----------------------------------------------------------------------------------------------------


def test_a_first_claim_counts_its_wait_and_a_second_one_does_not() -> None:
    first = claimed(5.0)
    assert counts(happened.changed(queued(), first, CREATED)) == {("job_wait_seconds",): 5.0}
    again = status.advance(first, Phase.QUEUED, Actor.WORKER, at(6))
    second = status.record_attempt(again, "w", 30.0, Actor.WORKER, at(7))
    assert counts(happened.changed(again, second, CREATED)) == {}


def test_a_failure_that_is_tried_again_is_a_retry_and_the_last_one_is_not() -> None:
    error = transient("LostPeer", "it went away")
    assert counts(happened.changed(claimed(), failed(error, 1), CREATED)) == {("job_retries_total", "transient"): 1}
    assert counts(happened.changed(claimed(), failed(error, 0), CREATED)) == {
        ("jobs_ended_total", "FAILED"): 1,
        ("job_failures_total", "transient"): 1,
        ("job_failure_reasons_total", "transient", "LostPeer"): 1,
    }


@pytest.mark.parametrize("reason", [status.WORKER_LOST, status.LEASE_EXPIRED])
def test_a_lost_worker_is_a_takeover_and_a_retry(reason: str) -> None:
    lost = failed(transient(reason, "gone"), 0)
    assert counts(happened.changed(claimed(), lost, CREATED)) == {
        ("takeovers_total", reason): 1,
        ("job_retries_total", "transient"): 1,
    }


def test_a_hand_back_counts_for_nothing() -> None:
    assert counts(happened.changed(claimed(), status.advance(claimed(), Phase.QUEUED, Actor.WORKER, at(6)), "x")) == {}


def test_what_is_seen_late_is_counted_all_the_same() -> None:
    """An operator may see a job assigned, and then waiting for its third attempt; the two in between failed."""
    after = claimed()
    for dummy in range(2):
        after = failed(transient("LostPeer", "it went away"), 5, after)
        after = status.record_attempt(after, "w", 30.0, Actor.WORKER, at(10))
    assert counts(happened.changed(claimed(), after, CREATED)) == {("job_retries_total", "transient"): 2}


def test_a_job_that_fails_unclaimed_counts_and_a_word_that_is_none_of_ours_is_told_as_other() -> None:
    error = environment("no word", "its deadline passed")
    late = status.fail(queued(), error, Actor.CONTROL, at(9), policy=RetryPolicy())
    assert counts(happened.changed(queued(), late, CREATED)) == {
        ("jobs_ended_total", "FAILED"): 1,
        ("job_failures_total", "environment"): 1,
        ("job_failure_reasons_total", "environment", "Other"): 1,
    }


def test_a_completed_job_counts_its_time() -> None:
    runs = status.start_stage(claimed(), "copy", at(10))
    done = status.advance(runs, Phase.COMPLETED, Actor.WORKER, at(70))
    assert counts(happened.changed(runs, done, CREATED)) == {
        ("jobs_ended_total", "COMPLETED"): 1,
        ("job_seconds",): 60.0,
    }


def test_a_stage_counts_all_its_bytes_once() -> None:
    def told(before: models.JobStatus, done: int) -> models.JobStatus:
        progress = models.Progress(stage="copy", bytes_done=done, bytes_total=100)
        return status.report_progress(before, progress, at(11))

    none = status.start_stage(claimed(), "copy", at(10))
    some, more = told(none, 30), told(told(none, 30), 90)
    assert counts(happened.progressed(none, some)) == {("stage_processed_bytes_total", "copy"): 30}
    assert counts(happened.progressed(some, more)) == {("stage_processed_bytes_total", "copy"): 60}
    # Another disk, a repeated read: it fell.
    assert counts(happened.progressed(more, told(more, 5))) == {}
    record = models.StageRecord(name="copy", started_at=CREATED, seconds=3.0)
    assert counts(happened.stage_ended(more, record)) == {
        ("stage_seconds", "copy"): 3.0,
        ("stage_processed_bytes_total", "copy"): 10,
    }
    skipped = models.StageRecord(name="rehearse", started_at=CREATED, seconds=0.0, skipped=True)
    assert counts(happened.stage_ended(more, skipped)) == {}


def test_what_a_later_attempt_tells_first_is_not_counted_again() -> None:
    waits = failed(transient("LostPeer", "it went away"), 5)
    again = status.start_stage(status.record_attempt(waits, "w", 30.0, Actor.WORKER, at(20)), "copy", at(20))
    resumed = status.report_progress(again, models.Progress(stage="copy", bytes_done=80, bytes_total=100), at(21))
    assert counts(happened.progressed(again, resumed)) == {}


def result(**more: t.Any) -> models.JobResult:
    disk = models.DiskResult(
        name="disk0",
        source="a.vmdk",
        virtual_size_bytes=1000,
        bytes_read=40,
        bytes_written=60,
        allocated_bytes=80,
    )
    return models.JobResult(
        job="a",
        uid="u",
        operation=models.Operation.CONVERT,
        verdict="boots",
        source_identity="x",
        spec_digest="sha256:" + "0" * 64,
        completed_at=CREATED,
        seconds=1.0,
        disks=[disk],
        **more,
    )


def test_a_result_counts_bytes_and_boot_tests() -> None:
    booted = models.BootTestResult(verdict="booted", seconds=14.0)
    assert counts(happened.completed(result(rehearsal=booted, boot_test=booted))) == {
        ("source_read_bytes_total",): 40,
        ("target_written_bytes_total",): 60,
        ("source_allocated_bytes_total",): 80,
        ("boot_tests_total", "rehearsal", "booted"): 1,
        ("boot_test_seconds", "rehearsal"): 14.0,
        ("boot_tests_total", "verification", "booted"): 1,
        ("boot_test_seconds", "verification"): 14.0,
    }
    silent = models.BootTestResult(verdict="failed", seconds=600.0)
    document = result(rehearsal=booted, boot_test=silent).to_document()
    assert counts(happened.failed(document)) == {
        ("boot_tests_total", "rehearsal", "booted"): 1,
        ("boot_test_seconds", "rehearsal"): 14.0,
        ("boot_tests_total", "verification", "failed"): 1,
    }
    assert counts(happened.failed(None)) == counts(happened.failed({"bootTest": {"verdict": 7}})) == {}


# -- adding up, and telling --------------------------------------------------------------------------------------------


def told(*samples: Sample) -> dict[str, float]:
    """What Prometheus reads of these samples, by its own parser's twin."""
    text = Exposition(lambda: samples).text().decode()
    families = text_string_to_metric_families(text)
    return {f"{one.name}{sorted(one.labels.items()) or ''}": one.value for family in families for one in family.samples}


def test_a_counter_that_was_never_counted_is_zero_for_every_value() -> None:
    found = {sample.labels: sample.value for sample in Book().samples([table.BOOT_TESTS])}
    assert len(found) == 6 and set(found.values()) == {0.0}
    # Of words that are not listed nothing can be said.
    assert list(Book().samples([table.FAILURE_REASONS])) == []


def test_histograms_add_up_whatever_bounds_they_were_counted_with() -> None:
    book = Book([Row("hyper2kvm_boot_test_seconds", '["rehearsal"]', "7.5", 2.0)])
    book.add(Tally(table.BOOT_SECONDS, ("rehearsal",), 12.0), Tally(table.BOOT_SECONDS, ("rehearsal",), 9999.0))
    sample, dummy = book.samples([table.BOOT_SECONDS])
    buckets = dict(sample.buckets)
    assert [buckets[bound] for bound in ("5.0", "10.0", "15.0", "600.0", "+Inf")] == [0, 2, 3, 3, 4]
    found = told(sample)
    assert found["hyper2kvm_boot_test_seconds_bucket[('le', '15.0'), ('test', 'rehearsal')]"] == 3
    assert found["hyper2kvm_boot_test_seconds_count[('test', 'rehearsal')]"] == 4
    assert found["hyper2kvm_boot_test_seconds_sum[('test', 'rehearsal')]"] == 10011.0


def test_labels_that_mean_harm_are_told_as_text() -> None:
    hostile = 'a"} 1\nhyper2kvm_jobs{phase="QUEUED'
    found = told(Sample(table.SILENCE, ("", hostile, "copy"), 1.0))
    assert len(found) == 1 and repr(hostile)[1:-1] in next(iter(found))


def test_without_the_library_whoever_asks_for_metrics_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prometheus_client" else find(name))
    with pytest.raises(JobError, match="prometheus-client") as caught:
        Exposition(list)
    assert caught.value.reason == "MissingLibrary"
