# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's disks while something is done with them: looked into, planned for, changed, mapped.

There are two ways to have them, with the same methods: :class:`GuestHere` lets this host's kernel read the guest's
filesystems; :class:`.microvm.session.GuestInMicroVm` has the very same code do it inside a virtual machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import typing as t

from ..disks.attach import Attachment
from ..disks.command import never
from ..disks.device_mapper import no_device_mapper
from ..disks.filesystems import probe
from ..disks.fsck import Checked, check_filesystems
from ..disks.journal import JOURNALS, needs_replay
from ..disks.luks import Key
from ..disks.model import Filesystem
from ..disks.used_blocks import used_ranges
from ..disks.volumes import holds_volumes, opened_volumes
from ..protocol import models
from ..protocol.errors import JobError
from .bootdisk import BootCode, read_boot_code
from .boottest.instruments import instrument
from .facts import GuestFacts, Mount
from .fixers.base import FixRequest
from .inspection import inspect
from .planning import Plan, plan_fixes
from .roots import OPAQUE, MountedGuest, mount_guest, target_is_needed

Ranges = list[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Probed:
    """What the disks hold, as far as that shows without opening or mounting anything."""

    filesystems: tuple[Filesystem, ...]
    sector_bytes: dict[str, int]
    """Of each disk, the size of its sectors."""
    boot_codes: dict[str, BootCode]
    """Of each disk, what a BIOS would run."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """What the mounted guest is."""

    facts: GuestFacts
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Planned:
    """Every change that would be made."""

    changes: tuple[models.FileChange, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class UsedBlocks:
    """What of the disks is in use."""

    ranges: dict[str, Ranges]
    """By the disk's name: begins and ends in bytes, ascending."""
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Examined:
    """How sound the filesystems are."""

    filesystems: tuple[Checked, ...]
    warnings: tuple[str, ...] = ()


class GuestSession(t.Protocol):
    """A guest's disks, attached. :meth:`probe` comes first, then :meth:`mount`, :meth:`used` or :meth:`examine`."""

    def probe(self) -> Probed:
        """Return what the partitions hold.

        Raises:
            JobError: a disk cannot be read.
        """

    def mount(self) -> Opened:
        """Mount the guest and draw its portrait.

        Raises:
            JobError: see :func:`.roots.mount_guest` and :func:`.inspection.inspect`.
        """

    def plan(self, request: FixRequest) -> Planned:
        """Work out every change of the mounted guest.

        Raises:
            JobError: see :func:`.planning.plan_fixes`.
        """

    def apply(self) -> None:
        """Carry the last plan out.

        Raises:
            JobError: see :meth:`.edits.Edits.apply`.
        """

    def instrument(self, token: str, *, emulated: bool) -> bool:
        """Prepare the mounted guest for a boot test; see :func:`.boottest.instruments.instrument`."""

    def used(self, sizes: t.Mapping[str, int]) -> UsedBlocks:
        """Return what of the disks is in use. Not while the guest is mounted.

        Args:
            sizes: of the disks, in bytes, by name.
        """

    def examine(self) -> Examined:
        """Return what the filesystems' own checkers say of them. Not while the guest is mounted."""

    def close(self) -> None:
        """Let go of the disks; when this returns, every write is in the layers, which were checked.

        Raises:
            JobError: writes may be lost: the layers must not be used.
        """

    def abandon(self, error: BaseException) -> None:
        """Let go of the disks after ``error``, as far as that goes."""


class GuestHere(GuestSession):
    """The guest's filesystems in this host's own kernel."""

    def __init__(
        self,
        attachment: contextlib.AbstractContextManager[Attachment],
        *,
        writable: bool,
        workdir: pathlib.Path,
        keys: t.Sequence[Key] = (),
        opens_volumes: bool = True,
        cancelled: t.Callable[[], bool] = never,
    ) -> None:
        """Attach the disks.

        Args:
            attachment: is entered here, and left at the end.
            writable: whether the guest's files may be changed.
            workdir: an existing folder for mount points, which are gone afterwards.
            keys: for the guest's LUKS containers.
            opens_volumes: whether the guest's volumes may be opened here; else this kernel counts as one that cannot.
            cancelled: asked several times a second while filesystems are examined.

        Raises:
            JobError: they cannot be attached here.
        """
        self._stack = contextlib.ExitStack()
        self._attachment = self._stack.enter_context(attachment)
        self._writable = writable
        self._workdir = workdir
        self._keys = keys
        self._opens_volumes = opens_volumes
        self._cancelled = cancelled
        self._filesystems: list[Filesystem] = []
        self._volumes: list[str] | None = None
        self._guest: MountedGuest | None = None
        self._facts = GuestFacts()
        self._plan: Plan | None = None

    def probe(self) -> Probed:
        """See :meth:`GuestSession.probe`."""
        self._filesystems = probe(self._attachment)
        sizes = {name: disk.sector_size for name, disk in self._attachment.disks.items()}
        codes = {name: read_boot_code(disk.device) for name, disk in self._attachment.disks.items()}
        return Probed(tuple(self._filesystems), sizes, codes)

    def mount(self) -> Opened:
        """See :meth:`GuestSession.mount`."""
        lacking: JobError | None = None
        try:
            warnings = self._open_volumes()
        except JobError as error:
            if error.reason != "NoDeviceMapper":
                raise
            # The system may do without what is in them.
            lacking, warnings = error, [f"{error.message} They are left as they are."]
        warnings += self._unclean()
        try:
            self._guest = self._stack.enter_context(
                mount_guest(self._attachment, self._filesystems, writable=self._writable, workdir=self._workdir)
            )
        except JobError as error:
            if lacking is not None:
                raise lacking from error
            if error.reason in OPAQUE:
                # Nobody gets the warnings of a guest that is not opened.
                error.message = " ".join((error.message, *warnings))
            raise
        self._facts = inspect(self._guest, self._guest.filesystems)
        if lacking is not None and any(_is_missing(mount) for mount in self._facts.mounts):
            raise lacking
        return Opened(self._facts, tuple(warnings))

    def plan(self, request: FixRequest) -> Planned:
        """See :meth:`GuestSession.plan`."""
        self._plan = plan_fixes(self._facts, self._mounted.tree, request)
        return Planned(tuple(self._plan.edits.changes), tuple(self._plan.warnings))

    def apply(self) -> None:
        """See :meth:`GuestSession.apply`."""
        if self._plan is None:
            raise AssertionError("a plan comes before its application")
        self._plan.edits.apply(self._mounted.tree)

    def instrument(self, token: str, *, emulated: bool) -> bool:
        """See :meth:`GuestSession.instrument`."""
        return instrument(self._mounted.tree, token, emulated=emulated)

    def used(self, sizes: t.Mapping[str, int]) -> UsedBlocks:
        """See :meth:`GuestSession.used`."""
        warnings = self._open_volumes()
        ranges = used_ranges(self._attachment, sizes, self._filesystems, self._workdir, warnings.append)
        return UsedBlocks(ranges, tuple(warnings))

    def examine(self) -> Examined:
        """See :meth:`GuestSession.examine`."""
        warnings = self._open_volumes()
        return Examined(tuple(check_filesystems(self._attachment, self._filesystems, self._cancelled)), tuple(warnings))

    def close(self) -> None:
        """See :meth:`GuestSession.close`."""
        self._stack.close()

    def abandon(self, error: BaseException) -> None:
        """See :meth:`GuestSession.abandon`."""
        with contextlib.suppress(Exception):
            self._stack.__exit__(type(error), error, error.__traceback__)

    @property
    def _mounted(self) -> MountedGuest:
        if self._guest is None:
            raise AssertionError("the guest is mounted before anything is done with its files")
        return self._guest

    def _open_volumes(self) -> list[str]:
        """Open what lies in volumes, once, and return what a person should know of it."""
        if self._volumes is None:
            if not self._opens_volumes and holds_volumes(self._filesystems, self._keys):
                raise no_device_mapper("a host's udev may take them for the host's own")
            volumes = opened_volumes(self._attachment, self._filesystems, self._keys, writable=self._writable)
            found = self._stack.enter_context(volumes)
            self._filesystems, self._volumes = found.filesystems, found.warnings
        return list(self._volumes)

    def _unclean(self) -> t.Iterator[str]:
        # No device is made of what is none of these: udev would look into it.
        for filesystem in (found for found in self._filesystems if found.type in JOURNALS):
            partition = filesystem.partition
            if needs_replay(self._attachment.disks[partition.disk].partition_device(partition), filesystem.type):
                yield (
                    f"The {filesystem.type} filesystem on {filesystem.place} was in use when the disk "
                    "was exported: this is a crash-consistent copy, as after a power cut."
                )


def _is_missing(mount: Mount) -> bool:
    """Whether a part of the operating system was not found."""
    return target_is_needed(mount.mountpoint) and mount.filesystem is None
