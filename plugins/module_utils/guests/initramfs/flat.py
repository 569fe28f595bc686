# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Initramfs whose drivers lie in one folder and are loaded by names that were written down when it was built.

Formats: the script for nash of Red Hat's mkinitrd (up to RHEL 5: ``insmod /lib/<name>.ko`` in order), booster's
``/etc/booster.init.yaml`` (``moduledependencies``), ``/usr/lib/modules/booster.alias`` ("PATTERN NAME" a line) and
``/usr/lib/modules/<name>.ko``.
"""

from __future__ import annotations

import posixpath
import re

from .additions import Additions
from .modules import Kernel, module_name
from .rootfs import RootFs

BOOSTER_CONFIG = "etc/booster.init.yaml"
_BOOSTER_ALIASES = "usr/lib/modules/booster.alias"
_DEPENDENCIES = "moduledependencies:"
_NASH = re.compile(rb"^#![ \t]*/\S*nash\b")
_INSMOD = re.compile(r"[ \t]*insmod[ \t]")
_ROOT = re.compile(r"[ \t]*(?:mkrootdev|mount[ \t].*/sysroot)\b")


def is_nash(root: RootFs) -> bool:
    """Whether the initramfs is a script for nash."""
    return _NASH.match(root.read("init") or root.read("linuxrc") or b"") is not None


def add_to_nash(additions: Additions, root: RootFs, kernel: Kernel, folder: str, names: list[str]) -> None:
    """Put the modules into the folder, and have the script insert them behind those that it inserts already."""
    script = "init" if root.read("init") else "linuxrc"
    lines = (root.read(script) or b"").decode("utf-8", "surrogateescape").split("\n")
    last = max((at for at, line in enumerate(lines) if _INSMOD.match(line)), default=None)
    begin = next((at for at, line in enumerate(lines) if _ROOT.match(line)), len(lines)) if last is None else last + 1
    inserted = []
    for name in names:
        file = f"{folder}/{posixpath.basename(_plain_name(kernel.paths[name]))}"
        additions.put(file, kernel.read(kernel.paths[name], plain=True))
        inserted += [f'echo "Loading {posixpath.basename(file)} module"', f"insmod /{file}"]
    text = "\n".join([*lines[:begin], *inserted, *lines[begin:]])
    additions.put(script, text.encode("utf-8", "surrogateescape"))


def add_to_booster(additions: Additions, root: RootFs, kernel: Kernel, folder: str, names: list[str]) -> None:
    """Put the modules into the folder, and tell booster what they depend on and which devices they are for."""
    for name in names:
        additions.put(f"{folder}/{name}.ko", kernel.read(kernel.paths[name], plain=True))
    aliases = (root.read(_BOOSTER_ALIASES) or b"").decode("utf-8", "surrogateescape").splitlines()
    for line in kernel.lines_about("modules.alias", names):
        dummy, pattern, name = line.split(None, 2)
        aliases.append(f"{pattern} {name.strip()}")
    text = "".join(f"{line}\n" for line in dict.fromkeys(aliases))
    additions.put(_BOOSTER_ALIASES, text.encode("utf-8", "surrogateescape"))
    config = (root.read(BOOSTER_CONFIG) or b"").decode("utf-8", "surrogateescape")
    additions.put(BOOSTER_CONFIG, _with_dependencies(config, kernel, names).encode("utf-8", "surrogateescape"))


def load_order(kernel: Kernel, names: list[str]) -> list[str]:
    """Sort modules so that each comes behind all that it depends on: these lists are transitive."""
    return sorted(names, key=lambda name: (len(kernel.dependencies[kernel.paths[name]]), name))


def _with_dependencies(config: str, kernel: Kernel, names: list[str]) -> str:
    lines = config.split("\n")
    at = next((index for index, line in enumerate(lines) if line.rstrip() == _DEPENDENCIES), None)
    if at is None:
        lines = [line for line in lines if not line.startswith(_DEPENDENCIES)]
        at = len(lines) - (lines[-1:] == [""])
        lines.insert(at, _DEPENDENCIES)
    following = lines[at + 1] if at + 1 < len(lines) else ""
    indent = following[: len(following) - len(following.lstrip(" "))] or "    "
    added = []
    for name in names:
        needed = [module_name(path) for path in kernel.dependencies[kernel.paths[name]]]
        if needed:
            added.append(f"{indent}{name}: [{', '.join(other for other in needed if other)}]")
    return "\n".join([*lines[: at + 1], *added, *lines[at + 1 :]])


def _plain_name(path: str) -> str:
    return path[: path.rindex(".ko")] + ".ko"
