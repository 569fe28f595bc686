# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What loads a guest's kernel: its menu, and what it takes when nobody chooses.

Facts: GRUB's manual (menuentry, submenu, default, saved_entry, load_env, environment block), the Boot Loader
Specification of UAPI group (type 1 entries; type 2 are unified kernel images), loader.conf(5), syslinux' and GRUB
legacy's manuals.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
import typing as t

from . import paths, pe
from .facts import BootEntry, Bootloader, BootloaderKind
from .kernels import version_key
from .reading import Reading

GRUB_CFGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg", "/boot/efi/grub/grub.cfg")
GRUB_ENVIRONMENTS = ("/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv")
GRUB_LEGACY = ("/boot/grub/menu.lst", "/boot/grub/grub.conf")
BLS_ENTRIES = ("/boot/loader/entries/*.conf", "/efi/loader/entries/*.conf", "/boot/efi/loader/entries/*.conf")
LOADER_CONFS = ("/boot/loader/loader.conf", "/efi/loader/loader.conf", "/boot/efi/loader/loader.conf")
UNIFIED = ("/boot/EFI/Linux/*.efi", "/efi/EFI/Linux/*.efi", "/boot/efi/EFI/Linux/*.efi")
REFIND = ("/boot/refind_linux.conf",)
EXTLINUX = (
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/boot/syslinux/extlinux.conf",
    "/extlinux.conf",
)

#: A kernel takes a command line of 2 KiB (4 KiB on some architectures).
LINE_LIMIT = 16 * 1024
_TEXT_SECTION_LIMIT = 64 * 1024
#: Nobody reads a longer menu, and no kernel lies deeper in a btrfs.
_ENTRIES_LIMIT, _SUBVOLUME_DEPTH, _PATH_LIMIT = 500, 8, 1024

_BLOCK = re.compile(r"^\s*(menuentry|submenu)\s+(?P<title>'[^']*'|\"[^\"]*\"|\S+)(?P<rest>.*)\{\s*$")
_ID = re.compile(r"(?:\$menuentry_id_option|--id)\s+'?\"?([^'\"\s]+)")
_LINUX = re.compile(r"^\s*(?:linux|linux16|linuxefi|kernel)\s+(?P<path>\S+)(?P<options>.*)$")
_INITRD = re.compile(r"^\s*(?:initrd|initrd16|initrdefi)\s+(?P<paths>\S.*)$")
_DEFAULT = re.compile(r"^\s*(?:set\s+)?default\s*[= ]\s*[\"']?([^\"'\n]*)[\"']?\s*$")
_SET = re.compile(r"^\s*set\s+(\w+)=[\"']?([^\"'\n]*)[\"']?\s*$")
_LOAD_ENV = re.compile(r"^\s*load_env\s+(?:-f|--file)\s+(\S+)")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# "+3-0": tries that are left and done, of an entry that counts them.
_TRIES = re.compile(r"\+\d+(?:-\d+)?(?=\.\w+$)")
# Where a boot loader's "/" may be in the guest.
_TOPS = ("/", "/boot", "/boot/efi", "/efi")


def find_bootloader(tree: Reading) -> Bootloader:
    """Return the boot loader by the configuration that is there; GRUB 2 first, as others are left behind by it.

    Its ``configs`` are those of every boot loader that was found: which of them the firmware starts is not on the disk.
    """
    grub = _files(tree, GRUB_CFGS)
    entries, loader_confs = _files(tree, BLS_ENTRIES), _files(tree, LOADER_CONFS)
    found: list[tuple[BootloaderKind, list[str]]] = [
        ("grub2", grub + (entries if grub else [])),
        ("extlinux", _files(tree, EXTLINUX)),
        ("systemd-boot", loader_confs + entries if entries or loader_confs else []),
        ("grub-legacy", _files(tree, GRUB_LEGACY)),
        ("refind", _files(tree, REFIND)),
        ("unified", _files(tree, UNIFIED)),
    ]
    kind = next((name for name, configs in found if configs), "")
    if kind == "systemd-boot" and not entries and not _files(tree, UNIFIED):
        kind = next((name for name, configs in found if configs and name != kind), "")
    known: BootloaderKind = kind  # type: ignore[assignment]
    configs = [path for name, group in found if name != "unified" for path in group]
    return Bootloader(known, tuple(dict.fromkeys(configs)), tuple(_MENUS[known](tree)))


@dataclasses.dataclass
class _Item:
    """A line of a boot loader's menu. Paths as the configuration spells them."""

    title: str
    id: str
    kernel: str = ""
    initrds: list[str] = dataclasses.field(default_factory=list)
    options: str = ""
    items: list[_Item] = dataclasses.field(default_factory=list)
    tops: tuple[str, ...] = _TOPS
    """Folders that its paths may be relative to."""


# -- GRUB --------------------------------------------------------------------------------------------------------------


def environment(text: str) -> dict[str, str]:
    """Return the variables of a GRUB environment block."""
    lines = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, equals, value in lines if equals}


