# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Another host name, as the job asks for it. Formats: hostname(5), hosts(5)."""

from __future__ import annotations

import re

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_WHY = "the job gives the guest this name"
_SHELL_SETTINGS = (("/etc/sysconfig/network", "HOSTNAME"), ("/etc/conf.d/hostname", "hostname"))


class HostnameFixer:
    """Writes the name, and renames the guest's own lines in /etc/hosts."""

    name = "hostname"
    title = "The host name"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        new = request.spec.hostname
        if new is None:
            return
        if guest.hostname != new or not edits.exists("/etc/hostname"):
            edits.write("/etc/hostname", f"{new}\n", why=_WHY)
        for path, key in _SHELL_SETTINGS:
            text = edits.text(path)
            renamed = re.sub(rf"(?m)^({key}=).*$", lambda match: f'{match[1]}"{new}"', text)
            if renamed != text:
                edits.write(path, renamed, why=_WHY)
        if edits.exists("/etc/HOSTNAME") and edits.resolve("/etc/HOSTNAME") != edits.resolve("/etc/hostname"):
            edits.write("/etc/HOSTNAME", f"{new}\n", why=_WHY)
        if guest.hostname and guest.hostname != new:
            own = {a.partition("/")[0] for interface in guest.interfaces for a in interface.addresses}
            text = edits.text("/etc/hosts")
            lines = [_renamed(line, own, guest.hostname, new) for line in text.split("\n")]
            if lines != text.split("\n"):
                edits.write("/etc/hosts", "\n".join(lines), why=_WHY)


def _renamed(line: str, own: set[str], old: str, new: str) -> str:
    """Return a line of /etc/hosts with the guest's own name changed, where its address is the guest's own."""
    names, hash_sign, comment = line.partition("#")
    words = names.split()
    if not words or not (words[0].startswith("127.") or words[0] == "::1" or words[0] in own):
        return line
    old_short, new_short = old.partition(".")[0], new.partition(".")[0]

    def rename(match: re.Match[str]) -> str:
        word = match[0]
        if word == old:
            return new
        if word == old_short:
            return new_short
        return new_short + word[len(old_short) :] if word.startswith(f"{old_short}.") else word

    return re.sub(r"(?<=\s)\S+", rename, names) + hash_sign + comment
