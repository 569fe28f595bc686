# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What loads a guest's kernel, and which one it takes when nobody chooses.

Facts: GRUB's manual (menuentry, submenu, default, saved_entry, environment block), the Boot Loader Specification of
UAPI group (type 1 entries), syslinux' and GRUB legacy's manuals.
"""

from __future__ import annotations

import dataclasses
import re

from . import paths
from .facts import Bootloader, BootloaderKind
from .reading import Reading

GRUB_CFGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg", "/boot/efi/grub/grub.cfg")
GRUB_ENVIRONMENTS = ("/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv")
GRUB_LEGACY = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
BLS_ENTRIES = ("/boot/loader/entries/*.conf", "/efi/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf")
LOADER_CONFS = ("/boot/loader/loader.conf", "/efi/loader/loader.conf", "/boot/efi/loader/loader.conf")
EXTLINUX = (
    "/boot/extlinux/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux/extlinux.conf",
    "/extlinux.conf",
)

#: A kernel takes a command line of 2 KiB (4 KiB on some architectures).
LINE_LIMIT = 16 * 1024

_BLOCK = re.compile(r"^\s*(menuentry|submenu)\s+(?P<title>'[^']*'|\"[^\"]*\"|\S+)(?P<rest>.*)\{\s*$")
_ID = re.compile(r"(?:\$menuentry_id_option|--id)\s+'?\"?([^'\"\s]+)")
_LINUX = re.compile(r"^\s*(?:linux|linux16|linuxefi|kernel)\s+(\S+)")
_DEFAULT = re.compile(r"^\s*(?:set\s+)?default\s*[= ]\s*[\"']?([^\"'\n]*)[\"']?\s*$")


def find_bootloader(tree: Reading) -> Bootloader:
    """Return the boot loader by the configuration that is there; GRUB 2 first, as others are left behind by it."""
    grub = _files(tree, GRUB_CFGS)
    entries = _files(tree, BLS_ENTRIES)
    for kind, configs in (
        ("grub2", grub + (entries if grub else [])),
        ("extlinux", _files(tree, EXTLINUX)),
        ("systemd-boot", (_files(tree, LOADER_CONFS) + entries) if entries else []),
        ("grub-legacy", _files(tree, GRUB_LEGACY)),
    ):
        if configs:
            known: BootloaderKind = kind  # type: ignore[assignment]
            return Bootloader(known, tuple(configs))
    return Bootloader()


def default_kernel(tree: Reading, bootloader: Bootloader) -> str:
    """Return the file name of the kernel that is booted by default; empty where the configuration does not tell."""
    if bootloader.kind in ("grub2", "grub-legacy"):
        for path in bootloader.configs:
            if not path.endswith(".conf") or bootloader.kind == "grub-legacy":
                kernel = _grub_default(tree, tree.read_text(path))
                if kernel:
                    return kernel
    if bootloader.kind == "extlinux":
        return _extlinux_default(tree.read_text(bootloader.configs[0]))
    return ""


def environment(text: str) -> dict[str, str]:
    """Return the variables of a GRUB environment block."""
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in lines if equals}


@dataclasses.dataclass
class _Item:
    """A line of GRUB's menu."""

    title: str
    id: str
    kernel: str = ""
    items: list[_Item] = dataclasses.field(default_factory=list)


def _grub_default(tree: Reading, text: str) -> str:
    items = _menu(text)
    default = "0"
    for line in _lines(text):
        match = _DEFAULT.match(line)
        if match and "next_entry" not in match[1]:
            default = match[1]
    if "saved_entry" in default:
        saved = [environment(tree.read_text(p)).get("saved_entry", "") for p in _files(tree, GRUB_ENVIRONMENTS)]
        default = next((entry for entry in saved if entry), "0")
    for path in tree.files(*BLS_ENTRIES):
        if paths.split(path)[1] == f"{default}.conf":
            return _kernel_name(re.search(r"(?m)^linux[ \t]+(\S+)", tree.read_text(path)))
    item: _Item | None = None
    for step in default.split(">"):
        item = next(
            (i for n, i in enumerate(items) if step.strip() in (str(n), i.title, i.id)), items[0] if items else None
        )
        items = item.items if item else []
    while item is not None and item.items and not item.kernel:
        item = item.items[0]
    return item.kernel if item else ""


def _menu(text: str) -> list[_Item]:
    """Return the menu of a grub.cfg, or of a GRUB legacy file."""
    top: list[_Item] = []
    open_items: list[tuple[_Item, int]] = []
    depth = 0
    for line in _lines(text):
        block = _BLOCK.match(line)
        legacy = re.match(r"^\s*title\s+(.*)$", line)
        linux = _LINUX.match(line)
        if block or legacy:
            found = _ID.search(block["rest"]) if block else None
            title = block["title"].strip("'\"") if block else (legacy[1] if legacy else "")
            item = _Item(title, found[1] if found else "")
            (open_items[-1][0].items if open_items and block else top).append(item)
            if legacy:
                open_items.clear()
            open_items.append((item, depth))
        elif linux and open_items and not open_items[-1][0].kernel:
            open_items[-1][0].kernel = _kernel_name(linux)
        depth += line.rstrip().endswith("{")
        if line.strip() == "}":
            depth -= 1
            while open_items and open_items[-1][1] >= depth:
                open_items.pop()
    return top


def _extlinux_default(text: str) -> str:
    default = re.search(r"(?im)^[ \t]*(?:default|ontimeout)[ \t]+(\S+)", text)
    label = ""
    for line in text.splitlines():
        words = line.split(None, 1)
        if len(words) == 2 and words[0].lower() == "label":
            label = words[1].strip()
        elif len(words) == 2 and words[0].lower() in ("linux", "kernel") and default and label == default[1]:
            return words[1].strip().rpartition("/")[2]
    return ""


def _lines(text: str) -> list[str]:
    """The lines of a configuration, without those that are too long to be meant (and would tire a pattern)."""
    return [line for line in text.splitlines() if len(line) <= LINE_LIMIT]


def _kernel_name(match: re.Match[str] | None) -> str:
    return match[1].rpartition("/")[2] if match else ""


def _files(tree: Reading, patterns: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(tree.resolve(path) for path in tree.files(*patterns)))
