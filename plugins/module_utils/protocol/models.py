# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documents of the Worker Job Protocol v1 as typed models.

Field names are snake_case here and camelCase in documents; both are accepted. What somebody wants (metadata and spec)
may hold no unknown field; in what a worker or control plane tells, unknown fields are skipped.

The models import nothing that touches a disk, a network or a privilege. This module gathers them; they live in
``spec`` (what is wanted), ``reports`` (what is) and ``result`` (what came of it).
"""

from __future__ import annotations

from .fields import API_VERSION, PROTOCOL_VERSION, Digest, Document, Mac, Name, Report
from .reports import (
    Acceptance,
    Artifact,
    Attempt,
    Capability,
    Claim,
    Condition,
    ErrorDocument,
    Event,
    EventKind,
    Heartbeat,
    JobStatus,
    MigrationJob,
    Progress,
    StageRecord,
    WaitReason,
    WorkerRegistration,
    WorkerStatus,
)
from .result import BootTestResult, Digests, DiskResult, FileChange, JobResult
from .spec import (
    INTERFACE_NAMES,
    MUTABLE_SPEC_FIELDS,
    Allocation,
    Compression,
    Contents,
    Definition,
    DiskSpec,
    FixSelection,
    GuestSpec,
    JobSpec,
    Limits,
    MacMapping,
    Metadata,
    NetworkMapping,
    NetworkSpec,
    Operation,
    RehearsePolicy,
    Requirements,
    SecretRef,
    SourceSpec,
    SourceType,
    SshKeys,
    TargetFormat,
    TargetSpec,
    VerifySpec,
)

__all__ = [
    "API_VERSION",
    "INTERFACE_NAMES",
    "MUTABLE_SPEC_FIELDS",
    "PROTOCOL_VERSION",
    "Acceptance",
    "Allocation",
    "Artifact",
    "Attempt",
    "BootTestResult",
    "Capability",
    "Claim",
    "Compression",
    "Condition",
    "Contents",
    "Definition",
    "Digest",
    "Digests",
    "DiskResult",
    "DiskSpec",
    "Document",
    "ErrorDocument",
    "Event",
    "EventKind",
    "FileChange",
    "FixSelection",
    "GuestSpec",
    "Heartbeat",
    "JobResult",
    "JobSpec",
    "JobStatus",
    "Limits",
    "Mac",
    "MacMapping",
    "Metadata",
    "MigrationJob",
    "Name",
    "NetworkMapping",
    "NetworkSpec",
    "Operation",
    "Progress",
    "RehearsePolicy",
    "Report",
    "Requirements",
    "SecretRef",
    "SourceSpec",
    "SourceType",
    "SshKeys",
    "StageRecord",
    "TargetFormat",
    "TargetSpec",
    "VerifySpec",
    "WaitReason",
    "WorkerRegistration",
    "WorkerStatus",
]
