# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person is told of the source's networks that the job does not map."""

from __future__ import annotations

import collections.abc as c

from ..protocol import models
from . import kubevirt, libvirt
from .machine import Machine


def unmapped(machine: Machine, definitions: c.Collection[models.Definition]) -> list[str]:
    """Return a sentence for each card whose network has a name in the source and a guessed place in ``definitions``."""
    told = []
    for index, (nic, place) in enumerate(zip(machine.nics, machine.places, strict=True)):
        guesses = []
        if models.Definition.LIBVIRT in definitions and not (place and (place.network or place.bridge)):
            guesses.append(f"libvirt's network {libvirt.DEFAULT_NETWORK}")
        if models.Definition.KUBEVIRT in definitions and not (place and (place.multus or place.pod)):
            name = kubevirt.attachment(machine, index)
            guesses.append("the pod's network" if name is None else f"the NetworkAttachmentDefinition {name}")
        if nic.network and guesses:
            told.append(
                f"Network card {nic.mac} was on {nic.network!a}, of which guest.network.map says no place; "
                f"the definitions plug it into {' and '.join(guesses)}."
            )
    return told