def _grub2(tree: Reading) -> list[BootEntry]:
    return _grub(tree, _files(tree, GRUB_CFGS))


def _grub_legacy(tree: Reading) -> list[BootEntry]:
    return _grub(tree, _files(tree, GRUB_LEGACY))


def _grub(tree: Reading, configs: t.Sequence[str]) -> list[BootEntry]:
    """Return the entries of all files; the default is that of the first file that has entries. Others chain to it."""
    entries: list[BootEntry] = []
    for path in configs:
        text = tree.read_text(path)
        items = _menu(text)
        if any(line.split()[:1] == ["blscfg"] for line in _lines(text)):
            items = _bls(tree) + items
        default = None if entries else _grub_default(tree, path, text, items)
        entries += _flat(tree, items, default, _variables(tree, text))
    return entries


def _grub_default(tree: Reading, path: str, text: str, items: list[_Item]) -> _Item | None:
    default = "0"
    for line in _lines(text):
        match = _DEFAULT.match(line)
        if match and "next_entry" not in match[1]:
            default = match[1]
    if default == "saved" and path in GRUB_LEGACY:
        default = tree.text(paths.join(paths.split(path)[0], "default")).strip().split("\n")[0]
    elif "saved_entry" in default:
        saved = [environment(tree.read_text(p)).get("saved_entry", "") for p in _files(tree, GRUB_ENVIRONMENTS)]
        default = next((entry for entry in saved if entry), "0")
    item: _Item | None = None
    for step in default.split(">"):
        item = next(
            (i for n, i in enumerate(items) if step.strip() in (str(n), i.title, i.id)), items[0] if items else None
        )
        items = item.items if item else []
    while item is not None and item.items and not item.kernel:
        item = item.items[0]
    return item


def _menu(text: str) -> list[_Item]:
    """Return the menu of a grub.cfg, or of a GRUB legacy file."""
    top: list[_Item] = []
    open_items: list[tuple[_Item, int]] = []
    depth = count = 0
    for line in _lines(text):
        block = _BLOCK.match(line)
        legacy = re.match(r"^\s*title\s+(.*)$", line)
        linux, initrd = _LINUX.match(line), _INITRD.match(line)
        if block or legacy:
            count += 1
            if count > _ENTRIES_LIMIT:
                break
            found = _ID.search(block["rest"]) if block else None
            title = block["title"].strip("'\"") if block else (legacy[1] if legacy else "")
            item = _Item(title, found[1] if found else "")
            (open_items[-1][0].items if open_items and block else top).append(item)
            if legacy:
                open_items.clear()
            open_items.append((item, depth))
        elif linux and open_items and not open_items[-1][0].kernel:
            open_items[-1][0].kernel, open_items[-1][0].options = linux["path"], linux["options"].strip()
        elif initrd and open_items:
            open_items[-1][0].initrds += initrd["paths"].split()
        depth += line.rstrip().endswith("{")
        if line.strip() == "}":
            depth -= 1
            while open_items and open_items[-1][1] >= depth:
                open_items.pop()
    return top


def _variables(tree: Reading, text: str) -> dict[str, str]:
    """Return what a grub.cfg sets, and what it reads from files of its own (Photon names its kernel in one)."""
    known: dict[str, str] = {}
    for line in _lines(text):
        load, assignment = _LOAD_ENV.match(line), _SET.match(line)
        if load:
            known.update(environment(tree.text(_path(tree, load[1], _TOPS))))
        elif assignment:
            known[assignment[1]] = assignment[2]
    return known


# -- the others --------------------------------------------------------------------------------------------------------


def _bls(tree: Reading) -> list[_Item]:
    """Return the type 1 entries, newest first, as GRUB and systemd-boot order them."""
    items = []
    for path in _files(tree, BLS_ENTRIES):
        keys: dict[str, list[str]] = {}
        for line in _lines(tree.read_text(path)):
            key, dummy, value = line.strip().partition(" " if " " in line.strip() else "\t")
            if value and not key.startswith("#"):
                keys.setdefault(key, []).append(value.strip())
        name = _TRIES.sub("", paths.split(path)[1])
        top = paths.split(paths.split(paths.split(path)[0])[0])[0]
        item = _Item(
            " ".join(keys.get("title", [])),
            name.removesuffix(".conf"),
            next(iter(keys.get("linux", []) + keys.get("efi", [])), ""),
            [word for value in keys.get("initrd", []) for word in value.split()],
            " ".join(keys.get("options", [])),
            tops=(top, *_TOPS),
        )
        items.append((version_key(next(iter(keys.get("version", [])), name)), item))
    return [item for dummy, item in sorted(items, key=lambda pair: pair[0], reverse=True)]


