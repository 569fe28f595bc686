# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The command ``hyper2kvm-worker``, and the worker that starts itself where it is needed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boottime
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import (
    cli,
    config,
    health,
    installation,
    keeper,
    local,
)

from tests.tools import sample_jobs
from tests.tools.machine import wait_for
from tests.unit.plugins.module_utils.backends.samples import job
from tests.unit.plugins.module_utils.worker.conftest import FAKE_WORKER, Site

ROOT = pathlib.Path(__file__).parents[5]
DOCUMENT = """\
apiVersion: hyper2kvm.io/v1
kind: MigrationJob
metadata: {name: web01-inspect}
spec: {operation: inspect, source: {path: web01.ova}}
"""


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str]) -> t.Callable[..., tuple[int, str, str]]:
    def call(*args: str) -> tuple[int, str, str]:
        code = cli.main([*args, "--output-root", str(site.output)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


Run = t.Callable[..., tuple[int, str, str]]


def test_health_is_that_of_the_queues_workers(site: Site, run: Run) -> None:
    assert run("health")[0] == 1
    site.start()
    assert run("health") == (0, "alive\n", "")


def test_health_of_a_node_is_whether_its_agent_minds_the_jobs(site: Site, run: Run) -> None:
    site.start()
    alive = site.output / ".hyper2kvm" / health.ALIVE
    keeper.write(alive, boottime() - 10.0)
    assert run("health")[0] == 0
    keeper.write(alive, boottime() - 100.0)
    assert run("health")[0] == 1


@pytest.mark.parametrize(
    ("options", "named", "reason"),
    [
        ([], "", "NODE_NAME"),
        (["--once"], "node-1", "told to"),
        (["--idle-seconds", "1"], "node-1", "told to"),
    ],
)
def test_a_node_is_named_and_does_not_end_by_itself(
    site: Site, run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str, reason: str
) -> None:
    monkeypatch.setenv("NODE_NAME", named)
    code, dummy, err = run("run", "--kubernetes", "--input-root", str(site.root), *options)
    assert code == 2
    assert reason in err


def test_a_job_is_submitted_looked_at_and_steered(site: Site, run: Run) -> None:
    file = site.root / "job.yaml"
    file.write_text(DOCUMENT)
    assert run("submit", str(file)) == (0, "web01-inspect: submitted\n", "")
    assert run("submit", str(file))[1] == "web01-inspect: unchanged\n"
    code, out, dummy = run("status")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["NAME", "OPERATION", "PHASE"],
        ["web01-inspect", "inspect", "QUEUED"],
    ]
    assert "no worker is alive" in out
    assert "NoWorker: no worker is alive" in run("explain", "web01-inspect")[1]
    assert run("suspend", "web01-inspect")[1] == "web01-inspect is suspended\n"
    assert "Suspended" in run("explain", "web01-inspect")[1]
    assert run("resume", "web01-inspect")[1] == "web01-inspect is resumed\n"
    assert run("priority", "web01-inspect", "7")[1] == "web01-inspect has priority 7\n"
    assert json.loads(run("status", "web01-inspect", "--json")[1])["spec"]["priority"] == 7
    assert run("cancel", "web01-inspect")[1] == "web01-inspect is CANCELLED\n"
    events = run("events", "--job", "web01-inspect")[1].splitlines()
    assert events[-1].endswith("QUEUED → CANCELLED: cancelled while it waited")
    told = [json.loads(line) for line in run("events", "--json", "--since", "3")[1].splitlines()]
    assert [one["sequence"] for one in told] == list(range(4, len(events) + 1))
    assert run("events", "--since", "1h")[1].splitlines() == events
    later = [line for line in events if line.split()[0] > told[0]["time"]]
    assert later and run("events", "--since", told[0]["time"])[1].splitlines() == later
    assert run("events", "--since", "2999-01-01T00:00:00Z")[1] == ""
    with pytest.raises(SystemExit):
        run("events", "--since", "yesterday")
    assert run("delete", "web01-inspect")[0] == 0
    assert run("status", "web01-inspect")[0] == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["status", "nobody"], "There is no job nobody."),
        (["submit", "/nonexistent/job.yaml"], "/nonexistent/job.yaml cannot be read: No such file or directory."),
        (["run", "--label", "nothing"], "No input root was given."),
        (["run", "--input-root", "/nonexistent"], "The input root /nonexistent is no folder."),
        (["run", "--input-root", "/", "--label", "nothing"], "nothing is no label"),
        (["priority", "nobody", "5000"], "5000 is no priority"),
    ],
)
def test_wrong_input_is_told_and_has_status_2(run: Run, args: list[str], message: str) -> None:
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_document_is_told_with_its_fields(site: Site, run: Run) -> None:
    file = site.root / "job.yaml"
    file.write_text(DOCUMENT.replace("inspect, source", "inspect, sauce"))
    code, dummy, err = run("submit", str(file))
    assert code == 2
    assert "spec.sauce" in err
    assert site.queue.list() == []


