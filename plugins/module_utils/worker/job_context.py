# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the stages of one job share, and how it outlives the process.

The context keeps the result document as far as it got, and the names of the stages that ended, in ``state.json`` in
the job's work directory: a worker that takes the job over goes on after the last of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import time
import typing as t

from ..definitions.machine import Machine, MachineDisk, machine_for
from ..disks.block_device import BlockDevice
from ..disks.copylog import CopyLog
from ..disks.digest import image_of
from ..disks.luks import Key
from ..disks.model import DiskImage, Filesystem, Source
from ..disks.overlay import create_overlay, repoint_overlay
from ..disks.source import open_source
from ..disks.unpack import Unpacker
from ..guests.bootdisk import BootCode, find_boot_disk
from ..guests.facts import GuestFacts
from ..guests.fixers.base import FixRequest, read_secret, read_secrets
from ..guests.inspection import firmware_by_partitions
from ..guests.opening import Access, with_guest
from ..guests.roots import OPAQUE
from ..guests.session import GuestSession, Opened, Planned
from ..protocol import models
from ..protocol.errors import JobError, invalid
from ..protocol.validation import spec_digest
from ..telemetry.version import collection_version
from .context import Reporter, Roots, Stopped
from .layout import TargetLayout, layout_of
from .unfinished import is_result_of, remove_unfinished

_Work = t.TypeVar("_Work")
#: The stages whose work is in the partial targets, or speaks of them.
_COPYING = ("copy", "commit", "verify")


class Skipped(str):
    """A stage's word that it had nothing to do, and why."""


