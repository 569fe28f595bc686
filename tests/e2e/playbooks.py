# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The collection as users install it, and runs of ansible-playbook with it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import typing as t

REPOSITORY = pathlib.Path(__file__).parents[2]
CORE = "ansible_collections/hyper2kvm/core"
_BIN = pathlib.Path(sys.executable).parent
_PRETENDED = f"""\
sys.path.insert(0, {str(REPOSITORY / "tests/e2e")!r})
import pretended_engine

sys.exit(pretended_engine.main())
"""


def install(folder: pathlib.Path) -> pathlib.Path:
    """Build the collection's tarball and install it; where to."""
    folder.mkdir(exist_ok=True)
    galaxy = [str(_BIN / "ansible-galaxy"), "collection"]
    _run([*galaxy, "build", "--output-path", folder, REPOSITORY])
    (tarball,) = folder.glob("*.tar.gz")
    _run([*galaxy, "install", "--offline", "--no-deps", "--collections-path", folder / "collections", tarball])
    return folder / "collections"


def pretend(collections: pathlib.Path) -> None:
    """Let the installed worker's engine only pretend; see :mod:`.pretended_engine`."""
    launcher = collections / CORE / "scripts/hyper2kvm-worker"
    head, found, dummy = launcher.read_text(encoding="utf-8").partition("from ansible_collections")
    assert found
    launcher.write_text(head + _PRETENDED, encoding="utf-8")


def _run(command: t.Sequence[str | pathlib.Path]) -> None:
    subprocess.run(command, check=True, capture_output=True, cwd="/", env=environment())


def environment(**variables: str) -> dict[str, str]:
    """The environment without what this user has set for Ansible."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}, **variables}


@dataclasses.dataclass
class Played:
    """What a run of ansible-playbook left."""

    status: int
    output: str

    def recap(self, host: str) -> dict[str, int]:
        """The numbers of a host's last line."""
        line = next(line for line in self.output.splitlines()[::-1] if re.match(rf"{re.escape(host)}\s+: ok=", line))
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}

    def row(self, host: str) -> str:
        """The host's row in the last table."""
        rows = [line for line in self.output.splitlines() if re.match(rf"{re.escape(host)}  ", line)]
        return next(line for line in rows[::-1] if ": ok=" not in line)


class Inventory:
    """VMs with a source each, and the folders of a conversion host."""

    def __init__(self, folder: pathlib.Path, collections: pathlib.Path) -> None:
        self.folder = folder
        self.collections = collections
        self.output = folder / "output"
        self.groups: dict[str, dict[str, dict[str, t.Any]]] = {}
        (folder / "input").mkdir()

    def add(
        self,
        *hosts: str,
        group: str = "vms",
        fail: str = "",
        seconds: float = 0.05,
        among: int = 0,
        **variables: t.Any,
    ) -> None:
        """Add VMs whose jobs do what :mod:`.pretended_engine` says."""
        for host in hosts:
            (self.folder / f"input/{host}.raw").write_bytes(host.encode().ljust(1 << 16, b"\0"))
            annotations = {"seconds": str(seconds), "among": str(among), **({"fail": fail} if fail else {})}
            self.groups.setdefault(group, {})[host] = {
                "hyper2kvm_source_path": f"{host}.raw",
                "hyper2kvm_annotations": annotations,
                **variables,
            }

    def play(self, playbook: str | pathlib.Path, *arguments: str, **extra: t.Any) -> Played:
        """Run a playbook; ``extra`` are variables of the command line."""
        roots = {"hyper2kvm_input_root": str(self.folder / "input"), "hyper2kvm_output_root": str(self.output)}
        inventory = {name: {"hosts": hosts, "vars": roots} for name, hosts in self.groups.items()}
        path = self.folder / "inventory.json"
        path.write_text(json.dumps(inventory), encoding="utf-8")
        command = [str(_BIN / "ansible-playbook"), "-i", str(path), str(playbook), *arguments]
        done = subprocess.run(
            [*command, "-e", json.dumps(extra)],
            env=environment(
                ANSIBLE_COLLECTIONS_PATH=str(self.collections), ANSIBLE_SHOW_CUSTOM_STATS="true", LC_ALL="C.UTF-8"
            ),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return Played(done.returncode, done.stdout + done.stderr)

    def trace(self) -> list[str]:
        """What the pretended engine did: ``<job> <begin|end>``."""
        try:
            return (self.output / ".trace").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def begun(self) -> list[str]:
        """Names of the jobs that were begun, in order."""
        return [line.split()[0] for line in self.trace() if line.endswith(" begin")]

    def most_at_once(self) -> int:
        """How many jobs ran at the same time at most."""
        running = most = 0
        for line in self.trace():
            running += 1 if line.endswith(" begin") else -1
            most = max(most, running)
        return most
