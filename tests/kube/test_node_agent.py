# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node agent at a real API server; the operator's part is done by hand."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess
import typing as t
import urllib.request

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.host import boottime, now
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.api import Changed
from ansible_collections.hyper2kvm.core.plugins.module_utils.backends.kube.resources import (
    LEASES,
    WORKERS,
    worker_lease,
)
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol import models, status
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.lifecycle import HELD, Actor, Phase
from ansible_collections.hyper2kvm.core.plugins.module_utils.telemetry.metrics.table import Teller, told_by
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.pipeline import STAGES

from tests import guests
from tests.e2e.test_secrets import GUEST, MARK, SECRETS, camel
from tests.guests.host import REPOSITORY
from tests.kube.api_server import ApiServer, serving
from tests.kube.node_site import ENGINE, NodeSite, alive, wait_for
from tests.kube.test_admission import HOME, token_of_worker

#: Short enough for a test, and long enough for a busy machine: jobs stop after two thirds.
SHORT_LEASE = ("--lease-seconds", "15")


@pytest.fixture
def site(tmp_path: pathlib.Path, api_server: ApiServer, namespace: str) -> t.Iterator[NodeSite]:
    """A node; at the end its processes are killed, and nothing of them may be left."""
    place = NodeSite(tmp_path / "node", api_server, namespace)
    yield place
    place.close()


@pytest.fixture
def own_site(tmp_path: pathlib.Path) -> t.Iterator[NodeSite]:
    """A node of an API server that no other test has left jobs on: an operator would give them to it."""
    with serving(tmp_path / "server") as server:
        server.kubectl("create", "namespace", "own")
        place = NodeSite(tmp_path / "node", server, "own")
        yield place
        place.close()


def test_a_guest_is_converted_from_folder_to_folder_of_its_namespace(site: NodeSite) -> None:
    shutil.copy(guests.build("tiny") / "tiny.ova", site.sources / "vm.ova")
    site.start("--output-storage", "output-of-this-node", program=ENGINE)
    site.submit(
        fields={
            "operation": models.Operation.CONVERT,
            "source": models.SourceSpec(path="vm.ova"),
            "verify": models.VerifySpec(boot=False, rehearse=models.RehearsePolicy.NEVER),
        }
    )
    # Another node had it before, and left something in the output that all share.
    site.assign(node="another-node")
    site.take_back()
    writer = (site.get().metadata.uid or "").partition("-")[0]
    left = site.targets / "web01" / f"web01.qcow2.{writer}.1.partial"
    left.parent.mkdir(parents=True)
    left.write_text("x")
    site.assign()
    done = site.wait_phase(Phase.COMPLETED, Phase.FAILED)
    assert not left.exists()
    assert done.phase is Phase.COMPLETED, done.last_error
    assert done.assigned_node is None
    assert done.claim is None
    assert [attempt.worker for attempt in done.attempts] == ["another-node", site.name]
    assert [stage.name for stage in done.stages] == [one.name for one in STAGES[models.Operation.CONVERT]]
    disk = next(one for one in done.artifacts if one.kind == "disk")
    assert (site.targets / disk.path).stat().st_size == disk.size_bytes
    told = site.worker()
    assert told is not None
    assert (told.output_storage, disk.storage) == ("output-of-this-node", "output-of-this-node")
    result = models.JobResult.model_validate(done.result)
    assert result.changes
    assert not any(change.diff for change in result.changes)
    # The whole is in the output.
    whole = models.JobResult.model_validate_json((site.targets / "web01" / "result.json").read_text())
    assert any(change.diff for change in whole.changes)
    wait_for(lambda: list(site.scratch.iterdir()) == [])


