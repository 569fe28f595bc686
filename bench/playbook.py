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
    """Seconds a VM that Ansible adds to inspect jobs, forks 1: as a user waits for them, and all of its own time.

    The first is (wall of the playbook - sum of the jobs' walls) ÷ VMs. A worker works while Ansible hands in the next
    job, so Ansible's own time is more. For the second the jobs are done beforehand, their worker is ended, and the
    playbook hands them in again and waits for them, in two runs: one that found them done would not wait. That counts
    Ansible's own start once too often.
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
    wall = timed(lambda: _play(inventory))
    worked = sum(host.result(f"{name}/inspect.json")["seconds"] for name in hosts)
    host.end_workers()
    submit, wait = (timed(lambda tags=tags: _play(inventory, "--tags", tags)) for tags in ("submit", "wait,report"))
    if host.command("workers", "--json"):
        raise RuntimeError("the playbook started a worker, which had nothing to do")
    print(f"  {VMS} VMs: wall {wall:.1f} s, jobs {worked:.1f} s; handing in {submit:.1f} s, waiting {wait:.1f} s")
    return [
        Figure("Ansible's overhead a VM", (wall - worked) / VMS, " s", limit=3),
        Figure("all of Ansible's own time a VM", (submit + wait) / VMS, " s"),
    ]


def _play(inventory: pathlib.Path, *arguments: str) -> None:
    """Look into all VMs of the inventory."""
    subprocess.run(
        [_ANSIBLE, "--forks", "1", "-i", inventory, *arguments, REPOSITORY / "playbooks/inspect.yml"],
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
    )
