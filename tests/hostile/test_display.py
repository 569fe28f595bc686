# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A whole job on a guest whose every name steers a terminal: what people are shown steers none."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.e2e.migration import REPOSITORY, ConversionHost, job
from tests.hostile.canary import Canary
from tests.hostile.test_guests import TRAPS, filesystem, texts
from tests.tools.machine import leftovers
from tests.unit.plugins.module_utils.guests.phony import debian


def harmless(text: str) -> bool:
    return text.replace("\n", "").replace("\t", "").isprintable()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["names_that_steer_a_terminal", "mounts_that_lead_out", "a_boot_folder_in_a_circle"])
def test_what_people_are_shown(name: str, tmp_path: pathlib.Path, canary: Canary) -> None:
    guest = debian(tmp_path / "guest")
    (guest.folder / "srv").mkdir()
    TRAPS[name].spring(guest, canary)
    host = ConversionHost(tmp_path)
    filesystem(host.input / "evil.raw", guest.folder, "root")
    document = tmp_path / "job.json"
    document.write_text(json.dumps(job("evil", "evil.raw", "plan")))
    host.command("submit", document)

    environment = {
        **os.environ,
        "HYPER2KVM_INPUT_ROOT": str(host.input),
        "HYPER2KVM_OUTPUT_ROOT": str(host.output),
    }
    worker = [sys.executable, REPOSITORY / "scripts/hyper2kvm-worker", "run", "--once"]
    run = subprocess.run(worker, env=environment, capture_output=True, text=True, check=False)

    phase = host.job("evil")["status"]["phase"]
    assert phase == ("FAILED" if TRAPS[name].reasons else "COMPLETED"), run.stderr
    shown = [
        run.stdout,
        run.stderr,
        host.command("status"),
        host.command("status", "evil"),
        host.command("events", "--job", "evil"),
    ]
    for text in shown:
        assert harmless(text), repr(text)
    for text in texts(host.job("evil")):
        assert harmless(text), repr(text)
    assert leftovers(host.output.parent) == []
