# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel's modules as depmod describes them, and the parts of these descriptions that an initramfs needs.

Formats: depmod's ``modules.dep`` ("path: dependency path …", relative to the modules' folder), ``modules.alias``
("alias PATTERN NAME"), ``modules.softdep`` ("softdep NAME pre: … post: …"), the kernel's ``modules.builtin`` (a path a
line). A module's name is its file's, dashes and underscores being the same.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import typing as t

from . import index
from .codec import Compression, decompress

#: No module of any distribution comes near; a compressed one that does is a bomb.
MODULE_LIMIT = 64 * 1024**2
#: Those of distributions have 1 to 2 MB; each line becomes hundreds of bytes of memory.
_INDEX_LIMIT = 8 * 1024**2
_KEY_LIMIT = 300

_SUFFIXES = {
    ".ko": Compression.NONE,
    ".ko.gz": Compression.GZIP,
    ".ko.xz": Compression.XZ,
    ".ko.zst": Compression.ZSTD,
}
_FILE = re.compile(r"(?:.*/)?(?P<name>[^/]+?)(?P<suffix>\.ko(?:\.gz|\.xz|\.zst)?)")


class Files(t.Protocol):
    """What is needed of a guest's tree. Paths are absolute inside the guest."""

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file, links followed."""

    def read_bytes(self, path: str, limit: int = ...) -> bytes:
        """The bytes of a file of at most ``limit`` bytes."""


def module_name(path: str) -> str | None:
    """The name of the module in this file (``virtio-rng.ko.xz`` → ``virtio_rng``); None for other files."""
    match = _FILE.fullmatch(path)
    return match["name"].replace("-", "_") if match else None


def suffix(path: str) -> str:
    """``.ko``, ``.ko.gz``, ``.ko.xz`` or ``.ko.zst``."""
    match = _FILE.fullmatch(path)
    if match is None:
        raise AssertionError(path)
    return match["suffix"]


class Kernel:
    """One kernel's modules in a guest."""

    def __init__(self, files: Files, folder: str, builtin: t.Collection[str] = ()) -> None:
        """``folder`` is the guest's ``/lib/modules/<version>``; indexes that are missing count as empty.

        ``builtin`` names modules known from elsewhere to be parts of the kernel.
        """
        self._files = files
        self._folder = folder
        self.dependencies: dict[str, list[str]] = {}
        """Relative path to the relative paths of all that it needs, itself not included."""
        for line in self._lines("modules.dep"):
            path, colon, needed = line.partition(":")
            if colon and (relative := self._relative(path)):
                self.dependencies[relative] = [other for name in needed.split() if (other := self._relative(name))]
        self.paths = {t.cast(str, module_name(path)): path for path in self.dependencies}
        """Name to relative path."""
        listed = (module_name(line.strip()) for line in self._lines("modules.builtin"))
        self.builtin = frozenset(name for name in listed if name).union(builtin)

    def _relative(self, path: str) -> str | None:
        """The path relative to the folder (old depmods wrote absolute ones); None where it leaves the folder."""
        if path.startswith("/"):
            path = path.rpartition(f"/{posixpath.basename(self._folder)}/")[2]
        return path if module_name(path) and ".." not in path.split("/") else None

    def _lines(self, name: str) -> list[str]:
        path = posixpath.join(self._folder, name)
        if not self._folder or not self._files.is_file(path):
            return []
        return self._files.read_bytes(path, _INDEX_LIMIT).decode("utf-8", "surrogateescape").splitlines()

    def closure(self, names: t.Iterable[str]) -> dict[str, str]:
        """Name to path of these modules, of all that they depend on, and of what they want loaded before or after."""
        soft = self._soft_dependencies()
        found: dict[str, str] = {}
        pending = [name for name in names if name in self.paths]
        while pending:
            name = pending.pop()
            if name in found:
                continue
            found[name] = self.paths[name]
            needed = (t.cast(str, module_name(path)) for path in self.dependencies[self.paths[name]])
            # A guest's list may name what it does not describe.
            pending += [other for other in (*needed, *soft.get(name, ())) if other in self.paths]
        return {name: found[name] for name in sorted(found)}

    def _soft_dependencies(self) -> dict[str, list[str]]:
        soft: dict[str, list[str]] = {}
        for line in self._lines("modules.softdep"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                soft.setdefault(words[1], []).extend(
                    word.replace("-", "_") for word in words[2:] if not word.endswith(":")
                )
        return soft

    def lines_about(self, name: str, modules: t.Collection[str]) -> list[str]:
        """The lines of ``modules.alias`` or ``modules.softdep`` that are about these modules."""
        keyword, column = ("softdep", 1) if name == "modules.softdep" else ("alias", 2)
        found = []
        for line in self._lines(name):
            words = line.split(None, 2)
            if len(words) == 3 and words[0] == keyword and words[column].strip().replace("-", "_") in modules:
                found.append(line)
        return found

    def read(self, path: str, *, plain: bool) -> bytes:
        """A module's file as it is, or decompressed where ``plain``.

        Raises:
            JobError: (invalid) damaged or a bomb; (environment) the host lacks the program for its compression.
        """
        data = self._files.read_bytes(posixpath.join(self._folder, path), MODULE_LIMIT)
        return decompress(data, _SUFFIXES[suffix(path)], MODULE_LIMIT) if plain else data


@dataclasses.dataclass
class Indexes:
    """``modules.dep``, ``modules.alias`` and ``modules.softdep`` of one folder, to be merged and written anew."""

    dependencies: dict[str, str] = dataclasses.field(default_factory=dict)
    """Relative path to the rest of its line (relative paths, spaces between)."""
    aliases: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Pattern and module name, in the order of preference."""
    softdeps: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, load: t.Callable[[str], bytes | None]) -> Indexes:
        """Parse what ``load(file name)`` gives: the text files, or the binary ones where only these exist.

        Raises:
            index.CorruptIndexError: only a binary index, and that is damaged.
        """
        indexes = cls()
        for line in _text(load("modules.dep")) or _binary_values(load("modules.dep.bin")):
            path, colon, needed = line.partition(":")
            if colon:
                indexes.dependencies[path] = needed.strip()
        aliases = [line.split(None, 2)[1:] for line in _text(load("modules.alias")) if line.startswith("alias ")]
        if not aliases:
            items = index.read_index(load("modules.alias.bin") or _EMPTY_INDEX)
            aliases = [[key, value] for key, dummy, value in sorted(items, key=lambda item: item[1])]
        indexes.aliases = [(words[0], words[1].strip()) for words in aliases if len(words) == 2]
        indexes.softdeps = [line for line in _text(load("modules.softdep")) if not line.startswith("#")]
        return indexes

    def add(self, dependencies: dict[str, str], aliases: t.Iterable[str], softdeps: t.Iterable[str]) -> None:
        """Merge what describes further modules; lines already there are not repeated."""
        self.dependencies.update(dependencies)
        known = set(self.aliases)
        for line in aliases:
            dummy, pattern, name = line.split(None, 2)
            if (pattern, name) not in known:
                self.aliases.append((pattern, name))
        self.softdeps += [line for line in softdeps if line not in self.softdeps]

    def files(self) -> dict[str, bytes]:
        """File name to bytes, of all that kmod and busybox read."""
        depends = [f"{path}: {needed}".rstrip() for path, needed in self.dependencies.items()]
        result = {
            "modules.dep": _lines(depends),
            "modules.dep.bin": index.write_index(
                [
                    (key, at, line)
                    for at, line in enumerate(depends)
                    if _is_key(key := module_name(line.partition(":")[0]) or "")
                ]
            ),
            "modules.alias": _lines(
                ["# Aliases extracted from modules themselves."]
                + [f"alias {pattern} {name}" for pattern, name in self.aliases]
            ),
            "modules.alias.bin": index.write_index(
                [
                    (key, at, name)
                    for at, (pattern, name) in enumerate(self.aliases)
                    if _is_key(key := normalize_alias(pattern))
                ]
            ),
        }
        if self.softdeps:
            result["modules.softdep"] = _lines(
                ["# Soft dependencies extracted from modules themselves.", *self.softdeps]
            )
        return result


_EMPTY_INDEX = index.write_index([])


def _is_key(text: str) -> bool:
    """Whether kmod's format takes ``text`` for a key."""
    return text.isascii() and "\0" not in text and len(text) < _KEY_LIMIT


def normalize_alias(pattern: str) -> str:
    """Dashes become underscores, except within brackets (kmod's ``alias_normalize``)."""
    parts = re.split(r"(\[[^\]]*\])", pattern)
    return "".join(part if part.startswith("[") else part.replace("-", "_") for part in parts)


def _text(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "surrogateescape").splitlines()


def _binary_values(data: bytes | None) -> list[str]:
    entries = sorted(index.read_index(data or _EMPTY_INDEX), key=lambda entry: entry[1])
    return [value for dummy, priority, value in entries]


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
