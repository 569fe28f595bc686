# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Debian machine as its installer left it: systemd, sshd and Python, in namespaces of its own.

It has a root of its own, processes, mounts and a network of its own in which there is nobody but itself; who wants to
reach its sshd takes the program ``relay`` in its folder as ssh's ProxyCommand. Packages and wheels that are to be
installed there lie on its disk, so that no registry is asked twice.

``python -m tests.e2e.bare_machine up FOLDER`` makes one that runs until ``… down FOLDER``.
"""

from __future__ import annotations

import argparse
import collections.abc as c
import contextlib
import hashlib
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time

import yaml

from tests.guests import kept
from tests.guests.host import REPOSITORY, BuildError, run, run_privately

_RELEASE = "bookworm"
_PYTHON = "3.11"
_INSTALLED = ("systemd-sysv", "openssh-server", "python3")
#: What Ansible's module for apt installs for itself.
_FOR_ANSIBLE = ("python3-apt",)
#: When all of it was last drawn from the archives: a new value draws it anew.
_DRAWN = "2026-11"
_ROLE = REPOSITORY / "roles/conversion_host"
_SHELF = "srv/shelf"
#: In a machine's folder, beside its root: the key to it, its first process's number, and the way to its sshd.
_KEY, _INIT, _RELAY = "key", "init", "relay"
_RELAYING = """\
#!/bin/bash
# For ssh's ProxyCommand: from and to port 22 in the machine's network.
exec nsenter --target {init} --net bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; cat <&3 & cat >&3'
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
#: Units that would reach for what belongs to the host: its consoles, devices and kernel.
_MASKED = (
    *("console-getty.service", "getty@.service", "systemd-logind.service", "systemd-udevd.service"),
    *("systemd-tmpfiles-setup-dev.service", "systemd-modules-load.service", "kmod-static-nodes.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer"),
)
#: Devices are copies: what a machine's systemd does to its console must not happen to the host's ``/dev/null``.
_ENTER = """\
set -e
ip link set lo up
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs dev
for file in null zero full random urandom tty fuse loop-control kvm; do
    [ ! -e /dev/$file ] || cp -a /dev/$file dev/
done
for number in $(seq 0 63); do mknod dev/loop$number b 7 $number; done
mknod dev/console c 1 3
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=0755 tmpfs run
mkdir .old
pivot_root . .old
umount --lazy /.old
rmdir /.old
exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
"""


def packages() -> list[str]:
    """What the role installs on Debian."""
    known = yaml.safe_load((_ROLE / "vars/main.yml").read_text(encoding="utf-8"))
    found: list[str] = known["hyper2kvm_conversion_host_platforms"]["Debian"]["packages"]
    return found


def material() -> pathlib.Path:
    """The folder with the bare machine's ``tree.tar`` and with ``shelf``: packages and wheels to install there."""
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    made_of = {
        "release": _RELEASE,
        "installed": _INSTALLED,
        "packages": [*packages(), *_FOR_ANSIBLE],
        "requirements": requirements,
        "drawn": _DRAWN,
    }

    def produce(folder: pathlib.Path) -> None:
        folder.chmod(0o755)
        run_privately("tests.e2e.bare_machine", "draw", str(folder))

    return kept("bare-machine", made_of, produce)


def draw(folder: pathlib.Path) -> None:
    """Fetch everything from the archives into ``folder``.

    :raises BuildError: an archive cannot be reached.
    """
    shelf = folder / "shelf"
    shelf.mkdir()
    os.environ["TMPDIR"] = str(folder)
    fetch = f"apt-get install --yes --download-only --no-install-recommends {' '.join([*packages(), *_FOR_ANSIBLE])}"
    copy = f'cp "$1"/var/cache/apt/archives/*.deb {shelf}/'
    hooks = [f'--customize-hook=chroot "$1" {fetch}', f"--customize-hook={copy}"]
    include = f"--include={','.join(_INSTALLED)}"
    run(["mmdebstrap", "--mode=root", "--variant=minbase", include, *hooks, _RELEASE, folder / "tree.tar"])
    # A repository of apt is the packages' own words about themselves, and where they are.
    index = []
    for path in sorted(shelf.glob("*.deb")):
        fields = run(["dpkg-deb", "--field", path]).rstrip()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        index.append(f"{fields}\nFilename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n")
    (shelf / "Packages").write_text("\n".join(index), encoding="utf-8")
    target = ["--only-binary=:all:", "--python-version", _PYTHON, "--dest", shelf]
    run([sys.executable, "-m", "pip", "download", *target, "--requirement", REPOSITORY / "requirements.txt"])


