# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container's way: a worker as a process that takes documents from its input root, and what it takes amiss."""

from __future__ import annotations

import json
import os
import pathlib
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import jobs_folder

from tests.tools.machine import wait_for
from tests.unit.plugins.module_utils.backends.samples import job
from tests.unit.plugins.module_utils.worker.conftest import Site


@pytest.fixture
def jobs(site: Site) -> pathlib.Path:
    folder = site.root / "jobs"
    folder.mkdir()
    return folder


def start(site: Site, jobs: pathlib.Path, *args: str) -> t.Any:
    return site.start("--jobs-dir", str(jobs), *args, ready="--once" not in args)


def put(folder: pathlib.Path, name: str, file: str = "", **fields: t.Any) -> pathlib.Path:
    """Put the document of a job there as editors and `kubectl cp` do: it grows under its own name."""
    document = job(name, **fields).to_document()
    del document["status"]
    path = folder / (file or f"{name}.json")
    path.write_text(json.dumps(document))
    return path


def record(site: Site, file: str) -> dict[str, t.Any] | None:
    try:
        return t.cast("dict[str, t.Any]", json.loads((site.output / f".hyper2kvm/documents/{file}.json").read_text()))
    except FileNotFoundError:
        return None


def exists(site: Site, name: str) -> bool:
    return name in [one.metadata.name for one in site.queue.list()]


def test_documents_are_done_those_that_come_later_too(site: Site, jobs: pathlib.Path) -> None:
    put(jobs, "first")
    (jobs / "second.yaml").write_text(
        "apiVersion: hyper2kvm.io/v1\nkind: MigrationJob\nmetadata: {name: second}\n"
        "spec: {operation: inspect, source: {path: web01.ova}}\n"
    )
    start(site, jobs)
    wait_for(lambda: exists(site, "first") and exists(site, "second"))
    put(jobs, "third")
    wait_for(lambda: exists(site, "third"))
    for name in ("first", "second", "third"):
        assert site.wait_phase(name).status.phase is Phase.COMPLETED
    noted = wait_for(lambda: record(site, "third.json"))
    assert noted["job"] == "third" and noted["uid"] == site.queue.get("third").metadata.uid


def test_once_does_what_is_there_and_a_second_run_nothing(site: Site, jobs: pathlib.Path) -> None:
    put(jobs, "good")
    put(jobs, "bad", annotations={"fail": "invalid 9"})
    assert start(site, jobs, "--once").wait(60) == 1
    first = {name: site.queue.get(name).metadata.uid for name in ("good", "bad")}
    assert site.phase("bad") is Phase.FAILED
    assert start(site, jobs, "--once").wait(60) == 0
    # Its document was handed in before, so a restart is no wish to try again.
    assert {name: site.queue.get(name).metadata.uid for name in ("good", "bad")} == first


def test_a_document_that_was_taken_away_and_comes_back_is_handed_in_again(site: Site, jobs: pathlib.Path) -> None:
    path = put(jobs, "bad", annotations={"fail": "invalid 1"})
    start(site, jobs)
    wait_for(lambda: exists(site, "bad"))
    site.wait_phase("bad", Phase.FAILED)
    uid = site.queue.get("bad").metadata.uid
    away = path.rename(site.root / "bad.json")
    wait_for(lambda: record(site, "bad.json") is None)
    away.rename(path)
    wait_for(lambda: site.queue.get("bad").metadata.uid != uid)


def test_a_changed_document_is_refused_with_the_fields_that_differ(site: Site, jobs: pathlib.Path) -> None:
    path = put(jobs, "web")
    start(site, jobs)
    wait_for(lambda: exists(site, "web"))
    site.wait_phase("web", Phase.COMPLETED)
    before = site.queue.get("web")
    document = json.loads(path.read_text())
    document["spec"]["target"] = {"path": "elsewhere"}
    path.write_text(json.dumps(document))
    noted = wait_for(lambda: (record(site, "web.json") or {}).get("error"))
    assert noted["class"] == "invalid" and "spec.target.path" in noted["message"]
    assert site.queue.get("web") == before
    assert site.log().count("document 'web.json' is refused") == 1
    # Permission makes the difference.
    document["spec"]["target"]["force"] = True
    path.write_text(json.dumps(document))
    wait_for(lambda: site.queue.get("web").metadata.uid != before.metadata.uid)
    wait_for(lambda: "error" not in (record(site, "web.json") or {"error": "not yet"}))


@pytest.mark.parametrize("once", [[], ["--once"]], ids=["for ever", "once"])
def test_a_document_waits_until_the_job_that_gives_way_has_stopped(
    site: Site, jobs: pathlib.Path, once: list[str]
) -> None:
    path = put(jobs, "web", annotations={"seconds": "600"})
    worker = start(site, jobs, *once)
    wait_for(lambda: exists(site, "web"))
    site.running_pid("web")
    before = site.queue.get("web").metadata.uid
    document = json.loads(path.read_text())
    document["metadata"]["annotations"] = {}
    document["spec"]["target"] |= {"force": True, "path": "elsewhere"}
    path.write_text(json.dumps(document))
    wait_for(lambda: site.queue.get("web").metadata.uid != before)
    assert site.wait_phase("web").status.phase is Phase.COMPLETED
    wait_for(lambda: (record(site, "web.json") or {}).get("uid") == site.queue.get("web").metadata.uid)
    assert "refused" not in site.log()
    if once:
        assert worker.wait(60) == 0


