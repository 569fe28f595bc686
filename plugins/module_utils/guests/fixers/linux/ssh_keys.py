# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys for ssh, as the job asks for them. Formats: passwd(5), AUTHORIZED_KEYS FILE FORMAT of sshd(8)."""

from __future__ import annotations

import re

from ....protocol import models
from ....protocol.errors import JobError, invalid, unsupported
from ... import accounts
from ...edits import Edits
from ...facts import GuestFacts
from ...paths import join, printable, split
from ...tree import Owner
from ..base import FixRequest, Phase

_WHY = "the job gives this user these keys"
_SETTING = re.compile(r"(?im)^[ \t]*AuthorizedKeysFile[ \t]+([^\s\0]+)(?!\S)")
_CONFIGS = ("/etc/ssh/sshd_config.d/*.conf", "/etc/ssh/sshd_config")


class SshKeysFixer:
    """Adds keys to users' authorized_keys; those that are there stay."""

    name = "ssh-keys"
    title = "Keys for ssh"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`.

        Raises:
            JobError: there is no such user or secret, or the user's file is none that ssh would take.
        """
        for wanted in request.spec.ssh_keys:
            _add(wanted, edits, request)


def _add(wanted: models.SshKeys, edits: Edits, request: FixRequest) -> None:
    keys = [key.strip() for key in wanted.keys]
    if wanted.keys_from is not None:
        keys += _referred(wanted.keys_from, request)
    if not keys:
        return
    home, owner = _user(wanted.user, edits)
    path = _file(wanted.user, home, edits)
    text = edits.text(path)
    known = {line.strip() for line in text.splitlines()}
    new = [key for key in dict.fromkeys(keys) if key not in known]
    if not new:
        return
    folder = split(path)[0]
    if not edits.exists(folder):
        edits.mkdir(folder, _WHY, 0o700, owner)
    content = (text if not text or text.endswith("\n") else text + "\n") + "".join(f"{key}\n" for key in new)
    confidential = wanted.keys_from is not None
    if edits.exists(path):
        edits.write(path, content, why=_WHY, confidential=confidential)
    else:
        edits.write(path, content, why=_WHY, mode=0o600, owner=owner, confidential=confidential)


def _referred(reference: models.SecretRef, request: FixRequest) -> list[str]:
    """Return the keys of a secret; no error about them shows any."""
    text = request.secret(reference)
    if "PRIVATE KEY" in text:
        raise invalid(
            "PrivateKey",
            f"The secret {reference.name}/{reference.key} that guest.sshKeys names has a private key in it.",
            "Let it hold public keys, one a line: what ssh-keygen writes to the file that ends in .pub.",
        )
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _user(name: str, edits: Edits) -> tuple[str, Owner]:
    user = accounts.find_user(edits, name)
    if user is None:
        raise invalid(
            "NoSuchUser", f"The guest has no user {name} in its /etc/passwd.", "Correct guest.sshKeys, or add the user."
        )
    home = edits.resolve(user.home) if edits.is_dir(user.home) else "/"
    if home == "/":
        raise unsupported(
            "NoHome",
            f"The guest's user {name} has no home folder ({printable(user.home)}) for ssh keys.",
            "Give the keys to another user.",
        )
    return home, (user.uid, user.gid)


def _file(user: str, home: str, edits: Edits) -> str:
    """Return where sshd looks for this user's keys; links within the user's home, which sshd shuns, are refused."""
    setting = next((m for p in edits.files(*_CONFIGS) if (m := _SETTING.search(edits.read_text(p)))), None)
    pattern = setting[1] if setting and setting[1] != "none" else ".ssh/authorized_keys"
    expanded = re.sub(r"%[hu%]", lambda m: {"%h": home, "%u": user, "%%": "%"}[m[0]], pattern)
    path = expanded if expanded.startswith("/") else join(home, expanded)
    for place in (split(path)[0], path):
        if place.startswith(f"{home}/") and edits.is_symlink(place):
            raise _no_link(place)
    return path


def _no_link(path: str) -> JobError:
    return unsupported(
        "LinkedKeys",
        f"In the guest, {printable(path)} is a symbolic link: keys are not written through what a user points "
        "elsewhere.",
        "Replace the link in the guest, or give the keys to another user.",
    )
