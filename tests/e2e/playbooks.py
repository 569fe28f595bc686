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

from tests.e2e.migration import PATIENCE_SECONDS, REPOSITORY, link_or_copy

CORE = "ansible_collections/hyper2kvm/core"
LOG = "ansible.log"
#: How a boot test that passed is told; how long it took depends on the machine.
BOOTED = r"booted in \d[\d.]* (?:s|min)"
_BIN = pathlib.Path(sys.executable).parent
_PRETENDED = f"""\
sys.path.insert(0, {str(REPOSITORY / "tests/e2e")!r})
import pretended_engine

sys.exit(pretended_engine.main())
"""


def install(folder: pathlib.Path) -> pathlib.Path:
    """Build the collection's tarball and install it by a requirements file, as people do; where to."""
    folder.mkdir(exist_ok=True)
    galaxy = str(_BIN / "ansible-galaxy")
    _run([galaxy, "collection", "build", "--output-path", folder, REPOSITORY])
    (tarball,) = folder.glob("*.tar.gz")
    # What it depends on is there, because no server is.
    there = folder / "collections/ansible_collections"
    there.mkdir(parents=True)
    (there / "kubernetes").symlink_to(REPOSITORY / ".collections/ansible_collections/kubernetes")
    requirements = folder / "requirements.yml"
    requirements.write_text(json.dumps({"collections": [{"name": str(tarball), "type": "file"}]}), encoding="utf-8")
    nowhere = "http://127.0.0.1:1"
    place = str(there.parent)
    _run([galaxy, "install", "-r", requirements], ANSIBLE_COLLECTIONS_PATH=place, ANSIBLE_GALAXY_SERVER=nowhere)
    return there.parent


def pretend(collections: pathlib.Path) -> None:
    """Let the installed worker's engine only pretend; see :mod:`.pretended_engine`."""
    launcher = collections / CORE / "scripts/hyper2kvm-worker"
    head, found, dummy = launcher.read_text(encoding="utf-8").partition("from ansible_collections")
    assert found
    launcher.write_text(head + _PRETENDED, encoding="utf-8")


def _run(command: t.Sequence[str | pathlib.Path], **variables: str) -> None:
    subprocess.run(command, check=True, capture_output=True, cwd="/", env=environment(**variables))


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


def ansible_playbook(
    *arguments: str | pathlib.Path,
    folder: pathlib.Path,
    log: t.IO[str],
    extra: dict[str, t.Any],
    settings: dict[str, str] | None = None,
) -> Played:
    """Run ``ansible-playbook`` in ``folder``, without a terminal.

    :param log: gets what it prints.
    :param extra: variables of the command line.
    :param settings: environment variables, besides what this user has set for others than Ansible.
    """
    done = subprocess.run(
        [_BIN / "ansible-playbook", *arguments, "-e", json.dumps(extra)],
        env=environment(**{"LC_ALL": "C.UTF-8", **(settings or {})}),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Played(done.returncode, pathlib.Path(log.name).read_text(encoding="utf-8"))


class Inventory:
    """VMs with a source each, and the folders of a conversion host."""

    def __init__(self, folder: pathlib.Path, collections: pathlib.Path) -> None:
        self.folder = folder
        self.collections = collections
        self.output = folder / "output"
        self.groups: dict[str, dict[str, dict[str, t.Any]]] = {}
        self._hidden: dict[str, str] = {}
        self._everywhere: dict[str, str] = {}
        (folder / "input").mkdir(exist_ok=True)

    def add(
        self,
        *hosts: str,
        group: str = "vms",
        fail: str = "",
        seconds: float = 0.05,
        held: bool = False,
        **variables: t.Any,
    ) -> None:
        """Add VMs whose jobs do what :mod:`.pretended_engine` says."""
        for host in hosts:
            (self.folder / f"input/{host}.raw").write_bytes(host.encode().ljust(1 << 16, b"\0"))
            annotations = {
                "seconds": str(seconds),
                **({"fail": fail} if fail else {}),
                **({"held": "yes"} if held else {}),
            }
            self.groups.setdefault(group, {})[host] = {
                "hyper2kvm_source_path": f"{host}.raw",
                "hyper2kvm_annotations": annotations,
                **variables,
            }

    def add_export(self, host: str, ova: pathlib.Path, **variables: t.Any) -> None:
        """Add a VM with a real export, which replaces an earlier one of the same host."""
        place = self.folder / f"input/{host}.ova"
        place.unlink(missing_ok=True)
        link_or_copy(ova, place)
        self.groups.setdefault("vms", {})[host] = {"hyper2kvm_source_path": place.name, **variables}

    def play(self, playbook: str | pathlib.Path, *arguments: str, **extra: t.Any) -> Played:
        """Run a playbook; ``extra`` are variables of the command line."""
        self._write()
        with (self.folder / LOG).open("w") as log:
            return ansible_playbook(
                *("-i", self._path, playbook, *arguments),
                folder=self.folder,
                extra={**self._everywhere, **extra},
                settings=self.environment,
                log=log,
            )

    def command(self, playbook: str, **extra: t.Any) -> list[str | pathlib.Path]:
        """Return the command that runs a playbook, for whoever runs it in a terminal, with :attr:`environment`."""
        self._write()
        return [_BIN / "ansible-playbook", "-i", self._path, playbook, "-e", json.dumps(extra)]

    @property
    def environment(self) -> dict[str, str]:
        """What Ansible's environment has to have."""
        return {
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            "LC_ALL": "C.UTF-8",
            **self._hidden,
        }

    def hide(self, library: str) -> None:
        """Let the controller lack a Python library, which the modules have: they may run elsewhere."""
        hidden = self.folder / "hidden"
        hidden.mkdir()
        (hidden / f"{library}.py").write_text(f"raise ModuleNotFoundError('{library} is hidden')\n", encoding="ascii")
        python = hidden / "python"
        python.write_text(f'#!/bin/sh\nexec env --unset=PYTHONPATH {sys.executable} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        self._hidden = {"PYTHONPATH": str(hidden)}
        # In the inventory it would not hold for the implicit localhost.
        self._everywhere = {"ansible_python_interpreter": str(python)}

    @property
    def _path(self) -> pathlib.Path:
        return self.folder / "inventory.json"

    def _write(self) -> None:
        shared = {
            "hyper2kvm_input_root": str(self.folder / "input"),
            "hyper2kvm_output_root": str(self.output),
            "hyper2kvm_verify_timeout_seconds": PATIENCE_SECONDS,
        }
        inventory = {name: {"hosts": hosts, "vars": shared} for name, hosts in self.groups.items()}
        self._path.write_text(json.dumps(inventory), encoding="utf-8")

    def release(self) -> None:
        """Let the jobs go on that are held."""
        (self.output / ".go").touch()

    def said(self) -> str:
        """What the running playbook has printed so far."""
        return (self.folder / LOG).read_text(encoding="utf-8") if (self.folder / LOG).exists() else ""

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