def test_what_is_no_document_is_told_and_stops_nothing(site: Site, jobs: pathlib.Path) -> None:
    secret = site.root / "secret.json"
    secret.write_text('{"password": "hunter2"}')
    (jobs / "broken.json").write_text('{"kind": ')
    (jobs / "unknown.yaml").write_text("apiVersion: hyper2kvm.io/v1\nkind: MigrationJob\nspec: {sauce: 1}\n")
    (jobs / "huge.json").write_bytes(b" " * (2 << 20))
    os.mkfifo(jobs / "pipe.json")
    (jobs / "folder.json").mkdir()
    (jobs / "out.json").symlink_to(secret)
    (jobs / "up.json").symlink_to("../secret.json")
    (jobs / "loop.json").symlink_to("loop.json")
    (jobs / "esc\x1b[2J.json").write_text("[]")
    (jobs / (b"\xff.json").decode(errors="surrogateescape")).write_text("[]")
    (jobs / ("x" * 250 + ".json")).write_text("{}")
    (jobs / ".hidden.json").write_text("{}")
    (jobs / "notes.txt").write_text("not a document")
    put(jobs, "good")
    assert start(site, jobs, "--once").wait(60) == 0
    assert site.phase("good") is Phase.COMPLETED
    refused = ("broken", "huge", "pipe", "folder", "out", "up", "loop", "esc\x1b[2J")
    for name in (*(f"{one}.json" for one in refused), "unknown.yaml"):
        noted = record(site, name)
        assert noted is not None and noted["error"]["class"] == "invalid", name
    unknown = record(site, "unknown.yaml")
    assert unknown is not None and "metadata: is missing" in unknown["error"]["message"]
    log = site.log()
    assert "\x1b" not in log and "hunter2" not in log and "Traceback" not in log
    assert "notes.txt" not in log and "hidden" not in log


def test_links_within_the_folder_are_followed_as_in_a_mounted_configmap(site: Site, jobs: pathlib.Path) -> None:
    (jobs / "..2026_1").mkdir()
    put(jobs / "..2026_1", "one")
    (jobs / "..data").symlink_to("..2026_1")
    (jobs / "one.json").symlink_to("..data/one.json")
    start(site, jobs)
    wait_for(lambda: exists(site, "one"))


def test_a_document_that_is_being_written_is_left_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, site: Site, jobs: pathlib.Path
) -> None:
    monkeypatch.setattr(jobs_folder, "_LOOK_SECONDS", 0.0)
    watched = jobs_folder.JobsFolder(jobs, site.output / ".hyper2kvm", site.queue)
    path = put(jobs, "slow")
    text = path.read_text()
    path.write_text(text[:40])
    watched.look()
    path.write_text(text)
    watched.look()
    assert not exists(site, "slow") and not watched.settled and record(site, "slow.json") is None
    watched.look()
    assert exists(site, "slow") and watched.settled


def test_a_folder_that_goes_and_comes_takes_nothing_with_it(
    monkeypatch: pytest.MonkeyPatch, site: Site, jobs: pathlib.Path
) -> None:
    monkeypatch.setattr(jobs_folder, "_LOOK_SECONDS", 0.0)
    watched = jobs_folder.JobsFolder(jobs, site.output / ".hyper2kvm", site.queue)
    put(jobs, "web")
    watched.look()
    watched.look()
    away = jobs.rename(site.root / "away")
    watched.look()
    assert watched.settled and record(site, "web.json") is not None
    away.rename(jobs)
    site.queue.cancel("web")
    watched.look()
    watched.look()
    assert site.phase("web") is Phase.CANCELLED


def test_the_containers_folders_bring_their_folder_of_jobs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import agent, arguments, cli

    given: list[t.Any] = []

    class Stub:
        failed_jobs = 0

        def __init__(self, config: t.Any, pipeline: t.Any, exporter: t.Any) -> None:
            given.append(config)

        def run(self) -> None:
            """Do nothing."""

    monkeypatch.setattr(agent, "Agent", Stub)
    monkeypatch.setattr(cli, "_CONTAINER_INPUT", str(site.root))
    monkeypatch.setattr(arguments, "CONTAINER_OUTPUT", str(site.output))
    assert cli.main(["run"]) == 0
    assert cli.main(["run", "--input-root", str(site.output)]) == 0
    assert [config.jobs_dir for config in given] == [site.root / "jobs", None]
    assert given[0].state_dir == site.output / ".hyper2kvm"
