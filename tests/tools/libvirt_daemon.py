# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real libvirtd with libvirt's own test hypervisor, whose VMs last as long as the daemon."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import time
import typing as t


class Libvirt:
    """Where it listens, and what runs there."""

    def __init__(self, socket: pathlib.Path) -> None:
        self.uri = f"test+unix:///default?socket={socket}"

    def virsh(self, *arguments: str) -> str:
        """Output of virsh."""
        done = subprocess.run(["virsh", "-c", self.uri, *arguments], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def state(self, name: str) -> str:
        """State of a VM; empty where it is not defined."""
        return self.virsh("domstate", name).strip() if name in self.virsh("list", "--all", "--name").split() else ""


@contextlib.contextmanager
def libvirt(folder: pathlib.Path) -> t.Iterator[Libvirt]:
    """Run it with its files in ``folder``, as a user without rights: root's would start all drivers of the system."""
    home = folder / "libvirt"
    home.mkdir()
    os.chown(home, 65534, 65534)
    # The user has to get there.
    for parent in home.parents:
        if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    homes = {name: str(home) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    socket = home / "libvirt/libvirt-sock"
    with (home / "log").open("w") as log:
        daemon = subprocess.Popen([*user, "/usr/sbin/libvirtd"], env={**os.environ, **homes}, stdout=log, stderr=log)
        try:
            while not socket.exists():
                assert daemon.poll() is None, (home / "log").read_text(encoding="utf-8")
                time.sleep(0.05)
            running = Libvirt(socket)
            # The hypervisor forgets its VMs with its last connection.
            holder = subprocess.Popen(["virsh", "-q", "-c", running.uri], stdin=subprocess.PIPE, stdout=log, stderr=log)
            try:
                while "test" not in running.virsh("list", "--name"):
                    assert daemon.poll() is None
                yield running
            finally:
                holder.communicate(b"quit\n")
        finally:
            daemon.terminate()
            daemon.wait()
