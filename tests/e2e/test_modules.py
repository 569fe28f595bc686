# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that work without a job, from the installed collection, on a real guest."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

from tests.e2e.migration import ConversionHost
from tests.e2e.playbooks import environment
from tests.guests import build
from tests.tools.machine import leftovers, sha256


def test_every_module_does_what_it_says_and_leaves_nothing(
    host: ConversionHost, installed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    ova = host.add(build("tiny") / "tiny.ova", "vm.ova")
    before = sha256(ova)
    roots = {"input_root": str(host.input), "output_root": str(host.output)}
    done = subprocess.run(
        [
            pathlib.Path(sys.executable).parent / "ansible-playbook",
            *("-e", json.dumps({"roots": roots})),
            pathlib.Path(__file__).with_name("modules.yml"),
        ],
        env=environment(ANSIBLE_COLLECTIONS_PATH=str(installed)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sha256(ova) == before
    assert leftovers(tmp_path) == []
    assert os.listdir(host.output / ".hyper2kvm/attachments") == []
