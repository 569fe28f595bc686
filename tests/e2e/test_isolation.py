# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest that tries to get out of the boot test's machine, with a real kernel and real programs.

The guest is the small one, on VMware's hardware, which it needs no fix for. It sets up the only network there is by
itself, talks to the host on it, and tells on its console what became of that.
"""

from __future__ import annotations

import collections.abc as c
import contextlib
import pathlib
import re
import socket
import threading
import typing as t

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.model import Nic
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest import commandline, confinement
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.run import BootTestRequest, boot_test

from tests.e2e.edited_guests import edited
from tests.e2e.migration import PATIENCE_SECONDS
from tests.guests import build
from tests.guests.specs import SPECS

pytestmark = pytest.mark.usefixtures("own_mounts")

MIB = 1024**2
#: The host as QEMU's user network shows it to a guest.
HOST = "10.0.2.2"
DONE = "that was all"

#: What the guest tries at its start. Addresses are QEMU's defaults, as whoever wants out would take them.
_ATTEMPTS = f"""
for card in /sys/class/net/e*; do card=${{card##*/}}; done
ip link set $card up
ip address add 10.0.2.15/24 dev $card
ip route replace default via {HOST}
tell() {{ name=$1; shift; "$@" > /dev/null 2>&1 && echo "TRIED $name yes" || echo "TRIED $name no"; }}
tell link ping -c 2 -W 5 {HOST}
tell outside ping -c 2 -W 5 192.0.2.1
echo knock | tell tcp timeout WAIT nc -w WAIT {HOST} PORT
echo "CLOCK $(date -u +%H:%M)"
echo "{DONE}"
"""


class Listener:
    """A TCP port of the host's, and how many came by."""

    def __init__(self) -> None:
        self.visits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, dummy = self._socket.accept()
            except OSError:  # closed
                return
            self.visits += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                connection.recv(100)  # What is closed unread is reset, and looks like a refusal.

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> c.Iterator[Listener]:
    with contextlib.closing(Listener()) as found:
        yield found


def _attempts(folder: pathlib.Path, port: int, wait: int) -> tuple[dict[str, str], str]:
    """Boot the guest that tries, each time ``wait`` seconds; what it could do, by name, and the hour that it saw."""
    overlay = folder / "curious.qcow2"
    with edited(build("tiny") / "disk.raw", overlay) as tree:
        tree.append("/etc/init.d/rcS", _ATTEMPTS.replace("PORT", str(port)).replace("WAIT", str(wait)).encode())
    result = boot_test(
        BootTestRequest(
            disks=[(overlay, "qcow2")],
            firmware="bios",
            nics=[Nic(mac=t.cast("str", SPECS["tiny"].mac))],
            memory_bytes=512 * MIB,
            cpus=1,
            timeout_seconds=PATIENCE_SECONDS,
            marker=DONE,
            workdir=folder,
            evidence=folder,
            bus="pvscsi",
        ),
        lambda message: None,
        lambda: False,
    )
    console = (folder / "console.log").read_text(encoding="utf-8", errors="replace")
    assert result.verdict == "booted", console[-3000:]
    return dict(re.findall(r"TRIED (\w+) (yes|no)", console)), re.findall(r"CLOCK (\S+)", console)[0]


def test_a_guest_has_a_link_and_no_way_out(tmp_path: pathlib.Path, listener: Listener) -> None:
    could, clock = _attempts(tmp_path, listener.port, 10)
    assert could == {"link": "yes", "outside": "no", "tcp": "no"}
    assert listener.visits == 0
    # Noon, whatever the host's clock says: what is planned for the night does not come due.
    assert re.fullmatch(r"12:\d\d", clock)


@pytest.mark.long
def test_the_same_guest_gets_out_where_it_is_not_held(
    tmp_path: pathlib.Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this the test before could pass for any other reason. QEMU's network and QEMU itself are held."""
    held, bounded = commandline._nics, confinement.bounded
    network = ["unshare", "--net", "--"]

    def with_network(command: list[str], limit: int) -> list[str]:
        return bounded(command[len(network) :] if command[: len(network)] == network else command, limit)

    monkeypatch.setattr(confinement, "bounded", with_network)
    monkeypatch.setattr(commandline, "_nics", lambda *a: [word.replace(",restrict=on", "") for word in held(*a)])
    could, dummy = _attempts(tmp_path, listener.port, 120)
    assert (could["link"], could["tcp"]) == ("yes", "yes")
    assert listener.visits > 0
