# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The guest's own initramfs tool: told to keep the virtio drivers when it builds the next initramfs."""

from __future__ import annotations

import posixpath
import re
import typing as t

from ..edits import Edits

_TOOLS = "/etc/initramfs-tools"
_MODULES = f"{_TOOLS}/modules"
_DROP_IN = "/etc/dracut.conf.d/hyper2kvm.conf"
_WHY = "the next initramfs that the guest builds gets virtio drivers too"


def keep_drivers(edits: Edits, tool: str, drivers: t.Sequence[str]) -> None:
    """Plan what makes ``tool`` (``initramfs-tools`` or ``dracut``) include the drivers, where its policy may not."""
    if tool == "initramfs-tools":
        _initramfs_tools(edits, drivers)
    elif tool == "dracut":
        _dracut(edits, drivers)


def _initramfs_tools(edits: Edits, drivers: t.Sequence[str]) -> None:
    """``MODULES=most`` brings every disk driver; ``list`` what is listed, ``dep`` what the machine of that day has."""
    files = [f"{_TOOLS}/initramfs.conf", *edits.files(f"{_TOOLS}/conf.d/*", "/usr/share/initramfs-tools/conf.d/*")]
    policies = [
        value for path in files for value in re.findall(r"^\s*MODULES=[\"']?(\w+)", edits.text(path), re.MULTILINE)
    ]
    policy = policies[-1] if policies else "most"
    if policy == "most":
        return
    text = edits.text(_MODULES)
    listed = {line.split("#")[0].strip().replace("-", "_") for line in text.splitlines()}
    missing = [name for name in drivers if name not in listed]
    if missing:
        begin = text if not text or text.endswith("\n") else text + "\n"
        lines = "".join(f"{name}\n" for name in missing)
        edits.write(_MODULES, begin + lines, why=f"{_WHY}; the guest's policy MODULES={policy} would leave them out")


def _dracut(edits: Edits, drivers: t.Sequence[str]) -> None:
    """dracut leaves out what its host does not have, and whatever ``omit_drivers`` matches, added or not."""
    listed: set[str] = set()
    for path in edits.files("/etc/dracut.conf", "/etc/dracut.conf.d/*.conf"):
        text = edits.text(path)
        kept = re.sub(r"^[^#\n]*\bomit_drivers\+?=.*$", _without_virtio, text, flags=re.MULTILINE)
        edits.write(path, kept, why="virtio drivers must not be left out of an initramfs")
        for line in re.findall(r"^\s*(?:add|force)_drivers\+?=(.*)$", kept, re.MULTILINE):
            listed.update(re.findall(r"[\w-]+", line))
    missing = [name for name in drivers if name not in listed]
    if missing and edits.is_dir(posixpath.dirname(_DROP_IN)):
        edits.write(_DROP_IN, f'add_drivers+=" {" ".join(missing)} "\n', why=_WHY)


def _without_virtio(line: re.Match[str]) -> str:
    return re.sub(r"(?<![\w-])virtio[\w-]*[ \t]*", "", line[0])