def test_no_secret_comes_out_of_a_node_or_a_cluster(own_site: NodeSite) -> None:
    site = own_site
    shutil.copy(guests.build("tiny") / "tiny.ova", site.sources / "vm.ova")
    folder = site.root / "secrets" / site.namespace / "vm"
    folder.mkdir(parents=True)
    for key, value in SECRETS.items():
        (folder / key).write_text(value, encoding="utf-8")
    operator = site.start_operator()
    pod = site.start("--secrets-root", str(site.root / "secrets"), "--metrics-port", "0", program=ENGINE)
    # The tiny guest has nothing that would run scripts.
    wished = {key: value for key, value in GUEST.items() if key != "firstboot"}
    fields = {
        "operation": models.Operation.CONVERT,
        "source": models.SourceSpec(path="vm.ova"),
        "guest": models.GuestSpec.model_validate(camel(wished)),
        "verify": models.VerifySpec(boot=False, rehearse=models.RehearsePolicy.NEVER),
    }
    site.submit(fields=fields)
    # Neither does an error tell one.
    (folder / "plain").write_text(f"no hash, but {MARK}", encoding="utf-8")
    user = {"name": "ops", "passwordHashFrom": {"name": "vm", "key": "plain"}}
    site.submit("wrong", fields={**fields, "guest": models.GuestSpec.model_validate({"users": [user]})})
    done = site.wait_phase(Phase.COMPLETED, Phase.FAILED)
    assert done.phase is Phase.COMPLETED, done.last_error
    wait_for(lambda: site.get("wrong").status.phase is Phase.FAILED)
    (url,) = re.findall(r"metrics: (http://\S+)", site.log())
    with urllib.request.urlopen(url, timeout=30) as answer:
        metrics = answer.read().decode()
    kinds = "migrationjobs,migrationworkers,events,leases"
    told = {
        "objects": site.server.kubectl("get", kinds, "--all-namespaces", "--output", "yaml"),
        "described": site.server.kubectl("describe", "migrationjobs", "--all-namespaces"),
        "worker": site.log(),
        "operator": (site.root / "operator.log").read_text(encoding="utf-8"),
        "metrics": metrics,
        "commands": "".join(
            pathlib.Path(f"/proc/{one}/cmdline").read_text() for one in (operator.pid, site.main(pod), site.agent(pod))
        ),
    }
    for path in (site.root / "state").rglob("*"):
        if path.is_file():
            told[str(path)] = path.read_bytes().decode("utf-8", "replace")
    assert "/etc/agent.conf" in told["objects"], "the change itself is told"
    assert [name for name, text in told.items() if MARK in text] == []


def test_a_node_tells_what_it_offers_and_has(site: NodeSite) -> None:
    pod = site.start("--slots", "3", "--label", "site=vienna", "--output-shared")
    told = site.worker()
    assert told is not None
    assert (told.name, told.host, told.slots, told.labels) == (site.name, site.name, 3, {"site": "vienna"})
    assert told.output_shared
    assert [(one.type, one.status) for one in told.conditions] == [("Ready", "True")]
    assert told.free_output_bytes > 0
    first = site.renewed()
    site.submit(seconds="600")
    site.assign()
    wait_for(lambda: (site.worker() or told).running == [f"{site.namespace}/web01"])
    wait_for(lambda: site.renewed() > first)
    health = subprocess.run([ENGINE, "health", "--state-dir", site.root / "state"], check=False, capture_output=True)
    assert health.returncode == 0
    site.delete()
    os.kill(site.main(pod), signal.SIGTERM)
    assert pod.wait(60) == 0
    told = site.worker()
    assert told is not None
    assert not told.schedulable


def test_a_node_tells_its_own_metrics_and_leaves_the_queues_to_the_operator(site: NodeSite) -> None:
    site.start("--metrics-port", "0")
    (url,) = re.findall(r"metrics: (http://\S+)/metrics", site.log())
    site.submit(seconds="0.1")
    site.assign()
    assert site.wait_phase(Phase.COMPLETED, Phase.FAILED).phase is Phase.COMPLETED
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert 'hyper2kvm_build_info{backend="kubernetes",component="worker"' in text
    assert 'hyper2kvm_stage_seconds_count{stage="inspect"} 1.0' in text
    told = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert {one.name for one in told_by(Teller.QUEUE)} & told == set()
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as answer:
        assert answer.status == 200


def test_what_a_node_lacks_is_told(site: NodeSite) -> None:
    shutil.rmtree(site.root / "input")
    pod = site.start(ready=False)
    assert pod.wait(60) == 2
    told = site.worker()
    assert told is not None
    assert not told.schedulable
    (ready,) = told.conditions
    assert (ready.type, ready.status, ready.reason) == ("Ready", "False", "RootMissing")
    assert str(site.root / "input") in ready.message