def _unified(tree: Reading) -> list[BootEntry]:
    found = []
    for path in _files(tree, UNIFIED):
        fd = tree.open_fd(path)
        try:
            program = pe.read_program(fd)
            if program is None or ".linux" not in program.sections:
                continue
            parts = {
                name: pe.section(fd, program, name, _TEXT_SECTION_LIMIT).rstrip(b"\0").decode("utf-8", "replace")
                for name in (".osrel", ".cmdline", ".uname")
            }
        finally:
            os.close(fd)
        title = re.search(r"(?m)^PRETTY_NAME=[\"']?([^\"'\n]*)", parts[".osrel"])
        entry = BootEntry(title[1] if title else paths.split(path)[1], path, (), parts[".cmdline"].strip())
        found.append((version_key(parts[".uname"].strip() or paths.split(path)[1]), entry))
    entries = [entry for dummy, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]
    return [dataclasses.replace(entry, default=index == 0) for index, entry in enumerate(entries)]


def _systemd_boot(tree: Reading) -> list[BootEntry]:
    items = _bls(tree)
    unified = [dataclasses.replace(entry, default=False) for entry in _unified(tree)]
    pattern = ""
    for path in _files(tree, LOADER_CONFS):
        match = re.search(r"(?m)^[ \t]*default[ \t]+(\S+)", tree.read_text(path))
        pattern = match[1] if match else pattern
    wanted = next((item for item in items if pattern and fnmatch.fnmatchcase(f"{item.id}.conf", pattern)), None)
    other = [entry for entry in unified if pattern and fnmatch.fnmatchcase(paths.split(entry.kernel)[1], pattern)]
    if wanted is None and not other:
        # Unset, or what the firmware's variables remember ("@saved"): the first of the menu.
        wanted = items[0] if items else None
        other = [] if items else unified[:1]
    entries = _flat(tree, items, wanted, {})
    return entries + [dataclasses.replace(e, default=wanted is None and e in other[:1]) for e in unified]


def _extlinux(tree: Reading) -> list[BootEntry]:
    path = _files(tree, EXTLINUX)[0]
    folder = paths.split(path)[0]
    default = ""
    chosen: _Item | None = None
    items: list[_Item] = []
    for line in _lines(tree.read_text(path)):
        word, dummy, value = line.strip().replace("\t", " ", 1).partition(" ")
        key, value = word.lower(), value.strip()
        if key == "ontimeout" or (key == "default" and not default):
            default = value
        elif items and key == "menu" and value.lower() == "default":
            chosen = items[-1]
        elif key == "label" and len(items) < _ENTRIES_LIMIT:
            items.append(_Item(value, value, tops=(folder, *_TOPS)))
        elif items and key in ("linux", "kernel"):
            items[-1].kernel = value
        elif items and key == "initrd":
            items[-1].initrds += value.split(",")
        elif items and key == "append":
            items[-1].options = value
            items[-1].initrds += re.findall(r"(?<!\S)initrd=(\S+)", value)
    # "default" may name the menu's program instead; then the menu has a default of its own.
    wanted = next((item for item in items if item.id == default), chosen or (items[0] if items else None))
    return _flat(tree, items, wanted, {})


_MENUS: dict[BootloaderKind, t.Callable[[Reading], list[BootEntry]]] = {
    "grub2": _grub2,
    "grub-legacy": _grub_legacy,
    "systemd-boot": _systemd_boot,
    "extlinux": _extlinux,
    "unified": _unified,
    # rEFInd looks for kernels by itself.
    "refind": lambda tree: [],
    "": lambda tree: [],
}


def _flat(tree: Reading, items: list[_Item], default: _Item | None, variables: dict[str, str]) -> list[BootEntry]:
    def expanded(text: str) -> str:
        return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], match[0]), text)

    entries = []
    for item in items:
        kernel = expanded(item.kernel)
        # The kernel of a guest refuses longer names, and those of files are far shorter.
        if item.kernel and len(kernel) <= _PATH_LIMIT:
            named = [name for name in map(expanded, item.initrds) if len(name) <= _PATH_LIMIT]
            initrds = [_path(tree, name, item.tops) for name in named]
            entries.append(
                BootEntry(
                    item.title,
                    _path(tree, kernel, item.tops),
                    tuple(path for path in initrds if tree.is_file(path)),
                    item.options,
                    item is default,
                )
            )
        entries += _flat(tree, item.items, default, variables)
    return entries


def _path(tree: Reading, name: str, tops: t.Iterable[str]) -> str:
    """Return where a file is that a boot loader names within its own filesystem, perhaps below a btrfs subvolume."""
    name = re.sub(r"^\([^)]*\)", "", name)
    parts = [part for part in name.split("/") if part]
    for begin in range(min(max(1, len(parts) - 1), _SUBVOLUME_DEPTH)):
        for top in tops:
            path = paths.join(top, "/".join(parts[begin:]))
            if parts and tree.is_file(path):
                return tree.resolve(path)
    return name


def _lines(text: str) -> list[str]:
    """The lines of a configuration, without those that are too long to be meant (and would tire a pattern)."""
    return [line for line in text.splitlines() if len(line) <= LINE_LIMIT]


def _files(tree: Reading, patterns: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(tree.resolve(path) for path in tree.files(*patterns)))
