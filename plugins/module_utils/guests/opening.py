# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a guest is looked into: in this host's kernel, or, where that cannot or the job forbids it, in a micro-VM."""

from __future__ import annotations

import dataclasses
import pathlib
import typing as t

from ..disks.attach import attach
from ..disks.luks import Key
from ..protocol.errors import JobError, environment
from .microvm.image import Settings, machine_files
from .microvm.kernel import KernelFiles, find_kernel
from .microvm.session import GuestInMicroVm
from .session import GuestHere, GuestSession

_Work = t.TypeVar("_Work")
#: What this host's kernel may lack for a guest, and a micro-VM's has.
#: By the reason of the error, the capability that a worker must have found which can do it all the same.
_LACKING = {"NoDeviceMapper": "guest-volumes", "NoFilesystemDriver": "microvm"}


@dataclasses.dataclass(frozen=True)
class Access:
    """How a job's guest may be looked into."""

    settings: Settings | None = None
    """Where micro-VMs come from; None: there are none, only this host's kernel."""
    isolated: bool = False
    """Whether this host's kernel may not be given the guest's filesystems at all."""
    keys: tuple[Key, ...] = ()
    """For its LUKS containers."""


#: This host's kernel, and nothing else.
HERE = Access()


def with_guest(
    layers: t.Mapping[str, pathlib.Path],
    access: Access,
    work: t.Callable[[GuestSession], _Work],
    *,
    writable: bool,
    workdir: pathlib.Path,
    cancelled: t.Callable[[], bool],
    renew: t.Callable[[], None] = lambda: None,
    tell: t.Callable[[str], None] = lambda _message: None,
) -> tuple[GuestSession, _Work]:
    """Attach the disks of a guest, do ``work`` on them, and return both; the session is the caller's to close.

    Args:
        layers: a qcow2 file of our own for each disk, by its name, in the guest's order.
        access: where and how.
        work: what has to succeed; where this host's kernel lacks something for it, it is done again in a micro-VM.
            So it is for volumes, where there may be one: devices of LVM and RAID that appear on a host are looked into
            by its udev, which may take them for the host's own.
        writable: whether the layers take writes.
        workdir: an existing folder for what is gone afterwards.
        cancelled: asked several times a second while a micro-VM works.
        renew: makes the layers anew, before they are attached for the second time.
        tell: is told what takes longer.

    Raises:
        JobError: as ``work``; or there is neither what it takes in this host's kernel nor a micro-VM.
    """
    lacking: JobError | None = None
    kernel = _kernel(access)
    if not access.isolated:
        session: GuestSession = GuestHere(
            attach(layers, writable=writable, workdir=workdir),
            writable=writable,
            workdir=workdir,
            keys=access.keys,
            opens_volumes=isinstance(kernel, JobError),
            cancelled=cancelled,
        )
        try:
            return session, _carried_out(session, work)
        except JobError as error:
            if error.reason not in _LACKING:
                raise
            lacking = error
        renew()
    if isinstance(kernel, JobError) or access.settings is None:
        raise _no_way(lacking, t.cast("JobError", kernel))
    tell("starting a micro-VM" if lacking is None else f"starting a micro-VM: {lacking.message}")
    try:
        files = machine_files(access.settings)
    except JobError as error:
        raise _no_way(lacking, error) from error
    session = GuestInMicroVm(files, layers, writable=writable, workdir=workdir, keys=access.keys, cancelled=cancelled)
    return session, _carried_out(session, work)


def _kernel(access: Access) -> KernelFiles | JobError:
    """The kernel of a micro-VM, or why there is none."""
    if access.settings is None:
        return environment("NoMicroVm", "No micro-VM may be used here.", "Let a worker do it, by a job.")
    try:
        return find_kernel(access.settings.kernel_root)
    except JobError as error:
        return error


def _carried_out(session: GuestSession, work: t.Callable[[GuestSession], _Work]) -> _Work:
    try:
        return work(session)
    except BaseException as error:
        session.abandon(error)
        raise


def _no_way(lacking: JobError | None, without: JobError) -> JobError:
    """Tell both: what this host's kernel lacks, and why there is no micro-VM; another worker may have one of them."""
    if lacking is None:
        without.needs = ("microvm",)
        return without
    lacking.message = f"{lacking.message} And there is no micro-VM that could: {without.message}"
    lacking.suggestion = f"{lacking.suggestion} {without.suggestion}".strip()
    lacking.needs = (_LACKING[lacking.reason],)
    return lacking