def test_a_workers_rights_are_enough_and_another_nodes_job_is_left_alone(site: NodeSite) -> None:
    site.server.install(REPOSITORY / "k8s" / "base")
    login = site.server.login_with(token_of_worker(site.server, site.name))
    site.account = {
        "K8S_AUTH_HOST": str(login.host),
        "K8S_AUTH_API_KEY": str(login.api_key),
        "K8S_AUTH_SSL_CA_CERT": str(login.ca_cert),
        "HYPER2KVM_NAMESPACE": HOME,
    }
    pod = site.start()
    site.submit(stages="copy", seconds="3")
    site.assign()
    site.wait_phase(Phase.RUNNING, Phase.PROGRESSING)
    site.wait_phase(Phase.COMPLETED)
    site.submit("taken", seconds="600", deaf="yes")
    site.assign("taken")
    wait_for(lambda: site.trace("taken"))
    pid = site.job_process(pod)
    assert os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat(f"/proc/{site.main(pod)}/ns/net").st_ino
    # Its next word is of an attempt that is over, and so is refused; the watch may tell it even sooner.
    site.take_back("taken")
    site.assign("taken", node="another-node")
    wait_for(lambda: not alive(pid))
    assert site.get("taken").status.assigned_node == "another-node"
    # They go with the rights by which they were written.
    assert site.owners(WORKERS, site.name) == [("ClusterRole", "hyper2kvm-worker")]
    assert site.owners(LEASES, worker_lease(site.name), HOME) == [("Role", "hyper2kvm-worker")]
    assert "Forbidden" not in site.log()
    assert "forbidden" not in site.log()


def test_progress_is_told_seldom_and_the_end_at_once(site: NodeSite) -> None:
    site.start()
    site.submit(stages="inspect,copy,verify", seconds="5")
    versions = site.watch()
    site.assign()
    running = site.wait_phase(Phase.RUNNING, Phase.PROGRESSING)
    assert running.assigned_node == site.name
    assert running.claim is not None
    done = site.wait_phase(Phase.COMPLETED)
    done_at = site.version()
    assert [stage.name for stage in done.stages] == ["inspect", "copy", "verify"]
    assert done.started_at is not None
    # Created, assigned, two words of progress in 15 s (four on a busy machine), and the end.
    assert 5 <= wait_for(lambda: len(versions()) if done_at in versions() else 0) <= 7


@pytest.mark.parametrize("error", ["transient", "environment"])
def test_a_failure_is_told_with_its_backoff_or_for_good(site: NodeSite, error: str) -> None:
    site.start()
    site.submit(stages="inspect,copy", fail=f"{error} 1 copy")
    site.assign()
    ended = site.wait_phase(Phase.QUEUED, Phase.FAILED)
    assert ended.last_error is not None
    assert ended.last_error.reason == "FakeFailure"
    assert [stage.name for stage in ended.stages] == ["inspect"]
    assert ended.assigned_node is None
    if error == "environment":
        assert ended.phase is Phase.FAILED
        return
    assert ended.not_before is not None
    site.assign()
    done = site.wait_phase(Phase.COMPLETED)
    assert [attempt.epoch for attempt in done.attempts] == [1, 2]
    # What was done was kept.
    assert [line for line in site.trace("web01") if "inspect" in line] == ["1 inspect begin", "1 inspect end"]


def test_a_cancel_ends_a_job_that_waits_here_and_one_that_runs(site: NodeSite) -> None:
    site.start("--slots", "1")
    site.submit("runs", seconds="600", deaf="yes", child="yes")
    site.assign("runs")
    wait_for(lambda: site.trace("runs"))
    site.submit("waits")
    site.assign("waits")
    site.wish("waits", cancel=True)
    assert site.wait_phase(Phase.CANCELLED, name="waits").assigned_node is None
    site.wish("runs", cancel=True)
    assert site.wait_phase(Phase.CANCELLED, name="runs").last_error is None
    assert site.trace("waits") == []
    wait_for(lambda: list(site.scratch.iterdir()) == [])


def test_a_suspended_job_goes_back_and_goes_on_where_it_was(site: NodeSite) -> None:
    site.start()
    site.submit(stages="inspect,copy", seconds="1")
    site.assign()
    wait_for(lambda: site.trace("web01")[-1:] == ["1 copy begin"])
    site.wish(suspend=True)
    waiting = site.wait_phase(Phase.QUEUED)
    assert waiting.assigned_node is None
    assert waiting.last_error is None
    assert waiting.not_before is None
    site.wish(suspend=False)
    site.assign()
    assert status.failures(site.wait_phase(Phase.COMPLETED)) == 0
    assert site.trace("web01")[-2:] == ["2 copy begin", "2 copy end"]


