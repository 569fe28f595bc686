# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a worker tells of its queue and of itself: real worker processes, their port and their file."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import METRICS, Kind, Teller
from prometheus_client.parser import text_string_to_metric_families

from tests.tools.machine import alive, children, wait_for
from tests.unit.plugins.module_utils.worker.conftest import Site


def start(site: Site, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a worker that tells metrics, and return it with the URL of its port."""
    told = len(re.findall("metrics: ", site.log())) if (site.root / "worker.log").exists() else 0
    worker = site.start("--metrics-port", "0", *options)
    found = re.findall(r"metrics: (http://\S+)/metrics", site.log())
    assert len(found) == told + 1
    return worker, found[-1]


def ask(url: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def open_files(pid: int) -> set[str]:
    """What a process has open."""
    return {os.readlink(one) for one in pathlib.Path(f"/proc/{pid}/fd").iterdir()}


def value(text: str, name: str, **labels: str) -> float:
    """One value; 0 where there is none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"hyper2kvm_{name}" and labels.items() <= sample.labels.items()
    ]
    return sum(found)


def test_a_port_tells_what_waits_what_runs_and_what_became_of_the_rest(site: Site) -> None:
    site.submit("waits", fields={"requirements": models.Requirements(capabilities=["fs-zfs"])})
    site.submit("done", stages="inspect,copy,publish", seconds="0.3")
    site.submit("fails", fail="environment 5")
    worker, url = start(site, "--slots", "1")
    for name in ("done", "fails"):
        site.wait_phase(name)
    site.submit("runs", seconds="100")
    site.running_pid("runs")
    wait_for(lambda: site.phase("runs") is Phase.PROGRESSING)
    site.submit("next")
    status, text = ask(f"{url}/metrics")
    assert status == 200
    assert value(text, "jobs", phase="QUEUED") == 2 and value(text, "jobs", phase="PROGRESSING") == 1
    assert value(text, "queue_jobs", queue="local") == 2
    assert value(text, "queue_oldest_wait_seconds") > 0
    assert value(text, "waiting_jobs", reason="CapabilityMissing") == 1
    assert value(text, "waiting_jobs", reason="NoFreeSlot") == 1
    assert value(text, "blocked_jobs") == value(text, "blocked_jobs", reason="CapabilityMissing") == 1
    assert value(text, "jobs_ended_total", phase="COMPLETED") == 1
    assert value(text, "job_failures_total") == value(text, "job_failures_total", error_class="environment") == 1
    assert value(text, "job_failure_reasons_total", reason="FakeFailure") == 1
    assert value(text, "stage_seconds_count", stage="copy") == 1
    # The pretended stage works through 100 bytes.
    assert value(text, "stage_processed_bytes_total", stage="copy") == 100
    assert (value(text, "slots"), value(text, "slots_used"), value(text, "workers")) == (1, 1, 1)
    assert value(text, "capability", capability="boot-test") == 1
    assert value(text, "job_progress_age_seconds", job_name="runs", stage="inspect") < 60
    wait_for(lambda: value(ask(f"{url}/metrics")[1], "transfer_bytes_per_second", stage="inspect") > 0)
    assert value(text, "free_bytes", root="output") > 0
    assert value(text, "build_info", backend="local", component="worker") == 1
    assert ask(f"{url}/healthz") == (200, "ok\n") and ask(f"{url}/")[0] == 404
    worker.terminate()
    worker.wait()


def test_every_metric_of_a_worker_and_a_queue_is_told(site: Site) -> None:
    limits = models.Limits(bandwidth_bytes_per_second=65536)
    site.submit("runs", fields={"limits": limits}, stages="copy", seconds="100")
    dummy, url = start(site)
    wait_for(lambda: site.phase("runs") is Phase.PROGRESSING)
    site.submit("fails", fail="environment 5")
    site.wait_phase("fails")
    text = wait_for(lambda: "job_remaining" in (told := ask(f"{url}/metrics")[1]) and told)
    told = {family.name for family in text_string_to_metric_families(text)}
    wanted = {metric.name for metric in METRICS if metric.teller in (Teller.QUEUE, Teller.WORKER)}
    assert told == {name.removesuffix("_total") for name in wanted}
    assert value(text, "transfer_limit_bytes_per_second") == 65536
    kinds = {metric.name.removesuffix("_total"): metric.kind for metric in METRICS}
    assert {family.name: family.type for family in text_string_to_metric_families(text)} == {
        name: Kind(kinds[name]).value for name in told
    }