def test_waiting_shows_progress_and_ends_with_the_job(site: Site) -> None:
    site.start()
    file = site.root / "job.json"
    for name, fail, code in (("good", "", 0), ("bad", "invalid 1", 1)):
        annotations = {"seconds": "0.7"} | ({"fail": fail} if fail else {})
        file.write_text(json.dumps(job(name, annotations=annotations).to_document()))
        done = subprocess.run(site.command("submit", str(file), "--wait"), capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == f"{name}: submitted"
        if fail:
            assert lines[-1] == "bad: FAILED inspect FakeFailure: it was asked to fail"
        else:
            assert lines[-1] == "good: COMPLETED done"
            assert any("PROGRESSING" in line and "% of 100 B" in line for line in lines)


def test_events_can_be_followed(site: Site) -> None:
    site.submit("web")
    with subprocess.Popen(site.command("events", "--follow", "--json"), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        seen = [json.loads(follower.stdout.readline())["sequence"] for dummy in range(3)]
        site.queue.cancel("web")
        seen += [json.loads(follower.stdout.readline())["sequence"] for dummy in range(2)]
        follower.send_signal(signal.SIGINT)
    assert seen == [1, 2, 3, 4, 5]
    assert follower.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_error(site: Site) -> None:
    for number in range(50):
        site.submit(f"job{number}")
    command = " ".join(site.command("events"))
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -n1"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_workers_are_listed(site: Site, run: Run) -> None:
    site.start("--slots", "3", "--label", "site=x")
    (told,) = [json.loads(line) for line in run("workers", "--json")[1].splitlines()]
    assert (told["slots"], told["labels"]) == (3, {"site": "x"})
    assert told["name"] in run("workers")[1]


# -- a worker of one's own ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(site: Site, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[config.Config]:
    """A configuration whose worker is the pretending one; what was started is ended."""
    place = site.root / "installed"
    (place / "scripts").mkdir(parents=True)
    launcher = place / installation.LAUNCHER
    launcher.write_text(f"import runpy\nrunpy.run_path({str(FAKE_WORKER)!r}, run_name='__main__')\n")
    monkeypatch.setattr(local, "find_installation", lambda hint: place)
    state = site.output / ".hyper2kvm"
    roots = config.make_roots(site.root, site.output, state_dir=state)
    yield config.Config(roots=roots, state_dir=state, idle_seconds=0.5)
    for one in site.queue.workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.registration.pid, signal.SIGKILL)


def test_a_worker_is_started_once_and_ends_itself(site: Site, settings: config.Config) -> None:
    site.submit("web", seconds="0.5")
    local.ensure_worker(settings)
    local.ensure_worker(settings)
    (worker,) = site.queue.workers()
    assert os.getsid(worker.registration.pid) == worker.registration.pid
    assert site.wait_phase("web").status.phase is Phase.COMPLETED
    wait_for(lambda: site.queue.workers() == [])
    with contextlib.suppress(ChildProcessError):
        os.waitpid(worker.registration.pid, 0)
    assert "worker" in (settings.state_dir / "worker.log").read_text()
    # And again: a job that comes later finds a worker.
    site.submit("late")
    local.ensure_worker(settings)
    assert site.wait_phase("late").status.phase is Phase.COMPLETED


def test_a_worker_that_is_started_allows_the_devices_of_its_environment(
    site: Site, settings: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPER2KVM_TARGET_DEVICES", "/dev/vg0/*:/dev/vg1/*")
    local.ensure_worker(settings)
    (worker,) = site.queue.workers()
    told = worker.registration.capabilities["target-device"]
    assert told.available and told.detail == "onto /dev/vg0/*, /dev/vg1/*"


def test_a_worker_with_other_folders_is_an_error(site: Site, settings: config.Config) -> None:
    site.start()
    other = site.root / "other"
    other.mkdir()
    roots = config.make_roots(other, site.output, state_dir=settings.state_dir)
    with pytest.raises(JobError, match="serves other folders"):
        local.ensure_worker(config.Config(roots=roots, state_dir=settings.state_dir))


def test_a_worker_that_cannot_start_is_told_with_its_last_words(
    site: Site, settings: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.root / "installed" / installation.LAUNCHER).write_text("raise SystemExit('no such luck')\n")
    with pytest.raises(JobError, match="no such luck"):
        local.ensure_worker(settings)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(JobError, match="must be root"):
        local.ensure_worker(settings)


# -- the installation --------------------------------------------------------------------------------------------------


def _install(place: pathlib.Path) -> pathlib.Path:
    """Copy the collection as its tarball would install it."""
    core = place / "ansible_collections" / "hyper2kvm" / "core"
    core.mkdir(parents=True)
    for part in ("plugins", "scripts"):
        shutil.copytree(ROOT / part, core / part, ignore=shutil.ignore_patterns("__pycache__"))
    (core / "MANIFEST.json").write_text('{"collection_info": {"version": "9.8.7"}}')
    return core


def test_the_command_runs_its_own_installation_whatever_else_is_there(tmp_path: pathlib.Path) -> None:
    core = _install(tmp_path / "right")
    shadow = tmp_path / "site" / "ansible_collections"
    (shadow / "hyper2kvm" / "core").mkdir(parents=True)
    for folder in (shadow, shadow / "hyper2kvm", shadow / "hyper2kvm" / "core"):
        (folder / "__init__.py").write_text("raise ImportError('the wrong one')\n")
    spy = core / "plugins" / "module_utils" / "worker" / "cli.py"
    spy.write_text(
        "from ..telemetry.version import collection_version\n"
        "from .installation import find_installation\n"
        "def main():\n    print(collection_version(), find_installation())\n"
    )
    done = subprocess.run(
        [sys.executable, core / "scripts" / "hyper2kvm-worker"],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "site"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"9.8.7 {core}\n", "")


def test_the_installation_is_found_from_a_module_bundle(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "own_root", lambda: tmp_path / "bundle.zip")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(JobError, match="not installed"):
        installation.find_installation()
    core = _install(tmp_path / ".ansible" / "collections")
    assert installation.find_installation() == core
    other = _install(tmp_path / "elsewhere")
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", f"/nonexistent:{tmp_path / 'elsewhere'}")
    assert installation.find_installation() == other
    assert installation.find_installation(str(core)) == core


@pytest.mark.parametrize(
    ("arguments", "variable", "allowed"),
    [
        ([], None, ()),
        ([], "", ()),
        ([], "/dev/vg0/*:/dev/sd[b-d]", ("/dev/vg0/*", "/dev/sd[b-d]")),
        (["--target-device", "/dev/a", "--target-device=/dev/b"], "/dev/vg0/*", ("/dev/a", "/dev/b")),
    ],
)
def test_devices_are_allowed_by_options_or_the_environment(
    site: Site,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    variable: str | None,
    allowed: tuple[str, ...],
) -> None:
    if variable is not None:
        monkeypatch.setenv("HYPER2KVM_TARGET_DEVICES", variable)
    seen = []

    class Idle:
        failed_jobs = 0

        def __init__(self, settings: config.Config, pipeline: object, exporter: object) -> None:
            seen.append(settings)

        def run(self) -> None:
            """Do nothing."""

    monkeypatch.setattr("ansible_collections.hyper2kvm.core.plugins.module_utils.worker.agent.Agent", Idle)
    code, dummy, err = run("run", "--input-root", str(site.root), *arguments)
    assert code == 0, err
    assert seen[0].roots.target_devices == allowed
    # Which devices a worker may write says nothing of the folders that it serves.
    assert "/dev/" not in seen[0].roots_text


def test_a_pattern_of_devices_is_absolute(site: Site, run: Run) -> None:
    code, dummy, err = run("run", "--input-root", str(site.root), "--target-device", "sd*")
    assert code == 2 and "sd* is no absolute path" in err


def test_capabilities_are_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import capabilities

    told = {"kvm": models.Capability(available=False, detail="none\x1b[2J here")}
    monkeypatch.setattr(capabilities, "probe", lambda folder, **options: told)
    assert json.loads(run("capabilities", "--json")[1]) == {"kvm": {"available": False, "detail": "none\x1b[2J here"}}
    assert run("capabilities")[1].splitlines()[1] == "kvm         no  none [2J here"


def leave_result(output: pathlib.Path) -> None:
    """Have a job leave its result below an output root."""
    (output / "web01").mkdir(parents=True)
    result = sample_jobs.recorded()["web01-convert"]["status"]["result"]
    (output / "web01/result.json").write_text(json.dumps(result), encoding="utf-8")


def test_a_folder_of_results_is_reported_and_gets_no_queue(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_result(tmp_path / "results")
    page = tmp_path / "report.html"
    assert cli.main(["report", str(page), "--output-root", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{page}: written, ") and ", 1 jobs, made in " in out
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["web01"]


def test_a_report_has_the_queues_jobs_and_older_results(site: Site, run: Run) -> None:
    leave_result(site.output)
    page, table = site.root / "report.html", site.root / "report.csv"
    file = site.root / "job.yaml"
    file.write_text(DOCUMENT)
    run("submit", str(file))
    (site.output / "web01/plan.json").write_text("{", encoding="utf-8")
    code, dummy, err = run("report", str(page), "--csv", str(table), "--title", "Wave 1")
    assert code == 0 and "web01/plan.json is not in it: " in err
    lines = {line.split(",")[0]: line.split(",")[3] for line in table.read_text(encoding="utf-8").splitlines()}
    assert lines == {"job": "outcome", "web01-convert": "booted", "web01-inspect": "not finished"}
    assert "<title>Wave 1</title>" in page.read_text(encoding="utf-8")
    assert run("report", str(page), "--title", "Wave 1")[1].startswith(f"{page}: unchanged, ")


def test_a_report_of_nothing_is_told(site: Site, run: Run) -> None:
    site.output.mkdir(exist_ok=True)
    code, dummy, err = run("report", str(site.root / "report.html"))
    assert code == 2 and "No job left anything" in err