@pytest.mark.parametrize("deaf", [True, False])
def test_a_deleted_job_leaves_nothing(site: NodeSite, deaf: bool) -> None:
    pod = site.start()
    wishes = {"deaf": "yes"} if deaf else {}
    site.submit(seconds="600", child="yes", leave="yes", **wishes)
    site.assign()
    pid = site.job_process(pod)
    wait_for(lambda: list(site.scratch.glob("*/mnt")))
    site.delete()
    wait_for(lambda: not alive(pid))
    wait_for(lambda: list(site.scratch.iterdir()) == [])
    wait_for(lambda: [one for one in site.leftovers() if not one.startswith("process")] == [])
    # Only the stream of all jobs tells that there was one.
    assert {one.stem for one in (site.root / "state" / "events").iterdir()} == {"_all"}


def test_a_job_that_was_taken_back_is_stopped_and_its_late_word_refused(site: NodeSite) -> None:
    pod = site.start()
    site.submit(stages="inspect,copy", seconds="600", deaf="yes")
    site.assign()
    before = site.wait_phase(Phase.RUNNING, Phase.PROGRESSING)
    pid = site.job_process(pod)
    site.take_back()
    wait_for(lambda: not alive(pid))
    assert site.get().status.phase is Phase.QUEUED
    with pytest.raises(Changed):
        site.write("web01", before, status.advance(before, Phase.RUNNING, Actor.WORKER, now()))
    # Its work is kept until another node has it.
    assert list(site.scratch.iterdir())
    site.assign(node="another-node")
    wait_for(lambda: list(site.scratch.iterdir()) == [])
    assert site.get().status.assigned_node == "another-node"


def test_a_killed_job_process_is_a_failed_attempt(site: NodeSite) -> None:
    pod = site.start()
    site.submit(seconds="600")
    site.assign()
    pid = site.job_process(pod)
    wait_for(lambda: site.trace("web01"))
    os.kill(pid, signal.SIGKILL)
    ended = site.wait_phase(Phase.QUEUED)
    assert ended.last_error is not None
    assert ended.last_error.reason == "JobProcessDied"
    assert ended.not_before is not None


@pytest.mark.parametrize("victim", ["node agent", "agent"])
def test_whoever_is_killed_the_pod_ends_and_the_next_one_hands_back_and_goes_on(site: NodeSite, victim: str) -> None:
    pod = site.start()
    site.submit(stages="inspect,copy", seconds="1", child="yes", leave="yes")
    site.assign()
    wait_for(lambda: site.trace("web01")[-1:] == ["1 copy begin"])
    main, agent, pid = site.main(pod), site.agent(pod), site.job_process(pod)
    os.kill(main if victim == "node agent" else agent, signal.SIGKILL)
    pod.wait(60)
    wait_for(lambda: not any(alive(one) for one in (agent, pid)))
    assert site.get().status.phase in HELD
    site.start()
    lost = site.wait_phase(Phase.QUEUED)
    assert lost.last_error is not None
    assert lost.last_error.reason == status.WORKER_LOST
    assert status.failures(lost) == 0
    assert lost.not_before is None
    assert lost.assigned_node is None
    site.assign()
    site.wait_phase(Phase.COMPLETED)
    assert [line for line in site.trace("web01") if line.endswith("end")] == ["1 inspect end", "2 copy end"]
    # The pod is killed at the end, and what the first attempt left would stay.
    wait_for(lambda: list(site.scratch.iterdir()) == [])


def test_a_pod_that_is_told_to_end_hands_its_jobs_back(site: NodeSite) -> None:
    pod = site.start("--slots", "1")
    site.submit(stages="inspect,copy", seconds="5")
    site.assign()
    wait_for(lambda: site.trace("web01")[-1:] == ["1 copy begin"])
    # Not before: which of two jobs that a node learns of at once it begins first is not said.
    site.submit("next")
    site.assign("next")
    os.kill(site.main(pod), signal.SIGTERM)
    assert pod.wait(60) == 0
    told = site.worker()
    assert told is not None
    assert not told.schedulable
    for name in ("web01", "next"):
        back = site.get(name).status
        assert (back.phase, back.assigned_node, back.last_error) == (Phase.QUEUED, None, None)
        site.assign(name)
    site.start()
    for name in ("web01", "next"):
        site.wait_phase(Phase.COMPLETED, name=name)
    assert [line for line in site.trace("web01") if line.endswith("end")] == ["1 inspect end", "2 copy end"]