class JobContext:
    """One attempt at one job."""

    def __init__(self, job: models.MigrationJob, roots: Roots, reporter: Reporter, workdir: pathlib.Path) -> None:
        """Open the source and what an earlier attempt left in ``workdir``.

        Raises:
            JobError: the source is not there, is not what it says, or changed since an earlier attempt.
        """
        self.job = job
        self.spec = job.spec
        self.roots = roots
        self.reporter = reporter
        self.workdir = workdir
        self.layout: TargetLayout = layout_of(job, roots.output)
        self.source: Source = open_source(job.spec.source, roots.input, self._unpacker())
        self.completed: list[str] = []
        self.partials: dict[str, list[str]] = {}
        """Of each disk the target's file while it is written; several names while it may have any of them."""
        self.devices: list[BlockDevice] = []
        """The block devices that the job writes onto, one for each disk, while they are held; see
        :mod:`.target_devices`."""
        self.device_identities: dict[str, str] = {}
        """By the devices' names: those which this job has begun to write onto."""
        self.placed: dict[str, int] = {}
        """The inodes of the disks' files that are being published, by the names that they get."""
        self.texts: list[str] = []
        """The files that are published beside them."""
        self.mapped = False
        """Whether it was worked out, and written down, what is to be copied."""
        self.committing: list[str] = []
        """Names of the disks whose commit has begun."""
        self.result = models.JobResult(
            job=job.metadata.name,
            uid=job.metadata.uid or "",
            operation=job.spec.operation,
            verdict="not-verified",
            source_identity=self.source.identity,
            spec_digest=spec_digest(job.spec),
            completed_at="",
            seconds=0.0,
            warnings=list(self.source.warnings),
            not_carried=list(self.source.hardware.not_carried),
            disks=[
                models.DiskResult(name=i.name, source=i.path.name, virtual_size_bytes=i.virtual_size)
                for i in self.source.images
            ],
        )
        self._guest: GuestSession | None = None
        self._facts: GuestFacts | None = None
        self._filesystems: tuple[Filesystem, ...] = ()
        self._boot_codes: dict[str, BootCode] = {}
        self._plan: Planned | None = None
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._restore()

    def _unpacker(self) -> Unpacker:
        """Unpacks before the stages begin; a later attempt finds what is whole."""
        return Unpacker(
            self.workdir / "unpacked",
            lambda done, total: self.report("inspect", done, total, "unpacking"),
            self.reporter.cancelled,
        )

    def _find_unpacked(self) -> None:
        """Tell overlays over unpacked images where these are: this folder may have had another name."""
        for overlay, image in zip(self.overlays, self.source.images, strict=True):
            if overlay.exists() and self.workdir in image.path.parents:
                repoint_overlay(overlay, image)

    # -- durable state -------------------------------------------------------------------------------------------------

    @property
    def _state_file(self) -> pathlib.Path:
        return self.workdir / "state.json"

    def _restore(self) -> None:
        try:
            state = json.loads(self._state_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._find_whole()
            return
        kept = models.JobResult.model_validate(state["result"])
        ours = kept.uid == self.result.uid
        if ours and kept.source_identity != self.source.identity:
            raise invalid(
                "SourceChanged",
                f"The source of {self.job.metadata.name} changed since an earlier attempt read it.",
                "Export the VM again while nothing writes to it, then submit the job anew.",
            )
        if (kept.spec_digest, kept.source_identity) == (self.result.spec_digest, self.source.identity):
            # Also from a job that failed, and was submitted again as this one.
            kept.uid = self.result.uid
            self.result = kept
            self._seconds_before = kept.seconds
            self.completed = list(state["completed"])
            self.partials = dict(state["partials"])
            self.device_identities = dict(state["devices"])
            self.placed, self.texts = dict(state["placed"]), list(state["texts"])
            self.mapped = bool(state["mapped"])
            self.committing = list(state["committing"])
            self._find_unpacked()
            return
        remove_unfinished(self._state_file, self.roots.output)

    def _find_whole(self) -> None:
        """Take up what an attempt on another host made whole, and could not tell before it was cut off."""
        path = self.layout.result
        if not is_result_of(path, self.result.uid):
            return
        whole = models.JobResult.model_validate_json(path.read_bytes())
        if (whole.spec_digest, whole.source_identity) == (self.result.spec_digest, self.source.identity):
            shown = self.layout.shown(path, self.roots.output)
            whole.artifacts.append(models.Artifact(path=shown, kind="result", size_bytes=path.stat().st_size))
            self.result = whole
            self._seconds_before = whole.seconds
            # The document is the last thing that the last stage writes.
            self.completed = [*(stage.name for stage in whole.stages), "publish"]

    def save(self) -> None:
        """Make the state durable: whole and on disk, or as it was before."""
        self.result.seconds = round(self._seconds_before + time.monotonic() - self._began, 3)
        state = {
            "completed": self.completed,
            "partials": self.partials,
            "devices": self.device_identities,
            "placed": self.placed,
            "texts": self.texts,
            "published": str(self.layout.result),
            "mapped": self.mapped,
            "committing": self.committing,
            "result": self.result.to_document(),
        }
        write_durably(self._state_file, json.dumps(state).encode())

    def forget_unfinished(self) -> None:
        """Have nothing of the target be taken away any more: its result document is there."""
        self.partials, self.device_identities, self.placed, self.texts = {}, {}, {}, []

    # -- the copies ----------------------------------------------------------------------------------------------------

    def partial(self, index: int) -> pathlib.Path:
        """The target of disk ``index`` while it is written, once its copy began: a file, or the device."""
        if self.devices:
            return self.devices[index].path
        return pathlib.Path(self.partials[self.source.images[index].name][-1])

    def copied_image(self, index: int) -> DiskImage:
        """The same as an image: of a device the part that is the disk.

        Raises:
            JobError: class ``invalid``, it is damaged.
        """
        image = image_of(self.partial(index), self.layout.format.value)
        size = self.source.images[index].virtual_size
        return dataclasses.replace(image, virtual_size=size, length=size) if self.devices else image

    def copy_log(self, index: int) -> CopyLog:
        """Open the log of disk ``index``'s copy; what it holds of a copy of other things is forgotten."""
        target = self.spec.target
        key = {
            "source": self.source.identity,
            "disk": self.source.images[index].name,
            "target": [str(self.layout.disk(index)), target.format, target.allocation, target.compression],
            "map": hashlib.sha256(self.map_file(index).read_bytes()).hexdigest(),
        }
        return CopyLog(self._log_file(index), key)

    def map_file(self, index: int) -> pathlib.Path:
        """The map of what is to be copied of disk ``index``; see :attr:`mapped`."""
        return self.workdir / f"{self.source.images[index].name}.map"

    def _log_file(self, index: int) -> pathlib.Path:
        return self.workdir / f"{self.source.images[index].name}.copied"

    def forget_copies(self) -> None:
        """Have the next attempt copy all disks from the begin. May be cut off at any place, and repeated."""
        for index, (overlay, image) in enumerate(zip(self.overlays, self.source.images, strict=True)):
            # Without its log a partial file is removed by whoever copies next.
            self._log_file(index).unlink(missing_ok=True)
            # The commit put it over the partial file.
            repoint_overlay(overlay, image)
        self.committing = []
        self.completed = [name for name in self.completed if name not in _COPYING]
        self.result.stages = [record for record in self.result.stages if record.name not in _COPYING]
        self.save()

    # -- the guest -----------------------------------------------------------------------------------------------------

    def overlay(self, index: int) -> pathlib.Path:
        """The qcow2 overlay of disk ``index``: everything that the job changes in the guest."""
        return self.workdir / f"{self.source.images[index].name}.overlay.qcow2"

    @property
    def overlays(self) -> list[pathlib.Path]:
        """All overlays, in the source's order."""
        return [self.overlay(i) for i in range(len(self.source.images))]

    def create_overlays(self) -> None:
        """Make the overlays anew: they show the source, unchanged."""
        for overlay, image in zip(self.overlays, self.source.images, strict=True):
            overlay.unlink(missing_ok=True)
            create_overlay(overlay, image)

    def facts(self) -> GuestFacts:
        """Attach fresh overlays, mount the guest from them, and return its portrait; later calls return the same.

        Raises:
            JobError: no operating system, an encrypted disk, an environment that lacks what mounting takes.
        """
        if self._facts is None:
            self.create_overlays()
            self._guest, opened = self.with_guest(self._mount, writable=True, renew=self.create_overlays)
            self._facts = opened.facts
            for warning in opened.warnings:
                self.warn(warning)
        return self._facts

    def _mount(self, guest: GuestSession) -> Opened:
        probed = guest.probe()
        self._filesystems, self._boot_codes = probed.filesystems, probed.boot_codes
        for disk in self.result.disks:
            disk.sector_bytes = probed.sector_bytes[disk.name]
        return guest.mount()

    def with_guest(
        self,
        work: t.Callable[[GuestSession], _Work],
        *,
        writable: bool,
        renew: t.Callable[[], None] = lambda: None,
        stage: str = "inspect",
    ) -> tuple[GuestSession, _Work]:
        """Do ``work`` on the overlays, wherever the job and this host's kernel let it be done; see :mod:`..guests`."""
        layers = {i.name: o for i, o in zip(self.source.images, self.overlays, strict=True)}
        return with_guest(
            layers,
            self.access,
            work,
            writable=writable,
            workdir=self.workdir,
            cancelled=self.reporter.cancelled,
            renew=renew,
            tell=lambda message: self.report(stage, 0, 0, message),
        )

    @property
    def access(self) -> Access:
        """How the guest may be looked into.

        Raises:
            JobError: class ``invalid``, the worker has no such key.
        """
        keys = tuple(
            Key(read_secret(key.secret, self.roots.secrets), key.device or "", f"{key.secret.name}/{key.secret.key}")
            for key in self.spec.source.keys
        )
        isolated = self.spec.isolation is models.Isolation.VM
        return Access(self.roots.microvms, isolated, keys)

    def portrait(self) -> GuestFacts:
        """What is known of the guest: all that its files tell.

        Where they cannot be seen, and the job neither changes nor asks for them, what the partitions tell.

        Raises:
            JobError: as :meth:`facts`, where the job needs the guest's files, or the guest is damaged.
        """
        try:
            return self.facts()
        except JobError as error:
            looks_only = self.spec.operation in (models.Operation.INSPECT, models.Operation.PLAN)
            leaves_guest = self.spec.operation is models.Operation.BOOT_TEST or not self.spec.guest.enabled
            if looks_only or not leaves_guest or error.reason not in OPAQUE:
                raise
            self.warn(f"The guest was not looked into, so that only a boot tells what becomes of it: {error.message}")
        return GuestFacts(filesystems=self._filesystems, firmware=firmware_by_partitions(self._filesystems))

    def warn(self, message: str) -> None:
        """Put ``message`` into the result, once, and tell whoever watches."""
        if message not in self.result.warnings:
            self.result.warnings.append(message)
            self.reporter.warning(message)

    def fix_plan(self) -> Planned:
        """Every change that the job makes in the guest; worked out once."""
        if self._plan is None:
            self.facts()
            request = FixRequest(
                spec=self.spec.guest,
                nics=self.machine().nics,
                source_nics=self.source.hardware.nics,
                firmware=self.firmware,
                secrets=read_secrets(self.spec.guest, self.roots.secrets),
                secure_boot=self.machine().secure_boot,
            )
            self._plan = self._opened.plan(request)
        return self._plan

    def apply_plan(self) -> None:
        """Carry :meth:`fix_plan` out, in the overlays."""
        self._opened.apply()

    @property
    def _opened(self) -> GuestSession:
        if self._guest is None:
            raise AssertionError("the guest is mounted before anything is done with its files")
        return self._guest

    def close_guest(self) -> None:
        """Unmount and detach; the overlays are safe on disk when this returns.

        Raises:
            JobError: a step of closing failed, so that writes may be lost; the overlays must not be used.
        """
        guest = self._forget_guest()
        if guest is not None:
            guest.close()

    def abandon_guest(self, error: BaseException) -> None:
        """Unmount and detach after ``error``, as far as that goes."""
        guest = self._forget_guest()
        if guest is not None:
            guest.abandon(error)

    def _forget_guest(self) -> GuestSession | None:
        guest, self._guest, self._facts, self._plan = self._guest, None, None, None
        return guest

    # -- what stages ask -----------------------------------------------------------------------------------------------

    @property
    def firmware(self) -> t.Literal["bios", "uefi"]:
        """As found on the disk; else as the metadata tells; else BIOS."""
        found = (self.result.guest or {}).get("firmware")
        return "uefi" if (found or self.source.hardware.firmware) == "uefi" else "bios"

    def find_boot_disk(self, facts: GuestFacts) -> str | None:
        """Return the disk that the VM boots from, by what :meth:`portrait` found; None: nothing tells."""
        return find_boot_disk([image.name for image in self.source.images], self._boot_codes, self.firmware, facts)

    @property
    def boot_disk(self) -> int:
        """The place of the disk that boots: as it was found, else the first."""
        found = (self.result.hardware or {}).get("bootDisk")
        return next((i for i, image in enumerate(self.source.images) if image.name == found), 0)

    def machine(self) -> Machine:
        """The virtual machine that the target becomes."""
        return machine_for(
            self.source.hardware,
            name=self.layout.name,
            firmware=self.firmware,
            network=self.spec.guest.network,
            disks=[
                MachineDisk(
                    self.layout.disk(i),
                    self.layout.format.value,
                    image.virtual_size,
                    self.result.disks[i].sector_bytes,
                    is_device=bool(self.layout.devices),
                )
                for i, image in enumerate(self.source.images)
            ],
            boot_disk=self.boot_disk,
        )

    def check_cancelled(self) -> None:
        """Raise :class:`.context.Stopped` where the job must stop."""
        if self.reporter.cancelled():
            raise Stopped

    def report(self, stage: str, done: int, total: int, message: str = "") -> None:
        """Tell progress of ``stage`` in bytes."""
        percent = 100.0 * done / total if total else 0.0
        self.reporter.progress(
            models.Progress(stage=stage, bytes_done=done, bytes_total=total, percent=percent, message=message)
        )

    def report_time(self, stage: str, percent: float, seconds_left: float | None, message: str) -> None:
        """Tell progress of ``stage``, which moves no bytes, by the time that it takes, as far as that is known."""
        self.reporter.progress(models.Progress(stage=stage, percent=percent, eta_seconds=seconds_left, message=message))

    def rehearsal_key(self) -> str:
        """Digest of all that decides whether an earlier rehearsal still speaks for this job.

        Other versions of the collection plan other changes.
        """
        parts = [
            collection_version(),
            self.source.identity,
            self.spec.source.to_document(),
            self.spec.guest.to_document(),
            self.spec.verify.marker,
            self.firmware,
            [nic.mac for nic in self.machine().nics],
        ]
        return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def publishes_target(self) -> bool:
        """Whether this operation leaves a target."""
        return self.spec.operation in models.WRITES_TARGET


def now() -> str:
    """The present instant, RFC 3339 in UTC, to the millisecond."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_durably(path: pathlib.Path, data: bytes) -> None:
    """Write ``path`` so that a crash leaves the old or the new content, whole."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Make renames in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
