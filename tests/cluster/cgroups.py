# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Control groups for machines: kubelet makes its pods' below them. For both versions of the kernel's interface."""

from __future__ import annotations

import functools
import os
import pathlib

from tests.cluster.machine import until

_ROOT = pathlib.Path("/sys/fs/cgroup")


def make(path: pathlib.PurePath) -> None:
    """Make the group ``path`` in every hierarchy, so that groups below it may limit whatever they like."""
    for hierarchy in _hierarchies():
        group = hierarchy
        for part in path.parts:
            _hand_down(group)
            parent, group = group, group / part
            group.mkdir(exist_ok=True)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                # Of version 1: empty in a new group, which then takes no process.
                if (hierarchy / "cgroup.clone_children").exists() and (group / setting).exists():
                    (group / setting).write_bytes((parent / setting).read_bytes())
        if (group / "cgroup.clone_children").exists():
            (group / "cgroup.clone_children").write_text("1", encoding="ascii")
        _hand_down(group)


def remove(path: pathlib.PurePath) -> None:
    """Remove the group and all below it, once their last processes are gone.

    :raises ClusterError: a process stays.
    """
    for hierarchy in _hierarchies():
        until(functools.partial(_removed, hierarchy / path), f"processes of {hierarchy / path} to end", 30)


def _hierarchies() -> list[pathlib.Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return sorted(path for path in _ROOT.iterdir() if (path / "cgroup.procs").exists() and not path.is_symlink())


def _hand_down(group: pathlib.Path) -> None:
    """In version 2, a group's children have the controllers that it names."""
    controllers = group / "cgroup.controllers"
    if controllers.exists():
        for name in controllers.read_text(encoding="ascii").split():
            (group / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")


def _removed(top: pathlib.Path) -> bool:
    for folder, _folders, _files in os.walk(top, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True
