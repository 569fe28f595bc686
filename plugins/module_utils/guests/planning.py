# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Working out every change of a guest, as data, before anything is changed."""

from __future__ import annotations

import dataclasses
import typing as t

from ..protocol import models
from ..protocol.errors import unsupported
from . import paths
from .cards import assign
from .edits import Edits
from .facts import GuestFacts
from .fixers.base import Fixer, FixRequest
from .fixers.registry import fixers
from .selinux import Labels
from .tree import GuestTree

# Room that stays free: a filesystem that is filled to the last block does not boot well.
_RESERVE_BYTES = 1024**2
_RESERVE_INODES = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be changed."""

    edits: Edits

    @property
    def warnings(self) -> list[str]:
        """What a person should know of the plan."""
        return list(self.edits.warnings)


def plan_fixes(guest: GuestFacts, tree: GuestTree, request: FixRequest) -> Plan:
    """Let every fixer plan, those that the job chose, and check that the guest has room for it.

    Args:
        guest: the portrait.
        tree: the guest's files; they are not changed.
        request: what the job wants.

    Raises:
        JobError: a fixer of that name does not exist, the guest is hibernated (unsupported), it cannot be made to
            boot, or a filesystem of the guest is too full (unsupported, ``GuestFilesystemFull``).
    """
    edits = Edits(tree)
    if request.spec.enabled:
        _refuse_hibernated(guest)
        for fixer in _chosen(fixers(guest), request):
            with edits.by(fixer.name):
                fixer.plan(guest, edits, request)
        _check_writable(edits)
        _check_room(edits)
        _choose_labels(guest, edits, request)
    if not request.spec.runs(models.INTERFACE_NAMES):
        _tell_of_addresses(guest, edits, request)
    return Plan(edits)


def _refuse_hibernated(guest: GuestFacts) -> None:
    """What sleeps in a swap would wake up with filesystems in mind that were changed behind its back."""
    asleep = [filesystem.place for filesystem in guest.filesystems if filesystem.type == "swsuspend"]
    if asleep:
        raise unsupported(
            "Hibernated",
            f"The guest is hibernated: the swap on {', '.join(asleep)} holds its memory. Woken on other hardware it "
            "would not run, and its filesystems, changed meanwhile, would be damaged.",
            "Start the VM where it runs now, shut it down properly and export it again.",
        )


def _chosen(known: t.Sequence[Fixer], request: FixRequest) -> list[Fixer]:
    selection = request.spec.fixers
    names = [fixer.name for fixer in known]
    for name in (*selection.only, *selection.skip):
        if name not in names:
            raise unsupported(
                "UnknownFixer",
                f"There is no fixer {paths.printable(name)!r} for this guest.",
                f"Take one of {', '.join(names)}.",
            )
    return [f for f in known if (not selection.only or f.name in selection.only) and f.name not in selection.skip]


def _choose_labels(guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
    """Let new files get the labels that the guest's own list has for them; say so where there is no list."""
    new = sorted({change.path for change in edits.changes if change.before is None})
    if not new or guest.selinux not in ("enforcing", "permissive"):
        return
    labels = Labels(edits.tree)
    if request.spec.selinux_relabel is models.SelinuxRelabel.CHANGED and labels:
        edits.label = labels.of
    elif request.spec.selinux_relabel is not models.SelinuxRelabel.BOOT:
        edits.warn(
            f"The guest uses SELinux: new files ({', '.join(new)}) take the label of their folder. "
            "Where its policy wants another, run restorecon on them once the guest runs."
        )


def _tell_of_addresses(guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
    new = assign(guest.interfaces, request.source_nics, request.nics).addresses
    for interface in guest.interfaces:
        if interface.mac in new:
            edits.warn(
                f"{interface.source} names the network card {interface.mac}, which becomes {new[interface.mac]}; it is "
                f"left as it is, because the fixer {models.INTERFACE_NAMES} does not run."
            )


def _check_writable(edits: Edits) -> None:
    """Refuse a plan that touches what is protected in the guest, naming all of it."""
    protected = sorted({place for path in edits.touched() for place in _in_the_way(edits.tree, path)})
    if protected:
        raise unsupported(
            "GuestFileProtected",
            f"In the guest, what must be changed is immutable, append-only or on a filesystem that the kernel mounts "
            f"read-only: {', '.join(map(paths.printable, protected))}.",
            "Take the protection away in the guest (chattr -i, chattr -a; a check of the filesystem), then export it "
            "again.",
        )


def _in_the_way(tree: GuestTree, path: str) -> t.Iterator[str]:
    if tree.is_protected(path):
        yield path
    folder = path
    while not tree.is_dir(folder):
        folder = paths.split(folder)[0]
    if tree.is_protected(folder):
        yield folder


def _check_room(edits: Edits) -> None:
    """Refuse a plan that a filesystem has no blocks or inodes for.

    A file is written anew before its old self goes, so old sizes are not taken off.
    """
    wanted: dict[int, tuple[int, int]] = {}
    free: dict[int, tuple[int, int, str]] = {}
    for path, size in edits.needed().items():
        folder = path
        while not edits.tree.is_dir(folder):
            folder = paths.split(folder)[0]
        bytes_free, inodes_free, device = edits.tree.free_space(folder)
        free[device] = (bytes_free, inodes_free, min(folder, free.get(device, (0, 0, folder))[2], key=len))
        sizes, count = wanted.get(device, (0, 0))
        # Blocks of 4 KiB.
        wanted[device] = (sizes + -(-size // 4096) * 4096, count + 1)
    for device, (size, count) in wanted.items():
        bytes_free, inodes_free, where = free[device]
        if size + _RESERVE_BYTES > bytes_free or (inodes_free >= 0 and count + _RESERVE_INODES > inodes_free):
            raise unsupported(
                "GuestFilesystemFull",
                f"The guest's filesystem with {paths.printable(where)} has {bytes_free} bytes and {inodes_free} inodes "
                f"free; the changes take {size} bytes and {count} inodes, so "
                f"that {_missing(free[device], size, count)} are missing.",
                "Make room there in the guest (old kernels in /boot, logs), then export it again.",
            )


def _missing(free: tuple[int, int, str], size: int, count: int) -> str:
    parts = [(size + _RESERVE_BYTES - free[0], "bytes"), (count + _RESERVE_INODES - free[1], "inodes")]
    if free[1] < 0:
        parts.pop()
    return " and ".join(f"{number} {what}" for number, what in parts if number > 0)
