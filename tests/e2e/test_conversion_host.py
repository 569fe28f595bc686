# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A bare machine becomes a conversion host over SSH, and a VM is moved there: real systemd, sshd, worker and guest."""

from __future__ import annotations

import collections.abc as c
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import typing as t

import pytest

from tests.e2e import bare_machine
from tests.e2e.bare_machine import BareMachine
from tests.e2e.playbooks import CORE, Played, environment, install
from tests.guests import build
from tests.tools.machine import wait_for

ROLE = "hyper2kvm.core.conversion_host"
MIGRATE = "hyper2kvm.core.migrate"
_ANSIBLE = pathlib.Path(sys.executable).with_name("ansible-playbook")


@dataclasses.dataclass
class Site:
    """A controller with the collection, and one machine that it reaches by SSH."""

    folder: pathlib.Path
    collections: pathlib.Path
    machine: BareMachine

    def play(self, playbook: str, *arguments: str, **extra: t.Any) -> Played:
        """Run a playbook of the collection; ``extra`` are variables of the command line."""
        vms = {"web01": {"hyper2kvm_source_path": "web01.ova"}}
        inventory = {
            "conversion_hosts": {"hosts": {"conv1": self.machine.inventory()}},
            "vms": {"hosts": vms, "vars": {"hyper2kvm_conversion_host": "conv1", "hyper2kvm_verify_boot": False}},
        }
        path = self.folder / "inventory.json"
        path.write_text(json.dumps(inventory), encoding="utf-8")
        command = [_ANSIBLE, "-i", path, playbook, *arguments, "-e", json.dumps(extra)]
        settings = environment(
            ANSIBLE_COLLECTIONS_PATH=str(self.collections), ANSIBLE_SHOW_CUSTOM_STATS="true", LC_ALL="C.UTF-8"
        )
        done = subprocess.run(
            command,
            env=settings,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Played(done.returncode, done.stdout + done.stderr)

    def job(self, name: str) -> dict[str, t.Any]:
        """A job as the queue on the machine has it."""
        done = self.machine.inside("hyper2kvm-worker", "status", name, "--json")
        assert done.returncode == 0, done.stderr
        return t.cast("dict[str, t.Any]", json.loads(done.stdout))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> c.Iterator[Site]:
    """A bare machine, and a controller that has never seen it."""
    folder = tmp_path_factory.mktemp("site")
    collections = install(folder / "installed")
    with bare_machine.running(folder) as machine:
        yield Site(folder, collections, machine)


def _files(root: pathlib.Path) -> set[str]:
    """What lies below the folders that the role writes to."""
    places = ("etc", "opt", "usr/local", "var/lib/hyper2kvm", "usr/bin")
    return {str(path) for place in places for path in (root / place).rglob("*")}


def test_a_bare_machine_becomes_a_conversion_host_once(site: Site) -> None:
    root = site.machine.root
    before = _files(root)
    rehearsal = site.play(ROLE, "--check", "--diff")
    assert rehearsal.status == 0, rehearsal.output
    assert rehearsal.recap("conv1")["changed"] > 5
    assert _files(root) == before

    small = site.play(ROLE, hyper2kvm_scratch_free_gib=10**6)
    assert small.status == 2
    assert "Make room, give another hyper2kvm_scratch_dir" in small.output
    assert _files(root) == before

    first = site.play(ROLE)
    assert first.status == 0, first.output
    assert site.machine.inside("systemctl", "is-active", "hyper2kvm-worker").stdout == "active\n"
    assert site.machine.inside("systemctl", "is-enabled", "hyper2kvm-worker").stdout == "enabled\n"
    # Nothing waits on a port for the sake of the worker.
    assert site.machine.listening() == {22}
    worker = json.loads(site.machine.inside("hyper2kvm-worker", "workers", "--json").stdout)
    lacking = {name for name, one in worker["capabilities"].items() if not one["available"]}
    assert not lacking & {"root", "attach", "qemu-img", "boot-test", "partclone", "isal", "mtools", "fs-ext4"}, worker

    for arguments in ((), ("--check",)):
        again = site.play(ROLE, *arguments)
        assert again.status == 0, again.output
        assert again.recap("conv1")["changed"] == 0, again.output


def test_the_unit_is_one_that_systemd_understands(site: Site) -> None:
    done = site.machine.inside("systemd-analyze", "verify", "/etc/systemd/system/hyper2kvm-worker.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_vm_is_moved_there_and_the_controller_sees_it(site: Site) -> None:
    folder = site.machine.root / "var/lib/hyper2kvm"
    (folder / "input/web01.ova").write_bytes((build("tiny") / "tiny.ova").read_bytes())

    # Slow enough to be seen copying.
    limit = {"hyper2kvm_limits_bandwidth_bytes_per_second": 2 << 20}
    first = site.play(MIGRATE, hyper2kvm_progress_interval=1, **limit)
    assert first.status == 0, first.output
    assert "COMPLETED" in first.row("web01")
    assert first.recap("web01")["changed"] == 1
    assert "[web01] copy" in first.output  # progress, while it ran
    assert '"verdict": "not-verified"' in first.output  # handed on by set_stats
    result = json.loads((folder / "output/web01/result.json").read_text(encoding="utf-8"))
    assert result["verdict"] == "not-verified"
    assert (folder / "output/web01/web01.qcow2").stat().st_size > 1 << 20
    # The service did it, and not a worker that a module started.
    log = site.machine.inside("journalctl", "--unit", "hyper2kvm-worker", "--no-pager").stdout
    assert "job web01-convert: attempt 1" in log

    second = site.play(MIGRATE, **limit)
    assert second.status == 0, second.output
    assert second.recap("web01")["changed"] == 0
    assert [*_left(site)] == []


def test_a_restart_of_the_service_checkpoints_a_job_and_goes_on_with_it(site: Site) -> None:
    slow = {"hyper2kvm_name": "slow", "hyper2kvm_limits_bandwidth_bytes_per_second": 1 << 20}
    submitted = site.play(MIGRATE, "--tags", "submit", **slow)
    assert submitted.status == 0, submitted.output
    wait_for(lambda: site.job("slow-convert")["status"].get("stage") == "copy", 300)
    assert site.machine.inside("systemctl", "restart", "hyper2kvm-worker").returncode == 0
    wait_for(lambda: site.job("slow-convert")["status"]["phase"] == "COMPLETED", 300)
    status = site.job("slow-convert")["status"]
    # It counted as no failure, and what had been done was not done again.
    assert status["epoch"] == 2
    assert status.get("lastError") is None
    names = [stage["name"] for stage in status["stages"]]
    assert len(names) == len(set(names))
    log = site.machine.inside("journalctl", "--unit", "hyper2kvm-worker", "--no-pager").stdout
    dummy, begun, after = log.partition("job slow-convert: attempt 1")
    assert begun and "job slow-convert: suspend" in after
    # It was not systemd that ended the job's processes.
    assert "Killing process" not in after
    assert [*_left(site)] == []


@pytest.mark.long
def test_a_newer_collection_takes_the_place_of_the_older_one_under_a_job(site: Site) -> None:
    slow = {"hyper2kvm_name": "under", "hyper2kvm_limits_bandwidth_bytes_per_second": 1 << 20}
    submitted = site.play(MIGRATE, "--tags", "submit", **slow)
    assert submitted.status == 0, submitted.output
    wait_for(lambda: site.job("under-convert")["status"].get("stage") == "copy", 300)
    releases = site.machine.root / "opt/hyper2kvm/releases"
    (before,) = releases.glob("*.tar.gz")
    agent = site.collections / CORE / "plugins/module_utils/worker/agent.py"
    agent.write_text(agent.read_text(encoding="utf-8") + "\n# A change.\n", encoding="utf-8")
    pid = site.machine.inside("systemctl", "show", "--value", "--property=MainPID", "hyper2kvm-worker").stdout
    upgrade = site.play(ROLE)
    assert upgrade.status == 0, upgrade.output
    (after,) = releases.glob("*.tar.gz")
    assert after != before and len([*releases.iterdir()]) == 2
    now = site.machine.inside("systemctl", "show", "--value", "--property=MainPID", "hyper2kvm-worker").stdout
    assert now != pid
    wait_for(lambda: site.job("under-convert")["status"]["phase"] == "COMPLETED", 300)
    status = site.job("under-convert")["status"]
    assert (status["epoch"], status.get("lastError")) == (2, None)
    again = site.play(ROLE)
    assert again.recap("conv1")["changed"] == 0, again.output


@pytest.mark.long
def test_a_restart_that_a_failed_run_owes_is_made_by_the_next(site: Site) -> None:
    def pid() -> str:
        return site.machine.inside("systemctl", "show", "--value", "--property=MainPID", "hyper2kvm-worker").stdout

    agent = site.collections / CORE / "plugins/module_utils/worker/agent.py"
    agent.write_text(agent.read_text(encoding="utf-8") + "\n# Another change.\n", encoding="utf-8")
    before = pid()
    # After the collection comes the command, which cannot be replaced now.
    command = "/usr/local/bin/hyper2kvm-worker"
    assert site.machine.inside("mount", "--bind", command, command).returncode == 0
    failed = site.play(ROLE, hyper2kvm_input_root="/var/lib/hyper2kvm/elsewhere")
    assert site.machine.inside("umount", command).returncode == 0
    assert failed.status == 2 and "Install the command" in failed.output
    assert pid() == before
    assert site.play(ROLE).status == 0
    assert pid() != before
    after = pid()
    again = site.play(ROLE)
    assert again.recap("conv1")["changed"] == 0, again.output
    assert pid() == after


def test_who_is_not_root_is_told_so(site: Site) -> None:
    (site.machine.root / "home/admin/.ssh").mkdir(parents=True)
    site.machine.inside("useradd", "admin")
    key = (site.machine.root / "root/.ssh/authorized_keys").read_bytes()
    (site.machine.root / "home/admin/.ssh/authorized_keys").write_bytes(key)
    site.machine.inside("chown", "-R", "admin:", "/home/admin")
    played = site.play(ROLE, ansible_user="admin")
    assert played.status == 2
    assert "ansible_become true" in played.output


def _left(site: Site) -> c.Iterator[str]:
    """What the worker left on the machine: mounts in its namespaces, and loop devices on its files."""
    for line in site.machine.inside("cat", "/proc/1/mountinfo").stdout.splitlines():
        if "/var/lib/hyper2kvm" in line:
            yield line
    where = os.fsencode(site.machine.root / "var/lib/hyper2kvm")
    for entry in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        if where in entry.read_bytes() or b"/var/lib/hyper2kvm" in entry.read_bytes():
            yield str(entry)
