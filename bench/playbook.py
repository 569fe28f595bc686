# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The time that Ansible adds to a job."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import time

from bench.figures import Figure
from tests.e2e.migration import GUESTS, REPOSITORY, ConversionHost
from tests.guests import build

VMS = 20


def overhead(folder: pathlib.Path) -> list[Figure]:
    """Seconds a VM: (wall of the playbook - sum of the jobs' walls) ÷ VMs, over inspect jobs with forks 1."""
    host = ConversionHost(folder)
    ova = build("tiny", GUESTS) / "tiny.ova"
    for number in range(VMS):
        host.add(ova, f"vm{number:02}.ova")
    inventory = folder / "inventory.json"
    inventory.write_text(
        json.dumps(
            {
                "all": {
                    "hosts": {f"vm{n:02}": {"hyper2kvm_source_path": f"vm{n:02}.ova"} for n in range(VMS)},
                    "vars": {
                        "hyper2kvm_input_root": str(host.input),
                        "hyper2kvm_output_root": str(host.output),
                    },
                }
            }
        ),
        encoding="utf-8",
    )
    began = time.monotonic()
    subprocess.run(
        ["ansible-playbook", "--forks", "1", "-i", inventory, REPOSITORY / "playbooks/inspect.yml"],
        check=True,
        cwd=REPOSITORY,
        env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg")},
        stdout=subprocess.DEVNULL,
    )
    wall = time.monotonic() - began
    results = [host.result(f"vm{number:02}/inspect.json") for number in range(VMS)]
    seconds = (wall - sum(result["seconds"] for result in results)) / VMS
    return [Figure("Ansible's overhead a VM", seconds, " s", limit=3)]
