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
from ...disks.attach import attach
from ...disks.filesystems import probe
from ...disks.overlay import create_throwaway
from ...protocol.errors import JobError
from ..roots import mount_guest
from . import instruments
from .commandline import VARIABLES
from .layerserver import Layer


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of one boot."""

    disks: tuple[Layer, ...]
    """In boot order."""
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
    secure_boot: bool | None,
) -> Layers:
    """Make the layers in ``folder``.

    Args:
        disks: image and format (``qcow2`` or ``raw``), boot disk first; none is written to.
        folder: an empty folder; its owner removes it.
        token: of the guest's report; None: the guest's files are left as they are.
        secure_boot: whether UEFI enforces Secure Boot; None: the machine has a BIOS.

    Raises:
        JobError: no space, an image that cannot be opened, no firmware.
    """
    layers = _throwaways(disks, folder)
    reports, obstacle = False, ""
    if token is not None:
        try:
            reports = _instrument(layers, folder, token)
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


def _instrument(layers: tuple[Layer, ...], folder: pathlib.Path, token: str) -> bool:
    paths = {layer.name: layer.path for layer in layers}
    with attach(paths, writable=True, workdir=folder) as attachment:
        filesystems = probe(attachment)
        with mount_guest(attachment, filesystems, writable=True, workdir=folder) as guest:
            return instruments.instrument(guest.tree, token)
