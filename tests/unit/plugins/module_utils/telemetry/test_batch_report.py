# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of a batch: what documents say, as a page, a table and JUnit XML."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import pathlib
import re
import subprocess
import typing as t
from xml.etree import ElementTree

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report import evidence
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.batch import Batch, Outcome, Record
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.charts import STAGES
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.documents import read_folder, read_jobs
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.evidence import Limits, Pictures
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.files import Format, write
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.machines import csv_text, junit_text
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.markup import visible
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.page import page
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.script import SCRIPT
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.report.style import STYLE
from hypothesis import HealthCheck, given, settings

from tests.tools import made_up_documents, sample_jobs

NO_PICTURES = Pictures(None)


def batch_of(*jobs: t.Any, title: str = "Wave 1") -> Batch:
    """The batch of some job documents."""
    return Batch.of(title, *read_jobs(jobs))


def one(name: str) -> Record:
    """A recorded job."""
    [record] = batch_of(sample_jobs.recorded()[name]).records
    return record


def parsed(text: str) -> ElementTree.Element:
    """A page, parsed as strictly as XML is."""
    for own in (SCRIPT, STYLE):
        assert text.count(own) == 1
        text = text.replace(own, "")
    return ElementTree.fromstring(text)


def words(text: str) -> str:
    """What a page shows."""
    return "".join(parsed(text).itertext())


def failed(reason: str = "NoSpace", error_class: str = "environment", **error: t.Any) -> sample_jobs.Job:
    """A job that failed before it found anything."""
    told = {"class": error_class, "reason": reason, "message": "There is no room.", "retryable": False, **error}
    return {
        "metadata": {"name": "web01"},
        "spec": {"operation": "convert", "source": {"path": "web01.ova"}},
        "status": {"phase": "FAILED", "lastError": told},
    }


# -- outcomes and times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("web01-convert", Outcome.BOOTED),
        ("web02-rehearse", Outcome.BOOTED),
        ("plan01-plan", Outcome.CONVERTIBLE_WARNED),
        ("db01-convert", Outcome.WILL_NOT_BOOT),
        ("app01-convert", Outcome.WILL_NOT_BOOT),
        ("gone-convert", Outcome.REFUSED),
        ("old01-convert", Outcome.REFUSED),
    ],
)
def test_outcomes_of_a_real_run(name: str, outcome: Outcome) -> None:
    assert one(name).outcome is outcome


def test_outcomes_that_the_run_did_not_have() -> None:
    job = sample_jobs.recorded()["web01-convert"]
    found = {}
    for phase, verdict in [("COMPLETED", "boots-with-warnings"), ("COMPLETED", "not-verified"), ("CANCELLED", "boots")]:
        job["status"]["phase"] = phase
        job["status"]["result"]["verdict"] = verdict
        [record] = batch_of(job).records
        found[phase, verdict] = record.outcome
    assert list(found.values()) == [Outcome.WARNED, Outcome.NOT_VERIFIED, Outcome.CANCELLED]
    assert batch_of(failed()).records[0].outcome is Outcome.FAILED
    waiting = {"metadata": {"name": "a"}, "spec": {}, "status": {"phase": "QUEUED"}}
    assert batch_of(waiting).records[0].outcome is Outcome.UNFINISHED


def test_the_stage_in_which_a_job_failed_has_its_time() -> None:
    record = one("db01-convert")
    assert [(span.stage, span.failed) for span in record.spans] == [
        ("inspect", False),
        ("plan", False),
        ("fix", False),
        ("rehearse", True),
    ]
    assert 7.0 < record.spans[-1].seconds < 7.5
    assert record.seconds == pytest.approx(sum(span.seconds for span in record.spans))


def test_rates_hold_all_bytes_of_the_copies() -> None:
    batch = batch_of(*sample_jobs.many(40))
    copied = [record for record in batch.records if any(span.stage == "copy" for span in record.spans)]
    rates = batch.rates(50)
    assert rates is not None
    width = rates.seconds / len(rates.read)
    assert sum(rates.read) * width == pytest.approx(sum(record.bytes_read for record in copied))
    assert sum(rates.written) * width == pytest.approx(sum(record.bytes_written for record in copied))


