# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A serial console: what ``virsh console`` and ``virtctl console`` show.

systemd starts a login prompt on each serial console of the kernel by itself (systemd-getty-generator(8)); init
programs with an inittab are told.
"""

from __future__ import annotations

import re

from ... import cmdline
from ...edits import Edits
from ...facts import GuestFacts
from ...paths import split
from ..base import FixRequest, Phase

#: Xen's consoles; the machines that are defined here have none of that kind.
_XEN = re.compile(r"(?<!\S)console=(?:hvc|xvc)0(?!\S)")
_XEN_PORT = re.compile(r"\b(?:hvc|xvc)0\b")
_INITTAB = "/etc/inittab"
_SECURETTY = "/etc/securetty"
_WHY = "a console that the new hypervisor can show"


class SerialConsoleFixer:
    """Adds a console to each kernel's command line that has no serial one."""

    name = "serial-console"
    title = "A serial console"
    phase = Phase.BOOT

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        port = "ttyAMA0" if guest.arch in ("aarch64", "armv7l") else "ttyS0"
        for path in cmdline.files(guest, edits):
            cmdline.edit(edits, path, lambda line, path=path: _with_console(line, path, port), _WHY)  # type: ignore[misc]
        if guest.init in ("sysvinit", "busybox", "openrc"):
            _add_prompt(edits, port)


def _with_console(line: str, path: str, port: str) -> str:
    span = cmdline.arguments(line, path)
    if span is None:
        return line
    present = re.findall(r"(?<!\S)console=(\S+)", line[span[0] : span[1]])
    if any(re.match(r"(tty[A-Z]|uart)", console) for console in present):
        return line
    if any(_XEN.fullmatch(f"console={console}") for console in present):
        return line[: span[0]] + _XEN.sub(f"console={port},115200", line[span[0] : span[1]]) + line[span[1] :]
    # The last one is where the init program and its emergency shell talk; the screen stays a console as well.
    words = ([] if present else ["console=tty0"]) + [f"console={port},115200"]
    before = line[: span[1]]
    gap = "" if span[0] == span[1] and before[-1:] in "\"'" else " "
    return before + gap + " ".join(words) + line[span[1] :]


def _add_prompt(edits: Edits, port: str) -> None:
    text = edits.text(_INITTAB)
    active = [line for line in text.splitlines() if port in line and not line.lstrip().startswith("#")]
    xen = [line for line in text.splitlines() if _XEN_PORT.search(line) and not line.lstrip().startswith("#")]
    if xen and not active:
        lines = [_XEN_PORT.sub(port, line) if line in xen else line for line in text.split("\n")]
        edits.write(_INITTAB, "\n".join(lines), why="Xen's console is none of KVM's")
        _allow_root(edits, port)
        return
    getty = next((path for path in ("/sbin/getty", "/sbin/agetty") if edits.exists(path)), "")
    if not text or active or not getty:
        return
    if split(edits.resolve("/sbin/init"))[1] == "busybox":
        line = f"{port}::respawn:{getty} -L 115200 {port} vt100"
    else:
        line = f"T0:2345:respawn:{getty} -L {port} 115200 vt100"
    edits.write(_INITTAB, text.rstrip("\n") + f"\n{line}\n", why="a login prompt on the serial console")
    _allow_root(edits, port)


def _allow_root(edits: Edits, port: str) -> None:
    allowed = edits.text(_SECURETTY)
    if allowed and port not in allowed.split():
        edits.write(_SECURETTY, allowed.rstrip("\n") + f"\n{port}\n", why="root may log in on the serial console")
