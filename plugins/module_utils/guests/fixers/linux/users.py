# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users, as the job asks for them. Formats: passwd(5) and its kin, crypt(5), sudoers(5)."""

from __future__ import annotations

import re

from ....protocol import models
from ....protocol.errors import invalid, unsupported
from ... import accounts
from ...edits import Edits
from ...facts import GuestFacts
from ...paths import join
from ..base import FixRequest, Phase

_WHY = "the job asks for this user"
_HASH = re.compile(r"\$[0-9a-z]+\$[^:\s]+")
_SHELLS = ("/bin/bash", "/bin/ash", "/bin/sh")
_LOCKED = "!"


class UsersFixer:
    """Makes users that are missing, and gives existing ones what the job says; nothing is taken from anybody."""

    name = "users"
    title = "Users"
    phase = Phase.ACCOUNTS

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`.

        Raises:
            JobError: there is no such group or secret, or no place for a rule of sudo.
        """
        for wanted in request.spec.users:
            encoded = _encoded(wanted, request)
            if accounts.find_user(edits, wanted.name) is None:
                _make(wanted, edits)
            if encoded:
                _set_password(wanted.name, encoded, edits)
            for group in wanted.groups:
                if accounts.find_group(edits, group) is None:
                    raise invalid(
                        "NoSuchGroup", f"The guest has no group {group}.", "Correct guest.users, or add the group."
                    )
                for path in (accounts.GROUP, accounts.GSHADOW):
                    edits.write(path, accounts.with_member(edits.text(path), group, wanted.name), why=_WHY)
            if wanted.sudo:
                _allow_sudo(wanted.name, edits)


def _encoded(wanted: models.GuestUser, request: FixRequest) -> str:
    if wanted.password_hash_from is None:
        return ""
    encoded = request.secret(wanted.password_hash_from).strip()
    if not _HASH.fullmatch(encoded):
        where = f"{wanted.password_hash_from.name}/{wanted.password_hash_from.key}"
        raise invalid(
            "NoPasswordHash",
            f"Secret {where} is no password as crypt(3) encodes it.",
            "Encode it, for instance with openssl passwd -6.",
        )
    return encoded


def _make(wanted: models.GuestUser, edits: Edits) -> None:
    number = accounts.free_id(edits)
    home = f"/home/{wanted.name}"
    shell = wanted.shell or next((path for path in _SHELLS if edits.exists(path)), "/bin/sh")
    lines = {
        accounts.PASSWD: f"{wanted.name}:x:{number}:{number}::{home}:{shell}",
        accounts.GROUP: f"{wanted.name}:x:{number}:",
        # A new one's age is not known: the guest's clock says when it is first seen.
        accounts.SHADOW: f"{wanted.name}:{_LOCKED}::0:99999:7:::",
        accounts.GSHADOW: f"{wanted.name}:{_LOCKED}::",
    }
    for path, line in lines.items():
        if edits.exists(path):
            edits.write(path, accounts.with_line(edits.text(path), line), why=_WHY, confidential="shadow" in path)
    edits.mkdir(home, _WHY, 0o700, (number, number))
    for name in edits.names("/etc/skel"):
        source = join("/etc/skel", name)
        if edits.is_file(source) and not edits.is_symlink(source):
            edits.write(join(home, name), edits.read_bytes(source), why="as in /etc/skel", owner=(number, number))


def _set_password(name: str, encoded: str, edits: Edits) -> None:
    path, index = (accounts.SHADOW, 1) if edits.exists(accounts.SHADOW) else (accounts.PASSWD, 1)
    text = edits.text(path)
    edits.write(path, accounts.with_field(text, name, index, encoded), why=_WHY, confidential=True)


def _allow_sudo(name: str, edits: Edits) -> None:
    if not edits.is_dir("/etc/sudoers.d"):
        raise unsupported(
            "NoSudo", f"The guest has no /etc/sudoers.d, so {name} cannot be let become root.", "Install sudo there."
        )
    edits.write(f"/etc/sudoers.d/90-hyper2kvm-{name}", f"{name} ALL=(ALL) NOPASSWD:ALL\n", why=_WHY, mode=0o440)