@pytest.mark.parametrize("instant", ["0000-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_numbers_and_times_that_nobody_can_mean_do_no_harm(instant: str) -> None:
    job = sample_jobs.recorded()["web01-convert"]
    status = job["status"]
    status["stages"][4] |= {"seconds": 1e300}
    status["stages"][5] |= {"startedAt": instant, "seconds": 1e300}
    status |= {"startedAt": instant, "finishedAt": instant}
    status["result"] |= {"seconds": 1e300, "completedAt": instant}
    status["result"]["disks"][0] |= {"bytesRead": 10**400, "bytesWritten": 10**400, "virtualSizeBytes": 10**400}
    status["result"]["artifacts"][0]["sizeBytes"] = 10**400
    status["result"]["hardware"]["memoryBytes"] = 10**400
    batch = batch_of(job, *sample_jobs.three()[1:])
    assert batch.unreadable == []
    _check_all(batch)


# -- documents ---------------------------------------------------------------------------------------------------------


def test_a_bad_document_does_not_hide_the_others() -> None:
    bad = {"metadata": {"name": "bad"}, "status": {"phase": "SLEEPING"}}
    records, unreadable = read_jobs([sample_jobs.recorded()["web01-convert"], bad, "text", {"metadata": {}}])
    assert [record.name for record in records] == ["web01-convert"]
    assert [entry.where for entry in unreadable] == ["job 2 (bad)", "job 3 (without a name)", "job 4 (None)"]
    assert "phase" in unreadable[0].why
    shown = words(page(Batch.of("Wave 1", records, unreadable), NO_PICTURES))
    assert "3 documents could not be read" in shown
    assert "job 2 (bad)" in shown


def test_a_newer_workers_fields_are_skipped() -> None:
    job = sample_jobs.recorded()["web01-convert"]
    known = page(batch_of(job), NO_PICTURES)
    for part in (job, job["metadata"], job["spec"], job["status"], job["status"]["result"], job["status"]["stages"][0]):
        part["inventedLater"] = {"a": 1}
    assert page(batch_of(job), NO_PICTURES) == known


def test_what_a_failed_task_says_of_a_job_is_enough() -> None:
    job = failed()
    job["status"]["result"] = {"verdict": "will-not-boot", "warnings": ["Look here."], "notCarried": []}
    [record] = batch_of(job).records
    assert (record.outcome, record.warnings) == (Outcome.WILL_NOT_BOOT, ["Look here."])


def test_results_below_a_folder_are_found(tmp_path: pathlib.Path) -> None:
    result = sample_jobs.recorded()["web01-convert"]["status"]["result"]
    for name in ("web01/result.json", "deep/er/web02/rehearse.json", ".hyper2kvm/x/result.json", "web03/other.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**result, "job": path.parent.name}), encoding="utf-8")
    for name, text in [("a/result.json", "{"), ("b/plan.json", "[]"), ("c/result.json", '{"kind": "MigrationResult"}')]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    records, unreadable = read_folder(tmp_path)
    assert sorted(record.name for record in records) == ["web01", "web02"]
    assert {record.outcome for record in records} == {Outcome.BOOTED}
    assert [entry.where for entry in unreadable] == ["a/result.json", "b/plan.json", "c/result.json"]


def test_a_folder_that_is_none_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught:
        read_folder(tmp_path / "gone")
    assert caught.value.reason == "NoSuchFolder"


# -- the page ----------------------------------------------------------------------------------------------------------


def _luminance(colour: str) -> float:
    """As WCAG defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_words_in_bars_can_be_read(scheme: int) -> None:
    # axe does not look at drawings.
    light, dark = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", (light, dark)[scheme]))
    for name in (*STAGES, "other", "failed"):
        darker, lighter = sorted([_luminance(colours["word"]), _luminance(colours[name])])
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name


def test_a_page_tells_everything_of_a_vm() -> None:
    shown = words(page(batch_of(*sample_jobs.three()), Pictures(sample_jobs.OUTPUT_ROOT)))
    for text in (
        "The boot loader found no kernel to load (/boot/vmlinuz-6.1.0-56-amd64).",
        "Check that the guest's /boot is on one of the job's disks",
        "Press any key to continue...",
        "+GRUB_DISABLE_LINUX_UUID=",
        "device names change with the disk controller",
        "Network card 00:50:56:ab:00:0d was on 'VM Network'",
        "virsh define /data/output/web01-convert/web01-convert.libvirt.xml",
        "web01-convert/web01-convert.qcow2",
        "The guest came up in 3 min 1 s with TCG.",
        "It is looked for in /data/input.",
    ):
        assert text in shown, text


def test_the_same_documents_give_the_same_page_in_any_order() -> None:
    jobs = sample_jobs.many(20)
    assert page(batch_of(*jobs), NO_PICTURES) == page(batch_of(*reversed(jobs)), NO_PICTURES)


def test_diffs_have_their_lines_marked() -> None:
    tree = parsed(page(batch_of(*sample_jobs.three()), NO_PICTURES))
    added = "".join(text for ins in tree.iter("ins") for text in ins.itertext())
    assert all(line.startswith("+") for line in added.splitlines())
    removed = "".join(text for gone in tree.iter("del") for text in gone.itertext())
    assert removed and all(line.startswith("-") for line in removed.splitlines())


def test_what_was_cut_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    job = sample_jobs.recorded()["db01-convert"]
    found = job["status"]["result"]
    found["changes"][0]["diff"] = "+line\n" * 200_000
    found["rehearsal"]["consoleTail"] = ["x" * 99] * 10_000
    found["warnings"] = [f"{number} {'w' * 10_000}" for number in range(500)]
    monkeypatch.setattr(evidence, "TOTAL", 1 << 20)
    text = page(batch_of(job), Pictures(sample_jobs.OUTPUT_ROOT))
    assert len(text) < 2 << 20
    shown = words(text)
    assert "characters of this diff are left out here; the whole is in the job's result document" in shown
    assert re.search(r"\d+ characters before it are left out here", shown)
    # What the target does not have is among them.
    assert "301 warnings are left out here" in shown


def test_all_diffs_of_a_vm_share_its_limit() -> None:
    job = sample_jobs.recorded()["db01-convert"]
    for change in job["status"]["result"]["changes"]:
        change["diff"] = "+line\n" * 40_000
    tree = parsed(page(batch_of(job), NO_PICTURES))
    shown = sum(len(text) for added in tree.iter("ins") for text in added.itertext())
    assert Limits.for_jobs(1).diff - 6 <= shown <= Limits.for_jobs(1).diff


def test_500_vms_share_what_a_report_may_take() -> None:
    limits = Limits.for_jobs(500)
    assert 500 * (limits.diff + limits.console + limits.picture * 4 / 3) <= evidence.TOTAL
    assert len(page(batch_of(*sample_jobs.many(500)), Pictures(sample_jobs.OUTPUT_ROOT))) < evidence.TOTAL


@pytest.mark.parametrize(
    "path", ["../secret.png", "/secret.png", "link.png", "loop.png", "a.txt", "fake.png", "a\0b.png"]
)
def test_no_other_file_of_the_host_gets_into_a_page(tmp_path: pathlib.Path, path: str) -> None:
    png = (sample_jobs.OUTPUT_ROOT / "db01-convert/convert-rehearse/screenshot.png").read_bytes()
    root = tmp_path / "output"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(png)
    (root / "a.txt").write_bytes(png)
    (root / "good.png").write_bytes(png)
    (root / "fake.png").write_bytes(b"root:x:0:0")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    pictures = Pictures(root)
    assert pictures.picture("good.png", len(png)) == png
    assert pictures.picture("good.png", len(png) - 1) is None
    assert pictures.picture(path.replace("/secret", f"{tmp_path}/secret") if path[0] == "/" else path, 1 << 20) is None


def test_a_picture_that_is_not_here_is_named() -> None:
    shown = words(page(batch_of(*sample_jobs.three()), NO_PICTURES))
    assert "not in this report: db01-convert/convert-rehearse/screenshot.png" in shown


def test_unseen_characters_are_seen() -> None:
    assert visible("a\x00\x1b[1m\x7f\x9b\u202eb\ufeff\U000e0041\r\nc\rd") == "a␀␛[1m␡⟨009B⟩⟨202E⟩b⟨FEFF⟩⟨E0041⟩\nc␍d"
    assert visible("עברית Ünï 漢字 🐧\tok\n") == "עברית Ünï 漢字 🐧\tok\n"
    assert visible("\ud800\uffff") == "⟨D800⟩⟨FFFF⟩"


@functools.cache
def _elements() -> set[str]:
    """All elements that the report of a real run is made of."""
    text = page(batch_of(*sample_jobs.recorded().values(), "no document"), Pictures(sample_jobs.OUTPUT_ROOT))
    return {element.tag for element in parsed(text).iter()}


def _check_all(batch: Batch) -> None:
    tree = parsed(page(batch, NO_PICTURES))
    assert {element.tag for element in tree.iter()} <= _elements()
    for element in tree.iter():
        assert not any(name.startswith("on") or name == "style" for name in element.attrib)
        assert element.get("href", "#").startswith(("#", "data:,"))
        # The policy is the page's alone.
        assert element.get("http-equiv") in (None, "Content-Security-Policy")
    shown = "".join(tree.itertext())
    for record in batch.records:
        assert visible(record.name) in shown
        for change in record.result.changes:
            assert visible(change.why) in shown
    suite = ElementTree.fromstring(junit_text(batch).encode())
    # In an attribute XML takes each of these for a space.
    names = [re.sub("[\t\n]", " ", visible(record.name)) for record in batch.records]
    assert [case.get("name") for case in suite.iter("testcase")] == names
    lines = list(csv.DictReader(io.StringIO(csv_text(batch), newline="")))
    assert len(lines) == len(batch.records)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=60)
@given(made_up_documents.documents(models.JobResult.model_json_schema()))
def test_any_result_becomes_a_report(document: dict[str, t.Any]) -> None:
    result = models.JobResult.model_validate(document)
    status = models.JobStatus(phase="COMPLETED")
    record = Record(result.job, result.uid, result.operation.value, "", status, result)
    _check_all(Batch.of(result.job, [record]))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=60)
@given(made_up_documents.documents(models.JobStatus.model_json_schema()))
def test_any_status_becomes_a_report_or_is_told(status: dict[str, t.Any]) -> None:
    batch = batch_of({"metadata": {"name": "web01"}, "spec": {}, "status": status})
    assert len(batch.records) + len(batch.unreadable) == 1
    _check_all(batch) if batch.records else page(batch, NO_PICTURES)


# -- for programs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [sample_jobs.three(), sample_jobs.many(40)])
def test_junit_is_as_ci_servers_read_it(tmp_path: pathlib.Path, jobs: list[sample_jobs.Job]) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(junit_text(batch_of(*jobs)), encoding="utf-8")
    schema = pathlib.Path(__file__).parent / "junit.xsd"
    done = subprocess.run(["xmllint", "--noout", "--schema", schema, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_junit_counts_what_it_lists() -> None:
    suite = ElementTree.fromstring(junit_text(batch_of(*sample_jobs.many(40), failed())).encode())[0]
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    assert int(suite.get("tests", "0")) == len(suite) == 41
    for attribute, kind in kinds.items():
        assert int(suite.get(attribute, "0")) == len(list(suite.iter(kind))) > 0
    trouble = next(suite.iter("failure"))
    assert trouble.get("type") == "NoKernel"
    assert "What to do: Check that the guest's /boot" in (trouble.text or "")


def test_the_table_has_a_line_a_job() -> None:
    text = csv_text(batch_of(*sample_jobs.three()))
    lines = {line["job"]: line for line in csv.DictReader(io.StringIO(text, newline=""))}
    assert lines["web01-convert"]["outcome"] == "booted"
    assert lines["web01-convert"]["bytes_read"] == "25397320"
    assert float(lines["web01-convert"]["copy_seconds"]) == pytest.approx(1.042)
    assert lines["db01-convert"]["reason"] == "NoKernel"
    assert lines["gone-convert"]["copy_seconds"] == ""


def test_no_cell_is_a_formula() -> None:
    job = failed(message='=HYPERLINK("http://example.invalid")')
    job["spec"]["source"]["path"] = "@web01.ova"
    [line] = csv.DictReader(io.StringIO(csv_text(batch_of(job)), newline=""))
    assert line["message"].startswith("'=")
    assert line["source"] == "'@web01.ova"


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_are_written_once_and_keep_their_permissions(tmp_path: pathlib.Path) -> None:
    batch = batch_of(*sample_jobs.three())
    wanted = {Format.HTML: tmp_path / "a.html", Format.CSV: tmp_path / "a.csv", Format.JUNIT: tmp_path / "a.xml"}
    assert {file.changed for file in write(batch, NO_PICTURES, wanted, dry_run=True)} == {True}
    assert list(tmp_path.iterdir()) == []
    assert {file.changed for file in write(batch, NO_PICTURES, wanted, dry_run=False)} == {True}
    assert oct(wanted[Format.CSV].stat().st_mode)[-3:] == "644"
    wanted[Format.CSV].chmod(0o640)
    assert {file.changed for file in write(batch, NO_PICTURES, wanted, dry_run=False)} == {False}
    others = write(batch_of(failed()), NO_PICTURES, wanted, dry_run=False)
    assert {file.changed for file in others} == {True}
    assert [file.size for file in others] == [file.path.stat().st_size for file in others]
    assert oct(wanted[Format.CSV].stat().st_mode)[-3:] == "640"
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.html", "a.xml"]


def test_a_file_that_cannot_be_written_is_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(JobError) as caught:
        write(batch_of(failed()), NO_PICTURES, {Format.CSV: tmp_path / "gone/a.csv"}, dry_run=False)
    assert (caught.value.reason, str(tmp_path / "gone/a.csv") in caught.value.message) == ("ReportNotWritten", True)
