# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Attached disks by the kernel's NBD, in a micro-VM with Debian's kernel: most machines that run tests have none."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.boottest.accelerator import probe_accelerator

from tests.e2e.kernels import debian_kernel
from tests.e2e.migration import REPOSITORY

#: The machine's root is this one's, to be read only. Without its device FUSE cannot stand in for NBD.
_INSIDE = """\
set -e
modprobe nbd max_part=0 nbds_max=8
modprobe loop
rm /dev/fuse
mount -t tmpfs tmpfs /tmp
cd {repository}
export PYTHONDONTWRITEBYTECODE=1
{python} -m pytest -p no:cacheprovider --basetemp /tmp/tests tests/e2e/test_disks_attach.py -k "not {apart}"
for device in /sys/block/nbd*; do [ ! -e $device/pid ] || exit 99; done
pgrep qemu-nbd && exit 98
exit 0
"""
#: A block device has no holes; and an emulated processor is not fast.
_APART = ("holes", "is_fast")


@pytest.mark.timeout(1200)
def test_what_holds_by_fuse_holds_by_nbd(tmp_path: pathlib.Path) -> None:
    kernel = debian_kernel()
    (image,) = (kernel.tree / "boot").glob("vmlinuz-*")
    script = tmp_path / "inside.sh"
    repository, python = shlex.quote(str(REPOSITORY)), shlex.quote(sys.executable)
    script.write_text(_INSIDE.format(repository=repository, python=python, apart=" and not ".join(_APART)))
    command = [pathlib.Path(sys.executable).with_name("vng"), "--run", image, "--user", "root", "--memory", "2G"]
    command += ["--cpus", "1", "--force-9p", "--exec", f"sh {shlex.quote(str(script))}"]
    # Its initramfs is made with busybox.
    path = os.pathsep.join([str(kernel.busybox.parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, *([] if probe_accelerator().name == "kvm" else ["--disable-kvm"])],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0
    summary = re.search(r"(\d+) passed, (\d+) deselected", done.stdout)
    assert summary is not None and int(summary[1]) >= 14 and int(summary[2]) == len(_APART)
