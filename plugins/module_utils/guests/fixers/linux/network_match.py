# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network configuration that picks a card by its driver or its place on the bus: both are others on KVM.

Formats: systemd.network(5) and systemd.link(5) (Driver, Path), nm-settings(5) (match.driver, match.path), netplan(5)
(match: driver), udev(7) (DRIVERS, KERNELS).
"""

from __future__ import annotations

import re

from ...edits import Edits
from ...facts import GuestFacts
from ...netconfig import KEYFILES, LINKS, NETPLAN, NETWORKD, UDEV_RULES
from ..base import FixRequest, Phase

#: Drivers of cards that other hypervisors emulate; QEMU's is virtio_net here.
_DRIVERS = (
    r"(?:vmxnet3?|vlance|pcnet32|e1000e?|igb(?:vf)?|ixgbevf|hv_netvsc|xen[-_]?(?:netfront|vnif|net)|vif|virtio-pci-net)"
)
_VALUE = re.compile(rf"(?<![\w-]){_DRIVERS}(?![\w-])")
#: Lines that name a driver, by the files in which they may stand.
_DRIVER_LINES = (
    ((*NETWORKD, *LINKS), re.compile(r"^\s*Driver\s*=")),
    (KEYFILES, re.compile(r"^\s*driver\s*=")),
    (NETPLAN, re.compile(r"^\s*driver\s*:")),
    (UDEV_RULES, re.compile(r"^(?!\s*#).*DRIVERS==")),
)
#: A line that is meant is shorter; a longer one would tire a pattern.
_LINE_LIMIT = 4096
_PATH = re.compile(r"^(\s*)Path\s*=\s*(\S.*?)\s*$")
_OTHER_PATHS = (
    (KEYFILES, re.compile(r"^\s*path\s*=\s*(\S+)")),
    (UDEV_RULES, re.compile(r'^(?!\s*#).*KERNELS=="([0-9a-fA-F:.]{7,12})".*NAME=')),
)


class NetworkMatchFixer:
    """Names the new driver; a place on the bus becomes the card's MAC address where the VM has one card."""

    name = "network-match"
    title = "Network configuration by the new card"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        for patterns, setting in _DRIVER_LINES:
            for path in edits.files(*patterns):
                lines = edits.read_text(path).split("\n")
                new = [_VALUE.sub("virtio_net", line) if setting.match(line) else line for line in lines]
                if new != lines:
                    edits.write(path, "\n".join(new), why="the configuration picks the card by its old driver")
        macs = [nic.mac for nic in request.nics if nic.mac]
        for path in edits.files(*NETWORKD, *LINKS):
            lines = edits.read_text(path).split("\n")
            new = [_by_address(line, macs, path, edits) for line in lines]
            if new != lines:
                edits.write(path, "\n".join(new), why="the configuration picks the card by its old place on the bus")
        for patterns, setting in _OTHER_PATHS:
            for path in edits.files(*patterns):
                lines = [line for line in edits.read_text(path).split("\n") if len(line) <= _LINE_LIMIT]
                for match in filter(None, map(setting.match, lines)):
                    _warn(path, match[1], edits)


def _by_address(line: str, macs: list[str], path: str, edits: Edits) -> str:
    match = _PATH.match(line)
    if match is None or match[2] == "*":
        return line
    if len(macs) == 1:
        return f"{match[1]}MACAddress={macs[0]}"
    _warn(path, match[2], edits)
    return line


def _warn(path: str, place: str, edits: Edits) -> None:
    edits.warn(
        f"{path} picks a network card by its place on the bus ({place}), which is another on KVM; which of the VM's "
        "cards is meant is not known. Let it pick the card by its MAC address."
    )
