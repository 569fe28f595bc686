# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a tool, a job's process and a boot test's QEMU could do if a hostile input took them over: little."""

from __future__ import annotations

import os
import pathlib
import re
import resource
import socket
import subprocess
import threading
import time
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks import command, nbd, storage_daemon
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.paths import confine
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import confinement, layerserver
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import job_process, kernel
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.context import Roots

pytestmark = pytest.mark.timeout(120)
OPEN_FILES = {1, 2}  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
SYS_ADMIN = 21


def capabilities(status: str, kind: str) -> set[int]:
    """The capabilities in a text of /proc/<pid>/status."""
    found = re.search(rf"{kind}:\s*([0-9a-f]+)", status)
    assert found is not None
    return {bit for bit in range(64) if int(found[1], 16) >> bit & 1}


def status_of(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/status").read_text()


# -- tools -------------------------------------------------------------------------------------------------------------


def test_a_tool_holds_what_opening_files_takes_and_no_more() -> None:
    status = command.run_command(["cat", "/proc/self/status"], what="test").decode()
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert capabilities(status, kind) == OPEN_FILES
    assert not capabilities(status, "CapInh") and not capabilities(status, "CapAmb")
    assert "NoNewPrivs:\t1" in status


def test_a_tool_has_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}/x", f"nbd://127.0.0.1:{port}/x"):
            with pytest.raises(JobError, match=r"(?i)unreachable|not found|unknown protocol|refused"):
                command.run_command(["qemu-img", "info", url], what="test")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_tool_has_little_memory_and_leaves_no_core() -> None:
    limits = command.run_command(["cat", "/proc/self/limits"], what="test").decode()
    assert re.search(rf"Max data size\s+{3 * 1024**3}\s+{3 * 1024**3}", limits)
    assert re.search(r"Max core file size\s+0\s+0", limits)
    with pytest.raises(JobError, match="failed"):
        command.run_command(["python3", "-c", "x = bytearray(4 * 1024**3)"], what="test")


def test_a_tool_that_talks_without_end_is_ended() -> None:
    for stream in ("", ">&2"):
        with pytest.raises(JobError) as caught:
            command.run_command(["sh", "-c", f"yes {stream}"], what="test")
        assert caught.value.reason == "TooMuchOutput"


def test_a_tool_that_hangs_is_ended() -> None:
    with pytest.raises(JobError) as caught:
        command.run_command(["sleep", "1000"], what="test", timeout=0.5)
    assert caught.value.reason == "Timeout"
    with pytest.raises(JobError) as caught:
        command.run_command(["sleep", "1000"], what="test", cancelled=lambda: True)
    assert caught.value.reason == "Cancelled"


def test_what_a_tool_says_cannot_steer_a_terminal() -> None:
    with pytest.raises(JobError) as caught:
        command.run_command(["sh", "-c", r"printf '\033]0;owned\007\033[2J' >&2; false"], what="test")
    assert str(caught.value).isprintable()


def test_a_tool_dies_with_its_thread() -> None:
    found: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        found.append(subprocess.Popen(command.confined(["sleep", "1000"])))
        while "sleep" not in status_of(found[0].pid):
            time.sleep(0.01)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found[0].wait(120) == -9


def test_the_storage_daemon_may_mount_and_open_files() -> None:
    daemon = storage_daemon.StorageDaemon()
    try:
        pid = daemon._process.pid
        assert capabilities(status_of(pid), "CapBnd") == OPEN_FILES | {SYS_ADMIN}
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
        assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        with pytest.raises(JobError):
            daemon.command("blockdev-add", driver="nbd", server={"type": "inet", "host": "127.0.0.1", "port": "1"})
    finally:
        daemon.kill()


def test_nbd_servers_are_confined() -> None:
    line = command.confined(["qemu-nbd", "--version"], capabilities=nbd._CAPABILITIES)
    assert "--bounding-set=-all,+dac_override,+dac_read_search,+sys_admin" in line


# -- boot tests --------------------------------------------------------------------------------------------------------


