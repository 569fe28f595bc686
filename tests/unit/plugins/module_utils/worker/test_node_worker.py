# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The node's worker as a child: what it is kept from, and that there is one."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.protocol.errors import JobError
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker import kernel, node_worker

from tests.tools.machine import alive, wait_for


def in_child(work: t.Callable[[], bool]) -> bool:
    """Whether ``work`` is true in a process of its own."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("mounted", [True, False])
def test_a_nodes_worker_has_neither_network_nor_login(tmp_path: pathlib.Path, mounted: bool) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()

    def work() -> bool:
        os.environ["K8S_AUTH_API_KEY"] = "secret"
        kernel.private_mounts()
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "none", account], check=True)
            (account / "token").write_text("secret")
        node_worker.cut_off(account)
        cards = [name for dummy, name in socket.if_nameindex()]
        return list(account.iterdir()) == [] and cards == ["lo"] and "K8S_AUTH_API_KEY" not in os.environ

    assert in_child(work)


def test_a_state_folder_has_one_node_agent_even_if_only_its_children_live(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        node_worker.lock(tmp_path)
        child = os.fork()
        if child:
            os.write(begun, str(child).encode())
            os._exit(0)
        signal.pause()
    child = int(os.read(ready, 32))
    os.waitpid(pid, 0)
    monkeypatch.setattr(node_worker, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(JobError) as caught:
        node_worker.lock(tmp_path)
    assert caught.value.reason == "StateInUse"
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: not alive(child))
    os.close(node_worker.lock(tmp_path))
    for end in (ready, begun):
        os.close(end)