def test_half_a_minute_without_the_api_server_is_nothing(site: NodeSite) -> None:
    pod = site.start()
    site.submit(stages="copy", seconds="40")
    site.assign()
    wait_for(lambda: site.trace("web01"))
    pid = site.job_process(pod)
    last = site.renewed()
    wait_for(lambda: site.renewed() > last)
    site.server.stop()
    try:
        began = boottime()
        wait_for(lambda: boottime() > began + 30.0)
        assert alive(pid)
    finally:
        site.server.start()
    assert site.wait_phase(Phase.COMPLETED).epoch == 1
    assert site.trace("web01") == ["1 copy begin", "1 copy end"]


def test_without_the_api_server_for_too_long_a_job_stops_and_goes_on_later(site: NodeSite) -> None:
    pod = site.start(*SHORT_LEASE)
    site.submit(stages="inspect,copy", seconds="600", deaf="yes")
    site.assign()
    pid = site.job_process(pod)
    wait_for(lambda: site.trace("web01"))
    site.server.stop()
    try:
        # Nothing renews its lease any more.
        wait_for(lambda: not alive(pid))
        assert pod.poll() is None
    finally:
        site.server.start()
    back = site.wait_phase(Phase.QUEUED)
    assert (back.last_error, back.assigned_node) == (None, None)
    site.assign()
    wait_for(lambda: site.trace("web01")[-1:] == ["2 inspect begin"])


def test_an_agent_that_hangs_is_ended_with_its_jobs(site: NodeSite) -> None:
    pod = site.start(*SHORT_LEASE)
    site.submit(seconds="600", deaf="yes")
    site.assign()
    pid = site.job_process(pod)
    wait_for(lambda: site.trace("web01"))
    os.kill(site.agent(pod), signal.SIGSTOP)
    assert pod.wait(120) == 1
    assert not alive(pid)
    site.start(*SHORT_LEASE)
    lost = site.wait_phase(Phase.QUEUED).last_error
    assert lost is not None
    assert lost.reason == status.WORKER_LOST


def test_with_an_operator_jobs_go_on_by_themselves(own_site: NodeSite) -> None:
    own_site.start_operator()
    pod = own_site.start("--slots", "2")
    names = [f"job{number}" for number in range(5)]
    for name in names:
        own_site.submit(name, stages="inspect,copy", seconds="3")
    wait_for(lambda: any(own_site.trace(name)[-1:] == ["1 copy begin"] for name in names))
    os.kill(own_site.main(pod), signal.SIGKILL)
    pod.wait()
    own_site.start("--slots", "2")
    for name in names:
        done = own_site.wait_phase(Phase.COMPLETED, Phase.FAILED, name=name)
        assert done.phase is Phase.COMPLETED, done.last_error
        ends = [line.partition(" ")[2] for line in own_site.trace(name) if line.endswith("end")]
        # A stage may be done again only where the worker was killed between its end and its record.
        assert set(ends) == {"inspect end", "copy end"}
        assert len(ends) <= 1 + len(done.attempts)
    own_site.wish(names[0], priority=7)
    own_site.delete(names[0])
    own_site.submit("late", seconds="600")
    wait_for(lambda: own_site.trace("late"))
    own_site.wish("late", suspend=True)
    wait_for(lambda: [one.reason for one in own_site.get("late").status.waiting] == ["Suspended"])
    own_site.wish("late", cancel=True)
    assert own_site.wait_phase(Phase.CANCELLED, name="late").assigned_node is None


def test_a_node_agent_that_hangs_stops_the_jobs(site: NodeSite) -> None:
    pod = site.start(*SHORT_LEASE)
    site.submit(seconds="600", deaf="yes")
    site.assign()
    pid = site.job_process(pod)
    wait_for(lambda: site.trace("web01"))
    os.kill(site.main(pod), signal.SIGSTOP)
    began = boottime()
    wait_for(lambda: not alive(pid))
    assert boottime() - began < 15.0
    # In the meantime somebody else has it.
    site.take_back()
    site.assign(node="another-node")
    os.kill(site.main(pod), signal.SIGCONT)
    wait_for(lambda: list(site.scratch.iterdir()) == [])
    assert site.get().status.assigned_node == "another-node"
    assert site.get().status.phase is Phase.ASSIGNED
