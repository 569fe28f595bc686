# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The throw-away layers of a boot test: all that the guest, and the test, writes."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import typing as t

from ...definitions.ovmf import find_ovmf
from ...disks.command import never
from ...disks.overlay import create_throwaway
from ...protocol.errors import JobError
from ..opening import HERE, Access, with_guest
from ..session import GuestSession
from .commandline import VARIABLES
from .layerserver import Layer


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of one boot."""

    disks: tuple[Layer, ...]
    """In the guest's order."""
    variables: Layer | None
    """A UEFI machine's variables, empty at first as on a new machine."""
    reports: bool
    """Whether the guest was given the unit that reports."""
    obstacle: str = ""
    """Why the guest could not be prepared; empty: it was."""

    @property
    def all(self) -> list[Layer]:
        """Everything that is served."""
        return [*self.disks, *([self.variables] if self.variables else [])]


def prepare(
    disks: t.Sequence[tuple[pathlib.Path, str]],
    folder: pathlib.Path,
    *,
    token: str | None,
    emulated: bool,
    secure_boot: bool | None,
    access: Access = HERE,
    cancelled: t.Callable[[], bool] = never,
) -> Layers:
    """Make the layers in ``folder``.

    Args:
        disks: image and format (``qcow2`` or ``raw``), in the guest's order; none is written to.
        folder: an empty folder; its owner removes it.
        token: of the guest's report; None: the guest's files are left as they are.
        emulated: whether the guest's processor will be.
        secure_boot: whether UEFI enforces Secure Boot; None: the machine has a BIOS.
        access: how the guest's files may be reached.
        cancelled: asked while that takes longer.

    Raises:
        JobError: no space, an image that cannot be opened, no firmware.
    """
    layers = _throwaways(disks, folder)
    reports, obstacle = False, ""
    if token is not None:
        try:
            reports = _instrument(disks, layers, folder, token, emulated, access, cancelled)
        except JobError as error:
            # A guest that cannot be mounted here may boot all the same; its console is left to judge by.
            layers, obstacle = _throwaways(disks, folder), error.message
    variables = None
    if secure_boot is not None:
        variables = Layer(VARIABLES, folder / "variables.fd", "raw")
        shutil.copyfile(find_ovmf(secure_boot=secure_boot).variables, variables.path)
    return Layers(layers, variables, reports, obstacle)


def _throwaways(disks: t.Sequence[tuple[pathlib.Path, str]], folder: pathlib.Path) -> tuple[Layer, ...]:
    layers = []
    for index, (path, fmt) in enumerate(disks):
        layer = Layer(f"disk{index}", folder / f"disk{index}.throwaway.qcow2", "qcow2")
        create_throwaway(layer.path, path, fmt)
        layers.append(layer)
    return tuple(layers)


def _instrument(
    disks: t.Sequence[tuple[pathlib.Path, str]],
    layers: tuple[Layer, ...],
    folder: pathlib.Path,
    token: str,
    emulated: bool,
    access: Access,
    cancelled: t.Callable[[], bool],
) -> bool:
    def work(guest: GuestSession) -> bool:
        guest.probe()
        guest.mount()
        return guest.instrument(token, emulated=emulated)

    paths = {layer.name: layer.path for layer in layers}
    guest, reports = with_guest(
        paths,
        access,
        work,
        writable=True,
        workdir=folder,
        cancelled=cancelled,
        renew=lambda: _renew(disks, folder),
    )
    guest.close()
    return reports


def _renew(disks: t.Sequence[tuple[pathlib.Path, str]], folder: pathlib.Path) -> None:
    _throwaways(disks, folder)
