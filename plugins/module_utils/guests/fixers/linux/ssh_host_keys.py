# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New host keys of ssh, where the job asks for them. They are made by the guest itself at its next boot."""

from __future__ import annotations

from ...edits import Edits
from ...facts import GuestFacts
from ..base import FixRequest, Phase

_WHY = "the job asks for new host keys"
_UNIT = "/etc/systemd/system/hyper2kvm-ssh-host-keys.service"
_WANTED = "/etc/systemd/system/multi-user.target.wants/hyper2kvm-ssh-host-keys.service"
# Units and scripts of distributions whose sshd makes missing keys by itself (Fedora's kin, Arch, Alpine, SUSE).
_MAKERS = (
    "/usr/lib/systemd/system/sshd-keygen@.service",
    "/usr/lib/systemd/system/sshd-keygen.service",
    "/usr/lib/systemd/system/sshdgenkeys.service",
    "/usr/sbin/sshd-gen-keys-start",
)
_SERVICE = """\
# Written by hyper2kvm: makes new host keys for ssh when there are none.
[Unit]
Description=Make missing host keys for ssh
Before=ssh.service sshd.service ssh.socket sshd.socket
ConditionPathExistsGlob=!/etc/ssh/ssh_host_*_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""


class SshHostKeysFixer:
    """Removes the host keys, and sees to it that the guest makes new ones."""

    name = "ssh-host-keys"
    title = "New host keys for ssh"
    phase = Phase.SYSTEM

    def plan(self, guest: GuestFacts, edits: Edits, request: FixRequest) -> None:
        """See :class:`~..base.Fixer`."""
        keys = edits.files("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub")
        if not request.spec.reset_ssh_host_keys or not keys:
            return
        makes_own = any(edits.exists(path) for path in _MAKERS) or guest.init == "openrc"
        if not makes_own and guest.init != "systemd":
            edits.warn("The guest has nothing that would make new host keys for ssh: the old ones stay.")
            return
        for path in keys:
            edits.remove(path, _WHY)
        if not makes_own:
            edits.write(_UNIT, _SERVICE, why="the guest's sshd does not make missing keys by itself")
            edits.symlink(_WANTED, _UNIT, "starts it")