def test_the_boot_tests_disks_are_served_without_privileges() -> None:
    line = layerserver._command([layerserver.Layer("x", pathlib.Path("/x"), "raw")], 3)
    probe = [*line[: line.index("--nbd-server") - 1], "cat", "/proc/self/status"]
    status = subprocess.run(probe, capture_output=True, text=True, check=True).stdout
    assert capabilities(status, "CapEff") == OPEN_FILES


def test_the_boot_tests_machine_is_nobody_without_a_network() -> None:
    script = "cat /proc/self/status /proc/net/dev; id -u"
    line = confinement.confined(["sh", "-c", script], 1024)
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    for kind in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
        assert not capabilities(said, kind)
    assert "NoNewPrivs:\t1" in said
    assert said.splitlines()[-1] != "0"
    assert re.findall(r"^\s*(\w+):.*(?<= )0 *$", said.split("Inter-")[1], re.MULTILINE) == ["lo"]
    assert "-sandbox" in confinement.BASE_ARGUMENTS


# -- jobs --------------------------------------------------------------------------------------------------------------


def in_own_mounts(work: t.Callable[[], None]) -> int:
    """Run ``work`` in the first process of new namespaces, as a job is; return its exit status."""
    pid = kernel.fork_into_pid_namespace()
    if pid == 0:
        status = 1
        try:
            kernel.own_mounts()
            work()
            status = 0
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def roots(tmp_path: pathlib.Path) -> Roots:
    for name in ("input", "output", "scratch"):
        (tmp_path / name).mkdir()
    (tmp_path / "input/disk.raw").write_bytes(b"source")
    return Roots(tmp_path / "input", tmp_path / "output", tmp_path / "scratch")


def test_a_job_cannot_write_to_its_sources(roots: Roots) -> None:
    def work() -> None:
        job_process._guard(roots)
        with pytest.raises(OSError, match="Read-only"):
            (roots.input / "disk.raw").write_bytes(b"x")
        with pytest.raises(OSError, match="Read-only"):
            (roots.input / "new").mkdir()
        (roots.output / "target").write_bytes(b"x")

    assert in_own_mounts(work) == 0
    assert (roots.input / "disk.raw").read_bytes() == b"source"
    (roots.input / "outside").write_bytes(b"others may")


def test_a_link_that_is_swapped_in_leads_nowhere(roots: Roots, tmp_path: pathlib.Path) -> None:
    """Between the check of a name and QEMU's opening of it, somebody puts a link to another file in its way."""
    secret = tmp_path / "elsewhere"
    secret.mkdir()
    (secret / "disk.raw").write_bytes(b"secret")
    (roots.input / "vm").mkdir()
    (roots.input / "vm/disk.raw").write_bytes(b"source")

    def work() -> None:
        job_process._guard(roots)
        path = confine(roots.input, "vm/disk.raw", "x")
        assert path.read_bytes() == b"source"
        os.write(asked, b"s")
        os.read(answered, 1)
        for use in (path.read_bytes, lambda: command.run_command(["cat", path], what="test")):
            with pytest.raises((OSError, JobError), match="symbolic links"):
                use()

    answered, answer = os.pipe()
    asking, asked = os.pipe()

    def swap() -> None:
        os.read(asking, 1)
        (roots.input / "vm").rename(roots.input / "away")
        (roots.input / "vm").symlink_to(secret)
        os.write(answer, b"d")

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    assert in_own_mounts(work) == 0
    thread.join(120)


def test_roots_within_each_other_stay_usable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "output").mkdir()

    def work() -> None:
        job_process._guard(Roots(tmp_path, tmp_path / "output", tmp_path / "output"))
        (tmp_path / "output/target").write_bytes(b"x")

    assert in_own_mounts(work) == 0


def test_a_jobs_memory_is_bounded_and_its_machines_is_not(roots: Roots) -> None:
    def work() -> None:
        job_process._guard(roots)
        with pytest.raises(MemoryError):
            bytearray(3 * 1024**3)
        line = confinement.bounded(["cat", "/proc/self/limits"], 1024)
        assert re.search(r"Max data size\s+unlimited", subprocess.check_output(line, text=True))

    if resource.getrlimit(resource.RLIMIT_DATA)[1] == resource.RLIM_INFINITY:
        assert in_own_mounts(work) == 0
