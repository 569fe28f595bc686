# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``python -m bench``: how long things take, as ratios against a peer in the same run."""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import tarfile
import tempfile
import time
import typing as t

from bench.copy import copy_ratios
from bench.playbook import overhead_per_vm
from tests.e2e.migration import GUESTS, ConversionHost, job
from tests.guests import build

ROUNDS = 3


def main() -> None:
    """Print one line a figure: what, the figure, its limit."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[*BENCHES, []], help="default: all")
    for name in parser.parse_args().only or BENCHES:
        BENCHES[name]()


def conversion() -> None:
    """A whole job, boot tests apart, against ``qemu-img convert`` of the same disk with the same options."""
    folder = build("debian12", GUESTS)
    peer: list[float] = []
    wall: list[float] = []
    early: list[float] = []
    with tempfile.TemporaryDirectory(dir=GUESTS) as scratch:
        vmdk = _unpacked(folder / "debian12.ova", pathlib.Path(scratch))
        for number in range(ROUNDS):
            # What others wrote is on the disk before either begins: qemu-img ends before its target is there.
            os.sync()
            peer.append(_timed(lambda: _qemu_img(vmdk, pathlib.Path(scratch) / "peer.qcow2")))
            place = pathlib.Path(scratch) / f"round{number}"
            place.mkdir()
            host = ConversionHost(place)
            host.add(folder / "debian12.ova", "web01.ova")
            os.sync()
            document = job("web01", "web01.ova", verify={"boot": False, "rehearse": "never"})
            # Timed from handing in to the end of the worker, so that queue and process starts count.
            wall.append(_timed(lambda host=host, document=document: host.run(document)))  # type: ignore[misc]
            done = host.job("web01")
            assert done["status"]["phase"] == "COMPLETED", done["status"].get("lastError")
            seconds = {stage["name"]: stage["seconds"] for stage in done["status"]["stages"]}
            early.append(seconds["inspect"] + seconds["plan"] + seconds["fix"])
            print(f"  round {number + 1}: qemu-img {peer[-1]:.1f} s, job {wall[-1]:.1f} s, stages {seconds}")
    ratio = statistics.median(wall) / statistics.median(peer)
    print(f"whole job ÷ qemu-img convert    {ratio:.2f}  (at most 1.15)")
    print(f"inspect + plan + fix            {statistics.median(early):.2f} s  (at most 3 s)")


def copy() -> None:
    """The copy of a streamOptimized VMDK alone, and with digests and commit, against ``qemu-img convert``."""
    with tempfile.TemporaryDirectory(dir=GUESTS) as scratch:
        ratios = copy_ratios(build("debian12", GUESTS) / "debian12.ova", pathlib.Path(scratch), ROUNDS)
    print(f"copy ÷ qemu-img convert         {ratios.copy:.2f}  (processor time {ratios.copy_processor:.2f})")
    print(f"copy, digests, commit ÷ convert {ratios.whole:.2f}  (processor time {ratios.whole_processor:.2f})")


def playbook() -> None:
    """What Ansible adds to each VM: (wall of the playbook - sum of the jobs' walls) ÷ 20, forks 1."""
    with tempfile.TemporaryDirectory(dir=GUESTS) as scratch:
        print(f"Ansible's overhead a VM         {overhead_per_vm(pathlib.Path(scratch)):.2f} s  (at most 3 s)")


BENCHES: dict[str, t.Callable[[], None]] = {"conversion": conversion, "copy": copy, "playbook": playbook}


def _timed(work: t.Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _unpacked(ova: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    with tarfile.open(ova) as archive:
        (member,) = [m for m in archive.getmembers() if m.name.endswith(".vmdk")]
        archive.extract(member, folder, filter="data")
    return folder / member.name


def _qemu_img(source: pathlib.Path, target: pathlib.Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", source, target], check=True)


if __name__ == "__main__":
    main()
