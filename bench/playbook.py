# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The time that Ansible adds to a job."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

from bench.figures import Figure, timed
from tests.e2e.migration import REPOSITORY, ConversionHost
from tests.guests import build

VMS = 20
_ANSIBLE = pathlib.Path(sys.executable).with_name("ansible-playbook")


def overhead(folder: pathlib.Path) -> list[Figure]:
    """Seconds a VM that a playbook takes where nobody works meanwhile, over inspect jobs with forks 1.

    Work that a worker does while Ansible hands in the next job cannot be told apart from Ansible's own time. So the
    jobs are done beforehand, their worker is ended, and the playbook hands them in again and waits for them, in two
    runs: one that found them done would not wait. That counts Ansible's own start once too often.
    """
    host = ConversionHost(folder)
    ova = build("tiny") / "tiny.ova"
    hosts = {}
    for number in range(VMS):
        host.add(ova, f"vm{number:02}.ova")
        hosts[f"vm{number:02}"] = {"hyper2kvm_source_path": f"vm{number:02}.ova"}
    roots = {"hyper2kvm_input_root": str(host.input), "hyper2kvm_output_root": str(host.output)}
    inventory = folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": roots}}), encoding="utf-8")
    _play(inventory)
    host.end_workers()
    submit, wait = (timed(lambda tags=tags: _play(inventory, "--tags", tags)) for tags in ("submit", "wait,report"))
    if host.command("workers", "--json"):
        raise RuntimeError("the playbook started a worker, which had nothing to do")
    print(f"  {VMS} VMs: handing in {submit:.1f} s, waiting and reporting {wait:.1f} s")
    return [Figure("Ansible's overhead a VM", (submit + wait) / VMS, " s", limit=3)]


def _play(inventory: pathlib.Path, *arguments: str) -> None:
    """Look into all VMs of the inventory."""
    subprocess.run(
        [_ANSIBLE, "--forks", "1", "-i", inventory, *arguments, REPOSITORY / "playbooks/inspect.yml"],
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
    )
