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
_MKINITCPIO = "/etc/mkinitcpio.conf"
_MKINITCPIO_DROP_IN = "/etc/mkinitcpio.conf.d/hyper2kvm.conf"
_BOOSTER = "/etc/booster.yaml"
_MKINITFS = "/etc/mkinitfs/mkinitfs.conf"
_MAKE_INITRD = "/etc/initrd.mk"
_SUSE = "/etc/sysconfig/kernel"
_WHY = "the next initramfs that the guest builds gets virtio drivers too"


def keep_drivers(edits: Edits, tool: str, drivers: t.Sequence[str]) -> None:
    """Plan what makes ``tool`` include the drivers, where its policy may not."""
    keeper = _KEEPERS.get(tool)
    if keeper is not None:
        keeper(edits, drivers)


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
    """What is omitted are regular expressions, each a word: what would be left of ``virtio.*`` matched every driver."""
    return re.sub(r"(?<![^\s\"'=])virtio[^\s\"']*[ \t]*", "", line[0])


def _mkinitcpio(edits: Edits, drivers: t.Sequence[str]) -> None:
    """Its hook autodetect keeps what the machine of that day has; ``MODULES`` is kept in any case."""
    text = edits.text(_MKINITCPIO)
    settings = [text, *(edits.text(path) for path in edits.files("/etc/mkinitcpio.conf.d/*.conf"))]
    listed = {
        name.replace("-", "_")
        for one in settings
        for value in re.findall(r"^[ \t]*MODULES\+?=[(\"']([^)\"'\n]*)", one, re.MULTILINE)
        for name in value.split()
    }
    missing = [name for name in drivers if name not in listed]
    if not missing or not text:
        return
    if edits.is_dir(posixpath.dirname(_MKINITCPIO_DROP_IN)):
        edits.write(_MKINITCPIO_DROP_IN, f"MODULES+=({' '.join(missing)})\n", why=_WHY)
        return
    # Before version 38 there are no drop-ins; the file is read by a shell.
    end = text if text.endswith("\n") else text + "\n"
    edits.write(_MKINITCPIO, f"{end}MODULES=(${{MODULES[@]}} {' '.join(missing)})\n", why=_WHY)


def _booster(edits: Edits, drivers: t.Sequence[str]) -> None:
    """``modules:``, a list with commas."""
    text = edits.text(_BOOSTER)
    match = re.search(r"^modules:[ \t]*([^\n#]*?)[ \t]*$", text, re.MULTILINE)
    listed = [name for name in re.split(r"[,\s]+", match[1] if match else "") if name]
    missing = [name for name in drivers if name not in {name.replace("-", "_") for name in listed}]
    if not missing:
        return
    line = f"modules: {','.join([*listed, *missing])}"
    if match:
        new = text[: match.start()] + line + text[match.end() :]
    else:
        new = text + ("" if not text or text.endswith("\n") else "\n") + line + "\n"
    edits.write(_BOOSTER, new, why=_WHY)


def _mkinitfs(edits: Edits, drivers: t.Sequence[str]) -> None:
    """``features="… virtio"``."""
    text = edits.text(_MKINITFS)
    match = re.search(r"^[ \t]*features=([\"'])([^\"'\n]*)\1", text, re.MULTILINE)
    if match and "virtio" not in match[2].split():
        edits.write(_MKINITFS, text[: match.end(2)] + " virtio" + text[match.end(2) :], why=_WHY)


def _make_initrd(edits: Edits, drivers: t.Sequence[str]) -> None:
    """``MODULES_ADD``, in a makefile."""
    text = edits.text(_MAKE_INITRD)
    listed = {
        n for value in re.findall(r"^MODULES_(?:ADD|LOAD)[^=\n]*=(.*)$", text, re.MULTILINE) for n in value.split()
    }
    missing = [name for name in drivers if name not in listed]
    if missing:
        begin = text if not text or text.endswith("\n") else text + "\n"
        edits.write(_MAKE_INITRD, f"{begin}MODULES_ADD += {' '.join(missing)}\n", why=_WHY)


def _mkinitrd(edits: Edits, drivers: t.Sequence[str]) -> None:
    """SUSE's reads ``INITRD_MODULES``; Red Hat's goes by modprobe's aliases, which are another fixer's."""
    text = edits.text(_SUSE)
    match = re.search(r"^INITRD_MODULES=\"([^\"\n]*)\"", text, re.MULTILINE)
    missing = [name for name in drivers if match and name not in match[1].split()]
    if match and missing:
        end = match.end(1)
        edits.write(_SUSE, text[:end] + (" " if match[1] else "") + " ".join(missing) + text[end:], why=_WHY)


_KEEPERS: dict[str, t.Callable[[Edits, t.Sequence[str]], None]] = {
    "initramfs-tools": _initramfs_tools,
    "dracut": _dracut,
    "mkinitcpio": _mkinitcpio,
    "booster": _booster,
    "mkinitfs": _mkinitfs,
    "make-initrd": _make_initrd,
    "mkinitrd": _mkinitrd,
}