class BareMachine:
    """A machine that is running."""

    def __init__(self, root: pathlib.Path, init: int, key: pathlib.Path) -> None:
        self.root = root
        self.key = key
        self._init = init

    def inside(self, *command: str, spaces: str = "--all") -> subprocess.CompletedProcess[str]:
        """Run one of its programs."""
        entered = ["nsenter", "--target", str(self._init), spaces, "env", "-i", f"PATH={_PATH}", *command]
        return subprocess.run(entered, capture_output=True, text=True, check=False, timeout=300)

    def inventory(self) -> dict[str, str]:
        """What an inventory says of it."""
        known = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o IdentitiesOnly=yes"
        options = f"-o ProxyCommand={self.key.with_name(_RELAY)} {known}"
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": options,
            # Where OpenSSH puts its control socket: a test's folder is too long a name for that.
            "ansible_control_path": str(self.key.parent / "%%C"),
        }

    def listening(self) -> set[int]:
        """The TCP and UDP ports of its network on which somebody waits."""
        found = set()
        for kind, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
            for line in self.inside("cat", f"/proc/net/{kind}").stdout.splitlines()[1:]:
                fields = line.split()
                if fields[3] == state:
                    found.add(int(fields[1].rpartition(":")[2], 16))
        return found


@contextlib.contextmanager
def running(folder: pathlib.Path) -> c.Iterator[BareMachine]:
    """A bare machine below ``folder``; when it ends, all its processes and mounts end with it."""
    _furnish(folder)
    outer = _start(folder, "setpriv", "--pdeathsig", "KILL")
    try:
        yield _ready(folder, outer)
    finally:
        # The kernel ends a namespace's processes with its first one, and the mounts with the last of them.
        with contextlib.suppress(ProcessLookupError):
            os.kill(_child(outer), signal.SIGKILL)
        outer.wait()


def up(folder: pathlib.Path) -> None:
    """Make a bare machine below ``folder`` that outlives this process."""
    folder.mkdir()
    _furnish(folder)
    _ready(folder, _start(folder))


def down(folder: pathlib.Path) -> None:
    """End the machine below ``folder``, where one runs, and remove the folder."""
    try:
        init = int((folder / _INIT).read_text(encoding="ascii"))
        # A number says little: it may have become another process's.
        ours = os.path.samefile(f"/proc/{init}/root", folder / "root")
    except FileNotFoundError:
        ours = False
    if ours:
        watched = os.pidfd_open(init)
        try:
            os.kill(init, signal.SIGKILL)
            # The kernel ends the first process last.
            assert select.select([watched], [], [], 120)[0], f"process {init} does not end"
        finally:
            os.close(watched)
    if folder.exists():
        shutil.rmtree(folder)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _furnish(folder: pathlib.Path) -> None:
    """Lay its disk out, and the key to it."""
    made = material()
    root = folder / "root"
    root.mkdir()
    run(["tar", "--extract", "--file", made / "tree.tar", "--directory", root])
    shutil.copytree(made / "shelf", root / _SHELF, copy_function=_linked)
    for path, text in {
        "etc/apt/sources.list": f"deb [trusted=yes] file:/{_SHELF} ./\n",
        "etc/pip.conf": f"[global]\nno-index = true\nfind-links = /{_SHELF}\n",
        "etc/hostname": "conv1\n",
        "etc/machine-id": "",
        # Nothing here has to survive the loss of power.
        "etc/dpkg/dpkg.cfg.d/quick": "force-unsafe-io\n",
        "etc/ssh/sshd_config.d/test.conf": "ListenAddress 127.0.0.1\n",
    }.items():
        (root / path).write_text(text, encoding="utf-8")
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")

    key = folder / _KEY
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_bytes(key.with_suffix(".pub").read_bytes())


def _start(folder: pathlib.Path, *before: str) -> subprocess.Popen[bytes]:
    """Start its systemd; ``before`` is put before the command."""
    spaces = ["--net", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--propagation", "private"]
    command = [*before, "unshare", *spaces, "--fork", "--kill-child", "sh", "-c", _ENTER, "enter", str(folder / "root")]
    with open(folder / "machine.log", "wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _child(outer: subprocess.Popen[bytes]) -> int:
    """The first process of the namespaces that ``unshare`` made."""
    deadline = time.monotonic() + 120
    while outer.poll() is None:
        children = pathlib.Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text(encoding="ascii").split()
        if children:
            return int(children[0])
        assert time.monotonic() < deadline, "the machine has no process"
        time.sleep(0.01)
    raise ProcessLookupError("the machine ended at once")


def _ready(folder: pathlib.Path, outer: subprocess.Popen[bytes]) -> BareMachine:
    """Wait until its sshd listens, and make the way there."""
    init = _child(outer)
    machine = BareMachine(folder / "root", init, folder / _KEY)
    deadline = time.monotonic() + 120
    while 22 not in machine.listening():
        assert time.monotonic() < deadline, "its sshd does not listen"
        time.sleep(0.1)
    (folder / _INIT).write_text(str(init), encoding="ascii")
    relay = folder / _RELAY
    relay.write_text(_RELAYING.format(init=init), encoding="ascii")
    relay.chmod(0o755)
    return machine


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.bare_machine", description=__doc__.splitlines()[0])
    actions = {"up": up, "down": down, "draw": draw}
    parser.add_argument("action", choices=actions, help="draw, in namespaces of one's own, is for this program itself")
    parser.add_argument("folder", type=lambda text: pathlib.Path(text).absolute())
    options = parser.parse_args()
    try:
        actions[options.action](options.folder)
    except BuildError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