def test_what_was_counted_outlives_the_worker(site: Site) -> None:
    worker, url = start(site)
    site.submit("a")
    site.wait_phase("a")
    before = ask(f"{url}/metrics")[1]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    # A record that is removed takes nothing along either.
    site.queue.delete("a")
    dummy, url = start(site)
    after = ask(f"{url}/metrics")[1]
    for name in ("jobs_ended_total", "job_wait_seconds_count", "job_wait_seconds_sum", "stage_seconds_count"):
        assert value(before, name) == value(after, name) > 0, name


def test_takeovers_fences_and_leftovers_are_counted(site: Site) -> None:
    worker, dummy = start(site)
    site.submit("a", seconds="600", leave="yes")
    site.running_pid("a")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    dummy, url = start(site, "--lease-seconds", "6")
    wait_for(lambda: value(ask(f"{url}/metrics")[1], "takeovers_total", reason="WorkerLost") == 1)
    wait_for(lambda: site.trace("a")[-1].epoch == 2)
    # Somebody else has the job now, as far as the queue knows.
    with sqlite3.connect(site.output / ".hyper2kvm" / "queue.db", timeout=30) as queue:
        queue.execute("UPDATE jobs SET epoch = epoch + 1 WHERE name = 'a'")
    queue.close()
    text = wait_for(lambda: value(told := ask(f"{url}/metrics")[1], "fences_total") and told)
    assert value(text, "fences_total") == 1
    wait_for(lambda: value(ask(f"{url}/metrics")[1], "leftovers_cleaned_total", kind="device") >= 1)


def test_a_worker_that_ends_takes_along_who_tells_and_the_port(site: Site) -> None:
    worker, url = start(site)
    host, dummy, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))):
        # It waits for a request, which does not come.
        (teller,) = wait_for(lambda: children(worker.pid))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        wait_for(lambda: not alive(teller))
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/healthz")


def test_a_job_does_not_hold_the_port(site: Site) -> None:
    """It works on what strangers made, and has nothing to tell anybody."""
    worker, url = start(site)
    site.submit("a", seconds="600")
    site.running_pid("a")
    number = int(url.rpartition(":")[2])
    inode = [
        line.split()[9] for line in pathlib.Path("/proc/net/tcp").read_text().splitlines() if f":{number:04X} 0" in line
    ]
    assert [pid for pid in (worker.pid, *children(worker.pid)) if f"socket:[{inode[0]}]" in open_files(pid)] == [
        worker.pid
    ]


def test_between_two_questions_there_is_no_process(site: Site) -> None:
    worker, url = start(site)
    assert [ask(f"{url}/healthz")[0] for dummy in range(20)] == [200] * 20
    wait_for(lambda: children(worker.pid) == set())


def test_a_file_is_there_while_the_worker_is(site: Site, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "collector" / "hyper2kvm.prom"
    file.parent.mkdir()
    worker = site.start("--metrics-textfile", str(file))
    wait_for(lambda: file.exists() and "hyper2kvm_build_info" in file.read_text())
    assert file.stat().st_mode & 0o777 == 0o644 and [one.name for one in file.parent.iterdir()] == [file.name]
    worker.terminate()
    assert worker.wait() == 0 and not file.exists()


def test_metrics_that_cannot_be_told_are_an_error_in_words(site: Site, tmp_path: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert site.start("--metrics-port", port, ready=False).wait() == 2
        assert f"127.0.0.1, port {port}" in site.log()
    assert site.start("--metrics-textfile", str(tmp_path / "none" / "x.prom"), ready=False).wait() == 2
    assert f"cannot be written to {tmp_path}/none/x.prom" in site.log() and "Traceback" not in site.log()


def test_more_clients_than_are_answered_at_once_wait_their_turn(site: Site) -> None:
    worker, url = start(site)
    host, dummy, port = url.removeprefix("http://").partition(":")
    with contextlib.ExitStack() as silent:
        for dummy2 in range(12):
            silent.enter_context(socket.create_connection((host, int(port))))
        wait_for(lambda: len(children(worker.pid)) == 8)
        site.submit("a", stages="inspect", seconds="0.1")
        wait_for(lambda: site.phase("a") is Phase.COMPLETED)
        wait_for(lambda: len(children(worker.pid)) == 8)
    assert ask(f"{url}/metrics")[0] == 200


@pytest.mark.parametrize("lines", ["", "GET /metrics HTTP/1.1\r\nHost: x\r\n", "\0" * 4096])
def test_a_client_that_says_nothing_sensible_keeps_nobody_waiting(site: Site, lines: str) -> None:
    dummy, url = start(site)
    host, dummy2, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(lines.encode())
        assert ask(f"{url}/metrics")[0] == 200


def test_a_worker_that_is_not_asked_for_metrics_loads_nothing_for_them(site: Site) -> None:
    worker = site.start()
    assert children(worker.pid) == set()
