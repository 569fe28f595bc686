# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests with real guests share. What takes minutes is made once: by a fixture of the session."""

from __future__ import annotations

import collections.abc as c
import ctypes
import dataclasses
import os
import pathlib
import shutil

import pytest
from ansible_collections.hyper2kvm.core.plugins.module_utils.worker.engine import private_mounts

from tests.e2e.migration import PATIENCE_SECONDS, REPOSITORY, ConversionHost
from tests.e2e.playbooks import Inventory, Played, ansible_playbook, install, pretend
from tests.guests import build
from tests.tools.machine import sha256

_CLONE_FS = 0x200
"""Of ``linux/sched.h``."""


@pytest.fixture
def host(tmp_path: pathlib.Path) -> ConversionHost:
    """A conversion host with empty roots."""
    return ConversionHost(tmp_path)


@pytest.fixture(scope="module")
def own_mounts() -> c.Iterator[None]:
    """Tests that mount do it in a namespace of their own, as jobs do.

    In the host's, whatever begins a namespace meanwhile gets a copy of the mount, and keeps it: what was unmounted is
    still in use then.
    """
    folder = os.getcwd()
    with open("/proc/thread-self/ns/mnt", "rb") as before:
        private_mounts()
        yield
        # setns wants a root and a current folder that no other thread shares, as those begun by tests do.
        assert ctypes.CDLL(None).unshare(_CLONE_FS) == 0
        # setns takes the current folder away.
        assert ctypes.CDLL(None).setns(before.fileno(), 0) == 0
    os.chdir(folder)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The collection, installed from its tarball. Not to be changed."""
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def collections(installed: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The collection, installed, with an engine that pretends."""
    folder = tmp_path_factory.mktemp("pretended") / "collections"
    shutil.copytree(installed, folder, symlinks=True)
    pretend(folder)
    return folder


@pytest.fixture
def inventory(tmp_path: pathlib.Path, collections: pathlib.Path) -> Inventory:
    """An inventory without VMs."""
    return Inventory(tmp_path, collections)


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the README's first command left."""

    host: ConversionHost
    played: Played
    digest: str
    """Of the OVA, before."""


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo's guest, moved as ``make demo`` does it but for roots and patience. Not to be changed."""
    host = ConversionHost(tmp_path_factory.mktemp("demo"))
    ova = host.add(build("debian12") / "debian12.ova", "web01.ova")
    digest = sha256(ova)
    roots = {"hyper2kvm_input_root": str(host.input), "hyper2kvm_output_root": str(host.output)}
    patience = {"hyper2kvm_verify_timeout_seconds": PATIENCE_SECONDS}
    with (host.output.parent / "demo.log").open("w") as log:
        command = ("-i", "inventories/demo", "playbooks/migrate.yml")
        played = ansible_playbook(*command, folder=REPOSITORY, log=log, extra=roots | patience)
    return Demo(host, played, digest)
