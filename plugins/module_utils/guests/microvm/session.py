# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A guest's disks inside a micro-VM."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
import typing as t

from ...disks.file_range import sync_file
from ...disks.luks import Key
from ...disks.qemu import check_qcow2
from ...protocol.errors import transient
from ..boottest.layerserver import Layer
from ..fixers.base import FixRequest
from ..session import Examined, GuestSession, Opened, Planned, Probed, UsedBlocks
from . import messages
from .image import MachineFiles
from .machine import MicroVm


class GuestInMicroVm(GuestSession):
    """The guest's filesystems in the kernel of a machine that has them, this program, and nothing else."""

    def __init__(
        self,
        files: MachineFiles,
        layers: t.Mapping[str, pathlib.Path],
        *,
        writable: bool,
        workdir: pathlib.Path,
        keys: t.Sequence[Key] = (),
        cancelled: t.Callable[[], bool],
    ) -> None:
        """Start the machine.

        Args:
            files: what it boots.
            layers: a qcow2 file of our own for each disk, by the disk's name.
            writable: whether they take writes.
            workdir: an existing folder for what is gone afterwards.
            keys: for the guest's LUKS containers.
            cancelled: asked several times a second.

        Raises:
            JobError: see :class:`.machine.MicroVm`.
        """
        self._layers = dict(layers)
        self._writable = writable
        self._keys = tuple(messages.SentKey.of(key) for key in keys)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._stack.close)
            folder = tempfile.TemporaryDirectory(prefix="microvm-", dir=workdir)
            place = pathlib.Path(self._stack.enter_context(folder))
            served = [Layer(name, path, "qcow2", kept=True, writable=writable) for name, path in layers.items()]
            self._machine = self._stack.enter_context(MicroVm(files, served, place, cancelled))
            undo.pop_all()

    def probe(self) -> Probed:
        """See :meth:`GuestSession.probe`."""
        return self._machine.ask(messages.Probe(tuple(self._layers), self._writable, self._keys), Probed)

    def mount(self) -> Opened:
        """See :meth:`GuestSession.mount`."""
        return self._machine.ask(messages.Mount(), Opened)

    def plan(self, request: FixRequest) -> Planned:
        """See :meth:`GuestSession.plan`."""
        return self._machine.ask(messages.PlanFixes.of(request), Planned)

    def apply(self) -> None:
        """See :meth:`GuestSession.apply`."""
        self._machine.ask(messages.Apply(), messages.Done)

    def instrument(self, token: str, *, emulated: bool) -> bool:
        """See :meth:`GuestSession.instrument`."""
        return self._machine.ask(messages.Instrument(token, emulated), messages.Instrumented).reports

    def used(self, sizes: t.Mapping[str, int]) -> UsedBlocks:
        """See :meth:`GuestSession.used`."""
        return self._machine.ask(messages.MapUsed(dict(sizes)), UsedBlocks)

    def examine(self) -> Examined:
        """See :meth:`GuestSession.examine`."""
        return self._machine.ask(messages.Examine(), Examined)

    def close(self) -> None:
        """See :meth:`GuestSession.close`."""
        try:
            self._machine.ask(messages.Close(), messages.Done)
            self._machine.finish()
        finally:
            self._stack.close()
        if not self._writable:
            return
        for path in self._layers.values():
            check_qcow2(path)
            try:
                sync_file(path)
            except OSError as error:
                raise transient(
                    "LostWrites", f"Writing {path} out failed: {error.strerror}.", "Check the storage."
                ) from error

    def abandon(self, error: BaseException) -> None:
        """See :meth:`GuestSession.abandon`."""
        self._stack.close()
