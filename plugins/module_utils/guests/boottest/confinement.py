# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How QEMU is started for a boot test: which program, as whom, and what it may not do.

QEMU runs the code of a clone of a production machine. It is therefore never root: it changes to ``nobody`` before its
first instruction, holds no capability, cannot gain one, and has QEMU's own system call filter. All that it reads or
writes (disks, consoles, monitor, screenshot) reaches it as open file descriptors, so no file needs other permissions.
It dies with its parent.
"""

from __future__ import annotations

import os
import pathlib
import pwd
import resource
import shutil
import stat
import typing as t

from ...protocol import errors

#: Names of the emulator: the usual one, and where RPM distributions that ship KVM only keep it.
_PROGRAMS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")

KVM_DEVICE = pathlib.Path("/dev/kvm")

#: Arguments that every QEMU here gets before all others.
BASE_ARGUMENTS: t.Final = (
    "-no-user-config",
    "-nodefaults",
    "-sandbox",
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    "-display",
    "none",
)


def find_program() -> str:
    """Return the path of QEMU's x86-64 system emulator.

    :raises JobError: (environment) if there is none.
    """
    for name in _PROGRAMS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise errors.environment(
        "QemuMissing",
        "The boot test needs QEMU's x86-64 system emulator, and this worker has none.",
        "Install qemu-system-x86 (Debian, Ubuntu) or qemu-kvm-core (Fedora, RHEL).",
    )


def _unprivileged_user() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
        return entry.pw_uid, entry.pw_gid
    except KeyError:
        return 65534, 65534


def _kvm_group() -> int | None:
    """The group whose members may use KVM, or None where a group is not what decides."""
    try:
        found = KVM_DEVICE.stat()
    except OSError:
        return None
    shared = stat.S_IRGRP | stat.S_IWGRP
    return found.st_gid if found.st_mode & shared == shared and found.st_gid != 0 else None


def bounded(command: t.Sequence[str], max_file_bytes: int) -> list[str]:
    """Return ``command`` prefixed so that it dies with the calling thread and its files stay bounded."""
    # The machine's memory is its own; the limit of the job's process is not for it.
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    memory = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    limits = [f"--fsize={max_file_bytes}", f"--data={memory}", "--core=0"]
    return ["prlimit", *limits, "setpriv", "--pdeathsig=KILL", "--", *command]


def confined(command: t.Sequence[str], max_file_bytes: int) -> list[str]:
    """Return ``command`` as :func:`bounded` does, and without privileges. A caller that is not root stays who it is."""
    identity = ["setpriv", "--no-new-privs"]
    if os.geteuid() == 0:
        uid, gid = _unprivileged_user()
        kvm = _kvm_group()
        groups = "--clear-groups" if kvm is None else f"--groups={kvm}"
        identity += [f"--reuid={uid}", f"--regid={gid}", groups, "--bounding-set=-all", "--inh-caps=-all"]
    # Changing the user clears the parent death signal, so it is set again with the change; setpriv does it last.
    # User networking takes no interface of the host, so QEMU gets a network without any.
    network = ["unshare", "--net", "--"] if os.geteuid() == 0 else []
    return bounded([*network, *identity, "--pdeathsig=KILL", "--", *command], max_file_bytes)
