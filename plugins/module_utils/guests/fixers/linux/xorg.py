# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An X server that is configured for the old hypervisor's screen and mouse. Format: xorg.conf(5)."""

from __future__ import annotations

import re
import typing as t

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_CONFIGS = ("/etc/X11/xorg.conf", "/etc/X11/XF86Config", "/etc/X11/XF86Config-4", "/etc/X11/xorg.conf.d/*.conf")
_SCREENS = ("vmware", "vboxvideo", "prlvideo", "hyperv", "xenfb")
_MICE = ("vmmouse", "vboxmouse", "prlmouse")
#: The first of these that the guest has drives whatever card QEMU gives it.
_GENERIC = ("modesetting", "fbdev", "vesa")
_MODULES = "/usr/lib*/xorg/modules/drivers"
_SECTION = re.compile(r"[ \t]*(?:Section[ \t]+\"(?P<name>\w+)\"|(?P<end>EndSection)\b)", re.IGNORECASE)
_DRIVER = re.compile(r"([ \t]*Driver[ \t]+\")([^\"]+)(\".*)", re.IGNORECASE)
_BUS = re.compile(r"[ \t]*BusID\b", re.IGNORECASE)
_WHY = "the X server would look for the old hypervisor's card"


class XorgFixer:
    """Gives the sections of screens and mice that QEMU does not have a driver that fits any."""

    name = "xorg"
    title = "The X server's drivers"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        screen = next((n for n in _GENERIC if edits.glob(f"{_MODULES}/{n}_drv.so")), "modesetting")
        for path in edits.files(*_CONFIGS):
            lines = edits.read_text(path).split("\n")
            new = [line for part in _sections(lines) for line in _changed(part, screen)]
            if new != lines:
                edits.write(path, "\n".join(new), why=_WHY)


def _sections(lines: list[str]) -> t.Iterator[list[str]]:
    """Yield the lines in pieces: each section is one, what is between them another."""
    part: list[str] = []
    for line in lines:
        mark = _SECTION.match(line)
        if mark and not mark["end"]:
            yield part
            part = []
        part.append(line)
        if mark and mark["end"]:
            yield part
            part = []
    yield part


def _changed(part: list[str], screen: str) -> list[str]:
    begin = _SECTION.match(part[0]) if part else None
    kind = (begin["name"] or "").lower() if begin else ""
    drivers = {match[2].lower() for line in part if (match := _DRIVER.match(line))}
    if kind == "device" and drivers & set(_SCREENS):
        return [f"# {line}" if _BUS.match(line) else _DRIVER.sub(rf"\g<1>{screen}\g<3>", line) for line in part]
    if kind in ("inputdevice", "inputclass") and drivers & set(_MICE):
        return [_DRIVER.sub(r"\g<1>mouse\g<3>", line) for line in part]
    return part
