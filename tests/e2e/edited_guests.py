# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Guests of the cache with something changed inside."""

from __future__ import annotations

import collections.abc as c
import contextlib
import pathlib

from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.attach import attach
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.filesystems import probe
from ansible_collections.hyper2kvm.core.plugins.module_utils.disks.overlay import create_throwaway
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.roots import mount_guest
from ansible_collections.hyper2kvm.core.plugins.module_utils.guests.tree import GuestTree


@contextlib.contextmanager
def edited(disk: pathlib.Path, overlay: pathlib.Path) -> c.Iterator[GuestTree]:
    """Make ``overlay``, a qcow2 file over the raw ``disk``, and give the guest's files in it for writing."""
    create_throwaway(overlay, disk, "raw")
    with contextlib.ExitStack() as stack:
        attachment = stack.enter_context(attach({"disk0": overlay}, writable=True, workdir=overlay.parent))
        mounted = mount_guest(attachment, probe(attachment), writable=True, workdir=overlay.parent)
        yield stack.enter_context(mounted).tree
