# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The result document: everything that a job did and found, published as ``result.json``."""

from __future__ import annotations

import typing as t

from . import _pydantic as p
from .fields import Amount, Count, Digest, InstantOrEmpty, Report
from .reports import Artifact, StageRecord
from .spec import Operation


class FileChange(Report):
    """One file of the guest that a fixer changes (or would change)."""

    path: str
    """In the guest, absolute."""
    kind: t.Literal["write", "append", "symlink", "remove", "mkdir"]
    """What is done to it."""
    fixer: str
    """Which fixer does it."""
    why: str
    """What for, for a person."""
    before: Digest | None = None
    """SHA-256 of the file's bytes before; unset: there was none."""
    after: Digest | None = None
    """SHA-256 of the file's bytes after; unset: there is none."""
    diff: str = ""
    """Unified diff of text; a short description of binary data."""


class Digests(Report):
    """The three content digests of a disk; holes and zeros hash alike."""

    source: Digest | None = None
    """Of the virtual disk's bytes that were read."""
    copied: Digest | None = None
    """Of the copy before commit, the same ranges."""
    target: Digest | None = None
    """Of the finished virtual disk."""


class DiskResult(Report):
    """What happened to one disk."""

    name: str
    """``disk0``, ``disk1`` … in the source's order."""
    source: str
    """The file that holds the source's disk."""
    target: str | None = None
    """The published disk, relative to the worker's output root, or the block device's absolute path; unset: the
    operation leaves none."""
    virtual_size_bytes: Count
    """Size of the disk as the guest sees it, in bytes."""
    sector_bytes: Count = 512
    """Size of its logical sectors, in bytes: 512, or 4096 where its partition table says so."""
    bytes_read: Count = 0
    """Bytes read of the source, by the attempt that finished the disk's copy."""
    map: str | None = None
    """GNU ddrescue map beside the target of what was read of the virtual disk; unset: the whole disk. What the guest's
    filesystems do not use is left out; the digests ``source`` and ``copied`` are of what was read."""
    bytes_written: Count = 0
    """Bytes written to the target."""
    allocated_bytes: Count = 0
    """Bytes of the virtual disk that the source's image holds, whether its filesystems use them or not; 0: not known.
    """
    digests: Digests = p.Field(default_factory=Digests)
    """Content digests."""


class BootTestResult(Report):
    """What a boot test saw."""

    verdict: t.Literal["booted", "failed", "not-verified"]
    """Whether the guest came up."""
    seconds: Amount = 0.0
    """From power-on to the verdict, in seconds."""
    accelerator: t.Literal["kvm", "tcg"] | None = None
    """How QEMU ran the guest."""
    marker: str = ""
    """What was taken as the proof of a boot."""
    reason: str = ""
    """Of a failure: ``NoRootDevice``, ``DroppedToInitramfs``, ``NoBootloader``, ``EmergencyMode`` …"""
    message: str = ""
    """The same for a person."""
    suggestion: str = ""
    """What to do next."""
    facts: dict[str, t.Any] = p.Field(default_factory=dict)
    """As the guest reported: target, root, mounts, addresses by interface, failed units."""
    console_tail: list[str] = p.Field(default_factory=list)
    """The last lines of the console."""
    warnings: list[str] = p.Field(default_factory=list)
    """What a person should look at though the guest came up."""


class JobResult(Report):
    """``result.json``: everything that a job did and found."""

    api_version: t.Literal["hyper2kvm.io/v1"] = "hyper2kvm.io/v1"
    """The protocol's name and major version."""
    kind: t.Literal["MigrationResult"] = "MigrationResult"
    """The kind of document."""
    job: str
    """The job's name."""
    uid: str
    """The job's uid."""
    operation: Operation
    """What the job did."""
    verdict: t.Literal["boots", "boots-with-warnings", "will-not-boot", "not-verified", "done"]
    """What came of it; ``done`` where booting was no question (plan, inspect)."""
    source_identity: str
    """Digest over size, mtime and inode of the source's files: what ``present`` compares."""
    spec_digest: Digest
    """Digest of the frozen part of the spec: what ``present`` compares."""
    completed_at: InstantOrEmpty
    """When the job ended; empty: it has not yet."""
    seconds: Amount
    """Seconds of work, of all attempts that contributed."""
    guest: dict[str, t.Any] | None = None
    """What was found in the guest."""
    hardware: dict[str, t.Any] | None = None
    """The virtual machine's hardware as the source's metadata tells it."""
    changes: list[FileChange] = p.Field(default_factory=list)
    """Every file of the guest that was (plan, rehearse: would be) changed."""
    warnings: list[str] = p.Field(default_factory=list)
    """What a person should look at."""
    not_carried: list[str] = p.Field(default_factory=list)
    """What the target does not have (vTPM, NVRAM …), each a sentence."""
    disks: list[DiskResult] = p.Field(default_factory=list)
    """The disks, in the source's order; ``hardware.bootDisk`` names the one that boots, where the disks tell."""
    rehearsal: BootTestResult | None = None
    """The boot of the fixed overlay; unset: there was none."""
    rehearsal_key: Digest | None = None
    """Of source, guest settings, firmware, cards and collection: a conversion with the same key need not rehearse."""
    boot_test: BootTestResult | None = None
    """The boot of the finished target; unset: there was none."""
    artifacts: list[Artifact] = p.Field(default_factory=list)
    """What was published."""
    start_command: str | None = None
    """The shell command that starts the target with QEMU alone on the worker's host, with KVM where the worker found it
    to work; unset: the operation leaves none."""
    libvirt_command: str | None = None
    """The shell command that starts the target by libvirt on a host with KVM; unset: there is no definition for it."""
    stages: list[StageRecord] = p.Field(default_factory=list)
    """The stages that ended, in order."""
