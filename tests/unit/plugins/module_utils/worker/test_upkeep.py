# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What whoever looks after a worker does with the command: drain, back up, restore, recover, ask for help."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tarfile
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.local import LocalBackend
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import cli, health

from tests.tools.machine import wait_for
from tests.unit.plugins.module_utils.backends.samples import job, result
from tests.unit.plugins.module_utils.worker.conftest import Site

Run = t.Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str | pathlib.Path) -> tuple[int, str, str]:
        code = cli.main([*map(str, args), "--output-root", str(site.output)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_drained_worker_ends_what_it_has_and_takes_nothing_more(site: Site, run: Run) -> None:
    site.start("--slots", "1")
    site.submit("first", seconds="1")
    site.wait_phase("first", Phase.RUNNING, Phase.PROGRESSING)
    site.submit("second")
    assert run("drain") == (0, "", "")
    assert site.phase("first") is Phase.COMPLETED
    assert site.phase("second") is Phase.QUEUED
    assert "takes no further job until it is uncordoned" in run("explain", "second")[1]
    # Over a restart, which is what one drains for.
    site.start("--slots", "1")
    assert site.phase("second") is Phase.QUEUED
    assert run("uncordon")[0] == 0
    site.wait_phase("second", Phase.COMPLETED)


def test_draining_may_be_given_up(site: Site, run: Run) -> None:
    site.start()
    site.submit("long", seconds="60")
    site.wait_phase("long", Phase.RUNNING, Phase.PROGRESSING)
    began = time.monotonic()
    assert run("drain", "--timeout", "1s")[:2] == (1, "still running: long\n")
    assert time.monotonic() - began < 30
    assert site.phase("long") in (Phase.RUNNING, Phase.PROGRESSING)


def test_a_lost_queue_is_gone_on_with_from_its_backup(site: Site, run: Run, tmp_path: pathlib.Path) -> None:
    worker = site.start("--slots", "1")
    site.submit("done")
    site.wait_phase("done", Phase.COMPLETED)
    site.submit("long", stages="inspect,copy", seconds="1")
    site.wait_phase("long", Phase.RUNNING, Phase.PROGRESSING)
    site.submit("waits")
    file = tmp_path / "queue.backup"
    code, out, dummy = run("backup", file)
    assert code == 0 and "3 jobs, 2 of them not over" in out
    worker.kill()
    worker.wait()
    site.queue.close()
    shutil.rmtree(site.output / ".hyper2kvm")

    assert "3 jobs, 2 of them wait for a worker" in run("restore", file)[1]
    site.start("--slots", "1")
    for name in ("long", "waits"):
        site.wait_phase(name, Phase.COMPLETED)
    assert site.phase("done") is Phase.COMPLETED
    attempts = site.queue.get("long").status.attempts
    assert len(attempts) == 2 and all(attempt.error is None for attempt in attempts)


@pytest.mark.parametrize("command", [("backup", "file"), ("restore", "file"), ("cordon",), ("drain",)])
def test_the_queue_of_a_node_is_the_clusters(site: Site, run: Run, command: tuple[str, ...]) -> None:
    (site.output / ".hyper2kvm" / health.ALIVE).touch()
    code, dummy, err = run(*command)
    assert code == 2 and "filled by a cluster" in err


def publish(site: Site, name: str, **fields: t.Any) -> models.JobResult:
    """Leave what a conversion of that name leaves."""
    folder = site.output / name
    folder.mkdir()
    (folder / f"{name}.qcow2").write_bytes(b"disk")
    of = job(f"{name}-convert", operation=models.Operation.CONVERT)
    of.metadata.uid = "22222222-2222-2222-2222-222222222222"
    digest = "sha256:" + "0" * 64
    disk = models.Artifact(path=f"{name}/{name}.qcow2", kind="disk", size_bytes=4, digest=digest)
    told = result(of).model_copy(update={"artifacts": [disk], "verdict": "boots", **fields})
    (folder / "result.json").write_text(json.dumps(told.to_document()), encoding="utf-8")
    return told


def test_without_a_queue_the_output_tells_what_is_done_and_what_nobody_goes_on_with(site: Site, run: Run) -> None:
    publish(site, "web01")
    publish(site, "web02")
    (site.output / "web02/web02.qcow2").unlink()
    known = site.submit("db01-convert")
    for name in ("web03", "web04"):
        (site.output / name).mkdir()
    ours = site.output / f"web03/web03.qcow2.{(known.metadata.uid or '').partition('-')[0]}.1.partial"
    orphan, busy = (site.output / f"web03/web03.qcow2.{uid}.7.partial" for uid in ("0badcafe", "12345678"))
    for path in (ours, orphan, busy):
        path.write_bytes(b"some")
    an_hour_ago = time.time() - 4000
    os.utime(orphan, (an_hour_ago, an_hour_ago))
    (site.output / "web04/web04.qcow2").write_bytes(b"disk")

    code, out, dummy = run("recover")
    assert code == 0
    assert "web01-convert  convert    boots" in out
    assert "web02-convert: web02/web02.qcow2 gone" in out
    assert "web03/web03.qcow2.0badcafe.7.partial: partial, of no job" in out and str(ours.name) not in out
    assert "web04/web04.qcow2: a disk without a result document" in out
    assert out.splitlines()[-1].startswith("2 jobs are done, 2 partial targets")
    assert orphan.exists()

    # One that was written a moment ago may be another host's that shares the output root.
    assert run("recover", "--remove-partials")[1].splitlines()[-1] == "1 of 2 partial targets removed"
    assert [path.exists() for path in (ours, orphan, busy)] == [True, False, True]


def test_a_support_bundle_helps_and_holds_no_secret(site: Site, run: Run, tmp_path: pathlib.Path) -> None:
    secrets = ["planted-script-secret", "planted-file-secret", "planted-token", "planted-url-pw", "planted-in-the-root"]
    (site.root / "secrets/vcenter").mkdir(parents=True)
    (site.root / "secrets/vcenter/password").write_text(secrets[4])
    guest = {
        "firstboot": [{"name": "join", "script": f"join --password {secrets[0]}"}],
        "files": [{"path": "/etc/app.conf", "content": f"key = {secrets[1]}"}],
    }
    site.start("--secrets-root", str(site.root / "secrets"))
    site.submit(
        "broken",
        fields={"guest": models.GuestSpec.model_validate(guest), "backoff_limit": 0},
        fail="environment 9",
        api_token=secrets[2],
        note=f"exported from https://admin:{secrets[3]}@vcenter.example.org/",
    )
    site.wait_phase("broken", Phase.FAILED)
    file = tmp_path / "bundle.tar.gz"
    code, out, dummy = run("support-bundle", file)
    assert code == 0 and "Look through it" in out
    assert file.stat().st_mode & 0o077 == 0
    with tarfile.open(file) as archive:
        texts = {
            one.name.rpartition("/")[2]: t.cast(t.IO[bytes], archive.extractfile(one)).read().decode()
            for one in archive.getmembers()
        }
    assert [secret for secret in secrets for text in texts.values() if secret in text] == []

    assert {"about.json", "jobs.json", "events.jsonl", "workers.json", "README"} <= texts.keys()
    (told,) = json.loads(texts["jobs.json"])
    assert told["status"]["phase"] == "FAILED" and told["spec"]["guest"]["firstboot"][0]["name"] == "join"
    assert "vcenter.example.org" in told["metadata"]["annotations"]["note"]
    assert json.loads(texts["workers.json"])[0]["capabilities"]
    about = json.loads(texts["about.json"])
    assert about["folders"][str(site.output)]["freeBytes"] > 0 and about["collection"] != "unknown"
    events = [json.loads(line) for line in texts["events.jsonl"].splitlines()]
    assert events[-1]["data"]["to"] == "FAILED"


def test_a_bundle_that_cannot_be_written_is_said(site: Site, run: Run, tmp_path: pathlib.Path) -> None:
    code, dummy, err = run("support-bundle", tmp_path / "missing/bundle.tar.gz")
    assert code == 2 and "cannot be written" in err


def test_capacity_is_told_in_a_line(run: Run) -> None:
    fleet = ("capacity", "--vms", "100", "--total", "3.6TB", "--rate", "100MB", "--other", "40s", "--slots", "4")
    assert run(*fleet, "--window", "2h")[:2] == (0, "2 workers of 4 slots each: 1 h 23 min, bound by the slots.\n")
    code, out, dummy = run(*fleet, "--window", "2h", "--storage-rate", "300MB")
    assert code == 1 and "3 h 20 min at best, because of the storage" in out


@pytest.mark.parametrize("wrong", [("--total", "20"), ("--total", "0B"), ("--window", "8"), ("--window", "h")])
def test_sizes_and_times_have_units(run: Run, wrong: tuple[str, str]) -> None:
    fleet = {"--vms": "1", "--total": "1TB", "--rate": "1MB", "--other": "1s", "--window": "1h", wrong[0]: wrong[1]}
    with pytest.raises(SystemExit):
        run("capacity", *(word for pair in fleet.items() for word in pair))


def test_a_cordon_is_seen_by_workers_that_are_there_already(site: Site) -> None:
    with_cordon = LocalBackend(site.output / ".hyper2kvm")
    try:
        site.start()
        with_cordon.cordon()
        site.submit("waits")
        wait_for(lambda: [one.reason for one in site.queue.explain("waits")] == ["WorkerCordoned"])
        assert site.phase("waits") is Phase.QUEUED
        with_cordon.uncordon()
        site.wait_phase("waits", Phase.COMPLETED)
    finally:
        with_cordon.close()
