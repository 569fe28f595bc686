# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Planned changes of a guest, laid over its files: reads see them, the guest does not until they are applied."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import stat as st
import typing as t

from ..protocol import models
from ..protocol.errors import transient
from . import paths
from .diffs import describe_binary, text_diff
from .faults import check_size
from .layered import CHANGE_LIMIT, Entry, Kind, LayeredTree
from .tree import GuestTree, Owner


@dataclasses.dataclass
class _Record:
    """One fixer's doing at one path."""

    path: str
    fixer: str
    kind: Kind
    why: list[str]
    before: str | None
    after: str | None
    old: bytes | None
    """Content before; None where there was nothing, or where it is not needed for a diff."""
    new: bytes | None
    note: str = ""
    """Takes the diff's place."""


class Edits(LayeredTree):
    """Changes to ``tree``, in the order in which they were planned."""

    def __init__(self, tree: GuestTree) -> None:
        super().__init__(tree)
        self.warnings: list[str] = []
        self.label: t.Callable[[str, int], str | None] | None = None
        """Gives the SELinux label that a new file must have, by its path and type; None: that of its folder."""
        self._records: list[_Record] = []
        self._fixer = ""

    # -- planning ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def by(self, fixer: str) -> t.Iterator[None]:
        """Attribute what is planned within to ``fixer``."""
        before, self._fixer = self._fixer, fixer
        try:
            yield
        finally:
            self._fixer = before

    def warn(self, message: str) -> None:
        """Tell a person something about this guest, once."""
        message = paths.printable(message)
        if message not in self.warnings:
            self.warnings.append(message)

    def write(
        self,
        path: str,
        data: bytes | str,
        *,
        why: str,
        mode: int | None = None,
        owner: Owner | None = None,
        confidential: bool = False,
    ) -> None:
        """Plan the content of a file; a link in the last place is followed, missing folders are made.

        Nothing is planned where the content (and mode and owner, if given) is there already.

        Args:
            path: in the guest.
            data: all of it; text is written as UTF-8, surrogate escapes as the bytes that they stand for.
            why: for a person, a few words.
            mode: permission bits; None keeps a file's own, or is 0644.
            owner: user and group id; None keeps a file's own, or is root.
            confidential: keep the content out of the diff.

        Raises:
            JobError: what is there is no regular file.
        """
        path = self.resolve(path)
        new = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        try:
            old: bytes | None = self.read_bytes(path, CHANGE_LIMIT)
        except FileNotFoundError:
            old = None
        if old == new and self._dressed(path, mode, owner):
            return
        seen = self._seen(path, old)
        if seen is not None and seen == _digest(new) and mode is None and owner is None:
            del self._entries[path]
            self._records = [r for r in self._records if r.path != path]
            return
        before = self._entries.get(path)
        if before is not None and before.kind == "write":
            mode = before.mode if mode is None else mode
            owner = before.owner if owner is None else owner
        self._entries[path] = Entry("write", seen, data=new, mode=mode, owner=owner)
        note = "content withheld" if confidential else describe_binary(old, new)
        if old == new:
            note = "owner and permissions only"
        record = _Record(path, self._fixer, "write", [why], _digest(old), _digest(new), old, new, note)
        self._note(dataclasses.replace(record, old=None, new=None) if note else record)

    def append(self, path: str, data: bytes, why: str) -> None:
        """Plan to add ``data`` at the end of an existing regular file."""
        path = self.resolve(path)
        if not data:
            return
        file = self.open_fd(path)
        check_size(path, os.fstat(file).st_size, CHANGE_LIMIT)
        before, size = _hashed(file)
        after = before.copy()
        after.update(data)
        entry = self._entries.get(path)
        if entry is None:
            self._entries[path] = Entry("append", _named(before), data=data)
        else:
            entry.data += data
        note = f"{len(data)} bytes appended to {size}"
        self._note(_Record(path, self._fixer, "append", [why], _named(before), _named(after), None, None, note))

    def symlink(self, path: str, target: str, why: str) -> None:
        """Plan a symbolic link, in place of a file or link that is there."""
        path = self.resolve(path, follow=False)
        if self.link_at(path) == target:
            return
        old = self._old(path)
        self._entries[path] = Entry("symlink", self._seen(path, old), target=target)
        new = _link(target)
        self._note(_Record(path, self._fixer, "symlink", [why], _digest(old), _digest(new), old, new))

    def remove(self, path: str, why: str) -> None:
        """Plan to remove a file or link (not what it leads to); nothing where there is none."""
        path = self.resolve(path, follow=False)
        if not self.mode_at(path):
            return
        old = self._old(path)
        self._entries[path] = Entry("remove", self._seen(path, old))
        self._note(_Record(path, self._fixer, "remove", [why], _digest(old), None, old, None))

    def mkdir(self, path: str, why: str, mode: int = 0o755, owner: Owner | None = None) -> None:
        """Plan a folder; nothing where it exists."""
        path = self.resolve(path)
        if self.is_dir(path):
            return
        self._entries[path] = Entry("mkdir", None, mode=mode, owner=owner)
        self._note(_Record(path, self._fixer, "mkdir", [why], None, None, None, None, "new folder"))

    # -- the outcome ---------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> list[models.FileChange]:
        """Every change as data, in order; one for each path and fixer."""
        return [
            models.FileChange(
                path=paths.printable(record.path),
                kind=record.kind,
                fixer=record.fixer,
                why="; ".join(record.why),
                before=record.before,
                after=record.after,
                diff=_shown(record),
            )
            for record in self._records
        ]

    def apply(self, tree: GuestTree) -> None:
        """Carry the plan out.

        Args:
            tree: the same guest, writable.

        Raises:
            JobError: a file is not what the plan was made from, or the filesystem refuses.
        """
        for path, entry in self._entries.items():
            self._check_unchanged(tree, path, entry)
        fresh = self._fresh(tree)
        for path, entry in self._entries.items():
            if entry.kind == "write":
                tree.write(path, entry.data, entry.mode, entry.owner)
            elif entry.kind == "append":
                tree.append(path, entry.data)
            elif entry.kind == "symlink":
                tree.symlink(path, entry.target)
            elif entry.kind == "mkdir":
                tree.mkdir(path, 0o755 if entry.mode is None else entry.mode, entry.owner)
            else:
                with contextlib.suppress(FileNotFoundError):
                    tree.remove(path)
        for path in fresh:
            label = self.label(path, tree.mode_at(path)) if self.label is not None else None
            if label:
                tree.set_label(path, label)

    def needed(self) -> dict[str, int]:
        """Return by path how many bytes applying the plan takes at most, over what the guest has free."""
        return {path: len(e.data) for path, e in self._entries.items() if e.kind not in ("remove",)}

    def touched(self) -> list[str]:
        """Return every path that applying the plan writes, makes or removes."""
        return list(self._entries)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _fresh(self, tree: GuestTree) -> list[str]:
        """What will be new, folders on the way included, the upper ones first."""
        found: dict[str, None] = {}
        for path, entry in self._entries.items():
            above: list[str] = []
            while entry.kind != "remove" and path != "/" and not tree.mode_at(path):
                above.append(path)
                path = paths.split(path)[0]
            if entry.kind == "symlink" and not above:
                # A link takes the place of what was there, label and all.
                above = [path]
            found.update(dict.fromkeys(reversed(above)))
        return list(found)

    def _dressed(self, path: str, mode: int | None, owner: Owner | None) -> bool:
        """Whether an existing file will have this mode and owner anyway."""
        entry = self._entries.get(path)
        if entry is not None and entry.kind == "write":
            return mode in (None, entry.mode) and owner in (None, entry.owner)
        status = self.tree.lstat(path)
        return mode in (None, st.S_IMODE(status.st_mode)) and owner in (None, (status.st_uid, status.st_gid))

    def _old(self, path: str) -> bytes | None:
        """What is at ``path`` itself, as a diff shows it."""
        target = self.link_at(path)
        if target is not None:
            return _link(target)
        try:
            return self.read_bytes(path)
        except FileNotFoundError:
            return None

    def _seen(self, path: str, old: bytes | None) -> str | None:
        entry = self._entries.get(path)
        return _digest(old) if entry is None else entry.seen

    def _check_unchanged(self, tree: GuestTree, path: str, entry: Entry) -> None:
        now: str | None
        if entry.kind == "append":
            now = _named(_hashed(tree.open_fd(path))[0])
        else:
            now = None if entry.kind == "mkdir" else _digest(Edits(tree)._old(path))
        if now != entry.seen:
            raise transient(
                "GuestChanged",
                f"In the guest, {paths.printable(path)} is no longer what the plan was made from.",
                "Nothing was changed. Run the job again.",
            )

    def _note(self, record: _Record) -> None:
        for known in self._records:
            if known.path == record.path and known.fixer == record.fixer:
                known.after, known.new, known.note = record.after, record.new, record.note
                known.kind = record.kind if known.kind != "append" else known.kind
                known.why += [why for why in record.why if why not in known.why]
                if known.before == known.after and known.kind != "mkdir" and not known.note:
                    self._records.remove(known)
                return
        self._records.append(record)


def _digest(data: bytes | None) -> str | None:
    return None if data is None else "sha256:" + hashlib.sha256(data).hexdigest()


def _named(digest: hashlib._Hash) -> str:
    return f"sha256:{digest.hexdigest()}"


def _hashed(file: int) -> tuple[hashlib._Hash, int]:
    """Digest and size of what is left in a descriptor, which is closed."""
    digest = hashlib.sha256()
    size = 0
    with open(file, "rb") as stream:
        while block := stream.read(1024**2):
            digest.update(block)
            size += len(block)
    return digest, size


def _link(target: str) -> bytes:
    """A symbolic link as a diff shows it, and as its digest is taken."""
    return f"-> {target}\n".encode("utf-8", "surrogateescape")


def _shown(record: _Record) -> str:
    return record.note or text_diff(paths.printable(record.path), record.old, record.new)
