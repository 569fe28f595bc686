# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tables at the end of a run, of jobs that were really done; and the command that they give."""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import typing as t

from ansible_collections.hyper2kvm.core.plugins.plugin_utils.report import outcome, report

from tests.e2e.migration import ConversionHost, job
from tests.guests import build

_BOOT_SECONDS = 600


def told(document: dict[str, t.Any]) -> list[str]:
    """The report on one VM."""
    found = outcome("vm", [{"changed": True, "job": document}], check=False)
    assert found is not None
    return report([found])


def test_an_inspection_tells_the_hardware(host: ConversionHost) -> None:
    host.add(build("tiny") / "tiny.ova", "vm.ova")
    host.run(job("vm-inspect", "vm.ova", "inspect"))
    done = host.job("vm-inspect")
    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    row = next(line for line in told(done) if line.startswith("vm "))
    hardware = done["status"]["result"]["hardware"]
    assert f"{hardware['memoryBytes'] / 1024**2:.1f} MiB" in row and " bios " in row
    assert row.endswith(str(len(hardware["nics"])))


def test_the_command_that_is_told_starts_the_vm(host: ConversionHost) -> None:
    host.add(build("tiny") / "tiny.ova", "vm.ova")
    host.run(job("vm", "vm.ova", verify={"boot": False}))
    done = host.job("vm")
    assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
    (line,) = (line for line in told(done) if "start it with QEMU alone" in line)
    command = shlex.split(line.partition("QEMU alone: ")[2])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        patience = threading.Timer(_BOOT_SECONDS, qemu.kill)
        patience.start()
        try:
            assert qemu.stdout is not None
            console = b""
            while b"login:" not in console and (output := os.read(qemu.stdout.fileno(), 65536)):
                console += output
        finally:
            patience.cancel()
            qemu.kill()
    assert b"login:" in console, console.decode(errors="replace")
